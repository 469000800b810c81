"""Debian's cloud kernel, unpacked into a cache directory: nothing is installed on the host.

~/.cache/pyrunc/vm/<package>/        (XDG_CACHE_HOME is heeded; a directory appears when it is complete)
    vmlinuz
    modules/<release>/
    initrd                           finds the host's tree by virtiofs and goes on to SHARED/init
"""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from .confine import SHARED
from .machine import MachineError

_PACKAGE = "linux-image-cloud-amd64"
# What the initrd needs to see the host's tree, and the guest to use a disk.
_MODULES = ("virtio_pci", "virtio_blk", "virtiofs")
# The tag of the host's tree.
TAG = "host"
_INIT = f"""#!/bin/busybox sh
/bin/busybox mkdir -p /dev /host /proc /sbin
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
/bin/busybox mount -t proc proc /proc
/bin/busybox modprobe -a {" ".join(_MODULES)}
/bin/busybox mount -t virtiofs -o ro {TAG} /host
/bin/busybox umount /proc
/bin/busybox mount -o move /dev /host/dev
exec /bin/busybox switch_root /host {SHARED}/init
"""


class Image(NamedTuple):
    """The paths of a kernel, its initrd and the directory above its modules."""

    vmlinuz: str
    initrd: str
    modules: str


def _output(*argv: str, cwd: str | None = None) -> str:
    """Return what *argv* prints. Raises MachineError when it fails."""
    try:
        done = subprocess.run(argv, cwd=cwd, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        words = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise MachineError(f"{argv[0]}: {words[-1]}") from error
    return done.stdout


def _busybox() -> str:
    path = shutil.which("busybox")
    if path is None:
        raise MachineError("busybox not found: apt-get install busybox-static")
    return path


def _cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """Return an initramfs of (name, mode, content). Source: kernel, initramfs buffer format ("newc")."""
    archive = b""
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        archive += header + b"\0" * (-len(header) % 4) + content + b"\0" * (-len(content) % 4)
    return archive


def _initrd(modules: Path) -> bytes:
    """Return an initrd with busybox, `_MODULES` of the release's directory *modules*, and what they need."""
    dependencies: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        dependencies[path] = others.split()
    wanted = {path for path in dependencies if Path(path).stem in _MODULES}
    todo = list(wanted)
    while todo:
        new = set(dependencies[todo.pop()]) - wanted
        wanted |= new
        todo += new
    lines = [f"{path}: {' '.join(dependencies[path])}\n" for path in sorted(wanted)]
    base = f"lib/modules/{modules.name}"
    files: dict[str, tuple[int, bytes]] = {
        "init": (0o755, _INIT.encode()),
        "bin/busybox": (0o755, Path(_busybox()).read_bytes()),
        f"{base}/modules.dep": (0o644, "".join(lines).encode()),
    }
    files |= {f"{base}/{path}": (0o644, (modules / path).read_bytes()) for path in sorted(wanted)}
    directories = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in sorted(directories)]
    entries += [(name, stat.S_IFREG | mode, content) for name, (mode, content) in files.items()]
    return _cpio(entries)


def _build(package: str, into: Path) -> None:
    """Download *package* and make an Image's files in the directory *into*."""
    scratch = into / "scratch"
    scratch.mkdir()
    # apt drops its rights for a download; where it cannot write then, it keeps them and grumbles.
    _output("apt-get", "download", package, cwd=str(scratch))
    (archive,) = scratch.glob("*.deb")
    _output("dpkg-deb", "-x", str(archive), str(scratch))
    (modules,) = (scratch / "lib/modules").iterdir()
    _output(_busybox(), "depmod", "-b", str(scratch), modules.name)
    (into / "initrd").write_bytes(_initrd(modules))
    next((scratch / "boot").glob("vmlinuz-*")).rename(into / "vmlinuz")
    modules.parent.rename(into / "modules")
    shutil.rmtree(scratch)


def place() -> Path:
    """Return the directory in the cache for Debian's present cloud kernel, which need not exist.

    Raises MachineError where apt does not know the kernel.
    """
    lines = _output("apt-cache", "depends", "--no-recommends", _PACKAGE).splitlines()
    packages = [line.split()[-1] for line in lines if line.strip().startswith("Depends: linux-image-")]
    if not packages:
        raise MachineError(f"apt knows no {_PACKAGE}: apt-get update")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "pyrunc/vm" / packages[0]


def image() -> Image:
    """Return Debian's present cloud kernel, fetched into the cache if it is not there.

    Raises MachineError where apt does not know or cannot fetch it.
    """
    final = place()
    if not final.exists():
        print(f"dev vm: fetching {final.name} into {final}", file=sys.stderr)
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=final.parent, prefix="new-") as directory:
            new = Path(directory) / "image"
            new.mkdir(mode=0o755)
            _build(final.name, new)
            new.rename(final)
    return Image(str(final / "vmlinuz"), str(final / "initrd"), str(final / "modules"))
