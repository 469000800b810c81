"""Volumes: rows and directories, by several processes and with kills; never removed while a container has them."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyrunc import Engine
from pyrunc.engine.volumes import ANONYMOUS, Claim, Volumes
from pyrunc.errors import FailedPrecondition, InvalidArgument, NotFound, PyruncError, Unsupported

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
_CHECKOUT = str(Path(__file__).parents[2])


@pytest.fixture
def containers() -> set[str]:
    """The ids of the containers that there are."""
    return set()


@pytest.fixture
def volumes(tmp_path: Path, containers: set[str]) -> Volumes:
    return Volumes(str(tmp_path / "root"), containers.__contains__)


def _claim(name: str | None, destination: str = "/v") -> Claim:
    document = {"Type": "volume", "Destination": destination, "Anonymous": name is None}
    return Claim(destination, name, document)


def test_a_volume_is_made_once_and_keeps_its_labels_and_data(volumes: Volumes) -> None:
    made = volumes.create("one", labels={"a": "b"})
    Path(made.mountpoint, "file").write_text("kept")
    again = volumes.create("one", labels={"other": "label"})
    assert again == made and dict(again.labels) == {"a": "b"}
    assert Path(again.mountpoint, "file").read_text() == "kept"
    assert oct(os.stat(made.mountpoint).st_mode) == "0o40755"
    assert (
        os.stat(volumes.directory).st_mode & 0o077 == 0
    )  # set-user-ID programs in there are root's to reach


def test_a_volume_without_a_name_gets_one_and_says_so(volumes: Volumes) -> None:
    made = volumes.create()
    assert len(made.name) == 64 and ANONYMOUS in made.labels


@pytest.mark.parametrize("name", ["a", "../a", "a/b", ".hidden", "a b", "-x", "a\n", "ä1", "a" * 300])
def test_a_name_that_is_no_name_makes_nothing(volumes: Volumes, name: str) -> None:
    with pytest.raises(InvalidArgument, match="create "):
        volumes.create(name)
    assert volumes.list() == [] and os.listdir(volumes.directory) == []


def test_what_the_driver_does_not_know_is_refused(volumes: Volumes) -> None:
    with pytest.raises(NotFound, match='plugin "other" not found'):
        volumes.create("one", driver="other")
    with pytest.raises(Unsupported, match="type nfs: file systems of the network"):
        volumes.create("one", options={"type": "nfs", "o": "addr=1.2.3.4", "device": ":/path"})
    with pytest.raises(InvalidArgument, match="no quota support"):
        volumes.create("one", options={"size": "1m"})
    assert volumes.list() == []


def test_filters_choose_as_dockers_do(volumes: Volumes, containers: set[str]) -> None:
    volumes.create("alpha", labels={"tier": "test"})
    volumes.create("beta", labels={"tier": "prod", "x": ""})
    volumes.create("alphabet")
    containers.add("c1")
    volumes.claim("c1", [_claim("beta")])

    def names(*filters: tuple[str, str]) -> list[str]:
        return [volume.name for volume in volumes.list(filters)]

    assert names(("name", "alpha")) == ["alpha", "alphabet"]
    assert names(("name", "^alpha$")) == ["alpha"]
    assert names(("label", "tier")) == ["alpha", "beta"]
    assert names(("label", "tier=prod"), ("label", "x")) == ["beta"]
    assert names(("dangling", "true")) == ["alpha", "alphabet"]
    assert names(("dangling", "0")) == ["beta"]
    assert names(("driver", "other")) == []
    with pytest.raises(InvalidArgument, match="Invalid filter 'until'"):
        names(("until", "x"))


def test_what_a_container_has_is_not_removed_until_it_lets_go(volumes: Volumes, containers: set[str]) -> None:
    containers.update(("c1", "c2"))
    volumes.create("one")
    volumes.claim("c1", [_claim("one")])
    volumes.claim("c2", [_claim("one", "/w")])
    for force in (False, True):
        with pytest.raises(FailedPrecondition, match=r"remove one: volume is in use - \[c1, c2\]"):
            volumes.remove("one", force=force)
    assert volumes.prune(everything=True).names == ()
    assert volumes.release("c1", anonymous=True) == []
    with pytest.raises(FailedPrecondition, match=r"\[c2\]"):
        volumes.remove("one")
    volumes.release("c2", anonymous=True)
    volumes.remove("one")
    assert not os.path.exists(volumes.data("one"))


def test_the_claim_of_a_container_that_is_gone_does_not_count(volumes: Volumes, containers: set[str]) -> None:
    containers.add("killed")
    volumes.claim("killed", [_claim("one")])
    containers.clear()
    volumes.remove("one")
    assert volumes.mount_points("killed") == []


def test_a_volume_without_a_name_goes_with_its_last_container(volumes: Volumes, containers: set[str]) -> None:
    containers.update(("c1", "c2"))
    volumes.claim("c1", [_claim(None), _claim("named", "/n")])
    name = volumes.mount_points("c1")[0]["Name"]
    shared = {**volumes.mount_points("c1")[0]}
    volumes.claim("c2", [Claim("/v", name, shared)])
    assert volumes.release("c1", anonymous=True) == []  # c2 has it
    assert os.path.isdir(volumes.data(name))
    assert volumes.release("c2", anonymous=True) == [name]
    assert [volume.name for volume in volumes.list()] == ["named"]
    assert os.listdir(volumes.directory) == ["named"]


def test_prune_takes_names_only_if_it_is_told_to_and_counts_bytes(volumes: Volumes) -> None:
    named, anonymous = volumes.create("named", labels={"keep": "1"}), volumes.create()
    Path(anonymous.mountpoint, "file").write_bytes(b"x" * 1000)
    os.link(f"{anonymous.mountpoint}/file", f"{anonymous.mountpoint}/link")
    Path(named.mountpoint, "file").write_bytes(b"x" * 10)
    assert volumes.prune() == ((anonymous.name,), 1000)
    assert volumes.prune(everything=True, filters=[("label!", "keep")]).names == ()
    assert volumes.prune(filters=[("all", "true")]) == (("named",), 10)
    assert os.listdir(volumes.directory) == []


def test_a_lost_database_loses_no_data(tmp_path: Path, volumes: Volumes) -> None:
    Path(volumes.create("one", labels={"a": "b"}).mountpoint, "file").write_text("kept")
    volumes.close()
    for path in (tmp_path / "root").glob("volumes.db*"):
        path.unlink()
    again = Volumes(str(tmp_path / "root"), lambda _: False)
    assert [volume.name for volume in again.list()] == ["one"]
    assert Path(again.data("one"), "file").read_text() == "kept"
    again.prune()
    assert Path(again.data("one"), "file").read_text() == "kept"


def test_a_directory_without_a_row_is_kept_with_what_is_in_it(volumes: Volumes) -> None:
    for name in ("empty", "full"):
        os.makedirs(volumes.data(name))
    Path(volumes.data("full"), "file").write_text("kept")
    volumes.prune(everything=True)
    assert os.listdir(volumes.directory) == ["full"]
    assert Path(volumes.create("full").mountpoint, "file").read_text() == "kept"


def test_what_is_mounted_in_a_volume_is_not_removed(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from pyrunc._native import mount, namespaces
from pyrunc.engine.volumes import Volumes
from pyrunc.errors import FailedPrecondition
namespaces.unshare(namespaces.CLONE_NEWNS)
mount.mount(None, b"/", flags=mount.MS_REC | mount.MS_PRIVATE)
volumes = Volumes(sys.argv[1], lambda _: False)
inside = Path(volumes.create("one").mountpoint, "in side")
inside.mkdir()
(Path(sys.argv[1]) / "precious").mkdir()
(Path(sys.argv[1]) / "precious/file").write_text("kept")
mount.mount(os.fsencode(sys.argv[1] + "/precious"), os.fsencode(inside), flags=4096)
try:
    volumes.remove("one")
except FailedPrecondition as exc:
    assert "something is mounted at" in str(exc), exc
else:
    raise SystemExit("removed")
assert (inside / "file").read_text() == "kept" and volumes.get("one")
"""
    subprocess.run(
        [sys.executable, "-c", script, tmp_path / "root"],
        check=True, env={**os.environ, "PYTHONPATH": _CHECKOUT}, timeout=300,
    )  # fmt: skip


