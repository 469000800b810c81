"""`pyrunc-oci --systemd-cgroup` with a real systemd, beside Debian's runc."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oci import bundles
from tests.oci.native import PYTHON, install
from tests.oci.planning import socket_of
from tests.oci.units import SLEEP, M, Runtime, User, outer
from tests.oci.unprivileged import UID
from tests.oci.waiting import until
from tests.vm import needs
from tests.vm.systemd import Booted, missing

pytestmark = [
    pytest.mark.vm,
    needs.root(),
    needs.cgroup_v2("cpu", "io", "memory", "pids"),
    pytest.mark.skipif(missing(), reason="needs systemd"),
]
FILES = {"memory.max": str(64 * M), "memory.low": str(32 * M), "cpu.max": "25500 50000", "pids.max": "77"}


@pytest.fixture(scope="module")
def booted() -> Iterator[Booted]:
    """A systemd for all tests."""
    found = Booted()
    yield found
    found.end()


@pytest.fixture
def oci(booted: Booted, tmp_path: Path, rootfs: Path) -> Iterator[Runtime]:
    """The front door; its unit and its cgroups are gone afterwards."""
    found = Runtime(booted, str(bundles.FRONT_DOOR), tmp_path / "state", rootfs)
    yield found
    found.end()
    assert found.scope not in booted.units()
    assert not found.group.exists()


@pytest.fixture
def runc(booted: Booted, tmp_path: Path, rootfs: Path) -> Iterator[Runtime]:
    """Debian's runc."""
    path = shutil.which("runc")
    if path is None:
        pytest.skip("needs runc")
    found = Runtime(booted, path, tmp_path / "runc", rootfs)
    yield found
    found.end()


def test_a_container_is_a_scope_with_its_limits(booted: Booted, oci: Runtime, tmp_path: Path) -> None:
    oci.call("create", "--bundle", oci.write(tmp_path / "b", oci.spec(SLEEP)), oci.id)
    assert oci.state()["status"] == "created"
    shown = booted.show(oci.scope)
    assert (shown["ActiveState"], shown["SubState"], shown["Transient"]) == ("active", "running", "yes")
    assert (shown["Slice"], shown["Delegate"], shown["DefaultDependencies"]) == ("test.slice", "yes", "no")
    assert shown["ControlGroup"] == f"/test.slice/{oci.scope}"
    expected = {
        "MemoryMax": str(64 * M), "MemoryLow": str(32 * M), "CPUWeight": "59", "CPUQuotaPerSecUSec": "510ms",
        "CPUQuotaPeriodUSec": "50ms", "TasksMax": "77", "DevicePolicy": "strict",
    }  # fmt: skip
    assert {name: shown[name] for name in expected} == expected
    assert {"/dev/char/10:229 rw", "block-7 r", "char-* m"} <= {
        line.partition("=")[2]
        for line in booted.call("systemctl", "show", "-p", "DeviceAllow", oci.scope).stdout.splitlines()
    }
    assert {name: oci.value(name) for name in FILES} == FILES
    pid = oci.state()["pid"]
    assert oci.value("cgroup.procs").split() == [str(outer(pid))]
    assert oci.saved()["pyrunc"]["systemd"]["unit"] == oci.scope
    oci.call("start", oci.id)
    oci.wait("running")
    inside = oci.call("exec", oci.id, "/bin/cat", "/proc/self/cgroup").stdout
    assert inside == "0::/\n"
    assert "cannot be restored" in oci.call("checkpoint", oci.id, code=1).stderr
    oci.call("kill", oci.id, "KILL")
    oci.wait("stopped")
    oci.call("delete", oci.id)
    assert oci.scope not in booted.units()
    assert not oci.group.exists()


