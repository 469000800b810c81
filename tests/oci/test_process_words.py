"""What cannot be given to the process is said in runc's words; where runc is older, in the manner of a newer one."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyrunc.spec import capabilities
from tests.oci.bundles import Runtime, cgroups, document


def lacking() -> str:
    """A capability that this process does not have."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    found = next((name for name, number in capabilities.NUMBER.items() if not effective >> number & 1), "")
    return found or pytest.skip("this process has every capability")


def failing(oci: Runtime, tmp_path: Path, **changes: Any) -> str:
    """The message of a `create` that must fail and leave nothing."""
    spec = document(oci.rootfs, ["true"])
    for key in ("linux", "process"):
        spec[key] |= changes.pop(key, {})
    failed = oci.call(
        "--log-format", "json", "create", "--bundle", oci.write(tmp_path / "b", spec), oci.id, code=1
    )
    assert not oci.directory.exists()
    assert not cgroups(oci.id)
    message = json.loads(failed.stderr)
    assert message["level"] == "error"
    return str(message["msg"]).removeprefix("runc create failed: ")


def runcs(oci: Runtime, tmp_path: Path, code: int = 1) -> str:
    """What runc says to the same bundle, ending with *code*."""
    runc = shutil.which("runc")
    if runc is None:
        pytest.skip("needs runc")
    root, bundle = str(tmp_path / "runc"), str(tmp_path / "b")
    done = subprocess.run(
        [runc, "--root", root, "--log-format", "json", "run", "--bundle", bundle, oci.id],
        check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return str(json.loads(done.stderr.splitlines()[-1])["msg"]).removeprefix("runc run failed: ")


def test_a_limit(oci: Runtime, tmp_path: Path) -> None:
    limits = [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 6}]
    assert failing(oci, tmp_path, process={"rlimits": limits}) == runcs(oci, tmp_path)


def test_a_capability_that_the_caller_lacks(oci: Runtime, tmp_path: Path) -> None:
    """It is found out at the start, for nothing is dropped before the container waits."""
    name = lacking()
    sets = {key: [name] for key in capabilities.SETS}
    spec = document(oci.rootfs, ["true"], capabilities=sets)
    failed = oci.call(
        "--log-format", "json", "run", "--bundle", oci.write(tmp_path / "b", spec), oci.id, code=1
    )
    words = str(json.loads(failed.stderr)["msg"]).removeprefix("runc run failed: ")
    assert words == "unable to start container process: unable to apply caps: operation not permitted"
    assert words == runcs(oci, tmp_path)


# A name that is looked for in PATH is not there, whatever was wrong on the way.
PROGRAMS: dict[str, tuple[str, str]] = {
    "a link to itself": ("/tmp/loop", "/bin"),
    "one in PATH": ("loop", "/tmp:/bin"),
    "a name that is too long": ("/" + "x" * 300, "/bin"),
    "one that is looked for": ("x" * 300, "/bin"),
    "a directory of PATH that the user may not enter": ("nothing", "/tmp/closed:/bin"),
    "a program that the user may not execute, in PATH": ("closed", "/tmp:/bin"),
}


@pytest.mark.parametrize(("program", "path"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_that_is_not_found_is_not_found_as_with_runc(
    oci: Runtime, tmp_path: Path, program: str, path: str
) -> None:
    place = tmp_path / "place"
    (place / "closed").mkdir(parents=True, mode=0o700)
    (place / "loop").symlink_to("loop")
    spec = document(oci.rootfs, [program])
    bound = {"destination": "/tmp", "type": "bind", "source": str(place), "options": ["bind"]}
    mounts = [*spec["mounts"], bound]
    process = {"args": [program], "env": [f"PATH={path}"], "user": {"uid": 1000, "gid": 1000}}
    words = failing(oci, tmp_path, process=process, mounts=mounts)
    assert words == runcs(oci, tmp_path)


AGENT = (
    "failed to connect with seccomp agent specified in the seccomp profile: dial unix /nobody/here: connect"
)
NOTIFIED = {
    "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/nobody/here",
    "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
}  # fmt: skip
IMPOSSIBLE = {"policy": "SCHED_DEADLINE", "runtime": 5, "deadline": 3, "period": 1}


@pytest.mark.parametrize(("changes", "words"), [
    ({"process": {"scheduler": IMPOSSIBLE}}, "error setting scheduler: invalid argument"),
    ({"linux": {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "900"}}},
     "failed to set memory policy: invalid argument"),
    ({"linux": {"seccomp": NOTIFIED}}, f"{AGENT}: no such file or directory"),
])  # fmt: skip
def test_what_the_kernel_refuses(oci: Runtime, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    expected = f"unable to start container process: error during container init: {words}"
    assert failing(oci, tmp_path, **changes) == expected


@pytest.mark.parametrize(("changes", "words"), [
    ({"process": {"selinuxLabel": "a:b:c:d"}}, "selinux label is specified in config, but selinux is disabled"),
    ({"process": {"apparmorProfile": "x"}}, "apparmor failed to apply profile"),
    ({"linux": {"intelRdt": {"l3CacheSchema": "L3:0=f"}}}, "intelRdt.l3CacheSchema is specified in config, but"),
])  # fmt: skip
def test_what_this_kernel_lacks_is_refused_as_runc_refuses_it(
    oci: Runtime, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    assert words in failing(oci, tmp_path, **changes)
    assert words in runcs(oci, tmp_path)


def test_unknown_capabilities_are_warned_of_by_both(oci: Runtime, tmp_path: Path) -> None:
    spec = document(oci.rootfs, ["true"], capabilities={"bounding": ["CAP_FLY", "CAP_KILL"]})
    done = oci.call("--log-format", "json", "run", "--bundle", oci.write(tmp_path / "b", spec), oci.id)
    message = json.loads(done.stderr)
    assert message["level"] == "warning"
    assert message["msg"] == runcs(oci, tmp_path, code=0)


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="systemd runs here")
def test_cgroups_of_systemd_are_refused_where_it_does_not_run(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["true"])
    failed = oci.call("--systemd-cgroup", "run", "--bundle", bundle, oci.id, code=1)
    assert "systemd not running on this host, cannot use systemd cgroups manager" in failed.stderr
