"""OCI documents as `runc spec` would write them, and shell that runs in their containers."""

from pathlib import Path
from typing import Any

from pyrunc import Sandbox
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
        result = box.run(["/bin/sh", "-c", script], timeout_s=30)
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
    return result.stdout.decode()
