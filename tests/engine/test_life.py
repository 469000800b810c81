"""Containers with a life: every verb, in the states in which it means something, and what is left afterwards."""

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Engine
from pyrunc.engine.container import Container
from pyrunc.errors import (
    AlreadyExists,
    CommandNotFound,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PyruncError,
    TimedOut,
    Unsupported,
)
from tests.engine.test_run import said, until

SLEEP = ["sleep", "1000"]
SCRIPT = "trap 'echo got TERM; exit 7' TERM; echo ready; while true; do busybox sleep 0.05; done"


@pytest.fixture
def driver() -> str:
    return "overlay2"


def catching(engine: Engine, **options: Any) -> Container:
    """A container that says when it is ready, and ends with 7 when it is asked to."""
    container = engine.start("beta", ["sh", "-c", SCRIPT], **options)
    until(lambda: said(container) == "ready\n")
    return container


def state(container: Container) -> str:
    return container.record().state


def left(tmp_path: Path, container_id: str) -> list[str]:
    """What there still is of a container, in any place that one has; what goes meanwhile is passed over."""
    found = [
        os.path.join(directory, name)
        for directory, directories, files in os.walk(tmp_path)
        for name in (*directories, *files)
        if container_id in name
    ]
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        with suppress(OSError):
            found += [
                f"{hierarchy}/pyrunc/{name}"
                for name in os.listdir(hierarchy / "pyrunc")
                if name.startswith(container_id)
            ]
    return found


def is_gone(tmp_path: Path, container_id: str) -> None:
    """Nothing of it is left, but for the lock of another who just finds that out, which goes too."""
    lock = str(tmp_path / "root/locks" / f"{container_id}.container")
    assert [path for path in left(tmp_path, container_id) if path != lock] == []
    until(lambda: left(tmp_path, container_id) == [])


def events(tmp_path: Path, container_id: str) -> list[str]:
    lines = (tmp_path / "root/events.jsonl").read_text().splitlines()
    return [each["Action"] for each in map(json.loads, lines) if each["Actor"]["ID"] == container_id]


# --- create, start, wait, remove


def test_a_container_is_made_started_waited_for_and_removed(loaded: Engine, tmp_path: Path) -> None:
    container = loaded.containers.create(
        "beta", ["sh", "-c", "echo hello; exit 3"], name="one", memory_bytes=64 << 20
    )
    record = container.record()
    assert (record.state, record.name, record.pid, record.argv) == (
        "created",
        "one",
        0,
        ("sh", "-c", "echo hello; exit 3"),
    )
    assert record.host_config["Memory"] == 64 << 20
    assert container.start()
    assert container.wait(60) == 3
    record = container.record()
    assert (record.state, record.exit_code, record.error) == ("exited", 3, "")
    assert record.created_ns < record.started_ns < record.finished_ns
    assert said(container) == "hello\n"
    assert left(tmp_path / "state", container.id) == []
    assert container.start()  # again
    assert container.wait(60) == 3
    assert said(container) == "hello\nhello\n"
    container.remove()
    with pytest.raises(NotFound, match=f"^No such container: {container.id}$"):
        container.record()
    is_gone(tmp_path, container.id)
    assert [each for each in events(tmp_path, container.id) if each != "attach"] == [
        "create", "start", "die", "start", "die", "destroy",
    ]  # fmt: skip


@pytest.mark.usefixtures("host_unchanged")
def test_what_runs_is_killed_and_removed_by_the_end_of_its_block(loaded: Engine, tmp_path: Path) -> None:
    with loaded.start("beta", SLEEP) as container:
        record = container.record()
        assert record.state == "running" and Path(f"/proc/{record.pid}").exists()
        assert [each.id for each in loaded.containers.list()] == [container.id]
    is_gone(tmp_path, container.id)
    assert not Path(f"/proc/{record.pid}").exists()


def test_one_that_goes_with_its_end_leaves_nothing_but_its_code(loaded: Engine, tmp_path: Path) -> None:
    container = loaded.start("beta", ["sh", "-c", "exit 5"], remove=True)
    assert container.wait(60) == 5
    assert container.wait(60) == 5
    is_gone(tmp_path, container.id)
    assert loaded.containers.list(all=True) == []


