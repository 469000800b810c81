"""pyrunc-oci called by an unprivileged user, who is one by number only, and by root of a user namespace."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oci.bundles import TOP
from tests.oci.unprivileged import UID, USER, Caller, delegate
from tests.oci.waiting import executed, until
from tests.runtime.cgroup_support import remove_busy
from tests.vm import needs

M = 1 << 20
pytestmark = [pytest.mark.vm, needs.root(), needs.namespace("user")]


@pytest.fixture
def caller(busybox: Path) -> Iterator[Caller]:
    """A user with nothing but a directory."""
    work = Path(tempfile.mkdtemp(prefix="pyrunc-rootless-", dir="/tmp"))
    try:
        work.chmod(0o755)
        found = Caller(work, busybox)
        yield found
        for place in (work / "run/pyrunc-oci", work / "other"):
            for container in place.iterdir() if place.exists() else ():
                found("--root", place, "delete", "--force", container.name)
    finally:
        shutil.rmtree(work)


def test_a_user_runs_a_container_as_its_root(caller: Caller) -> None:
    caller.write(
        "/bin/sh", "-c", "id -u; cat /proc/self/uid_map /proc/self/setgroups; : >/dev/null && echo ok"
    )
    assert caller("run", "box").stdout.split() == ["0", "0", str(UID), "1", "deny", "ok"]
    root = caller.work / "run/pyrunc-oci"
    # The bit that says that it is in use: the directory may be cleaned.
    assert (root.stat().st_mode & 0o7777, root.stat().st_uid) == (0o1700, UID)
    assert list(root.iterdir()) == []


def test_every_verb_of_a_life(caller: Caller) -> None:
    caller.write("/bin/sleep", "1000")
    caller("create", "box")
    caller.wait("box", "created")
    caller("start", "box")
    caller.wait("box", "running")
    pid = json.loads(caller("state", "box").stdout)["pid"]
    assert os.stat(f"/proc/{pid}").st_uid == UID
    assert caller("exec", "box", "/bin/sh", "-c", "id -u; ls -d /proc/1").stdout.split() == ["0", "/proc/1"]
    executed(pid, "/bin/sleep", "1000")
    assert caller("exec", "--user", "0:0", "box", "/bin/cat", "/proc/1/comm").stdout == "sleep\n"
    assert caller("list", "--quiet").stdout == "box\n"
    caller("kill", "box", "KILL")
    caller.wait("box", "stopped")
    caller("delete", "box")
    assert caller("list", "--quiet").stdout == ""


def test_it_is_sealed_by_a_copy_in_memory_where_it_may_not_mount(caller: Caller) -> None:
    caller.write("/bin/sleep", "1000")
    with subprocess.Popen(caller.command("run", "box"), env=caller.environment, cwd=caller.bundle) as door:
        try:
            until((caller.work / "run/pyrunc-oci/box/state.json").exists, "it does not begin")
            executable = f"/proc/{door.pid}/exe"
            assert os.readlink(executable).startswith("/memfd:pyrunc-oci")
            with pytest.raises(OSError):
                os.write(os.open(executable, os.O_WRONLY), b"x")
        finally:
            door.send_signal(signal.SIGTERM)
            caller("delete", "--force", "box")


def test_without_cgroups_what_needs_them_says_so(caller: Caller) -> None:
    caller.write("/bin/sleep", "1000")
    caller("run", "--detach", "box")
    assert json.loads((caller.work / "run/pyrunc-oci/box/state.json").read_text())["pyrunc"]["cgroups"] == []
    words = "cgroups not configured for container box"
    assert caller.refusal("pause", "box") == words
    assert caller.refusal("update", "--pids-limit", "9", "box") == words
    assert caller.refusal("ps", "box") == f"unable to get all container pids: {words}"


def test_a_limit_that_cannot_be_set_is_refused(caller: Caller) -> None:
    caller.write("/bin/true", resources={"pids": {"limit": 9}})
    words = caller.refusal("run", "box")
    assert words.startswith(
        "runc run failed: unable to start container process: unable to apply cgroup configuration"
    )
    assert (
        "cannot set pids limit: container could not join or create cgroup" in words
        or "rootless needs no limits + no cgrouppath when no permission is granted for cgroups: mkdir "
        in words
    )
    assert not (caller.work / "run/pyrunc-oci/box").exists()


def test_the_flag_says_whether_cgroups_may_be_missing(caller: Caller) -> None:
    caller.write("/bin/echo", "ran")
    for word in ("auto", "true", "T", "1"):
        assert caller("--rootless", word, "run", "box").stdout == "ran\n"
    assert "unable to apply cgroup configuration: mkdir /sys/fs/cgroup/" in caller.refusal(
        "--rootless", "false", "run", "box"
    )
    assert caller.refusal("--rootless", "maybe", "run", "box").endswith(
        'strconv.ParseBool: parsing "maybe": invalid syntax'
    )


def test_a_root_that_is_given_is_taken(caller: Caller) -> None:
    caller.write("/bin/sleep", "1000")
    caller("--root", caller.work / "other", "create", "box")
    assert (caller.work / "other").stat().st_mode & 0o7777 == 0o700
    assert caller("--root", caller.work / "other", "list", "-q").stdout == "box\n"


def test_what_no_user_may_ask_for_is_named(caller: Caller) -> None:
    caller.write("/bin/true", user={"uid": 0, "gid": 0, "additionalGids": [5]})
    assert caller.refusal("run", "box").endswith("cannot set any additional groups in a rootless container")
    caller.write("/bin/true", uidMappings=[{"containerID": 0, "hostID": 0, "size": 1}])
    done = caller("run", "box", code=1)  # where there is a newuidmap, it has its own words too
    assert "uid_map: operation not permitted" in done.stderr.splitlines()[-1]
    caller.write("/bin/true", namespaces=[{"type": "mount"}, {"type": "pid"}], uidMappings=[], gidMappings=[])
    assert caller.refusal("run", "box").endswith("rootless container requires user namespaces")


def in_own_house(caller: Caller, *lines: str) -> None:
    """Let the caller live where *lines* of shell have changed the host's files for them alone."""
    script = "\n".join(("set -e", *lines, 'exec "$@"'))
    caller.before = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *USER)


