"""Programs that do all they may to outlive, block or exhaust who started them."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc import Mount, Sandbox, errors
from pyrunc.runtime import cgroup_layout, spawner
from tests.safety import support

Make = Callable[..., Sandbox]
_RW_CGROUPS = Mount("/sys/fs/cgroup", "cgroup", "cgroup", ["rw", "nosuid", "nodev", "noexec"])


def within(function: Callable[[], object], seconds: float = 60.0) -> object:
    """The result of *function*, or what it raises; it must not take for ever."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert results, f"still not done after {seconds} s"
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def shell(box: Sandbox, script: str, timeout_s: float | None = None) -> Callable[[], object]:
    return lambda: box.run(["/bin/sh", "-c", script], timeout_s=timeout_s)


@pytest.mark.parametrize("pid", ["private", "host"])
def test_a_fork_bomb_ends_with_its_container(sandbox: Make, pid: str) -> None:
    name = f"/pyrunc-safety-{os.getpid()}"
    box = sandbox(pid=pid, pids_limit=200, cgroup_parent=name)
    with pytest.raises(errors.TimedOut):
        within(shell(box, "(b() { b | b & b; }; b) & sleep 60", timeout_s=1))
    assert not support.cgroups(name)


def test_what_was_left_behind_in_the_hosts_pid_namespace_is_killed(sandbox: Make) -> None:
    box = sandbox(pid="host")
    script = "for i in 1 2 3 4 5; do setsid sleep 3077 < /dev/null > /dev/null 2>&1 & done; sleep 0.2"
    within(shell(box, script))
    assert support.wait_until(lambda: not sleepers("3077"))
    # Careless: the main process is waited for, its children live on.
    subprocess.run(["/bin/sh", "-c", "setsid sleep 3078 < /dev/null > /dev/null 2>&1 &"], check=True)
    assert support.wait_until(lambda: bool(sleepers("3078")))
    for pid in sleepers("3078"):
        os.kill(pid, 9)


def sleepers(seconds: str) -> list[int]:
    found = []
    for pid in support.process_table():
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:2] == [b"sleep", seconds.encode()]:
                found.append(pid)
        except OSError:
            continue
    return found


def test_ignored_signals_do_not_help(sandbox: Make) -> None:
    box = sandbox()
    script = "trap '' TERM INT HUP; echo ready; while :; do sleep 1; done"
    late = support.in_time(lambda timeout_s: within(shell(box, script, timeout_s=timeout_s)), b"ready\n")
    assert late.stdout == b"ready\n"


def test_clearing_the_death_signal_does_not_help(sandbox: Make) -> None:
    """A program may undo PR_SET_PDEATHSIG; when its supervisor is killed the requester ends it."""
    source = "import ctypes, time; ctypes.CDLL(None).prctl(1, 0); print('ready', flush=True); time.sleep(60)"
    reading, writing = os.pipe()
    process = sandbox(mounts=support.python_mounts()).start(support.python(source), stdout=writing)
    os.close(writing)
    assert os.read(reading, 6) == b"ready\n"
    init = process.pid
    os.kill(support.supervisor_of(init), 9)
    with pytest.raises(errors.Unavailable):
        within(process.wait)
    assert support.wait_until(lambda: not os.path.exists(f"/proc/{init}/exe"))
    os.close(reading)


@pytest.mark.parametrize("megabytes", [100])
def test_much_output_is_all_there(sandbox: Make, megabytes: int) -> None:
    result = sandbox().run(["/bin/dd", "if=/dev/zero", "bs=1M", f"count={megabytes}"])
    assert len(result.stdout) == megabytes << 20


def test_output_that_nobody_reads_blocks_only_its_writer(sandbox: Make) -> None:
    reading, writing = os.pipe()
    box = sandbox()
    process = box.start(["/bin/yes"], stdout=writing)
    os.close(writing)
    time.sleep(0.2)
    assert box.run(["/bin/true"]).exit_code == 0
    within(process.close)
    os.close(reading)