def test_run_in_the_foreground_leaves_no_unit(booted: Booted, oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.write(tmp_path / "b", oci.spec(["/bin/sh", "-c", "cat /proc/self/cgroup; exit 5"]))
    for _ in range(2):
        done = oci.call("run", "--bundle", bundle, oci.id, code=5)
        assert done.stdout == "0::/\n"
        assert oci.scope not in booted.units()


def test_with_a_planner_there_is_no_python(booted: Booted, oci: Runtime, tmp_path: Path) -> None:
    front_door, directory = install(tmp_path / "installed"), tmp_path / "planner"
    oci.environment["PYRUNC_OCI_PLANNER"] = str(directory)
    start = "import sys; from pyrunc.oci import planner; planner.ensure(sys.argv[1])"
    environment = {**oci.environment, "PYTHONPATH": str(bundles.REPOSITORY)}
    booted.call(sys.executable, "-c", start, front_door, env=environment)
    until(socket_of(front_door, directory).exists, "no planner comes")
    bundle = oci.write(tmp_path / "b", oci.spec(SLEEP))

    def warm(*words: object) -> None:
        # A planner that is late is not waited for, and on a busy machine its first plan is.
        until(lambda: oci.call(*words, code=None).returncode != PYTHON, f"{words[0]} is declined")

    cold, oci.path = oci.path, str(front_door)
    try:
        warm("create", "--bundle", bundle, oci.id)
        assert booted.show(oci.scope, "TasksMax", "ActiveState") == {
            "TasksMax": "77",
            "ActiveState": "active",
        }
        oci.call("start", oci.id)
        warm("exec", oci.id, "/bin/true")
        oci.call("kill", oci.id, "KILL")
        oci.wait("stopped")
        oci.call("delete", oci.id, code=PYTHON)
    finally:
        oci.path = cold
    oci.call("delete", oci.id)


def test_update_tells_systemd_too(booted: Booted, oci: Runtime, tmp_path: Path) -> None:
    oci.launch(tmp_path)
    oci.call(
        "update",
        "--memory",
        "128M",
        "--pids-limit",
        "10",
        "--cpu-quota",
        "12300",
        "--cpu-period",
        "100000",
        oci.id,
    )
    found = booted.show(oci.scope, "MemoryMax", "TasksMax", "CPUQuotaPerSecUSec", "MemoryLow")
    assert found == {
        "MemoryMax": str(128 * M), "TasksMax": "10", "CPUQuotaPerSecUSec": "130ms", "MemoryLow": str(32 * M),
    }  # fmt: skip
    files = {
        "memory.max": str(128 * M),
        "pids.max": "10",
        "cpu.max": "12300 100000",
        "memory.low": str(32 * M),
    }
    assert {name: oci.value(name) for name in files} == files
    oci.call("pause", oci.id)
    assert oci.state()["status"] == "paused"
    oci.call("resume", oci.id)


@needs.cgroup_v2("cpuset")
def test_processors_are_told_to_systemd_too(booted: Booted, oci: Runtime, tmp_path: Path) -> None:
    oci.launch(tmp_path, resources={"cpu": {"cpus": "0", "mems": "0"}})
    assert booted.show(oci.scope, "AllowedCPUs", "AllowedMemoryNodes") == {
        "AllowedCPUs": "0", "AllowedMemoryNodes": "0",
    }  # fmt: skip
    refused = oci.call("update", "--cpuset-cpus", "77", oci.id, code=1)
    assert "cpuset.cpus" in refused.stderr
    assert booted.show(oci.scope, "AllowedCPUs") == {"AllowedCPUs": "0"}
    assert oci.value("cpuset.cpus") == "0"


def test_an_update_that_the_kernel_refuses_is_undone(booted: Booted, oci: Runtime, tmp_path: Path) -> None:
    oci.launch(tmp_path)
    changes = tmp_path / "changes"
    changes.write_text(json.dumps({"pids": {"limit": 5}, "unified": {"memory.high": "no number"}}))
    refused = oci.call("update", "--resources", changes, oci.id, code=1)
    assert "memory.high: invalid argument" in refused.stderr
    assert booted.show(oci.scope, "TasksMax") == {"TasksMax": "77"}
    assert oci.value("pids.max") == "77"


def test_a_reload_undoes_nothing(booted: Booted, oci: Runtime, tmp_path: Path) -> None:
    spec = oci.spec(SLEEP)
    spec["process"]["capabilities"] = {
        name: ["CAP_MKNOD"] for name in ("bounding", "effective", "permitted")
    }  # fmt: skip
    spec["root"]["readonly"] = False
    spec["mounts"].append(
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]}
    )
    oci.call("run", "--detach", "--bundle", oci.write(tmp_path / "b", spec), oci.id)

    def look() -> tuple[int, int]:
        """How opening /dev/kmsg, which is denied, and /dev/null end."""
        script = "test -e /tmp/kmsg || mknod /tmp/kmsg c 1 11; : </dev/null || exit 7; : </tmp/kmsg"
        done = oci.call("exec", "--cap", "CAP_MKNOD", oci.id, "/bin/sh", "-c", script, code=None)
        assert "not permitted" in done.stderr
        return done.returncode, len(done.stdout)

    before = look()
    booted.call("systemctl", "daemon-reload")
    assert {name: oci.value(name) for name in FILES} == FILES
    assert look() == before
    assert booted.show(oci.scope, "DevicePolicy", "MemoryMax") == {
        "DevicePolicy": "strict",
        "MemoryMax": str(64 * M),
    }
    booted.call("systemctl", "daemon-reexec")
    assert {name: oci.value(name) for name in FILES} == FILES
    assert look() == before
    assert oci.state()["status"] == "running"


