"""The guest's pid 1: makes the host's read-only tree a usable Linux, runs one command, reports, switches off.

What the command finds:

    /                           overlay: the host's tree below, a tmpfs above, so every write stays in memory
    /tmp /var/tmp /run          tmpfs, which unlike / may hold the upper layer of a further overlay, but for
    /var/lib/pyrunc /dev/shm    the checkout and the interpreter: bound back where these would hide them
    /proc /sys /dev /dev/pts /dev/mqueue
    /dev/pyrunc-test-disk       a block device that a test may overwrite
    /sys/fs/cgroup              cgroup v2 with every controller enabled for the children of the root
    lo                          up

The verdict goes as one line of JSON to a terminal of its own: {"exit_code": N} or {"error": "..."}.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import termios
import threading
from typing import TypedDict

from . import linux
from .confine import SHARED

# The job's name in the shared directory.
JOB = "job.json"
# A block device of the tests' own.
SPARE_DISK = "/dev/pyrunc-test-disk"
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_SEALED = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC


class Job(TypedDict):
    """What to do, as the host wrote it.

    *keep* are trees that must stay visible, *modules* the directory above the kernel release's one, *output*
    and *status* terminals, *is_terminal* whether the command shall see that its output is one, *disk* a block
    device.
    """

    argv: list[str]
    cwd: str
    env: dict[str, str]
    keep: list[str]
    modules: str
    output: str
    status: str
    is_terminal: bool
    disk: str


def _overlay_root(modules: str) -> None:
    """Make an overlay over the present root the new root.

    Raises OSError, also where the module is for another kernel.
    """
    module = f"{modules}/{os.uname().release}/kernel/fs/overlayfs/overlay.ko"
    if os.path.exists(module):
        linux.load_module(module)
    writable, root = f"{SHARED}/rw", f"{SHARED}/root"
    linux.mount("root", writable, "tmpfs")
    for name in ("upper", "work"):
        os.mkdir(f"{writable}/{name}")
    options = f"lowerdir=/,upperdir={writable}/upper,workdir={writable}/work"
    linux.mount("root", root, "overlay", 0, options)
    os.chdir(root)
    linux.pivot_root(".", ".")
    linux.umount(".", linux.MNT_DETACH)
    os.chdir("/")


def _scratch(paths: tuple[str, ...], keep: list[str]) -> None:
    """Mount a tmpfs on each of *paths* and bind back what of *keep* that hides."""
    for path in paths:
        os.makedirs(path, exist_ok=True)
        hidden = [name for name in keep if name.startswith(path + "/") and os.path.isdir(name)]
        held = [(name, os.open(name, os.O_PATH | os.O_CLOEXEC)) for name in hidden]
        # Neither nosuid nor nodev: a root file system that a test makes here holds both.
        linux.mount("tmpfs", path, "tmpfs", 0, "mode=1777")
        for name, fd in held:
            os.makedirs(name, exist_ok=True)
            linux.mount(f"/proc/self/fd/{fd}", name, "", linux.MS_BIND)
            os.close(fd)


def _kernel_filesystems(disk: str) -> None:
    """Mount what the kernel itself serves, and give *disk* its name."""
    linux.mount("sysfs", "/sys", "sysfs", _SEALED)
    if os.path.isdir("/sys/kernel/security"):
        linux.mount("securityfs", "/sys/kernel/security", "securityfs", _SEALED)
    linux.mount("devtmpfs", "/dev", "devtmpfs", linux.MS_NOSUID)
    for name in ("pts", "shm", "mqueue"):
        os.makedirs(f"/dev/{name}", exist_ok=True)
    linux.mount(
        "devpts", "/dev/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, "mode=620,gid=5,ptmxmode=666"
    )
    linux.mount("tmpfs", "/dev/shm", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    linux.mount("mqueue", "/dev/mqueue", "mqueue", _SEALED)
    for link, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"/dev/{link}")
    os.symlink(disk, SPARE_DISK)


def _cgroups() -> None:
    """Mount cgroup v2 and enable all its controllers below the root."""
    linux.mount("cgroup2", "/sys/fs/cgroup", "cgroup2", _SEALED)
    with open("/sys/fs/cgroup/cgroup.controllers") as file:
        controllers = file.read().split()
    with open("/sys/fs/cgroup/cgroup.subtree_control", "w") as file:
        file.write(" ".join(f"+{name}" for name in controllers))


def _modprobe(modules: str) -> None:
    """Let the kernel and the tests load modules: the directory where modprobe looks, and a modprobe."""
    release = os.uname().release
    os.makedirs("/lib/modules", exist_ok=True)
    if not os.path.lexists(f"/lib/modules/{release}"):
        os.symlink(f"{modules}/{release}", f"/lib/modules/{release}")
    busybox = shutil.which("busybox")
    if shutil.which("modprobe") is None and busybox:
        os.symlink(busybox, "/usr/sbin/modprobe")


def _loopback_up() -> None:
    """Bring `lo` up, as every machine has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _open_raw(terminal: str) -> int:
    """Open *terminal* for output that passes unchanged; not as controlling terminal."""
    fd = os.open(terminal, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    attributes = termios.tcgetattr(fd)
    attributes[1] &= ~termios.OPOST
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSANOW, attributes)
    return fd