def test_input_that_nobody_reads_is_no_error(sandbox: Make) -> None:
    assert within(lambda: sandbox().run(["/bin/true"], stdin=b"x" * (4 << 20)).exit_code) == 0


_TAKER = """
import socket, sys
listener = socket.socket(socket.AF_UNIX); listener.bind('/volume/socket'); listener.listen()
print('ready', flush=True)
peer, _ = listener.accept()
message, rights, _, _ = peer.recvmsg(1, 64)
import array, os, time
fds = array.array('i'); fds.frombytes(rights[0][2])
while message == b'w':
    os.write(fds[0], b'x' * 65536)
time.sleep(60)
"""
_GIVER = """
import array, socket, sys, time
peer = socket.socket(socket.AF_UNIX); peer.connect('/volume/socket')
peer.sendmsg([sys.argv[1].encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [1, 2]))])
time.sleep(0.2)
"""


@pytest.mark.parametrize("how", ["keeps", "writes"])
def test_output_given_to_another_container_does_not_hold_up_the_run(
    sandbox: Make, tmp_path: Path, how: str
) -> None:
    """The end of a pipe may never come, and its data never end: the run is over when its container is."""
    volume = tmp_path / "volume"
    volume.mkdir()
    box = sandbox(mounts=[*support.python_mounts(), Mount("/volume", str(volume))])
    reading, writing = os.pipe()
    with box.start(support.python(_TAKER), stdout=writing):
        os.close(writing)
        assert os.read(reading, 6) == b"ready\n"
        within(lambda: box.run(support.python(_GIVER, how[0]), timeout_s=50))
        os.close(reading)


def test_a_failed_start_is_never_taken_for_an_end(sandbox: Make) -> None:
    """READY, the failed execve and the end of init may all be there at once: all three must be read."""
    box = sandbox()
    for _ in range(300):
        with pytest.raises(errors.CommandNotFound):
            box.start(["/bin/missing"])
        with pytest.raises(errors.CommandNotFound):
            box.run(["/bin/missing"])