def test_devices_that_are_denied_one_by_one(booted: Booted, oci: Runtime, tmp_path: Path) -> None:
    """systemd has no words for it, and leaves the others alone."""
    rules = [
        {"allow": True, "access": "rwm"},
        {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "rwm"},
    ]
    spec = oci.spec(SLEEP, {"devices": rules})
    spec["mounts"].append(
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]}
    )
    spec["process"]["capabilities"] = {name: ["CAP_MKNOD"] for name in ("bounding", "effective", "permitted")}
    oci.call("run", "--detach", "--bundle", oci.write(tmp_path / "b", spec), oci.id)
    script = "mknod /tmp/null c 1 3; mknod /tmp/kmsg c 1 11; : </tmp/null || exit 7; : </tmp/kmsg"
    for _ in range(2):
        done = oci.call("exec", oci.id, "/bin/sh", "-c", script, code=None)
        assert done.returncode not in (0, 7), done.stderr
        assert "/tmp/kmsg: Operation not permitted" in done.stderr
        booted.call("systemctl", "daemon-reload")
        script = ": </tmp/null || exit 7; : </tmp/kmsg"


def test_a_start_that_fails_leaves_no_unit(booted: Booted, oci: Runtime, tmp_path: Path) -> None:
    for verb, args in (("create", ["/no/such"]), ("run", ["/etc"])):
        failed = oci.call(verb, "--bundle", oci.write(tmp_path / "b", oci.spec(args)), oci.id, code=1)
        assert "unable to start container process: exec:" in failed.stderr
        assert oci.scope not in booted.units()
        assert not oci.group.exists()
        assert not oci.directory.exists()


def test_a_limit_that_the_kernel_refuses_leaves_no_unit(booted: Booted, oci: Runtime, tmp_path: Path) -> None:
    spec = oci.spec(SLEEP, {"unified": {"memory.max": "no number"}})
    failed = oci.call("create", "--bundle", oci.write(tmp_path / "b", spec), oci.id, code=1)
    assert "memory.max: invalid argument" in failed.stderr
    assert oci.scope not in booted.units()
    assert not oci.directory.exists()