def test_nobody_waits_and_the_end_is_taken_note_of(loaded: Engine, tmp_path: Path) -> None:
    kept = loaded.start("beta", ["sh", "-c", "exit 4"])
    gone = loaded.start("beta", ["true"], remove=True)
    rows = loaded._parts.containers
    until(lambda: rows.by_id(gone.id) is None)
    until(lambda: rows.get(kept.id).state == "exited")
    assert rows.get(kept.id).exit_code == 4
    until(lambda: left(tmp_path / "state", kept.id) == [])


def test_the_files_of_a_container_outlive_its_runs(loaded: Engine) -> None:
    container = loaded.containers.create("beta", ["sh", "-c", "echo x >> /count; busybox wc -l < /count"])
    for _ in range(3):
        container.start()
        assert container.wait(60) == 0
    assert said(container) == "1\n2\n3\n"
    assert container.diff() == [("A", "/count")]
    container.remove()


def test_a_start_that_fails_says_why_in_the_record(loaded: Engine) -> None:
    container = loaded.containers.create("beta", ["nothing"])
    for _ in range(2):
        with pytest.raises(CommandNotFound):
            container.start()
        record = container.record()
        assert (record.state, record.exit_code) == ("created", 127)
        assert 'exec: "nothing": executable file not found in $PATH' in record.error
    with pytest.raises(CommandNotFound):
        loaded.start("beta", ["nothing"], name="two")
    assert (loaded.containers.get("two").record().state, loaded.containers.get("two").record().exit_code) == (
        "created",
        127,
    )
    with pytest.raises(CommandNotFound):
        loaded.start("beta", ["nothing"], name="three", remove=True)
    assert sorted(each.name for each in loaded.containers.list(all=True)) == sorted([container.name, "two"])


def test_what_docker_refuses_is_refused_before_anything_is_made(loaded: Engine, tmp_path: Path) -> None:
    loaded.containers.create("beta", ["true"]).remove()  # makes what stays
    before = set(tmp_path.rglob("*"))
    for wish, kind, words in (
        (
            {"host_config": {"RestartPolicy": {"Name": "always"}, "AutoRemove": True}},
            InvalidArgument,
            "AutoRemove",
        ),
        ({"host_config": {"PortBindings": {"80/tcp": [{"HostPort": "80"}]}}}, Unsupported, "PortBindings"),
        ({"host_config": {"NetworkMode": "container:nobody"}}, NotFound, "No such container: nobody"),
        ({"memory_bytes": 5}, InvalidArgument, "Minimum memory limit"),
        ({"name": "-"}, InvalidArgument, "Invalid container name"),
        ({"writable": "direct"}, InvalidArgument, "never written directly"),
        ({"cwd": "x"}, InvalidArgument, "cwd"),
    ):
        with pytest.raises(kind, match=words):
            loaded.containers.create("beta", ["true"], **wish)
    assert {path for path in tmp_path.rglob("*") if path not in before and ".db" not in path.name} == set()


def test_the_documents_are_dockers_and_win_over_the_image(loaded: Engine) -> None:
    container = loaded.containers.create(
        "alpha:1", entrypoint=["/bin/sh", "-c"], argv=["echo $NAME-$MORE-$HOME; id -u; pwd"],
        config={"Env": ["MORE=c", "NAME"], "User": "0", "Labels": {"a": "b"}, "WorkingDir": "/tmp"},
        host_config={"ReadonlyRootfs": True},
    )  # fmt: skip
    config = container.record().config
    assert (config["User"], config["WorkingDir"], config["Labels"]["a"]) == ("0", "/tmp", "b")
    assert "MORE=c" in config["Env"] and not any(each.startswith("NAME=") for each in config["Env"])
    container.start()
    assert container.wait(60) == 0
    assert said(container) == "-c-/root\n0\n/tmp\n"
    container.remove()


