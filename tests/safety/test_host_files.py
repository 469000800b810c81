"""No file of the host is changed, run or left open by way of a container.

Each attack is tried on pyrunc and on a runtime that lacks the rule, where it succeeds.
"""

import errno
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc import IdMap, Sandbox, errors
from pyrunc._native import mount
from pyrunc.runtime import spawner
from pyrunc.runtime.plan import Step
from tests.safety import support

Make = Callable[..., Sandbox]
_UP = "/.." * 16


def mode_of_null() -> int:
    return stat.S_IMODE(os.stat("/dev/null").st_mode)


# --- /dev/null


def test_a_mask_cannot_change_the_hosts_null(sandbox: Make, tmp_path: Path) -> None:
    def attack() -> None:
        result = sandbox().run(["/bin/chmod", "0600", "/proc/timer_list"])
        assert b"Read-only file system" in result.stderr
        assert mode_of_null() == 0o666

    def careless() -> None:
        masked = tmp_path / "masked"
        masked.touch()
        support.bind("/dev/null", masked)
        os.chmod(masked, 0o600)
        assert mode_of_null() == 0o600

    support.on_a_host_of_its_own(attack)
    support.on_a_host_of_its_own(careless)


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_a_standard_descriptor_cannot_change_the_hosts_null(sandbox: Make, descriptor: int) -> None:
    def attack() -> None:
        null = os.open("/dev/null", os.O_RDWR)
        out, into = os.pipe()
        stdio = [null, null, null]
        stdio[1 if descriptor != 1 else 2] = into  # where the mode that it sees afterwards is told
        script = f"chmod 0600 /proc/self/fd/{descriptor}; ls -l /dev/null >&{1 if descriptor != 1 else 2}"
        with sandbox().start(
            ["/bin/sh", "-c", script], stdin=stdio[0], stdout=stdio[1], stderr=stdio[2]
        ) as process:
            process.wait(60)
        os.close(into)
        with open(out) as seen:
            assert seen.read().startswith("crw-------"), "it should have changed its own"
        assert mode_of_null() == 0o666

    def careless() -> None:
        null = os.open("/dev/null", os.O_RDWR)
        command = ["/bin/chmod", "0600", f"/proc/self/fd/{descriptor}"]
        subprocess.run(command, check=True, stdin=null, stdout=null, stderr=null)
        assert mode_of_null() == 0o600

    support.on_a_host_of_its_own(attack)
    support.on_a_host_of_its_own(careless)


def test_the_hosts_nodes_in_a_user_namespace_cannot_be_changed(sandbox: Make) -> None:
    """mknod(2) is refused there, so the nodes are the host's; a map may give a container their owner."""
    nodes = ("null", "zero", "full", "random", "urandom")

    def modes() -> set[int]:
        return {stat.S_IMODE(os.stat(f"/dev/{name}").st_mode) for name in nodes}

    script = "; ".join(f"chmod 0600 /dev/{name}" for name in nodes) + "; echo works > /dev/null && echo wrote"

    def attack() -> None:
        box = sandbox(uid_maps=[IdMap(0, 0, 65536)], idmap_rootfs=False)
        assert box.run(["/bin/sh", "-c", script]).stdout == b"wrote\n"
        assert modes() == {0o666}

        def writable(step: Step) -> Step | None:
            return None if step.op == "mount_attr" and step.n0 == 0x1 | 0x2 | 0x8 else step

        support.patch(box, writable).run(["/bin/sh", "-c", script])
        assert modes() == {0o600}

    support.on_a_host_of_its_own(attack)


# --- programs


def host_program(tmp_path: Path) -> Path:
    """A static program of the host, which tells what it is by its first words."""
    program = tmp_path / "host" / "busybox"
    program.parent.mkdir()
    shutil.copy("/bin/busybox", program)
    return program