def test_cgroups_made_inside_go_although_the_requester_is_killed(rootfs: Path) -> None:
    name = f"/pyrunc-safety-{os.getpid()}-nested"
    script = "for d in /sys/fs/cgroup/*/ /sys/fs/cgroup/; do mkdir -p $d/a/b $d/c; done; echo made; sleep 60"
    source = (
        "import pyrunc\n"
        f"box = pyrunc.Sandbox({str(rootfs)!r}, mounts=[pyrunc.Mount{tuple(_RW_CGROUPS)!r}], cgroup_parent={name!r})\n"
        f"box.start(['/bin/sh', '-c', {script!r}], stdout=1).wait()"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", source], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as program:
        assert program.stdout
        assert program.stdout.readline() == b"made\n"
        assert [nested for place in support.cgroups(name) for nested in place.glob("*/a/b")]
        program.kill()
    assert support.wait_until(lambda: not support.cgroups(name))


def test_a_stopped_container_can_be_killed(sandbox: Make) -> None:
    with sandbox().start(["/bin/sleep", "60"]) as process:
        process.kill(19)
        assert support.wait_until(lambda: support.process_table()[process.pid][1] in "Tt")
        within(process.close)


def test_memory_of_the_container_is_not_the_supervisors(sandbox: Make) -> None:
    """The limit kills the program; who reports it is outside."""
    result = within(
        lambda: sandbox(memory_bytes=16 << 20).run(["/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=64M"])
    )
    assert isinstance(result, tuple)
    assert result.oom_killed  # type: ignore[attr-defined]


def test_a_full_scratch_is_the_containers_problem(sandbox: Make) -> None:
    result = sandbox(scratch_bytes=1 << 20).run(["/bin/dd", "if=/dev/zero", "of=/file", "bs=1M", "count=4"])
    assert b"No space left" in result.stderr


# A shell function that freezes the cgroup $1, below the container's own; on v1 with the freezer of its own.
_FREEZE = """
top=/sys/fs/cgroup; [ ! -d $top/freezer ] || top=$top/freezer
if [ -e $top/freezer.state ]; then state=freezer.state frozen=FROZEN; else state=cgroup.freeze frozen=1; fi
freeze() { echo $frozen > $top/$1/$state; }
enter() { mkdir -p $top/$1; echo $2 > $top/$1/cgroup.procs; }
"""
_FREEZING = {
    "itself": "freeze .",
    "below": "enter a/b $$; freeze a/b",
    "twice": "enter a/b $$; freeze a/b & freeze a; freeze a/b",
    "deep": "deep=d; for i in $(seq 300); do deep=$deep/d; done; enter $deep $$; freeze $deep",
    "one of many": "for i in $(seq 300); do mkdir -p $top/m/$i/x; done; enter m/77/x $$; freeze m/77/x",
    "others": "for i in 1 2 3 4 5; do sleep 60 & enter o/$i $!; freeze o/$i; done",
    "again and again": "enter a $$; (while :; do freeze a; done) & enter b $!; sleep 60",
}


@pytest.mark.parametrize("pid", ["private", "host"])
@pytest.mark.parametrize("what", _FREEZING)
def test_a_container_that_freezes_itself_can_be_killed(sandbox: Make, what: str, pid: str) -> None:
    """SIGKILL thaws a cgroup v2, but not one of the freezer of v1."""
    name = f"/pyrunc-safety-{os.getpid()}-frozen"
    box = sandbox(mounts=[_RW_CGROUPS], cgroup_parent=name, pid=pid)
    try:
        process = box.start(["/bin/sh", "-c", f"{_FREEZE}{_FREEZING[what]}; sleep 60"])
        assert support.wait_until(lambda: frozen(name))
        within(process.close)
        assert not support.cgroups(name)
    finally:
        thaw(name)


def frozen(name: str) -> bool:
    """Whether anything below the cgroup *name* is frozen."""
    for place in support.cgroups(name):
        for state in (*place.rglob("freezer.state"), *place.rglob("cgroup.freeze")):
            if state.read_text() in ("FROZEN\n", "1\n"):
                return True
    return False


def thaw(name: str) -> None:
    """Whatever a failed test has left frozen below the cgroup *name*."""
    for place in support.cgroups(name):
        for state in place.rglob("freezer.state"):
            state.write_text("THAWED")


# Needs no capability: in a user namespace of its own, which anybody may make, it may mount.
_KILL_A_CGROUP = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x10000000 | 0x00020000 | 0x02000000) == 0  # user, mount, cgroup
assert libc.mount(b"none", b"/mnt", b"cgroup2", 0, None) == 0
with open("/mnt/" + sys.argv[1] + "/cgroup.kill", "w") as file:
    file.write("1")