def test_a_name_is_idempotent_on_request(loaded: Engine) -> None:
    first = loaded.start("beta", SLEEP, name="one", exist_ok=True)
    again = loaded.start("beta", SLEEP, name="one", exist_ok=True)
    assert again.id == first.id
    first.kill()
    assert loaded.containers.create("beta", SLEEP, name="one", exist_ok=True).id == first.id
    assert state(first) == "exited"
    assert loaded.start("beta", SLEEP, name="one", exist_ok=True).id == first.id
    assert state(first) == "running"
    with pytest.raises(AlreadyExists, match=r"container one exists, and its config \(Cmd\) is another"):
        loaded.start("beta", ["true"], name="one", exist_ok=True)
    with pytest.raises(AlreadyExists, match="already in use"):
        loaded.start("beta", SLEEP, name="one")
    first.remove(force=True)


# --- stop, kill, restart, pause


def test_stop_asks_and_then_kills(loaded: Engine) -> None:
    container = catching(loaded)
    assert container.stop(60) == 7
    assert (state(container), said(container)) == ("exited", "ready\ngot TERM\n")
    assert container.stop() is None
    container.start()
    until(lambda: said(container).count("ready") == 2)
    assert container.stop(0.2, "USR1") == 137 or container.record().exit_code in (138, 137)
    container.remove()


def test_kill_sends_what_is_named(loaded: Engine) -> None:
    container = loaded.start(
        "beta",
        [
            "sh",
            "-c",
            "trap 'echo one' USR1; echo ready; while true; do busybox sleep 0.05; done",
        ],
    )
    until(lambda: said(container) == "ready\n")
    for signal in ("USR1", "SIGUSR1", 10):
        before = said(container)
        container.kill(signal)
        until(lambda before=before: said(container) != before)  # type: ignore[misc]
    assert said(container) == "ready\n" + "one\n" * 3
    with pytest.raises(InvalidArgument, match=r"^Invalid signal: NOPE$"):
        container.kill("NOPE")
    with pytest.raises(InvalidArgument, match=r"^The linux daemon does not support signal 99$"):
        container.kill(99)
    container.kill()
    assert container.record().exit_code == 137
    with pytest.raises(FailedPrecondition, match=f"^Container {container.id} is not running$"):
        container.kill()
    container.remove()


def test_restart_is_a_stop_and_a_start(loaded: Engine, tmp_path: Path) -> None:
    container = catching(loaded)
    pid = container.pid
    container.restart(60)
    until(lambda: said(container) == "ready\ngot TERM\nready\n")
    assert container.pid != pid
    container.kill()
    container.restart()  # of one that does not run
    assert state(container) == "running"
    assert events(tmp_path, container.id)[-2:] == ["start", "restart"]
    container.remove(force=True)


def test_a_restart_is_no_end_with_which_a_container_goes(loaded: Engine) -> None:
    container = catching(loaded, remove=True)
    container.restart(60)
    until(lambda: said(container) == "ready\ngot TERM\nready\n")
    assert container.stop(60) == 7
    with pytest.raises(NotFound):
        container.record()


def test_a_paused_container_does_nothing_until_it_goes_on(loaded: Engine) -> None:
    container = loaded.start("beta", ["sh", "-c", "while true; do echo x; busybox sleep 0.01; done"])
    until(lambda: bool(said(container)))
    container.pause()
    assert state(container) == "paused"

    def quiet() -> bool:
        """What it has written before may still be on its way; what it does not write never comes."""
        before = said(container)
        time.sleep(0.3)
        return said(container) == before

    until(quiet)
    before = said(container)
    time.sleep(0.3)
    assert said(container) == before
    with pytest.raises(FailedPrecondition, match=f"^Container {container.id} is already paused$"):
        container.pause()
    with pytest.raises(FailedPrecondition, match=r"^cannot start a paused container, try unpause instead$"):
        container.start()
    with pytest.raises(FailedPrecondition, match="You cannot remove a paused container"):
        container.remove()
    container.unpause()
    until(lambda: said(container) != before)
    assert state(container) == "running"
    with pytest.raises(FailedPrecondition, match=f"^Container {container.id} is not paused$"):
        container.unpause()
    container.pause()
    container.kill()
    assert (state(container), container.record().exit_code) == ("exited", 137)
    container.remove()


