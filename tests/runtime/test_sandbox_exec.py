"""Further programs in a running container: what they have, how they end, and what is said when there is none."""

import asyncio
import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc import AsyncSandbox, IdMap, Sandbox, SandboxProcess, errors
from pyrunc.runtime.cgroup_layout import detect
from tests.safety.support import in_time, wait_until

pytestmark = pytest.mark.usefixtures("host_unchanged")
Start = Callable[..., SandboxProcess]
NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user")
# tmpfs, where the root may be, since Linux 6.3.
IDMAPPED = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 3)
USERNS: dict[str, Any] = {"uid_maps": [IdMap(0, 100000, 65536)]}
KINDS: dict[str, dict[str, Any]] = {
    "default": {"oom_score_adj": 321}, "user": {"user": "web"}, "userns": USERNS, "host pids": {"pid": "host"},
    "no new privileges": {"no_new_privileges": True}, "host network": {"network": "host", "uts": "host", "ipc": "host"},
    "unconfined": {"seccomp": "unconfined"}, "user in userns": {**USERNS, "user": "web"},
}  # fmt: skip


@pytest.fixture
def start(rootfs: Path) -> Iterator[Start]:
    """Start a container that sleeps."""
    begun: list[SandboxProcess] = []

    def call(**options: Any) -> SandboxProcess:
        if "uid_maps" in options and not IDMAPPED:
            pytest.skip("needs an idmapped tmpfs, Linux 6.3")
        with Sandbox(rootfs, **options) as box:
            begun.append(box.start(["sleep", "600"]))
        return begun[-1]

    yield call
    for process in begun:
        process.close()


def shell(process: SandboxProcess, script: str, *, code: int = 0, **options: Any) -> str:
    result = process.exec(["sh", "-c", script], timeout_s=30, **options)
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
    return result.stdout.decode()


def status_of(text: str) -> dict[str, str]:
    """What of /proc/<pid>/status says what a process may do."""
    rows = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    names = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
             "Seccomp_filters", "SigBlk", "SigIgn", "Umask", "NSpid")  # fmt: skip
    return {name: rows[name].strip() for name in names if name in rows and name != "NSpid"}


@pytest.mark.vm
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_the_containers_own_program_is(start: Start, kind: str) -> None:
    process = start(
        rlimits={"nofile": (100, 200), "nproc": 1000}, umask=0o27, cwd="/tmp", env={"A": "b"},
        groups=["audio"], memory_bytes=64 << 20, **KINDS[kind],
    )  # fmt: skip
    with process.exec_start(["sleep", "600"]) as program:
        for name in NAMESPACES:
            assert os.stat(f"/proc/{program.pid}/ns/{name}") == os.stat(f"/proc/{process.pid}/ns/{name}"), (
                name
            )
        for name in ("cgroup", "limits", "oom_score_adj", "environ", "comm"):
            ours, theirs = (Path(f"/proc/{pid}/{name}").read_bytes() for pid in (program.pid, process.pid))
            assert ours == theirs, name
        for name in ("root", "cwd"):
            ours_at, theirs_at = (os.stat(f"/proc/{pid}/{name}") for pid in (program.pid, process.pid))
            assert (ours_at.st_dev, ours_at.st_ino) == (theirs_at.st_dev, theirs_at.st_ino), name
        ours_may, theirs_may = (
            status_of(Path(f"/proc/{pid}/status").read_text()) for pid in (program.pid, process.pid)
        )
        assert ours_may == theirs_may
        assert sorted(os.listdir(f"/proc/{program.pid}/fd")) == ["0", "1", "2"]
        assert os.getsid(program.pid) == program.pid


def test_the_program_is_told_from_the_containers_own(start: Start) -> None:
    process = start()
    assert process.exec(["cat", "/proc/1/cmdline"]).stdout == b"sleep\x00600\x00"
    with process.exec_start(["sleep", "500"]) as program:
        assert program.exit_code is None
        assert shell(process, "ps -o args | grep -c '^sleep 500$'") == "1\n"
        program.kill(signal.SIGTERM)
        assert program.wait(60) == 143
    assert process.exit_code is None