_WORKER = """
import os, random, sys
from pyrunc.engine.volumes import Claim, Volumes
from pyrunc.errors import FailedPrecondition, NotFound
root, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(seed)
volumes = Volumes(root, lambda container: True)
mine = f"c{seed}"
done = 0
while done < count:
    name = random.choice(("one", "two"))
    try:
        action = random.randrange(5)
        if action == 0:
            volumes.create(name)
        elif action == 1:
            volumes.remove(name, force=True)
        elif action == 2:
            volumes.prune(everything=True)
        else:
            new = Claim("/a", None, {"Type": "volume", "Anonymous": True})
            volumes.claim(mine, [Claim("/v", name, {"Type": "volume"}), new])
            for point in volumes.mount_points(mine):
                path = volumes.ensure_data(point["Name"]) + "/" + mine
                open(path, "x").close()
            for point in volumes.mount_points(mine):  # nobody has taken it meanwhile
                os.unlink(volumes.data(point["Name"]) + "/" + mine)
            volumes.release(mine, anonymous=True)
        done += 1
    except (FailedPrecondition, NotFound):
        pass
print("done")
"""


def _start(root: Path, seed: int, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER, root, str(seed), str(count)], text=True,
        env={**os.environ, "PYTHONPATH": _CHECKOUT}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def _check(volumes: Volumes) -> None:
    """Every row has its directory, and there is nothing else."""
    volumes.prune()  # what the killed have begun
    names = {volume.name for volume in volumes.list()}
    for name in names:
        assert os.path.isdir(volumes.ensure_data(name))
    assert set(os.listdir(volumes.directory)) == names
    assert volumes.damage() == []