def test_a_unit_of_another_is_not_touched(
    booted: Booted, oci: Runtime, runc: Runtime, tmp_path: Path
) -> None:
    runc.id, runc.scope = oci.id, oci.scope
    runc.launch(tmp_path / "..")
    failed = oci.call("create", "--bundle", oci.write(tmp_path / "b", oci.spec(SLEEP)), oci.id, code=1)
    assert "unable to apply cgroup configuration: unable to start unit " in failed.stderr
    assert failed.stderr.endswith(f'}}]): Unit {oci.scope} was already loaded or has a fragment file."\n')
    assert booted.show(oci.scope, "ActiveState") == {"ActiveState": "active"}
    assert runc.state()["status"] == "running"
    runc.call("delete", "--force", runc.id)


def test_a_unit_that_has_failed_is_replaced(booted: Booted, oci: Runtime, tmp_path: Path) -> None:
    """As one whose processes were killed for want of memory, until somebody has looked."""
    booted.call(
        "systemd-run",
        "--scope",
        f"--unit={oci.scope}",
        "--slice=test.slice",
        "sh",
        "-c",
        "kill -9 $$",
        code=None,
    )
    bundle = oci.write(tmp_path / "b", oci.spec(["/bin/sh", "-c", "head -c 100m /dev/zero | tail"]))
    oci.call("run", "--detach", "--bundle", bundle, oci.id)
    oci.wait("stopped")
    until(
        lambda: booted.show(oci.scope, "ActiveState")["ActiveState"] in ("failed", "inactive"), "it goes on"
    )
    shutil.rmtree(oci.directory)
    oci.launch(tmp_path)
    assert booted.show(oci.scope, "ActiveState") == {"ActiveState": "active"}


def test_whoever_is_killed_leaves_what_delete_clears(booted: Booted, oci: Runtime, tmp_path: Path) -> None:
    """At moments all over a create; afterwards a new one with the same name works."""
    bundle = oci.write(tmp_path / "b", oci.spec(SLEEP))
    began = time.monotonic()
    oci.call("create", "--bundle", bundle, oci.id)
    whole_s = time.monotonic() - began
    oci.call("delete", "--force", oci.id)
    met = set()
    for moment in range(6):
        with subprocess.Popen(
            oci.command("create", "--bundle", bundle, oci.id), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=oci.environment, start_new_session=True,
        ) as creating:  # fmt: skip
            if moment < 5:
                time.sleep(whole_s * (moment + 1) / 6)
            else:
                until(oci.directory.exists, "it does not begin")
            os.killpg(creating.pid, signal.SIGKILL)
        met.add(oci.directory.exists())
        oci.call("delete", "--force", oci.id)
        until(lambda: oci.scope not in booted.units(), "the unit stays")
        assert not oci.group.exists()
        assert not oci.directory.exists()
    assert True in met


def test_without_a_path_it_is_in_the_system_slice(booted: Booted, oci: Runtime, tmp_path: Path) -> None:
    oci.scope = f"runc-{oci.id}.scope"
    oci.launch(tmp_path, cgroupsPath="")
    assert booted.show(oci.scope, "Slice", "ActiveState") == {
        "Slice": "system.slice",
        "ActiveState": "active",
    }
    assert (booted.cgroup / "system.slice" / oci.scope).is_dir()
    oci.call("delete", "--force", oci.id)
    assert not (booted.cgroup / "system.slice" / oci.scope).exists()


def test_slices_in_slices(booted: Booted, oci: Runtime, tmp_path: Path) -> None:
    oci.launch(tmp_path, cgroupsPath=f"test-a-b.slice:test:{oci.id}")
    group = booted.cgroup / "test.slice/test-a.slice/test-a-b.slice" / oci.scope
    assert (group / "memory.max").read_text() == f"{64 * M}\n"
    oci.call("delete", "--force", oci.id)
    assert not group.exists()