def test_no_host_program_is_executed_through_a_descriptor(
    rootfs: Path, sandbox: Make, tmp_path: Path
) -> None:
    """CVE-2024-21626 and CVE-2019-5736: the entry point is a symlink through /proc/self/fd."""
    program = host_program(tmp_path)
    entry = rootfs / "bin" / "echo"
    box = sandbox()
    directory = os.open("/", os.O_RDONLY)
    os.set_inheritable(directory, True)
    try:
        for fd in range(64):
            entry.unlink()
            entry.symlink_to(f"/proc/self/fd/{fd}{_UP}{program}")
            with pytest.raises(errors.StartError) as failure:
                box.run(["/bin/echo", "the host's"])
            assert failure.value.step == "execve"
        # Nor by a script whose interpreter is named so.
        entry.unlink()
        for fd in range(64):
            entry.write_text(f"#!/proc/self/fd/{fd}{_UP}{program} sh\necho the host's\n")
            entry.chmod(0o755)
            with pytest.raises(errors.StartError):
                box.run(["/bin/echo"])
    finally:
        os.close(directory)

    def careless() -> None:
        """O_CLOEXEC alone, as runc had it until 1.1.11."""
        leaked = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
        mount.mount(b"proc", os.fsencode(rootfs / "proc"), b"proc")
        out, into = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(into, 1)
            os.chroot(rootfs)
            os.chdir("/")
            os.execv(f"/proc/self/fd/{leaked}{program}", ["echo", "the host's"])
        os.close(into)
        with open(out) as seen:
            assert seen.read() == "the host's\n"
        os.waitpid(pid, 0)

    support.in_a_mount_namespace(careless)


