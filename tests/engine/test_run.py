"""Programs in containers of images: what of the image's config holds, what is left afterwards, and who may share it."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyrunc
from pyrunc import Engine, Mount, errors
from pyrunc.engine.container import Container
from tests.engine.conftest import PATIENCE_S
from tests.image.archive import making

_CHECKOUT = str(Path(__file__).parents[2])


def shell(engine: Engine, script: str, image: str = "beta", **options: Any) -> str:
    result = engine.run(image, ["sh", "-c", script], entrypoint=[], timeout_s=30, **options)
    assert result.exit_code == 0, result
    return result.stdout.decode()


def python(code: str, root: Path, driver: str) -> "subprocess.Popen[str]":
    """Another process, with `engine` on the same root."""
    begin = f"import time\nfrom pyrunc import Engine\nengine = Engine({str(root)!r}, graph={driver!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", begin + code], env={**os.environ, "PYTHONPATH": _CHECKOUT}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def said(container: Container) -> str:
    """What a container has written."""
    try:
        text = Path(container.record().log_path).read_text()
    except FileNotFoundError:
        return ""
    whole = text.rpartition("\n")[0]  # of a record that is being written, a part may be there
    return "".join(json.loads(line)["log"] for line in whole.splitlines())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_images_config_holds(loaded: Engine) -> None:
    assert loaded.run("alpha:1").stdout == b"alpha\n"
    told = loaded.run("alpha:1", ["-c", "id -u; id -g; pwd; echo $NAME $HOME; cat seed"]).stdout.decode()
    assert told.splitlines() == ["1000", "1001", "/data", "alpha /home/web", "seed"]


def test_what_is_asked_for_wins(loaded: Engine) -> None:
    script = "id -u; pwd; echo $NAME $MORE; hostname"
    told = shell(
        loaded, script, "alpha:1", user="0:0", cwd="/tmp", env={"NAME": "b", "MORE": "c"}, hostname="me"
    )
    assert told.splitlines() == ["0", "/tmp", "b c", "me"]
    assert loaded.run("alpha:1", entrypoint=["/bin/busybox", "echo", "x"]).stdout == b"x\n"
    assert loaded.run("beta", ["sh", "-c", "read a; echo $a"], stdin=b"input\n").stdout == b"input\n"
    with pytest.raises(errors.InvalidArgument, match="No command specified"):
        loaded.run("alpha:1", entrypoint=[])
    with pytest.raises(errors.CommandNotFound):
        loaded.run("beta", ["nothing"])
    with pytest.raises(errors.NotFound, match="unable to find user nobody"):
        loaded.run("beta", ["true"], user="nobody")
    with pytest.raises(errors.InvalidArgument, match=r"^memory_bytes"):
        loaded.run("beta", ["true"], memory_bytes=-7)
    with pytest.raises(errors.InvalidArgument, match="working directory 'relative' is invalid"):
        loaded.run("beta", ["true"], cwd="relative")


def test_every_run_begins_with_the_image(loaded: Engine) -> None:
    shell(loaded, "echo x > /data/new; rm /etc/passwd")
    assert shell(loaded, "ls /data; cat /etc/passwd | wc -l") == "seed\n2\n"


@pytest.mark.usefixtures("host_unchanged")
def test_a_throw_away_run_leaves_nothing(loaded: Engine, tmp_path: Path) -> None:
    shell(loaded, "true")
    before = set(tmp_path.rglob("*"))
    shell(loaded, "echo x > /x", memory_bytes=64 << 20)
    assert set(tmp_path.rglob("*")) == before
    assert loaded.containers.list(all=True) == []


def test_an_image_can_be_named_in_every_way(loaded: Engine) -> None:
    image = loaded.images.get("beta")
    for name in ("beta", "beta:old", "docker.io/library/beta:latest", image.id, image.id[7:], image.id[7:15]):
        assert loaded.run(name, ["true"]).exit_code == 0
    with pytest.raises(errors.NotFound, match=r"^Unable to find image 'nothing:latest' locally"):
        loaded.run("nothing")
    with pytest.raises(errors.InvalidArgument, match="must be lowercase"):
        loaded.run("UPPER")


def test_hello_ships_and_is_loaded_when_it_is_first_used(engine: Engine) -> None:
    assert engine.images.list() == []
    assert b"Hello from a container" in engine.run("hello").stdout
    assert [image.references for image in engine.images.list()] == [("hello:latest",)]
    assert engine.run("hello").exit_code == 0


def test_a_name_may_move_to_another_image_between_runs(loaded: Engine, archives: Path) -> None:
    assert loaded.run("beta", ["sh", "-c", "ls /etc"]).stdout == b"hostname\nhosts\npasswd\nresolv.conf\n"
    loaded.images.tag("alpha:1", "beta")
    assert b"motd" in loaded.run("beta", ["-c", "ls /etc"]).stdout
    loaded.images.remove("beta")
    with pytest.raises(errors.NotFound):
        loaded.run("beta", ["true"])
    loaded.images.load(archives / "beta.tar")
    assert loaded.run("beta", ["true"]).exit_code == 0


def test_volumes_begin_as_the_image_has_them_and_are_no_change(loaded: Engine, tmp_path: Path) -> None:
    result = loaded.run(
        "alpha:1", ["-c", "cat /data/seed; echo mine > /data/mine; grep -c ' /data ' /proc/mounts"], user="root",
        name="one", remove=False,
    )  # fmt: skip
    assert result.stdout == b"seed\n1\n"
    assert loaded.containers.get("one").diff() == []
    (volume,) = loaded.volumes.list()
    assert Path(volume.mountpoint, "mine").read_text() == "mine\n"
    loaded.containers.get("one").remove(volumes=True)
    assert list((tmp_path / "root/volumes").iterdir()) == []
    # Read-only, they are what can still be written.
    script = "echo x > /data/x && echo x > /etc/x"
    result = loaded.run("alpha:1", ["-c", script], user="root", writable="no", env={"A": "b"})
    assert result.exit_code == 1 and b"/etc/x: Read-only" in result.stderr
    assert list((tmp_path / "root/volumes").iterdir()) == []


def test_what_is_kept_can_be_looked_at_committed_and_removed(loaded: Engine) -> None:
    result = loaded.run("beta", ["sh", "-c", "echo out; echo new > /new; exit 3"], name="one", remove=False)
    assert (result.exit_code, result.stdout, result.name) == (3, b"out\n", "one")
    (found,) = loaded.containers.list(all=True)
    assert (found.id, found.state, found.exit_code) == (result.container_id, "exited", 3)
    assert loaded.containers.get("one").diff() == [("A", "/new")]
    loaded.containers.get("one").commit(
        "made:1", changes=['CMD ["busybox", "cat", "/new"]'], author="me", message="words"
    )
    assert loaded.run("made:1").stdout == b"new\n"
    with pytest.raises(errors.AlreadyExists, match='container name "/one" is already in use'):
        loaded.run("beta", ["true"], name="one", remove=False)
    loaded.containers.get(result.container_id[:8]).remove()
    assert loaded.containers.list(all=True) == []
    with pytest.raises(errors.NotFound, match=r"^No such container: one$"):
        loaded.containers.get("one").remove(volumes=True)


def test_a_generated_name_looks_like_dockers(loaded: Engine) -> None:
    names = {loaded.run("beta", ["true"], remove=False).name for _ in range(3)}
    assert len(names) == 3
    assert all(name.replace("_", "").isalpha() and name.count("_") == 1 for name in names)


def test_time_ends_a_run(loaded: Engine) -> None:
    for options in ({}, {"name": "kept", "remove": False}):
        for timeout_s in PATIENCE_S:
            with pytest.raises(errors.TimedOut, match=rf"^sh: killed after {timeout_s} s") as caught:
                loaded.run("beta", ["sh", "-c", "echo so far; sleep 600"], timeout_s=timeout_s, **options)  # type: ignore[arg-type]
            assert len(loaded.containers.list(all=True)) == len(options) // 2
            for found in loaded.containers.list(all=True):
                assert (found.state, found.exit_code) == ("exited", 137)
                loaded.containers.get(found.id).remove()
            if caught.value.stdout:
                break
        assert caught.value.stdout == b"so far\n"


@pytest.mark.parametrize(
    ("image", "change", "caught", "code"),
    [
        ("alpha:1", "LABEL a=b", "INT", 7),  # the image says SIGINT
        ("beta", "LABEL a=b", "TERM", 7),
        ("beta", "STOPSIGNAL SIGUSR2", "USR2", 7),
        ("beta", "STOPSIGNAL 12", "USR2", 7),
        ("beta", "STOPSIGNAL SIGUSR2", "TERM", 128 + signal.SIGKILL),  # it is the other one that is caught
    ],
)
def test_the_images_stop_signal_stops(
    loaded: Engine, image: str, change: str, caught: str, code: int
) -> None:
    loaded.run(image, entrypoint=["/bin/sh"], argv=["-c", "true"], name="base", remove=False)
    loaded.containers.get("base").commit("stops:1", changes=[change, "ENTRYPOINT []"])
    script = f"trap '' USR2; trap 'exit 7' {caught}; echo; while true; do sleep 0.05; done"
    with loaded.start("stops:1", ["sh", "-c", script]) as container:
        until(lambda: said(container) == "\n")
        assert container.stop(timeout_s=60 if code == 7 else 0.3) == code
        assert container.stop() is None
        assert container.record().exit_code == code


def test_an_image_of_128_layers_runs_and_is_kept(engine: Engine, driver: str, busybox: Path) -> None:
    count = 128 if driver == "overlay2" else 16  # vfs copies all of it for each
    lowest = [
        (making.member("bin/", tarfile.DIRTYPE, mode=0o755), b""),
        (making.member("bin/busybox", mode=0o755), busybox.read_bytes()),
    ]
    layers = [making.tar(lowest)]
    for number in range(1, count):
        gone = [(making.member(f".wh.{number - 2}"), b"")] if number > 2 else []
        layers.append(making.tar([(making.member(str(number)), b"%d" % number), *gone]))
    made = making.image(layers, "deep:1", config={"Env": ["PATH=/bin"]})
    engine.images.load(io.BytesIO(making.archive(making.docker_1_10([made]))))
    there = f"/{count - 2} /{count - 1}"
    argv = ["busybox", "sh", "-c", f"busybox cat {there}; test ! -e /1 && echo x > /new"]
    said = b"%d%d" % (count - 2, count - 1)
    assert engine.run("deep:1", argv).stdout == said
    assert engine.run("deep:1", argv, name="one", remove=False).stdout == said
    assert engine.containers.get("one").diff() == [("A", "/new")]
    engine.containers.get("one").commit("deeper:1")
    assert engine.run("deeper:1", ["busybox", "cat", "/new"]).stdout == b"x\n"


def test_what_cannot_start_is_kept_as_created_or_not_at_all(loaded: Engine) -> None:
    with pytest.raises(errors.CommandNotFound):
        loaded.run("beta", ["nothing"], name="one", remove=False)
    (found,) = loaded.containers.list(all=True)
    assert (found.name, found.state, found.exit_code) == ("one", "created", 127)
    with pytest.raises(errors.CommandNotFound):
        loaded.run("beta", ["nothing"], name="two")
    with pytest.raises(errors.NotFound, match="unable to find user"):
        loaded.run("beta", ["true"], name="three", user="nobody", remove=False)
    assert [each.name for each in loaded.containers.list(all=True)] == ["three", "one"]


def test_threads_share_an_engine(loaded: Engine) -> None:
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(5):
                assert shell(loaded, "echo $N", env={"N": f"{number} {turn}"}) == f"{number} {turn}\n"
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the test must fail of it
            problems.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_forked_process_goes_on_with_the_engine(loaded: Engine) -> None:
    shell(loaded, "true")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if shell(loaded, "echo child") == "child\n" else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert shell(loaded, "echo parent") == "parent\n"


def test_processes_that_need_the_same_layers_unpack_them_once(
    open_engine: Callable[[], Engine], archives: Path, tmp_path: Path, driver: str
) -> None:
    code = f"engine.images.load({str(archives / 'alpha.tar')!r})\nprint(engine.run('alpha:1').stdout)"
    others = [python(code, tmp_path / "root", driver) for _ in range(4)]
    for other in others:
        out, err = other.communicate(timeout=300)
        assert (out, err) == ("b'alpha\\n'\n", "")
    engine = open_engine()
    kinds = [info.kind for info in engine._parts.snapshotter.walk()]
    assert kinds.count("committed") == 2


def test_an_image_that_is_removed_while_it_runs_is_there_to_the_end(
    loaded: Engine, open_engine: Callable[[], Engine]
) -> None:
    script = "echo ready; while [ ! -e /go ]; do busybox sleep 0.05; done; cat /data/seed; ls /bin/busybox"
    with loaded.start("beta", ["sh", "-c", script]) as container:
        until(lambda: said(container) == "ready\n")
        other = open_engine()
        with pytest.raises(errors.FailedPrecondition, match="image is being used by running container"):
            other.images.remove(other.images.get("beta").id, force=True)
        Path(f"/proc/{container.pid}/root/go").touch()
        assert container.wait(60) == 0
        assert said(container) == "ready\nseed\n/bin/busybox\n"


def test_a_throw_away_run_keeps_its_image_while_another_removes_it(
    loaded: Engine, tmp_path: Path, driver: str
) -> None:
    """Nothing says that it runs, so the image can go; the files stay until this process lets go of them."""
    shell(loaded, "true")
    code = "for name in ('beta:old', 'example.org:5000/team/beta:v2', 'beta'): engine.images.remove(name)"
    other = python(code, tmp_path / "root", driver)
    assert other.communicate(timeout=300) == ("", "")
    ready = next(iter(loaded._throwaway._ready.values()))
    assert ready.sandbox is not None
    assert ready.sandbox.run(["/bin/sh", "-c", "cat /data/seed"]).stdout == b"seed\n"


def test_who_removes_a_running_container_kills_it(loaded: Engine, open_engine: Callable[[], Engine]) -> None:
    with loaded.start("beta", ["sleep", "60"], name="one") as process:
        other = open_engine()
        with pytest.raises(errors.FailedPrecondition, match="You cannot remove a running container"):
            other.containers.get("one").remove()
        other.containers.get("one").remove(force=True)
        assert process.wait(60) == 137
    assert loaded.containers.list(all=True) == []


def test_the_hosts_root_is_an_image_for_who_allows_it(engine: Engine) -> None:
    with pytest.raises(errors.NotFound, match="only for who allows it"):
        engine.run("host", ["true"])
    marker = Path("/pyrunc-test-host-image")
    assert not marker.exists()
    result = engine.run(
        "host", ["sh", "-c", f"cat /etc/os-release; echo x > {marker}; cat {marker}"], allow_host=True
    )
    assert result.stdout == Path("/etc/os-release").read_bytes() + b"x\n"
    assert not marker.exists()
    with pytest.raises(errors.InvalidArgument, match="always thrown away"):
        engine.run("host", ["true"], allow_host=True, name="one")


def test_an_image_that_is_removed_here_is_gone_when_its_last_run_has_ended(
    loaded: Engine, tmp_path: Path
) -> None:
    def snapshots() -> int:
        return len([info for info in loaded._parts.snapshotter.walk() if not info.key.startswith("view-")])

    loaded.images.remove("alpha:1")
    results: list[bytes] = []
    gate = tmp_path / "gate"
    gate.mkdir()
    script = "touch /gate/here; while [ ! -e /gate/go ]; do busybox sleep 0.05; done; busybox cat /data/seed"
    more: dict[str, Any] = {"mounts": [Mount("/gate", str(gate), "bind")]}
    thread = threading.Thread(
        target=lambda: results.append(loaded.run("beta", ["sh", "-c", script], **more).stdout)
    )
    thread.start()
    until((gate / "here").exists)
    assert any(ready.held.runs for ready in loaded._throwaway._ready.values())
    for name in ("beta:old", "example.org:5000/team/beta:v2", "beta"):
        loaded.images.remove(name)
    assert snapshots() == 1
    (gate / "go").touch()
    thread.join()
    assert results == [b"seed\n"]
    loaded.images.prune()
    assert snapshots() == 0


def test_a_closed_engine_says_so(engine: Engine) -> None:
    engine.close()
    with pytest.raises(errors.FailedPrecondition, match=r"^the engine is closed$"):
        engine.run("hello")


def test_the_engine_is_public() -> None:
    assert pyrunc.Engine is Engine


def declaring(engine: Engine, name: str, *volumes: str) -> str:
    """An image as beta with volumes, whose config no Dockerfile would make; its name."""
    with io.BytesIO() as saved:
        engine.images.save(["beta"], saved.write)
        with tarfile.open(fileobj=io.BytesIO(saved.getvalue())) as tar:
            members = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
            files = {path: stream.read() for path, stream in members.items() if stream is not None}
    (entry,) = json.loads(files["manifest.json"])
    config = json.loads(files[entry["Config"]])
    config["config"]["Volumes"] = {path: {} for path in volumes}
    config = json.dumps(config).encode()
    manifest = json.dumps([{"Config": "config", "Layers": entry["Layers"], "RepoTags": [name]}]).encode()
    made = {path: data for path, data in files.items() if path in entry["Layers"]}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, data in {**made, "config": config, "manifest.json": manifest}.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    archive.seek(0)
    engine.images.load(archive)
    return name


@pytest.mark.parametrize("remove", [False, True])
def test_a_volume_however_deep_goes_with_its_container(loaded: Engine, tmp_path: Path, remove: bool) -> None:
    script = "cd /v; for i in $(busybox seq 1500); do mkdir d; cd d; done"
    loaded.run(declaring(loaded, "deep:1", "/v"), ["sh", "-c", script], name="one", remove=remove)
    assert remove or any((tmp_path / "root/volumes").iterdir())
    if not remove:
        loaded.containers.get("one").remove(volumes=True)
    assert list((tmp_path / "root/volumes").iterdir()) == []
    assert loaded.containers.list(all=True) == []


@pytest.mark.parametrize("path", ["/", "//", "/../", "relative", "", "/proc", "//proc", "/x/../proc/self/fd"])
def test_a_volume_is_nowhere_that_docker_refuses(loaded: Engine, path: str) -> None:
    image = declaring(loaded, "odd:1", path)
    for options in ({}, {"name": "one"}):
        with pytest.raises(errors.InvalidArgument, match=f"invalid volume specification: '{path}'"):
            loaded.run(image, ["true"], **options)  # type: ignore[arg-type]
    assert loaded.containers.list(all=True) == []


def test_a_volume_is_once_where_it_is_named_twice(loaded: Engine) -> None:
    image = declaring(loaded, "twice:1", "/data", "//data/", "/../data")
    assert shell(loaded, "grep -c ' /data ' /proc/mounts; cat /data/seed", image, name="one") == "1\nseed\n"


def test_more_volumes_than_a_start_can_have_are_refused(loaded: Engine, tmp_path: Path) -> None:
    image = declaring(loaded, "many:1", *(f"/v{number}" for number in range(2100)))
    with pytest.raises(errors.Unsupported, match="too many mounts, volumes or layers"):
        loaded.run(image, ["true"], name="one")
    assert loaded.containers.list(all=True) == []
    assert list((tmp_path / "root/volumes").iterdir()) == []


def test_a_scratch_in_memory_counts_as_memory_and_says_so(loaded: Engine) -> None:
    write = "busybox dd if=/dev/zero of=/tmp/much bs=1M count=100"
    for options in ({}, {"scratch": "memory"}):
        killed = loaded.run("beta", ["sh", "-c", f"exec {write}"], memory_bytes=32 << 20, **options)  # type: ignore[arg-type]
        assert (killed.exit_code, killed.oom_killed) == (137, True)
    full = loaded.run("beta", ["sh", "-c", write], scratch_bytes=8 << 20)
    assert full.exit_code == 1 and b"No space left on device" in full.stderr


def test_a_scratch_on_disk_is_as_large_as_the_disk_and_goes_with_the_run(loaded: Engine) -> None:
    before = [info.key for info in loaded._parts.snapshotter.walk()]
    script = "busybox dd if=/dev/zero of=/tmp/much bs=1M count=100 && busybox stat -c %s /tmp/much"
    result = loaded.run("beta", ["sh", "-c", script], scratch="disk", memory_bytes=32 << 20, timeout_s=60)
    assert (result.exit_code, result.stdout, result.oom_killed) == (0, b"104857600\n", False)
    assert (result.name, result.container_id) == ("", "")
    assert loaded.containers.list(all=True) == []
    with pytest.raises(errors.TimedOut):
        loaded.run("beta", ["sh", "-c", "echo x > /x; sleep 600"], scratch="disk", timeout_s=0.5)
    assert loaded.containers.list(all=True) == []
    left = [info.key for info in loaded._parts.snapshotter.walk()]
    assert [key for key in left if key not in before and not key.startswith("mount-points-")] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scratch": "tape"}, "'memory' or 'disk'"),
        ({"scratch": "memory", "name": "one"}, "is on disk"),
        ({"scratch": "memory", "remove": False}, "is on disk"),
        ({"scratch": "disk", "scratch_bytes": 1 << 20}, "is on disk"),
        ({"name": "one", "scratch_bytes": 1 << 20}, "is on disk"),
        ({"scratch": "disk", "image": "host", "allow_host": True}, "is in memory"),
    ],
)
def test_a_scratch_where_there_is_none_is_refused(
    loaded: Engine, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.InvalidArgument, match=f"scratch.*{words}"):
        loaded.run(**{"image": "beta", "argv": ["true"], **options})
    assert loaded.containers.list(all=True) == []