def test_a_slice_that_is_a_container(booted: Booted, oci: Runtime, tmp_path: Path) -> None:
    """Which runc would tell of a process, and systemd then refuses."""
    oci.scope = f"test-{oci.id.replace('-', '')}.slice"
    oci.launch(tmp_path, cgroupsPath=f"test.slice:x:{oci.scope}")
    shown = booted.show(oci.scope, "ActiveState", "MemoryMax", "Wants", "ControlGroup")
    assert (shown["ActiveState"], shown["MemoryMax"]) == ("active", str(64 * M))
    assert "test.slice" in shown["Wants"]
    assert shown["ControlGroup"] == f"/test.slice/{oci.scope}"
    assert oci.value("cgroup.procs").split() == [str(outer(oci.state()["pid"]))]
    oci.call("delete", "--force", oci.id)


def test_annotations_are_properties(booted: Booted, oci: Runtime, tmp_path: Path) -> None:
    notes = {
        "org.systemd.property.TimeoutStopSec": "uint16 7", "org.systemd.property.CollectMode": "'inactive-or-failed'",
        "org.systemd.property.After": "['basic.target', 'local-fs.target']",
        "org.systemd.property.IOWeight": "uint64 7",
    }  # fmt: skip
    oci.launch(tmp_path, annotations=notes)
    found = booted.show(oci.scope, "TimeoutStopUSec", "CollectMode", "IOWeight", "After")
    assert {"basic.target", "local-fs.target"} <= {*found.pop("After").split()}
    assert found == {"TimeoutStopUSec": "7s", "CollectMode": "inactive-or-failed", "IOWeight": "7"}
    bundle = oci.write(
        tmp_path / "b", oci.spec(SLEEP, annotations={"org.systemd.property.NoSuchThing": "true"})
    )
    oci.call("delete", "--force", oci.id)
    failed = oci.call("create", "--bundle", bundle, oci.id, code=1)
    assert "NoSuchThing" in failed.stderr.rpartition("): ")[2]


@pytest.mark.parametrize("path", [
    "/a/b", "a:b:c", "a--b.slice:b:c", "test.slice:x:a/b", "test.slice:x:a b",
])  # fmt: skip
def test_paths_that_name_no_scope_are_refused_as_by_runc(
    oci: Runtime, runc: Runtime, tmp_path: Path, path: str
) -> None:
    words = []
    for runtime in (oci, runc):
        bundle = runtime.write(tmp_path / "b", runtime.spec(SLEEP, cgroupsPath=path))
        done = runtime.call("--log-format", "json", "create", "--bundle", bundle, runtime.id, code=None)
        message = json.loads(done.stderr.splitlines()[-1])["msg"] if done.returncode else ""
        # The properties are those of each.
        head, shown, tail = message.partition(" (properties [")
        words.append((done.returncode, head + tail.rpartition("])")[2] if shown else head))
        runtime.call("delete", "--force", runtime.id, code=None)
    assert words[0] == words[1]


# What is another with each unit, or counts what it has used.
PASSING = (
    "Timestamp",
    "InvocationID",
    "ControlGroupId",
    "Usage",
    "Current",
    "Available",
    "IORead",
    "IOWrite",
)
# runc says a part of it only afterwards, which systemd keeps in files of its own and wants to have read again.
AFTERWARDS = ("DropInPaths", "NeedDaemonReload")


def test_the_unit_is_what_runc_makes(booted: Booted, oci: Runtime, runc: Runtime, tmp_path: Path) -> None:
    shown = []
    for runtime in (oci, runc):
        runtime.launch(tmp_path)
        lines = booted.call("systemctl", "show", "--all", runtime.scope).stdout.splitlines()
        pairs: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition("=")
            if not any(word in name for word in PASSING) and name not in AFTERWARDS:
                pairs.setdefault(name, []).append(value.replace(runtime.id, "ID"))
        shown.append(pairs)
    ours, theirs = shown
    assert ours.pop("Description") == ["pyrunc container ID"]
    assert theirs.pop("Description") == ["libcontainer container ID"]
    # runc's formula since 1.3.2.
    assert (ours.pop("CPUWeight"), theirs.pop("CPUWeight")) == (["59"], ["20"])
    # runc 1.1 knows numbers only of devices that there are, and calls groups of them by their names.
    allowed, known = {*ours.pop("DeviceAllow")}, {*theirs.pop("DeviceAllow")}
    assert allowed - known == {"/dev/char/10:200 rwm", "/dev/char/10:229 rw", "block-7 r", "char-136 rwm"}
    assert known - allowed == {"char-pts rwm"}
    assert ours == theirs


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory of one's own with a short name, as podman wants it."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    yield made
    shutil.rmtree(made)


