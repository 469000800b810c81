"""The place where every contender is measured: one private mount namespace, one rootfs, one bundle, one tmpfs.

Nothing here outlives the process: the tmpfs and the cover of the cgroup file below die with the mount namespace, and
the one directory that the host sees is removed by :meth:`Workspace.close`.
"""

import ctypes
import json
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
CLONE_NEWNS = 0x20000
PR_SET_CHILD_SUBREAPER = 36

CGROUP_ROOT = Path("/sys/fs/cgroup")
HYBRID_CONTROLLERS = CGROUP_ROOT / "unified" / "cgroup.controllers"
FLOOR_SOURCE = Path(__file__).with_name("floor.c")
APPLETS = ("true", "sh", "cat", "readlink", "hostname")

_libc = ctypes.CDLL(None, use_errno=True)


class Unable(Exception):
    """The measurement cannot be made here; the message says what is missing."""


def _check(rc: int, what: str) -> None:
    if rc < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount in this process's namespace; raises OSError, which names the target."""

    def raw(text: str | None) -> bytes | None:
        return None if text is None else text.encode()

    rc = _libc.mount(raw(source), raw(target), raw(kind), ctypes.c_ulong(flags), raw(data))
    _check(rc, f"mount {target}")


def detach(target: str) -> None:
    """Take the mount at *target* out of the tree, whoever uses it; fails harmlessly where there is none."""
    _libc.umount2(target.encode(), 2)  # MNT_DETACH


def enter_private_namespace() -> None:
    """Move this process, still single-threaded, into a mount namespace whose changes the host never sees.

    Raises OSError without root. Source: mount_namespaces(7).
    """
    _check(_libc.unshare(CLONE_NEWNS), "unshare of the mount namespace")
    mount(None, "/", None, MS_REC | MS_PRIVATE)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends first, so that its CPU time is counted here.

    Source: prctl(2), PR_SET_CHILD_SUBREAPER.
    """
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl of the subreaper")


def cgroup_mode() -> str:
    """Say how cgroups are mounted: "v1", "v2" or "hybrid" (v1 with a v2 hierarchy beside it)."""
    if (CGROUP_ROOT / "cgroup.controllers").exists():
        return "v2"
    return "hybrid" if HYBRID_CONTROLLERS.exists() else "v1"


def _tool_version(command: list[str]) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).splitlines()
    return lines[0].strip() if lines else None


def machine_facts() -> dict[str, str | int | float | None]:
    """Collect what a reader needs to judge the figures: kernel, cores, cgroup mode, versions, load."""
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "cgroup": cgroup_mode(),
        "python": platform.python_version(),
        "runc": _tool_version(["runc", "--version"]),
        "crun": _tool_version(["crun", "--version"]),
        "busybox": _tool_version(["busybox"]),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def make_rootfs(path: Path) -> None:
    """Make a root file system of a static busybox at *path*; raises Unable when there is no busybox."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise Unable("busybox is missing: apt-get install busybox-static")
    for name in ("bin", "proc", "dev", "sys", "etc", "tmp"):
        (path / name).mkdir(parents=True)
    shutil.copy(busybox, path / "bin" / "busybox")
    for name in APPLETS:
        (path / "bin" / name).symlink_to("busybox")


def build_floor(target: Path) -> None:
    """Compile floor.c to *target*, statically, with $CC, musl-gcc or cc; raises Unable when there is no compiler."""
    found = next((name for name in ("musl-gcc", "cc", "gcc") if shutil.which(name)), None)
    compiler = os.environ.get("CC") or found
    if compiler is None:
        raise Unable("a C compiler is missing: apt-get install musl-tools")
    subprocess.run([*compiler.split(), "-O2", "-static", "-o", str(target), str(FLOOR_SOURCE)], check=True)


def hide_hybrid_controllers(directory: Path) -> None:
    """Show an empty list of v2 controllers: crun refuses a hybrid whose v2 side still holds one (hugetlb).

    Mounting that controller as v1 would change it for the whole host; a cover in this namespace changes nothing.
    The cover is a file in *directory*.
    """
    if cgroup_mode() == "hybrid" and HYBRID_CONTROLLERS.read_text().strip():
        empty = directory / "no-controllers"
        empty.touch()
        mount(str(empty), str(HYBRID_CONTROLLERS), None, MS_BIND)


class Workspace:
    """A scratch directory on a private tmpfs with the rootfs, the bundle and the floor's executable in it.

    Overlay's upper directory must lie on a tmpfs to be cheap: on a disk file system the same mount costs about
    three times as much, and that would be measured instead of the runtimes.
    """

    def __init__(self) -> None:
        """Make and fill the workspace; the caller is in a private mount namespace already.

        Raises Unable when a tool is missing.
        """
        self.place(Path(tempfile.mkdtemp(prefix="pyrunc-bench-")))
        try:
            mount("tmpfs", str(self.path), "tmpfs", 0, "mode=755")
            make_rootfs(self.rootfs)
            self._make_bundle()
            hide_hybrid_controllers(self.path)
        except BaseException:
            self.close()
            raise

    @classmethod
    def reopen(cls, path: Path) -> "Workspace":
        """Return the workspace that another process of this mount namespace made, for a process it has started."""
        workspace = cls.__new__(cls)
        workspace.place(path)
        return workspace

    def place(self, path: Path) -> None:
        """Let the workspace be at *path*."""
        self.path = path
        self.bundle = path / "bundle"
        self.rootfs = self.bundle / "rootfs"

    def _make_bundle(self) -> None:
        """Let runc write its default config.json and change only what the command is."""
        if shutil.which("runc") is None:
            raise Unable("runc is missing: apt-get install runc")
        subprocess.run(["runc", "spec"], cwd=self.bundle, check=True)
        config = self.bundle / "config.json"
        document = json.loads(config.read_text())
        document["process"]["terminal"] = False
        document["process"]["args"] = ["/bin/true"]
        config.write_text(json.dumps(document))

    def floor(self) -> Path:
        """Return the floor's executable, compiled when it is first asked for."""
        target = self.path / "floor"
        if not target.exists():
            build_floor(target)
        return target

    def directory(self, name: str) -> Path:
        """Make (if need be) and return a directory of that name."""
        path = self.path / name
        path.mkdir(exist_ok=True)
        return path

    def close(self) -> None:
        """Detach the tmpfs, with everything on it, and remove its mount point."""
        detach(str(self.path))
        shutil.rmtree(self.path, ignore_errors=True)