def test_a_paused_container_is_stopped_by_its_signal(loaded: Engine) -> None:
    container = catching(loaded)
    container.pause()
    assert container.stop(60) == 7
    container.remove()


# --- wait


def test_wait_is_bounded_and_has_conditions(loaded: Engine) -> None:
    container = catching(loaded)
    with pytest.raises(TimedOut):
        container.wait(0.1)
    assert state(container) == "running"
    container.kill("TERM")
    assert container.wait(60) == 7
    assert container.wait(0) == 7  # it does not run
    with pytest.raises(TimedOut):
        container.wait(0.1, "next-exit")
    codes: list[int] = []
    waiting = [
        threading.Thread(target=lambda how=how: codes.append(container.wait(60, how)))
        for how in ("next-exit", "removed")
    ]
    for thread in waiting:
        thread.start()
    time.sleep(0.1)
    assert codes == []
    container.start()
    until(lambda: said(container).count("ready") == 2)
    container.kill()
    waiting[0].join(60)
    assert codes == [137]
    container.remove()
    waiting[1].join(60)
    assert codes == [137, 137]
    with pytest.raises(InvalidArgument):
        container.wait(1, "other")  # type: ignore[arg-type]


def test_another_engine_waits_for_one_that_is_not_its_own(
    loaded: Engine, open_engine: Callable[[], Engine]
) -> None:
    other = open_engine()
    container = loaded.start(
        "beta", ["sh", "-c", "while [ ! -e /go ]; do busybox sleep 0.02; done; exit 9"], remove=True
    )
    codes: list[int] = []
    theirs = other.containers.get(container.id)
    threads = [threading.Thread(target=lambda: codes.append(theirs.wait(60))) for _ in range(3)]
    for thread in threads:
        thread.start()
    with pytest.raises(TimedOut):
        theirs.wait(0.2)
    Path(f"/proc/{container.pid}/root/go").touch()
    for thread in threads:
        thread.join(60)
    assert codes == [9, 9, 9]
    assert container.wait(60) == 9


# --- the rest


def test_rename_moves_the_name(loaded: Engine) -> None:
    one, two = (loaded.containers.create("beta", ["true"], name=name) for name in ("one", "two"))
    one.rename("three")
    assert (one.name, loaded.containers.get("three").id, one.record().name) == ("three", one.id, "three")
    with pytest.raises(
        AlreadyExists, match=r'^Error when allocating new name: Conflict. The container name "/two"'
    ):
        one.rename("two")
    with pytest.raises(InvalidArgument, match="Renaming a container with the same name as its current name"):
        one.rename("three")
    for name in ("", "-x", "a/b"):
        with pytest.raises(InvalidArgument):
            one.rename(name)
    for each in (one, two):
        each.remove()


def test_limits_are_changed_where_it_runs_and_kept(loaded: Engine) -> None:
    pids = Path("/sys/fs/cgroup/pids/pyrunc")
    if not pids.exists() and not Path("/sys/fs/cgroup/pids").exists():
        pytest.skip("the pids controller is not on cgroup v1 here")
    container = loaded.start("beta", SLEEP, memory_bytes=64 << 20, pids_limit=50)
    container.update(PidsLimit=20, Memory=32 << 20, MemorySwap=48 << 20)
    place = pids / container.id / "pids.max"
    memory = Path("/sys/fs/cgroup/memory/pyrunc") / container.id / "memory.limit_in_bytes"
    assert place.read_text() == "20\n"
    assert memory.read_text() == f"{32 << 20}\n"
    assert container.record().host_config["PidsLimit"] == 20
    container.restart(0)
    assert place.read_text() == "20\n"
    with pytest.raises(
        InvalidArgument, match="Memory limit should be smaller than already set memoryswap limit"
    ):
        container.update(Memory=1 << 30)
    with pytest.raises(InvalidArgument, match="Binds cannot be updated"):
        container.update(Binds=["/:/x"])
    container.update(PidsLimit=-1)
    assert (place.read_text(), container.record().host_config["PidsLimit"]) == ("max\n", 0)
    container.update(NanoCpus=5 * 10**8)
    with pytest.raises(
        InvalidArgument, match="CPU Period cannot be updated as NanoCPUs has already been set"
    ):
        container.update(CpuPeriod=100000)
    container.remove(force=True)


