"""The same resources through a plan of ours, Debian's runc and crun: files that can be set read the same."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyrunc.runtime.cgroup_control import remove
from pyrunc.runtime.cgroup_layout import Layout, detect
from pyrunc.runtime.cgroups import plan_cgroup
from tests.runtime.cgroup_support import apply, needs_root, remove_busy, unique_name, values

pytestmark = needs_root
M = 1 << 20
DENY: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}


def disk() -> tuple[int, int]:
    """A block device that blkio knows: one with a request queue, so no loop device without a file."""
    for entry in sorted(Path("/sys/block").iterdir()):
        if int((entry / "size").read_text()) > 0:
            major, minor = (entry / "dev").read_text().split(":")
            return int(major), int(minor)
    pytest.skip("no block device here")


def throttle(rate: int) -> list[dict[str, int]]:
    major, minor = disk()
    return [{"major": major, "minor": minor, "rate": rate}]


CASES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "denied devices": DENY,
    "all devices": {"devices": [{"allow": True, "access": "rwm"}]},
    "some devices": {
        "devices": [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            {"allow": True, "type": "b", "major": 7, "access": "rm"},
            {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "m"},
            {"allow": False, "type": "b", "major": 7, "access": "m"},
        ]
    },
    "memory": {"memory": {"limit": 64 * M}},
    "memory and swap": {"memory": {"limit": 64 * M, "swap": 128 * M, "reservation": 32 * M}},
    "no swap": {"memory": {"limit": 64 * M, "swap": 64 * M}},
    "unlimited swap": {"memory": {"limit": 64 * M, "swap": -1}},
    "unlimited memory": {"memory": {"limit": -1}},
    "odd memory": {"memory": {"limit": 64 * M + 1, "reservation": 4097}},
    "swappiness": {"memory": {"swappiness": 10, "disableOOMKiller": True}},
    "kernel memory": {"memory": {"limit": 64 * M, "kernel": 32 * M}},
    "shares": {"cpu": {"shares": 512}},
    "cpus": {"cpu": {"cpus": "0", "mems": "0"}},
    "quota": {"cpu": {"quota": 50000, "period": 100000}},
    "quota alone": {"cpu": {"quota": 5000}},
    "period alone": {"cpu": {"period": 20000}},
    "no quota": {"cpu": {"quota": -1, "period": 20000}},
    "pids": {"pids": {"limit": 77}},
    "no pids limit": {"pids": {"limit": -1}},
    "docker run": {
        **DENY,
        "memory": {"limit": 256 * M, "swap": 512 * M, "reservation": 128 * M, "disableOOMKiller": False},
        "cpu": {"shares": 1024, "quota": 150000, "period": 100000, "cpus": "0-1"},
        "pids": {"limit": 100},
    },
}


def block_io() -> dict[str, Any]:
    return {
        "blockIO": {
            "weight": 300,
            "throttleReadBpsDevice": throttle(1048576),
            "throttleWriteBpsDevice": throttle(2097152),
            "throttleReadIOPSDevice": throttle(100),
            "throttleWriteIOPSDevice": throttle(200),
        }
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as `runc spec` writes it, whose process sleeps."""
    busybox = shutil.which("busybox")
    if busybox is None or shutil.which("runc") is None:
        pytest.skip("needs runc and a static busybox")
    path = tmp_path_factory.mktemp("bundle")
    (path / "rootfs").mkdir()
    shutil.copy(busybox, path / "rootfs" / "sleep")
    subprocess.run(["runc", "spec"], cwd=path, check=True)
    return path


@contextmanager
def running(runtime: str, bundle: Path, resources: dict[str, Any], layout: Layout) -> Iterator[str]:
    """Run the bundle in *runtime* with *resources*; gives its cgroup's path, and leaves nothing."""
    name = unique_name()
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"args": ["/sleep", "1000"], "terminal": False}
    config["linux"] |= {"cgroupsPath": f"/{name}", "resources": resources}
    (bundle / "config.json").write_text(json.dumps(config))
    command = [runtime, "--root", str(bundle / "state")]
    if runtime == "crun" and layout.mode == "hybrid":
        # crun refuses hybrid hosts while v2 has a controller. In a mount namespace of its own it sees none.
        v2 = layout.v2
        assert v2 is not None
        script = f'mount --bind /dev/null {v2.mountpoint}/cgroup.controllers && exec "$@"'
        command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *command]
    # A detached container keeps its stderr open, so that a pipe of ours would wait for its end.
    messages = bundle / "stderr"
    try:
        with messages.open("w") as stderr:
            run = [*command, "run", "-d", "-b", str(bundle), name]
            code = subprocess.call(run, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr)
        assert code == 0, messages.read_text()
        yield name
    finally:
        subprocess.run([*command, "delete", "-f", name], stdout=subprocess.DEVNULL, check=False)
        # A start that failed leaves crun's cgroups.
        remove(layout, name)
        for hierarchy in layout.named:
            leaf = Path(hierarchy.mountpoint) / name
            if leaf.exists():
                remove_busy(leaf)


def ours(layout: Layout, resources: dict[str, Any]) -> dict[str, str]:
    name = unique_name()
    try:
        apply(plan_cgroup(layout, f"/{name}", resources))
        return values(layout, name)
    finally:
        remove(layout, name)


@pytest.mark.parametrize("case", [*CASES, "block io"])
def test_runc_sets_the_same(case: str, bundle: Path) -> None:
    layout = detect()
    resources = CASES[case] if case in CASES else block_io()
    with running("runc", bundle, resources, layout) as path:
        theirs = values(layout, path)
    assert ours(layout, resources) == theirs


# crun lets a container open the host's console and not net/tun; Debian's does not know blkio.bfq.weight.
# A start of Debian's with these fails, on values that OCI allows.
CRUN_CANNOT = {"no quota", "no pids limit"}
CRUN_ONLY, NOT_CRUN = "c 5:1 rwm", "c 10:200 rwm"


@pytest.mark.parametrize("case", [*(case for case in CASES if case not in CRUN_CANNOT), "block io"])
def test_crun_sets_the_same(case: str, bundle: Path) -> None:
    if shutil.which("crun") is None:
        pytest.skip("needs crun")
    layout = detect()
    resources = CASES[case] if case in CASES else {"blockIO": block_io()["blockIO"] | {"weight": 0}}
    # Without a rule that denies all, crun leaves a container what its parent may use.
    resources = DENY | resources
    with running("crun", bundle, resources, layout) as path:
        theirs = values(layout, path)
    mine = ours(layout, resources)
    for found in (mine, theirs):
        found["devices.list"] = (
            found["devices.list"].replace(f"{CRUN_ONLY}\n", "").replace(f"{NOT_CRUN}\n", "")
        )
    assert mine == theirs