@pytest.mark.vm
def test_user_groups_and_home_are_looked_up_in_the_container(start: Start) -> None:
    process = start()
    assert shell(process, "id; echo $HOME", user="web") == (
        "uid=1000(web) gid=1001(web) groups=29(audio),44(video),1001(web)\n/home/web\n"
    )
    assert shell(process, "id", user="web:extra") == "uid=1000(web) gid=50(extra) groups=50(extra)\n"
    assert shell(process, "id -u; id -g", user="7:8") == "7\n8\n"
    assert shell(process, "id -G", groups=["audio", "77"]) == "0 29 44 77\n"
    shell(process, "echo later:x:1234:1235::/later:/bin/sh >>/etc/passwd")
    assert shell(process, "id -u; echo $HOME", user="later") == "1234\n/later\n"
    with pytest.raises(errors.NotFound, match="unable to find user nobody-here"):
        process.exec(["true"], user="nobody-here")
    with pytest.raises(errors.NotFound, match="unable to find group nothing"):
        process.exec(["true"], groups=["nothing"])
    mapped = start(**USERNS)
    assert shell(mapped, "id -u; cat /proc/self/uid_map | tr -s ' '", user="web") == "1000\n 0 100000 65536\n"
    with pytest.raises(errors.StartError, match="cannot become user 70000:0"):
        mapped.exec(["true"], user="70000")


def test_another_user_holds_nothing_and_root_what_there_is(start: Start) -> None:
    process = start(user="web")
    show = "grep -E 'Cap(Prm|Eff|Bnd|Inh|Amb)' /proc/self/status | cut -f 2 | xargs"
    assert shell(process, show) == "0000000000000000 " * 3 + "00000000a80425fb 0000000000000000\n"
    full = "00000000a80425fb"
    assert shell(process, show, user="root") == f"{'0' * 16} {full} {full} {full} {'0' * 16}\n"
    assert shell(start(cap_drop=["ALL"]), show, user="0") == f"{'0' * 16} " * 4 + f"{'0' * 16}\n"


def test_environment_and_working_directory(start: Start) -> None:
    process = start(env={"A": "1", "HOME": "/own"}, cwd="/tmp", hostname="box")
    script = "echo $A $B $HOME $HOSTNAME; pwd"
    assert shell(process, script) == "1 /own box\n/tmp\n"
    assert (
        shell(process, script, env={"A": "2", "B": "3"}, cwd="/home", user="web") == "2 3 /own box\n/home\n"
    )
    assert shell(process, "echo ${A-gone} $B", env={"A": None, "B": "3", "C": None}) == "gone 3\n"
    with pytest.raises(errors.StartError, match=r"cannot enter the working directory /nowhere: no such file"):
        process.exec(["true"], cwd="/nowhere")
    for wrong in ("relative", "/a/../b", "", "/a\0b"):
        with pytest.raises(errors.InvalidArgument, match="cwd"):
            process.exec(["true"], cwd=wrong)
    for bad in ({"": "x"}, {"a=b": "x"}, {"a": 1}, ["a=1"], {"a=b": None}, {"": None}, {1: None}):
        with pytest.raises(errors.InvalidArgument, match="env"):
            process.exec(["true"], env=bad)  # type: ignore[arg-type]
    for argv in ([], "true", [""], [b"true"], None, 5):
        with pytest.raises(errors.InvalidArgument, match="argv"):
            process.exec(argv)  # type: ignore[arg-type]
    for user in ("", 0, "0x0", "-1", "a\0b"):
        with pytest.raises((errors.InvalidArgument, errors.NotFound)):
            process.exec(["true"], user=user)  # type: ignore[arg-type]
    for option in (
        {"tty": 1},
        {"privileged": None},
        {"tty": True, "size": (1, -1)},
        {"tty": True, "size": 5},
    ):
        with pytest.raises(errors.InvalidArgument, match="|".join(option)):
            process.exec(["true"], **option)


def test_streams(start: Start, tmp_path: Path) -> None:
    process = start(user="web")
    data = os.urandom(1 << 20)
    result = process.exec(["sh", "-c", "tee /proc/self/fd/2"], stdin=data, timeout_s=30)
    digests = [hashlib.sha256(part).digest() for part in (data, result.stdout, result.stderr)]
    assert digests[0] == digests[1] == digests[2]
    (tmp_path / "in").write_bytes(b"from a file")
    with (
        open(tmp_path / "in", "rb") as stdin,
        open(tmp_path / "out", "wb") as stdout,
        process.exec_start(["cat"], stdin=stdin.fileno(), stdout=stdout.fileno()) as program,
    ):
        assert program.wait(60) == 0
    assert (tmp_path / "out").read_bytes() == b"from a file"
    with pytest.raises(errors.InvalidArgument, match="must be open descriptors"):
        process.exec_start(["true"], stdin=987654)


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -USR1 $$", 138)]
)
def test_exit_codes(start: Start, script: str, code: int) -> None:
    shell(start(), script, code=code)