def test_a_limit_that_the_kernel_refuses_is_told_and_not_kept(loaded: Engine) -> None:
    if not Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists():
        pytest.skip("the memory controller is not on cgroup v1 here, and v2 kills instead of refusing")
    fill = "busybox head -c 30m /dev/zero >/dev/shm/held; echo full; exec busybox sleep 1000"
    container = loaded.start("beta", ["sh", "-c", fill], memory_bytes=64 << 20, memory_swap_bytes=64 << 20)
    until(lambda: said(container) == "full\n")
    with pytest.raises(PyruncError, match=f"^Cannot update container {container.id}: "):
        container.update(Memory=8 << 20, MemorySwap=8 << 20)  # it holds 30 MB that can go nowhere
    assert container.record().host_config["Memory"] == 64 << 20
    container.remove(force=True)


def test_a_running_container_is_committed_and_goes_on(loaded: Engine) -> None:
    container = loaded.start(
        "beta", ["sh", "-c", "echo x > /x; echo ready; while true; do busybox sleep 0.05; done"]
    )
    until(lambda: said(container) == "ready\n")
    container.commit("made:1")
    assert state(container) == "running"
    assert loaded.run("made:1", ["busybox", "cat", "/x"]).stdout == b"x\n"
    container.pause()
    container.commit("made:2")
    assert state(container) == "paused"
    container.remove(force=True)


@pytest.mark.usefixtures("host_unchanged")
def test_shared_memory_is_as_large_as_its_first_container_may_have_it(loaded: Engine) -> None:
    fill = "busybox dd if=/dev/zero of=/dev/shm/big bs=65536 count=64 2>&1; busybox wc -c < /dev/shm/big"
    mounts = Path("/proc/self/mountinfo").read_text()
    shared = {"IpcMode": "shareable", "ShmSize": 1 << 20}
    with loaded.start("beta", SLEEP, host_config=shared) as first:
        joins = {"IpcMode": f"container:{first.id}"}
        with loaded.start("beta", ["sh", "-c", f"{fill}; exec sleep 1000"], host_config=joins) as second:
            until(lambda: said(second).endswith(f"{1 << 20}\n"))
            assert "No space left on device" in said(second)
            assert Path(f"/proc/{first.pid}/root/dev/shm/big").stat().st_size == 1 << 20
            assert Path("/proc/self/mountinfo").read_text() == mounts
            first.kill()
            assert Path(f"/proc/{second.pid}/root/dev/shm/big").stat().st_size == 1 << 20
        with pytest.raises(FailedPrecondition, match="cannot join IPC of a non running container"):
            loaded.start("beta", SLEEP, host_config=joins, remove=True)


