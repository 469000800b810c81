"""OCI documents as `runc spec` would write them, and shell that runs in their containers."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pyrunc import Sandbox
from pyrunc.runtime.cgroup_layout import detect
from pyrunc.spec import defaults


def bundle_spec(**linux: Any) -> dict[str, Any]:
    """A document with the usual mounts, masks and namespaces, and *linux* on top; its root is the bundle's rootfs."""
    return {
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {
            "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
            "capabilities": {
                name: [*defaults.CAPABILITIES, "CAP_SYS_ADMIN"] for name in ("bounding", "effective", "permitted")
            },
        },
        "hostname": "box",
        "mounts": list(defaults.mounts()),
        "linux": {
            "namespaces": [{"type": kind} for kind in defaults.NAMESPACES],
            "maskedPaths": list(defaults.MASKED_PATHS), "readonlyPaths": list(defaults.READONLY_PATHS), **linux,
        },
    }  # fmt: skip


def run_spec(rootfs: Path, spec: dict[str, Any], script: str, *, code: int = 0) -> str:
    """What *script* writes to stdout in the container of *spec*, whose bundle is the directory of *rootfs*."""
    with Sandbox.from_spec({**spec, "root": {**spec["root"], "path": str(rootfs)}}, rootfs.parent) as box:
        result = box.run(["/bin/sh", "-c", script], timeout_s=60)
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
    return result.stdout.decode()


class Ran(NamedTuple):
    """What a peer made of a document."""

    code: int
    stdout: str
    stderr: str


def peer_run(bundle: Path, spec: dict[str, Any], script: str, runtime: str = "runc") -> Ran:
    """The same document in the same bundle through Debian's *runtime*, in a mount namespace of its own."""
    if shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    document = {**spec, "process": {**spec["process"], "args": ["/bin/sh", "-c", script], "terminal": False}}
    if runtime == "crun":
        document["ociVersion"] = "1.0.0"  # it knows no newer one
    (bundle / "config.json").write_text(json.dumps(document))
    name = f"pyrunc-test-{os.getpid()}-peer"
    command = [runtime, "--root", str(bundle / f"{runtime}-state")]
    v2 = detect().v2
    if runtime == "crun" and detect().mode == "hybrid" and v2 is not None:
        # It refuses a hybrid host while v2 has a controller; here it sees none.
        shy = 'mount --bind /dev/null "$0/cgroup.controllers" && exec "$@"'
        command = ["sh", "-c", shy, v2.mountpoint, *command]
    try:
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "private", *command, "run", "--bundle", str(bundle), name],
            # A pipe: crun gives its standard descriptors to the container's root, and the host's /dev/null too.
            input="", capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    finally:
        subprocess.run(
            ["unshare", "-m", "--propagation", "private", *command, "delete", "--force", name],
            capture_output=True, timeout=120, check=False,
        )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)