"""


@pytest.mark.skipif(cgroup_layout.detect().v2 is None, reason="no cgroup v2 on this host")
def test_no_other_cgroup_can_be_killed_by_a_container_that_can_mount(sandbox: Make) -> None:
    v2 = cgroup_layout.detect().v2
    assert v2
    victim = Path(v2.mountpoint, f"pyrunc-victim-{os.getpid()}")
    victim.mkdir()
    box = sandbox(mounts=[*support.python_mounts(), Mount("/mnt", "tmpfs", "tmpfs", [])])
    attack = support.python(_KILL_A_CGROUP, victim.name)
    sleeper = subprocess.Popen(["/bin/sleep", "3079"])
    try:
        (victim / "cgroup.procs").write_text(str(sleeper.pid))
        result = box.run(attack)
        assert b"FileNotFoundError" in result.stderr, result.stderr
        assert sleeper.poll() is None
        # Careless: a container that stays in the cgroup of who starts it.
        support.patch(box, lambda step: None if step.s0 == v2.mountpoint else step)
        box._launcher._template.cgroup_slot = support.ABSENT
        if cgroup_layout.detect().mode == "hybrid":
            assert box.run(attack).exit_code == 0
            assert sleeper.wait(60) == -9
    finally:
        sleeper.kill()
        sleeper.wait()
        assert support.wait_until(lambda: not (victim / "cgroup.procs").read_text())
        victim.rmdir()


def test_a_frozen_process_outlives_a_signal(sandbox: Make) -> None:
    """What a careless runtime does: no more than to send one."""
    if not os.path.exists("/sys/fs/cgroup/freezer"):
        pytest.skip("needs the freezer of cgroup v1")
    name = f"/pyrunc-safety-{os.getpid()}-frozen"
    box = sandbox(mounts=[_RW_CGROUPS], cgroup_parent=name)
    with box.start(["/bin/sh", "-c", f"{_FREEZE}{_FREEZING['below']}; sleep 60"]) as process:
        state = Path(f"/sys/fs/cgroup/freezer{name}")
        assert support.wait_until(
            lambda: [f.read_text() for f in state.glob("*/a/b/freezer.state")] == ["FROZEN\n"]
        )
        os.kill(process.pid, 9)
        with pytest.raises(errors.TimedOut):
            process.wait(0.5)
    assert not support.cgroups(name)


def test_a_host_that_runs_out_of_processes_serves_again_afterwards(sandbox: Make) -> None:
    """The spawner's fork fails for a while; the supervisor that comes of the next one starts with a stale errno."""
    pids = cgroup_layout.detect().of("pids")
    if pids is None:
        pytest.skip("needs the pids controller")
    box = sandbox()
    box.run(["/bin/true"])
    spawner_pid = support.spawner_pid()

    def settled() -> bool:
        """The spare that the run has called for may not have been forked yet; others go when there is no work."""
        seen = set()
        for _ in range(10):
            seen.add(len(support.children(spawner_pid)))
            time.sleep(0.02)
        return seen == {1}

    assert support.wait_until(settled)
    group = Path(pids.mountpoint) / f"pyrunc-safety-{os.getpid()}-few"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(spawner_pid))  # the spare stays outside
        (group / "pids.max").write_text("1")
        with box.start(["/bin/sleep", "60"]):
            time.sleep(0.1)
            waiting = [
                pid for pid in support.children(spawner_pid) if support.name_of(pid) == "pyrunc-spawner"
            ]
            assert not waiting, "its fork should have failed"
            (group / "pids.max").write_text("max")
            within(lambda: box.start(["/bin/sleep", "60"]).close())
    finally:
        spawner.shut_down()
        assert support.wait_until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_a_host_program_without_standard_descriptors(rootfs: Path) -> None:
    """A daemon that has closed them: what is opened first takes their numbers."""
    source = (
        "import os, sys\n"
        "for fd in (0, 1, 2): os.close(fd)\n"
        "import pyrunc\n"
        f"result = pyrunc.Sandbox({str(rootfs)!r}, seccomp='unconfined').run(['/bin/cat'], stdin=b'in')\n"
        "sys.exit(0 if result.stdout == b'in' else 3)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", source], env=env, check=False).returncode == 0


def test_an_inherited_signal_mask_does_not_protect(sandbox: Make) -> None:
    """What the host program ignores or blocks is not ignored or blocked inside."""
    show = ["/bin/grep", "Sig[BI]", "/proc/self/status"]
    source = (
        "import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
        f"subprocess.run({show!r}, restore_signals=False)"
    )
    careless = subprocess.run([sys.executable, "-c", source], stdout=subprocess.PIPE, check=True).stdout
    assert {line.split()[1].strip(b"0") for line in careless.splitlines()} != {b""}
    assert {line.split()[1].strip(b"0") for line in sandbox().run(show).stdout.splitlines()} == {b""}