def test_podman_and_conmon_with_the_default_of_theirs(booted: Booted, rootfs: Path, short: Path) -> None:
    if shutil.which("podman") is None:
        pytest.skip("needs podman")
    command = [
        "podman", "--root", short / "store", "--runroot", short / "run", "--storage-driver", "vfs",
        "--events-backend", "none", "--cgroup-manager", "systemd", "--runtime", bundles.FRONT_DOOR,
    ]  # fmt: skip
    limited = ["--network", "none", "--pids-limit", "33", "--rootfs", rootfs, *SLEEP]
    started = booted.call(
        *command, "run", "--detach", "--name", "box", *limited, env={**os.environ, "HOME": "/"}
    )
    scope = f"libpod-{started.stdout.strip()}.scope"
    assert booted.show(scope, "Slice", "TasksMax") == {"Slice": "machine.slice", "TasksMax": "33"}
    inside = booted.call(*command, "exec", "box", "/bin/cat", "/proc/self/cgroup", "/sys/fs/cgroup/pids.max")
    assert inside.stdout == "0::/\n33\n"
    booted.call(*command, "rm", "--force", "--time", "0", "box")
    assert scope not in booted.units()


@pytest.fixture
def user(booted: Booted, rootfs: Path) -> Iterator[User]:
    """A user with a systemd of their own."""
    work = Path(tempfile.mkdtemp(prefix="pyrunc-user-", dir="/tmp"))
    work.chmod(0o755)
    found = User(booted, work, rootfs)
    yield found
    found.end()
    assert found.scope not in found.units()
    booted.call("systemctl", "stop", found.manager)
    shutil.rmtree(work)


def test_a_users_own_systemd_makes_the_scope(user: User) -> None:
    spec = user.spec(SLEEP, {"pids": {"limit": 20}}, cgroupsPath=f"user.slice:test:{user.id}")
    spec["linux"]["namespaces"] = [
        {"type": kind} for kind in ("user", "pid", "ipc", "uts", "mount", "cgroup")
    ]  # fmt: skip
    for kind in ("uid", "gid"):
        spec["linux"][f"{kind}Mappings"] = [{"containerID": 0, "hostID": UID, "size": 1}]
    spec["mounts"] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    bundle = user.write(user.runtime / "b", spec)
    user.call("create", "--bundle", bundle, user.id)
    assert user.scope in user.units()
    assert user.value("pids.max") == "20"
    assert user.value("cgroup.procs").split() == [str(outer(user.state()["pid"]))]
    user.call("start", user.id)
    assert user.call("exec", user.id, "/bin/cat", "/proc/self/cgroup").stdout == "0::/\n"
    user.call("update", "--pids-limit", "30", user.id)
    assert user.value("pids.max") == "30"
    user.call("delete", "--force", user.id)
    assert user.scope not in user.units()
    assert not user.group.exists()
    user.inside = False
    refused = user.call("create", "--bundle", bundle, user.id, code=1).stderr
    assert "who is in the cgroup /commands may not go to" in refused
    assert user.scope not in user.units()
    # As podman calls it: root of a user namespace, with none of its own for the container.
    user.inside, user.before = True, ["unshare", "--user", "--map-root-user", "--mount"]
    spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != "user"]
    del spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]
    spec["process"]["args"] = ["/bin/cat", "/proc/self/cgroup"]
    user.write(user.runtime / "b", spec)
    assert user.call("run", "--bundle", bundle, user.id).stdout == "0::/\n"
    assert user.scope not in user.units()