def test_processes_that_make_claim_and_remove_the_same_volumes_never_lose_a_claimed_one(
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    workers = [_start(root, seed, 40) for seed in range(3)]
    for worker in workers:
        out, err = worker.communicate(timeout=300)
        assert (out, err) == ("done\n", "")
    _check(Volumes(str(root), lambda _: False))


def test_kills_at_any_moment_leave_rows_and_directories_that_agree(tmp_path: Path) -> None:
    root = tmp_path / "root"
    Volumes(str(root), lambda _: False).close()
    chosen = random.Random(5)
    for seed in range(12):
        worker = _start(root, seed, 1_000_000)
        time.sleep(0.15 + chosen.random() * 0.15)
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
    _check(Volumes(str(root), lambda _: False))


def test_two_processes_that_make_one_volume_get_the_same(tmp_path: Path) -> None:
    script = (
        "import sys; from pyrunc.engine.volumes import Volumes;"
        "print(Volumes(sys.argv[1], lambda _: False).create('one', labels={'n': sys.argv[2]}).created_ns)"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", script, tmp_path / "root", str(number)],
            env={**os.environ, "PYTHONPATH": _CHECKOUT}, stdout=subprocess.PIPE, text=True,
        )
        for number in range(4)
    ]  # fmt: skip
    answers = {worker.communicate(timeout=300)[0] for worker in workers}
    assert len(answers) == 1 and "" not in answers


def test_the_engine_has_them_and_an_image_gets_its_own(loaded: Engine) -> None:
    loaded.run("alpha:1", ["-c", "echo more > /data/more"], user="0", name="first", remove=False)
    (volume,) = loaded.volumes.list()
    assert ANONYMOUS in volume.labels
    assert sorted(os.listdir(volume.mountpoint)) == ["more", "seed"]
    with pytest.raises(FailedPrecondition, match="volume is in use"):
        loaded.volumes.remove(volume.name)
    loaded.containers.get("first").remove(volumes=True)
    assert loaded.volumes.list() == []


def test_events_say_what_happens_to_volumes(loaded: Engine) -> None:
    """As dockerd does: tests/fixtures/docker/system/events.json."""
    host = {"Binds": ["data:/x:ro"]}
    with loaded.start("beta", ["true"], host_config=host, config={"Volumes": {"/a": {}}}) as container:
        assert container.wait(timeout_s=60) == 0
        used = container.id
    loaded.volumes.remove("data")
    loaded.volumes.prune()
    found = [event for event in loaded.events(until_ns=time.time_ns()) if event.type == "volume"]
    ours = [event for event in found if event.id == "data"]
    assert [event.action for event in ours] == ["create", "mount", "unmount", "destroy"]
    assert ours[0].attributes == ours[3].attributes == {"driver": "local"}
    assert ours[1].attributes == {
        "container": used, "destination": "/x", "driver": "local", "propagation": "", "read/write": "false"
    }  # fmt: skip
    assert ours[2].attributes == {"container": used, "driver": "local"}
    others = [event.action for event in found if event.id != "data"]
    assert others == ["create", "mount", "unmount", "destroy", "prune"]


def test_a_removal_that_cannot_be_finished_is_said_and_tried_again(volumes: Volumes) -> None:
    made = volumes.create("one")
    Path(made.mountpoint, "file").write_text("x")
    if subprocess.run(
        ["chattr", "+i", f"{made.mountpoint}/file"], capture_output=True, check=False
    ).returncode:
        pytest.skip("no immutable files here")
    with pytest.raises(PyruncError, match="cannot be removed"):
        volumes.remove("one")
    (gone,) = os.listdir(volumes.directory)
    subprocess.run(["chattr", "-i", f"{volumes.directory}/{gone}/_data/file"], check=True)
    volumes.prune()
    assert os.listdir(volumes.directory) == []