@pytest.mark.parametrize("where", ["on a mount of our own", "in memory"])
def test_pyrunc_init_cannot_be_overwritten(
    sandbox: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """CVE-2019-5736: whoever gets hold of the running program's file writes it once it does not run."""

    def overwrite(pid: int, stop: Callable[[], None]) -> None:
        held = os.open(f"/proc/{pid}/exe", os.O_RDONLY)
        try:
            stop()
            again = writable(f"/proc/self/fd/{held}")
            try:
                os.write(again, b"#!/bin/sh\n")
            finally:
                os.close(again)
        finally:
            os.close(held)

    def writable(path: str) -> int:
        """Where others execute the same file it is said to be busy, which they will not do for ever."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return os.open(path, os.O_WRONLY)
            except OSError as exc:
                if exc.errno != errno.ETXTBSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, "no mount of one's own")

    if where == "in memory":
        monkeypatch.setattr(mount, "open_tree", refuse)
    spawner.shut_down()
    with sandbox() as box:
        box.run(["/bin/true"])
        program = os.readlink(f"/proc/{support.spawner_pid()}/exe")
        assert program.startswith("/memfd:") == (where == "in memory")
        with pytest.raises(OSError) as caught:
            overwrite(support.spawner_pid(), spawner.shut_down)
        assert caught.value.errno == (errno.EPERM if where == "in memory" else errno.EROFS)

    copied = tmp_path / "pyrunc-init"
    shutil.copy(spawner.init_path(), copied)
    careless = subprocess.Popen([copied, "spawner"], stdin=subprocess.PIPE, pass_fds=(3,) if _open(3) else ())
    # An ordinary file; it ends at once where descriptor 3 is no socket, which is all the same.
    held = os.open(copied, os.O_RDONLY)
    careless.kill()
    careless.wait()
    assert careless.stdin
    careless.stdin.close()
    again = os.open(f"/proc/self/fd/{held}", os.O_WRONLY)
    os.write(again, b"#!/bin/sh\n")
    os.close(again)
    os.close(held)
    assert copied.read_bytes().startswith(b"#!/bin/sh\n")


def _open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_an_image_that_executes_its_runtime_gets_a_sealed_copy(rootfs: Path, sandbox: Make) -> None:
    """The other half of CVE-2019-5736: the entry point is /proc/self/exe."""
    (rootfs / "bin" / "entry").symlink_to("/proc/self/exe")
    result = sandbox().run(["/bin/entry"])
    # pyrunc-init itself, which has nothing to do for it and takes no library of the image
    assert result.exit_code == 64
    with open(spawner.init_path(), "rb") as program:
        assert b"ld-" not in program.read(4096), "an interpreter of the image would run inside it"


# --- descriptors and the working directory


def test_no_descriptor_of_the_host_reaches_a_container(sandbox: Make, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    opened = [os.open(tmp_path / "secret", os.O_RDONLY) for _ in range(20)]
    for fd in opened:
        os.set_inheritable(fd, True)
    try:
        command = ["/bin/ls", "-l", "/proc/self/fd"]
        lines = sandbox().run(command).stdout.decode().splitlines()[1:]
        numbers = {line.split(" -> ")[0].split()[-1] for line in lines}
        assert numbers == {"0", "1", "2", "3"}, lines  # 3 is the directory that ls reads
        assert str(tmp_path) not in "".join(lines)
        careless = subprocess.run(
            command, close_fds=False, stdout=subprocess.PIPE, check=True
        ).stdout.decode()
        assert str(tmp_path / "secret") in careless
    finally:
        for fd in opened:
            os.close(fd)


def test_a_spawner_started_with_inheritable_descriptors_keeps_none(sandbox: Make, tmp_path: Path) -> None:
    spawner.shut_down()  # so that it is started while they are open
    (tmp_path / "secret").write_text("secret")
    fd = os.open(tmp_path / "secret", os.O_RDONLY)
    os.set_inheritable(fd, True)
    try:
        with sandbox().start(["/bin/sleep", "60"]) as process:
            spawner_pid = support.spawner_pid()
            assert support.wait_until(lambda: len(support.children(spawner_pid)) == 2)  # spare, supervisor
            ours = [spawner_pid, *support.children(spawner_pid), process.pid]
            assert not [pid for pid in ours if support.fds_below(pid, [str(tmp_path)])]
            with subprocess.Popen(["/bin/sleep", "60"], close_fds=False) as careless:
                assert support.wait_until(lambda: support.name_of(careless.pid) == "sleep")
                assert support.fds_below(careless.pid, [str(tmp_path)])
                careless.kill()
    finally:
        os.close(fd)


def test_no_container_holds_a_pipe_of_another(sandbox: Make) -> None:
    """EOF arrives when the writer ends, whoever was started meanwhile; a fork without exec ignores O_CLOEXEC."""
    box = sandbox()
    reading, writing = os.pipe()
    first = box.start(["/bin/sleep", "60"], stdout=writing)
    with box.start(["/bin/sleep", "60"]), box.start(["/bin/sleep", "60"]):
        os.close(writing)
        first.close()
        assert select.select([reading], [], [], 5) == ([reading], [], [])
        assert os.read(reading, 1) == b""
    os.close(reading)

    reading, writing = os.pipe()
    with support.forked(lambda: None):  # holds what was open here when it was made
        os.close(writing)
        assert select.select([reading], [], [], 0.5) == ([], [], [])
    os.close(reading)


def test_the_working_directory_is_inside_the_root(rootfs: Path, sandbox: Make, tmp_path: Path) -> None:
    """CVE-2024-21626: a working directory that is a descriptor of the host's root, also behind a symlink."""
    marker = tmp_path / "marker"
    marker.write_text("the host's")
    directory = os.open("/", os.O_RDONLY)
    os.set_inheritable(directory, True)
    steps = set()

    def unmade(step: Step) -> Step | None:
        return None if step.op == "mkdir" and step.flags & support.FLAG["create"] else step

    try:
        for fd in range(64):
            (rootfs / f"fd{fd}").symlink_to(f"/proc/self/fd/{fd}")
            (rootfs / f"up{fd}").symlink_to(f"/proc/self/fd/{fd}{_UP}")
            for cwd in (f"/proc/self/fd/{fd}", f"/fd{fd}", f"/up{fd}"):
                # As it is, making the directory fails first; chdir(2) must see it too.
                for box in (sandbox(cwd=cwd), support.patch(sandbox(cwd=cwd), unmade)):
                    try:
                        result = box.run(["/bin/cat", str(marker)[1:], _UP[1:] + str(marker)])
                    except errors.StartError as failure:
                        steps.add(failure.step)
                    else:
                        assert result.stdout == b"", f"{cwd} is outside"
    finally:
        os.close(directory)
    assert {"mkdir", "chdir"} <= steps

    def careless() -> None:
        leaked = os.open("/", os.O_RDONLY)
        mount.mount(b"proc", os.fsencode(rootfs / "proc"), b"proc")
        os.chroot(rootfs)
        os.chdir(f"/proc/self/fd/{leaked}")
        assert Path(str(marker)[1:]).read_text() == "the host's"

    support.in_a_mount_namespace(careless)


def test_the_pidfd_of_a_container_is_not_inherited(sandbox: Make) -> None:
    with sandbox().start(["/bin/sleep", "60"]) as process:
        assert process._child.pidfd >= 0
        assert not os.get_inheritable(process._child.pidfd)


# --- memory and keys


def test_one_containers_environment_is_nowhere_in_anothers_processes(sandbox: Make) -> None:
    secret = b"hunter2-" + os.urandom(8).hex().encode()
    box = sandbox()
    with (
        box.start(["/bin/sleep", "60"], env={"SECRET": secret.decode()}) as first,
        box.start(["/bin/sleep", "60"]) as second,
    ):
        assert support.memory_contains(first.pid, secret)
        assert support.memory_contains(support.supervisor_of(first.pid), secret)

        def spares() -> list[int]:
            pids = support.children(support.spawner_pid())
            return [pid for pid in pids if support.name_of(pid) == "pyrunc-spawner"]

        assert support.wait_until(lambda: bool(spares()))
        for pid in (support.spawner_pid(), second.pid, support.supervisor_of(second.pid), *spares()):
            assert not support.memory_contains(pid, secret), support.name_of(pid)
    assert support.wait_until(lambda: not support.memory_contains(support.spawner_pid(), secret))
    with support.forked(lambda: None) as careless:  # a copy of whoever knows it
        assert support.memory_contains(careless, secret)


def test_a_supervisor_that_serves_again_has_forgotten(sandbox: Make) -> None:
    """One supervisor serves many containers, one after the other."""
    secret = b"hunter2-" + os.urandom(8).hex().encode()
    box = sandbox()
    with box.start(["/bin/sleep", "60"]):
        before = set(support.children(support.spawner_pid()))
    for _ in range(5):
        box.run(["/bin/true", "--" + secret.decode()], env={"SECRET": secret.decode()}, stdin=secret)
        for pid in [support.spawner_pid(), *support.children(support.spawner_pid())]:
            assert support.wait_until(lambda pid=pid: not holds(pid, secret))  # type: ignore[misc]
    assert before & set(support.children(support.spawner_pid())), "none has served again"


def holds(pid: int, secret: bytes) -> bool:
    """As memory_contains, but a process that has ended holds nothing."""
    try:
        return support.memory_contains(pid, secret)
    except OSError:
        return False


def test_a_container_has_no_key_of_the_hosts_session(sandbox: Make) -> None:
    source = (
        "import ctypes; libc = ctypes.CDLL(None); text = ctypes.create_string_buffer(16)\n"
        f"key = libc.syscall({support.REQUEST_KEY}, b'user', b'of-the-host', None, 0)\n"
        f"print(key > 0 and libc.syscall({support.KEYCTL}, 11, key, text, 16) > 0, text.value.decode())"  # KEYCTL_READ
    )

    def attack() -> None:
        spawner._forget()
        if (
            support.libc.syscall(support.KEYCTL, 1, None) < 0
        ):  # KEYCTL_JOIN_SESSION_KEYRING: what follows stays in this child
            return  # a kernel without keys
        assert (
            support.libc.syscall(support.ADD_KEY, b"user", b"of-the-host", b"secret", 6, -3) > 0
        )  # add_key, session
        box = sandbox(mounts=support.python_mounts())
        assert box.run(support.python(source)).stdout == b"False \n"
        spawner.shut_down()
        careless = subprocess.run(support.python(source), stdout=subprocess.PIPE, check=True)
        assert careless.stdout == b"True secret\n"

    support.in_a_mount_namespace(attack)


# --- signals that are not for us

# Whoever runs the tests in the background, as a shell does with "&", has made them ignore SIGINT.
LISTEN = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


def test_ctrl_c_leaves_nothing(tmp_path: Path, rootfs: Path) -> None:
    """A terminal sends SIGINT to all of its foreground group; who cleans up must not be in it."""
    parent = f"/pyrunc-safety-{os.getpid()}"
    source = (
        f"import pyrunc\n{LISTEN}\n"
        f"box = pyrunc.Sandbox({str(rootfs)!r}, seccomp='unconfined', cgroup_parent={parent!r})\n"
        "print('go', flush=True); box.run(['/bin/sleep', '60'])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = subprocess.Popen(
        [sys.executable, "-c", source], env=env, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert program.stdout
    assert program.stdout.readline() == b"go\n"
    assert support.wait_until(
        lambda: any(support.name_of(pid) == "sleep" for pid in support.descendants(program.pid))
    )
    group = support.descendants(program.pid)
    os.killpg(program.pid, signal.SIGINT)
    program.wait()
    program.stdout.close()
    assert support.wait_until(lambda: not [pid for pid in group if support.name_of(pid)])
    assert support.wait_until(lambda: not support.cgroups(parent))
    # Careless: in the same group, so that it dies of the same key press before it can remove anything.
    (tmp_path / "left").mkdir()
    cleaner = "import os, sys; print(flush=True); sys.stdin.read(); os.rmdir(sys.argv[1])"
    source = (
        f"import subprocess, sys\n{LISTEN}\n"
        "child = subprocess.Popen([sys.executable, '-c', *sys.argv[1:]], stdin=subprocess.PIPE); child.wait()"
    )
    careless = subprocess.Popen(
        [sys.executable, "-c", source, cleaner, str(tmp_path / "left")],
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert careless.stdout
    careless.stdout.readline()
    os.killpg(careless.pid, signal.SIGINT)
    assert careless.stdout.read() == b""  # both have ended
    careless.wait()
    careless.stdout.close()
    assert (tmp_path / "left").exists()