@pytest.fixture
def subordinate(caller: Caller) -> Caller:
    """A user with a name and with subordinate ids, and a document that uses them."""
    if shutil.which("newuidmap") is None:
        pytest.skip("needs newuidmap: apt-get install uidmap")
    for name, text in (
        ("passwd", f"root:x:0:0::/root:/bin/sh\nsomebody:x:{UID}:{UID}::/:/bin/sh\n"),
        ("subuid", "somebody:200000:65536\n"), ("subgid", "somebody:300000:65536\n"),
    ):  # fmt: skip
        (caller.work / name).write_text(text)
    files = ("passwd", "subuid", "subgid")
    in_own_house(
        caller,
        *(
            f"[ -e /etc/{name} ] || : >/etc/{name}; mount -n --bind {caller.work}/{name} /etc/{name}"
            for name in files
        ),
    )
    rows = {
        f"{kind}Mappings": [
            {"containerID": 0, "hostID": UID, "size": 1}, {"containerID": 1, "hostID": first, "size": 1000},
        ]
        for kind, first in (("uid", 200000), ("gid", 300000))
    }  # fmt: skip
    script = "id; tr -s ' ' </proc/self/uid_map; tr -s ' ' </proc/self/gid_map"
    caller.write("/bin/sh", "-c", script, user={"uid": 5, "gid": 6, "additionalGids": [7]}, **rows)
    return caller


def test_subordinate_ids_are_mapped_by_newuidmap(subordinate: Caller) -> None:
    done = subordinate("run", "box")
    assert done.stdout.splitlines() == [
        "uid=5 gid=6 groups=7", f" 0 {UID} 1", " 1 200000 1000", f" 0 {UID} 1", " 1 300000 1000",
    ]  # fmt: skip


def test_without_newuidmap_subordinate_ids_are_refused(subordinate: Caller) -> None:
    in_own_house(subordinate, f"mount -n --bind /dev/null {shutil.which('newuidmap')}")
    assert "uid_map: operation not permitted" in subordinate.refusal("run", "box")


def test_ids_that_are_nobodys_are_refused_by_newuidmap(subordinate: Caller) -> None:
    subordinate.write("/bin/true", uidMappings=[{"containerID": 0, "hostID": 900000, "size": 10}])
    done = subordinate("run", "box", code=1)
    assert "newuidmap" in done.stderr  # its own words, and ours behind them
    assert "uid_map: operation not permitted" in done.stderr.splitlines()[-1]


def test_root_of_a_user_namespace_runs_one_without_another(caller: Caller) -> None:
    caller.before = (
        *USER,
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "--pid",
        "--fork",
        "--mount-proc",
    )
    script = "id -u; : >/dev/null && echo ok; stat -c %t,%T /dev/null; cat /proc/self/uid_map"
    names = [{"type": kind} for kind in ("pid", "mount", "uts", "ipc", "network")]
    caller.write("/bin/sh", "-c", script, namespaces=names, uidMappings=[], gidMappings=[])
    assert caller("run", "box").stdout.split() == ["0", "ok", "1,3", "0", str(UID), "1"]


@pytest.fixture
def delegated(caller: Caller) -> Iterator[Path]:
    """A cgroup with controllers that is the caller's, who is in one below it."""
    place = TOP / "pyrunc-test" / f"user-{os.getpid()}"
    caller.before = (*delegate(place), *USER)
    yield place
    caller("delete", "--force", "box")
    for path in (place / "session", place):
        remove_busy(path)
    place.parent.rmdir()


@needs.cgroup_v2("cpu", "memory", "pids")
def test_a_delegated_cgroup_is_used(caller: Caller, delegated: Path) -> None:
    limits = {
        "pids": {"limit": 20}, "memory": {"limit": 64 * M}, "cpu": {"quota": 50000, "period": 100000},
        "devices": [{"allow": False, "access": "rwm"}],
    }  # fmt: skip
    caller.write("/bin/sleep", "1000", resources=limits)
    caller("run", "--detach", "box")
    own = delegated / "box"
    pid = json.loads(caller("state", "box").stdout)["pid"]
    assert Path(f"/proc/{pid}/cgroup").read_text().splitlines()[-1] == f"0::{str(own)[len(str(TOP)) :]}"
    assert [(own / name).read_text().strip() for name in ("pids.max", "memory.max", "cpu.max")] == [
        "20", str(64 * M), "50000 100000",
    ]  # fmt: skip
    caller("update", "--pids-limit", "30", "box")
    assert (own / "pids.max").read_text() == "30\n"
    caller("pause", "box")
    caller.wait("box", "paused")
    caller("resume", "box")
    # Seen from the container's cgroup namespace.
    assert caller("exec", "box", "/bin/cat", "/proc/self/cgroup").stdout == "0::/\n"
    assert json.loads(caller("events", "--stats", "box").stdout)["data"]["pids"]["limit"] == 30
    caller("delete", "--force", "box")
    assert not own.exists()