@pytest.mark.parametrize(("command", "kind", "code", "words"), [
    ("nosuch", errors.CommandNotFound, 127, 'exec: "nosuch": executable file not found in $PATH'),
    ("/no/such", errors.CommandNotFound, 127, 'exec: "/no/such": no such file or directory'),
    ("/etc/passwd", errors.CommandNotExecutable, 126, 'exec: "/etc/passwd": permission denied'),
])  # fmt: skip
def test_programs_that_cannot_be_executed(
    start: Start, command: str, kind: type[errors.StartError], code: int, words: str
) -> None:
    process = start()
    for call in (process.exec, process.exec_start):
        with pytest.raises(kind) as caught:
            call([command])
        assert (str(caught.value), caught.value.exit_code) == (words, code)
    assert process.exec(["true"]).exit_code == 0


def test_a_time_out_ends_the_program_and_not_the_container(start: Start) -> None:
    process = start()
    script = ["sh", "-c", "echo out; echo err >&2; exec sleep 601"]
    late = in_time(lambda timeout_s: process.exec(script, timeout_s=timeout_s), b"err\n")
    assert (late.stdout, late.stderr) == (b"out\n", b"err\n")
    assert shell(process, "ps -o args | grep -c '^sleep 60'") == "1\n"  # the container's own
    with process.exec_start(["sleep", "602"]) as program, pytest.raises(errors.TimedOut, match="the program"):
        program.wait(0.05)
    assert program.exit_code == 137
    assert process.exit_code is None


@pytest.mark.vm
@pytest.mark.parametrize("pid", ["private", "host"])
@pytest.mark.parametrize("how", ["closed", "init killed"])
def test_it_ends_with_the_container(start: Start, pid: str, how: str) -> None:
    process = start(pid=pid)
    programs = [process.exec_start(["sh", "-c", "sleep 603 & sleep 603"]) for _ in range(3)]
    if how == "closed":
        process.close()
    else:
        os.kill(process.pid, signal.SIGKILL)
    assert [program.wait(60) for program in programs] == [137] * 3
    for program in programs:
        program.close()


@pytest.mark.vm
def test_there_is_none_in_a_container_that_has_ended(rootfs: Path) -> None:
    with Sandbox(rootfs) as box:
        process = box.start(["sleep", "600"])
        container = process._child.container_id
        os.kill(process.pid, signal.SIGKILL)

        def cannot_be_joined() -> bool:
            try:
                process.exec(["true"], user="web")
            except errors.FailedPrecondition as exc:
                assert str(exc) == f"Container {container} is not running"
                return True
            return False

        assert wait_until(cannot_be_joined)  # from before its death on
        process.close()
        for call in (process.exec, process.exec_start):
            with pytest.raises(errors.FailedPrecondition, match=f"^Container {container} is not running$"):
                call(["true"])
        quick = box.start(["true"])
        quick.wait(60)
        with pytest.raises(errors.FailedPrecondition, match="is not running"):
            quick.exec(["true"])
        quick.close()


def test_whenever_init_dies_it_runs_or_says_that_there_is_no_container(rootfs: Path) -> None:
    """The kill comes at a different moment of the exec each time."""
    outcomes: set[int | str] = set()
    with Sandbox(rootfs) as box:
        for number in range(600):
            if number >= 60 and "not running" in outcomes:
                break
            with box.start(["sleep", "600"]) as process:
                process.exec(["true"])
                killer = threading.Timer(number % 60 * 0.0001, os.kill, (process.pid, signal.SIGKILL))
                killer.start()
                try:
                    outcomes.add(process.exec(["true"], timeout_s=30).exit_code)
                except errors.FailedPrecondition:
                    outcomes.add("not running")
                killer.join()
    assert outcomes <= {0, 137, "not running"}
    assert "not running" in outcomes