def _reap_until(pid: int) -> int:
    """Reap every process, as pid 1 must, until *pid* has ended; return its exit code."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def _copy(source: int, target: int) -> None:
    """Copy from *source* to *target* until the end."""
    while data := os.read(source, 1 << 16):
        while data:
            data = data[os.write(target, data) :]


def _run(job: Job) -> int:
    """Run the command and return its exit code as sh has it: 128 + N for a signal, 126, 127 for no start."""
    output = _open_raw(job["output"])
    reading, writing = os.pipe()
    target = output if job["is_terminal"] else writing
    copier = threading.Thread(target=_copy, args=(reading, output))
    copier.start()
    try:
        process = subprocess.Popen(
            job["argv"],
            cwd=job["cwd"],
            env=job["env"],
            stdin=subprocess.DEVNULL,
            stdout=target,
            stderr=target,
            start_new_session=True,
        )
    except OSError as error:
        os.write(target, f"{job['argv'][0]}: {error.strerror}\n".encode())
        code = 127 if isinstance(error, FileNotFoundError) else 126
    else:
        code = _reap_until(process.pid)
    # What the command left running may still hold the pipe. As pid 1 this process is not among "all".
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    os.close(writing)
    copier.join()
    termios.tcdrain(output)
    return code if code >= 0 else 128 - code


def _verdict(job: Job) -> dict[str, object]:
    """Set the machine up and run the command; a failure of ours is a verdict too."""
    try:
        _overlay_root(job["modules"])
        linux.mount("proc", "/proc", "proc", _SEALED)
        _scratch(("/tmp", "/var/tmp", "/run", "/var/lib/pyrunc"), job["keep"])
        _kernel_filesystems(job["disk"])
        _cgroups()
        _modprobe(job["modules"])
        _loopback_up()
        return {"exit_code": _run(job)}
    except Exception as error:  # noqa: BLE001 - whatever it is, the host has to hear of it
        return {"error": f"{type(error).__name__}: {error} ({', '.join(getattr(error, '__notes__', []))})"}


def main() -> None:
    """Do the job and power off."""
    with open(f"{SHARED}/{JOB}", encoding="utf-8", errors="surrogateescape") as file:
        job: Job = json.load(file)
    # Opened first: afterwards /dev belongs to another root, and a failure must be told all the same.
    status = _open_raw(job["status"])
    os.write(status, json.dumps(_verdict(job)).encode() + b"\n")
    termios.tcdrain(status)
    linux.power_off()


if __name__ == "__main__":
    main()
