"""Terminals: what a container has put where one is looked for, and who else could get hold of either side."""

import errno
import fcntl
import os
import pty
import select
import signal
import stat
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Sandbox, errors
from pyrunc._native import namespaces
from pyrunc._native import plan as native
from pyrunc.runtime import joining
from tests.child import in_child
from tests.safety import support

Make = Callable[..., Sandbox]
_SH = ["/bin/busybox", "sh", "-c"]

# What root in a container that may mount does to its terminals, and what is said of it.
TRAPS = {
    "nothing": ("umount /dev/pts", "no devpts"),
    "a tmpfs": ("mount -t tmpfs x /dev/pts && mkfifo /dev/pts/ptmx", "no devpts"),
    "a link to a descriptor": (
        "mount -t tmpfs x /dev/pts && ln -s /proc/self/fd/0 /dev/pts/ptmx", "no devpts",
    ),
    "a link to the terminals' place": (
        "umount /dev/pts && rmdir /dev/pts && ln -s /proc/1/cwd/dev /dev/pts", "cannot make a terminal",
    ),
    "a pipe over the multiplexer": ("mkfifo /f && mount --bind /f /dev/pts/ptmx", "cannot make a terminal"),
    "a file over the multiplexer": (">/f && mount --bind /f /dev/pts/ptmx", "cannot make a terminal"),
    "a terminal over the multiplexer": (
        "sleep 60 <>/dev/pts/ptmx >/dev/null & sleep 0.1; mount --bind /dev/pts/0 /dev/pts/ptmx",
        "cannot make a terminal",
    ),
    "none are left": (
        "mount -o remount,max=1 /dev/pts; sleep 60 <>/dev/pts/ptmx >/dev/null & sleep 0.1", "no more are possible",
    ),
}  # fmt: skip


def hostile(sandbox: Make, **options: Any) -> Sandbox:
    return sandbox(cap_add=["SYS_ADMIN"], **options)


@pytest.mark.parametrize("trap", TRAPS)
def test_nothing_but_a_devpts_is_opened_for_a_terminal(sandbox: Make, trap: str) -> None:
    script, words = TRAPS[trap]
    with hostile(sandbox).start(["/bin/sleep", "600"]) as process:
        done = process.exec([*_SH, script], timeout_s=60)
        assert done.exit_code == 0, done.stderr
        with pytest.raises(errors.StartError, match=words):
            process.exec(["/bin/true"], tty=True, timeout_s=60)
        assert process.exec(["/bin/true"]).exit_code == 0

        def careless() -> None:
            namespaces.setns(os.pidfd_open(process.pid), namespaces.CLONE_NEWNS)
            try:
                found = os.fstat(os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))
            except OSError:
                assert (
                    trap in ("nothing", "none are left", "a terminal over the multiplexer") or "link" in trap
                )
            else:
                assert not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(5, 2)

        in_child(careless)


def test_a_terminal_of_the_callers_is_never_looked_for(sandbox: Make) -> None:
    """/dev/pts leads, by a link of the container's, to what the process that joins has open: the caller's terminal."""
    master, slave = pty.openpty()
    with hostile(sandbox, pid="host").start(["/bin/sleep", "600"]) as process:
        script = "umount /dev/pts; rmdir /dev/pts; ln -s /proc/self/fd /dev/pts"
        assert process.exec([*_SH, script]).exit_code == 0
        with pytest.raises(errors.StartError, match="cannot make a terminal"):
            process.exec_start(["/bin/true"], stdin=slave, tty=True)
    os.close(master)
    os.close(slave)


def test_the_other_side_is_never_in_the_container(sandbox: Make) -> None:
    """Who may trace every process sees the program's before it runs: with the program's side, and no other."""
    with hostile(sandbox).start(["/bin/sleep", "600"]) as process:
        program = process.exec_start(["/bin/sleep", "600"], tty=True)
        links = {os.readlink(f"/proc/{program.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{program.pid}/fd")}
        assert links == {"/dev/pts/0"}
        supervisor = support.supervisor_of(program.pid)
        assert support.wait_until(
            lambda: not any("ptmx" in link for link in support.fds_below(supervisor, ["/"]))
        )
        program.close()
        assert process.exec(["/bin/ls", "/dev/pts"]).stdout == b"ptmx\n"
        plan = joining.compile_join(process._child.template, joining.Join(terminal=(0, 0)))

        def judged() -> int:
            data = plan.finish("ab" * 32, ["x"], [], ["/x"], native.FLAG_EXEC)
            return native.validate(data, plan.fd_count)

        assert judged() == 0
        steps = plan.steps
        made = next(step for step in steps if step.op == "terminal")
        steps.remove(made)
        steps.insert(next(at for at, step in enumerate(steps) if step.op == "fork") + 1, made)
        plan._base = None
        assert judged() == -errno.EINVAL