def test_many_at_once(start: Start) -> None:
    process = start(pids_limit=100)
    found: list[bytes] = []

    def work(number: int) -> None:
        found.extend(process.exec(["echo", f"{number}.{turn}"], timeout_s=60).stdout for turn in range(10))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(f"{number}.{turn}\n".encode() for number in range(8) for turn in range(10))
    assert shell(process, "ps | grep -c '[s]leep 600'") == "1\n"


def supervisor_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def gone(pid: int) -> bool:
    """Whether a process has ended and been reaped, at the latest in a while: its supervisor's socket ends sooner."""
    return wait_until(lambda: not os.path.exists(f"/proc/{pid}"))


@pytest.mark.vm
def test_the_death_of_its_supervisor_is_its_own_and_not_the_containers(start: Start) -> None:
    """This process is a subreaper that reaps nobody: a pid namespace does not end before all in it are reaped."""
    for tty in (False, True):
        process = start()
        with process.exec_start(["sleep", "604"], tty=tty) as program:
            os.kill(supervisor_of(program.pid), signal.SIGKILL)
            with pytest.raises(errors.Unavailable):
                program.wait(60)
        assert gone(program.pid)
        assert process.exec(["true"]).exit_code == 0
        assert process.exit_code is None
        process.kill()
        assert process.wait(60) == 137


def test_what_it_leaves_running_stays_until_the_container_ends(start: Start) -> None:
    process = start()
    shell(process, "sleep 605 >/dev/null 2>&1 & ")
    look = ["sh", "-c", "ps -o args | grep -q '^sleep 605$'"]
    assert wait_until(lambda: process.exec(look).exit_code == 0)


@pytest.mark.vm
def test_its_memory_counts_for_the_container(start: Start) -> None:
    process = start(memory_bytes=16 << 20, memory_swap_bytes=16 << 20)
    result = process.exec(
        ["sh", "-c", "x=$(dd if=/dev/zero bs=1M count=64 | tr '\\0' x); echo survived"], timeout_s=60
    )
    assert b"survived" not in result.stdout


def test_a_seccomp_filter_holds_for_it_too(start: Start) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS"}],
    }  # fmt: skip
    for privileges in (False, True):
        process = start(seccomp=profile, no_new_privileges=privileges)
        assert process.exec(["hostname", "x"]).exit_code == 159


def test_a_frozen_container_does_not_keep_a_time_out_from_coming(start: Start) -> None:
    freezer = detect().of("freezer")
    if freezer is None:
        pytest.skip("needs the v1 freezer")
    process = start()
    process.exec(["true"])
    inside = next(
        line for line in Path(f"/proc/{process.pid}/cgroup").read_text().splitlines() if ":freezer:" in line
    )
    state = Path(f"{freezer.mountpoint}{inside.split(':')[2]}/freezer.state")
    state.write_text("FROZEN")
    with pytest.raises(errors.TimedOut):
        process.exec(["true"], timeout_s=0.3)
    assert process.exec(["true"], timeout_s=60).exit_code == 0  # thawed, since nobody dies in the cold


def test_a_forked_child_is_told_whose_container_it_is(start: Start) -> None:
    process = start()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            process.exec(["true"])
        except errors.FailedPrecondition as exc:
            os.write(writing, str(exc).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert b"belongs to the process" in pipe.read()
    os.waitpid(pid, 0)
    assert process.exec(["true"]).exit_code == 0


def test_the_twin_for_asyncio(rootfs: Path) -> None:
    async def main() -> None:
        async with AsyncSandbox(rootfs) as box, await box.start(["sleep", "600"]) as process:
            results = await asyncio.gather(*(process.exec(["cat"], stdin=b"x%d" % n) for n in range(20)))
            assert [result.stdout for result in results] == [b"x%d" % n for n in range(20)]
            with pytest.raises(errors.TimedOut):
                await process.exec(["sleep", "606"], timeout_s=0.2)
            task = asyncio.ensure_future(process.exec(["sleep", "607"]))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await process.exec(["sh", "-c", "ps -o args | grep -c '^sleep'"])).stdout == b"1\n"
            async with await process.exec_start(["sh", "-c", "exit 5"], user="web") as program:
                assert await program.wait(60) == 5
            running = await process.exec_start(["sleep", "608"])
            process.kill()
            assert await running.wait(60) == 137
            await running.close()
            await process.wait(60)
            with pytest.raises(errors.FailedPrecondition, match="is not running"):
                await process.exec(["true"])

    asyncio.run(main())