def test_whoever_takes_shared_memory_has_nothing_of_the_engine(
    loaded: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2019-5736: what is in a container's namespaces is executed anew, with what it needs."""
    monkeypatch.setenv("SECRET", "word")
    code = "import os, sys; open(sys.argv[1], 'w').write(repr((len(os.listdir('/proc/self/fd')), [*os.environ])))"
    seen = []
    run = subprocess.run

    def looking(command: list[str], **more: Any) -> "subprocess.CompletedProcess[bytes]":
        with tempfile.NamedTemporaryFile() as file:
            run([command[0], "-I", "-c", code, file.name], **more)
            seen.append(Path(file.name).read_text())
            run([command[0], "-I", "-c", code, file.name], **{**more, "env": None})
            seen.append(Path(file.name).read_text())
        return run(command, **more)

    with loaded.start("beta", SLEEP, host_config={"IpcMode": "shareable"}) as first:
        monkeypatch.setattr(subprocess, "run", looking)
        with loaded.start("beta", SLEEP, host_config={"IpcMode": f"container:{first.id}"}) as second:
            assert state(second) == "running"
    # Its own three, the namespace and the channel, and two of this look; Python itself sets LC_CTYPE.
    assert seen[0] in ("(7, ['LC_CTYPE'])", "(7, [])")
    assert "SECRET" in seen[1]  # as a careless one would have it


def test_namespaces_of_another_container_are_joined(loaded: Engine) -> None:
    with loaded.start("beta", SLEEP, host_config={"IpcMode": "shareable"}) as first:
        pid = first.pid
        for key, kind in (("NetworkMode", "net"), ("PidMode", "pid"), ("IpcMode", "ipc")):
            with loaded.start("beta", SLEEP, host_config={key: f"container:{first.name}"}) as second:
                assert second.record().host_config[key] == f"container:{first.id}"
                same = [os.readlink(f"/proc/{each}/ns/{kind}") for each in (pid, second.pid)]
                assert same[0] == same[1]
        script = "busybox ls /dev/shm; busybox cat /dev/shm/shared"
        Path(f"/proc/{pid}/root/dev/shm/shared").write_text("words\n")
        with loaded.start(
            "beta", ["sh", "-c", script], host_config={"IpcMode": f"container:{first.id}"}
        ) as second:
            second.wait(60)
            assert said(second) == "shared\nwords\n"
    with loaded.start("beta", SLEEP) as private, pytest.raises(FailedPrecondition, match="non-shareable IPC"):
        loaded.start("beta", SLEEP, host_config={"IpcMode": f"container:{private.id}"}, remove=True)
    ended = loaded.containers.create("beta", ["true"], name="ended")
    with pytest.raises(
        FailedPrecondition, match=f"^cannot join network of a non running container: {ended.id}$"
    ):
        loaded.start("beta", SLEEP, host_config={"NetworkMode": "container:ended"}, remove=True)
    ended.remove()
    assert loaded.containers.list(all=True) == []


def test_the_list_is_what_docker_filters(loaded: Engine) -> None:
    with loaded.start("beta", SLEEP, name="runs", config={"Labels": {"a": "b"}}) as runs:
        done = loaded.containers.create("beta", ["sh", "-c", "exit 3"], name="done")
        done.start()
        done.wait(60)
        made = loaded.containers.create("alpha:1", name="made")

        def names(**options: Any) -> list[str]:
            return [each.name for each in loaded.containers.list(**options)]

        assert names() == ["runs"]
        assert names(all=True) == ["made", "done", "runs"]
        assert names(limit=2) == ["made", "done"]
        for filters, wanted in (
            ([("status", "exited")], ["done"]), ([("exited", "3")], ["done"]), ([("exited", "0")], []),
            ([("label", "a")], ["runs"]), ([("label", "a=c")], []), ([("before", "made")], ["done", "runs"]),
            ([("since", "runs")], ["made", "done"]), ([("status", "created"), ("status", "running")], ["made", "runs"]),
        ):  # fmt: skip
            assert names(all=True, filters=filters) == wanted, filters
        assert names(filters=[("status", "exited")]) == ["done"]  # the only one that asks for all
        assert names(filters=[("exited", "3")]) == names(filters=[("before", "runs")]) == []
        assert names(all=True, filters=[("name", "^ma")]) == ["made"]
        assert names(all=True, filters=[("ancestor", "alpha:1")]) == ["made"]
        assert names(all=True, filters=[("id", runs.id[:6])]) == ["runs"]
        with pytest.raises(InvalidArgument, match="Invalid filter 'what'"):
            names(filters=[("what", "x")])
        with pytest.raises(NotFound):
            names(filters=[("before", "nobody")])
        pruned = loaded.containers.prune()
        assert {each.name for each in pruned.removed} == {done.id, made.id}
        assert names(all=True) == ["runs"]


def test_an_image_that_containers_use_stays(loaded: Engine) -> None:
    container = loaded.containers.create("alpha:1", name="one")
    image = loaded.images.get("alpha:1")
    with pytest.raises(
        FailedPrecondition, match=f"container {container.id[:12]} is using its referenced image"
    ):
        loaded.images.remove("alpha:1")
    with pytest.raises(
        FailedPrecondition, match=r"must be forced.* - image is being used by stopped container"
    ):
        loaded.images.remove(image.id)
    loaded.images.remove(image.id, force=True)
    container.remove()
    assert all(image.id != each.id for each in loaded.images.list(everything=True))