def inject(sandbox: Make, **options: Any) -> bytes:
    """What a program in a container that holds CAP_SYS_ADMIN has typed into the terminal of who started it."""
    source = (
        "import fcntl, os, termios\n"
        "for fd in (0, 1, 2):\n"
        "    try:\n"
        "        for byte in b'id;': fcntl.ioctl(fd, termios.TIOCSTI, bytes([byte]))\n"
        "    except OSError as error: pass\n"
    )
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[3] &= ~(termios.ICANON | termios.ECHO)
    attributes[6][termios.VMIN] = attributes[6][termios.VTIME] = 0
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    try:
        with (
            hostile(sandbox, mounts=support.python_mounts()).start(["/bin/sleep", "600"]) as process,
            process.exec_start(
                support.python(source), stdin=slave, stdout=slave, stderr=slave, **options
            ) as program,
        ):
            program.wait(60)
        return os.read(slave, 100)
    finally:
        os.close(master)
        os.close(slave)


def test_a_program_cannot_type_into_the_terminal_of_who_started_it(sandbox: Make) -> None:
    """It has one of its own; whoever is given the caller's, with CAP_SYS_ADMIN, types there what they like."""
    assert inject(sandbox, tty=True) == b""
    assert b"id;" in inject(sandbox)


def test_the_image_chooses_nothing_about_it(rootfs: Path, sandbox: Make) -> None:
    """CVE-2025-52565: the console is bound by descriptor, whatever the image has at its places."""
    (rootfs / "dev/pts").mkdir()
    (rootfs / "dev/pts/ptmx").symlink_to("/dev/null")
    (rootfs / "dev/console").symlink_to("/etc/passwd")
    (rootfs / "etc/passwd").write_text("")
    before = (rootfs / "etc/passwd").stat()
    with sandbox(tty=True).start([*_SH, "exec sleep 600"]) as process:
        root = Path(f"/proc/{process.pid}/root")
        console = (root / "dev/console").stat()
        assert console.st_rdev == os.fstat(os.open(root / "dev/pts/0", os.O_RDWR | os.O_NOCTTY)).st_rdev
        assert fcntl.ioctl(process.terminal, termios.TIOCGWINSZ, b"\0" * 8) == b"\0" * 8
    assert (rootfs / "etc/passwd").stat() == before


# Sends a file of its own as a program's terminal, by the socket of each process that it meets before its program runs.
FORGER = """
import array, ctypes, os, signal, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
over = []
signal.signal(signal.SIGTERM, lambda *_: over.append(1))
own = os.open("/forged", os.O_RDWR | os.O_CREAT)
message = struct.pack("=IIiI16Q", 5, 0, 0, 0, *bytes(16))
print("ready", flush=True)
known = set(os.listdir("/proc"))
while not over:
    for pid in set(os.listdir("/proc")) - known:
        if not pid.isdigit():
            continue
        try:
            with open(f"/proc/{pid}/comm") as file:
                if not file.read().startswith("pyrunc-"):
                    continue
            for fd in map(int, os.listdir(f"/proc/{pid}/fd")):
                if fd > 2 and os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:"):
                    pidfd = os.pidfd_open(int(pid))
                    taken = libc.syscall(438, pidfd, fd, 0)
                    os.close(pidfd)
                    if taken >= 0:
                        with socket.socket(fileno=taken) as sock:
                            rights = array.array("i", [own])
                            sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                            print("sent", flush=True)
        except OSError:
            pass
"""


@pytest.mark.parametrize("tty", [False, True])
def test_who_looks_into_a_program_does_not_choose_its_terminal(sandbox: Make, tty: bool) -> None:
    """With CAP_SYS_PTRACE, by the socket on which that is sent: the requester would write to what it is given."""
    box = sandbox(mounts=support.python_mounts(), cap_add=["SYS_PTRACE"])
    with box.start(["/bin/sleep", "600"]) as process:
        reading, writing = os.pipe()
        with process.exec_start(support.python(FORGER), stdout=writing) as forger, open(reading) as said:
            os.close(writing)
            assert said.readline() == "ready\n"
            join = joining.Join(terminal=(0, 0) if tty else None)
            plan = joining.compile_join(process._child.template, join)
            idle = next(step for step in plan.steps if step.op == "umask")
            at = next(at for at, step in enumerate(plan.steps) if step.op == "fork") + 1
            plan.steps[at:at] = [idle] * 7000
            plan.freeze()
            assert process._child.origin is not None
            process._child.origin[0].joins[join] = plan
            forged = 0
            for _ in range(300):
                with process.exec_start(["/bin/sleep", "600"], tty=tty) as program:
                    if tty:
                        assert os.readlink(f"/proc/self/fd/{program.terminal}").endswith("/ptmx")
                    else:
                        assert program.terminal == -1
                forged += bool(select.select([said], [], [], 0)[0] and os.read(said.fileno(), 4096))
                if forged == 10:
                    break
            assert forged > 0
            forger.kill(signal.SIGTERM)
            forger.wait(60)
