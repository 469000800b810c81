"""Further programs from Python, which end with the process that starts them, in a container of each runtime."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers.exec.conftest import Pyrunc
from tests.safety.support import wait_until

BEGIN = """
from pyrunc.errors import *
with engine.start("tools", ["sh", "-c", "while :; do sleep 1; done"], name="one", host_config=runtime) as box:
"""


@pytest.fixture(autouse=True)
def _nothing_stays(pyrunc: Pyrunc) -> Iterator[None]:
    yield
    pyrunc.end()
    assert [entry for entry in os.listdir(pyrunc.state) if len(entry) == 64] == []


def within(body: str) -> str:
    """*body* inside of the ``with`` block of a container `box`; afterwards no program has left anything."""
    lines = [f"    {line}" for line in body.strip().splitlines()]
    last = "    place = engine.containers.get('one').record().state_dir + '/exec'"
    return "\n".join(
        [BEGIN.strip(), *lines, last, "    assert not os.path.exists(place) or os.listdir(place) == []"]
    )


def test_output_input_errors_and_exit_code(pyrunc: Pyrunc) -> None:
    pyrunc.python(
        within("""
result = box.exec(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"in" * 100000)
assert (result.exit_code, result.stdout, result.stderr) == (3, b"in" * 100000, b"err\\n"), result
result = box.exec(["sh", "-c", "kill -9 $$"])
assert result.exit_code == 137
""")
    )


def test_who_and_where(pyrunc: Pyrunc) -> None:
    pyrunc.python(
        within("""
script = "id -u; echo $A $HOME; busybox pwd; busybox grep CapEff /proc/self/status"
result = box.exec(["sh", "-c", script], user="web", env={"A": "b"}, cwd="/bin")
assert result.stdout == b"1000\\nb /\\n/bin\\nCapEff:\\t0000000000000000\\n", result
own = box.exec(["busybox", "grep", "CapBnd", "/proc/self/status"]).stdout
every = box.exec(["busybox", "grep", "CapBnd", "/proc/self/status"], privileged=True).stdout
assert int(every.split()[1], 16) > int(own.split()[1], 16)
""")
    )


def test_what_cannot_be_started(pyrunc: Pyrunc) -> None:
    pyrunc.python(
        within("""
for argv, kind in ((["nosuch"], CommandNotFound), (["/etc/passwd"], CommandNotExecutable), ([""], CommandNotFound)):
    for _ in range(2):
        try:
            box.exec(argv)
        except kind as exc:
            assert "exec" in str(exc), exc
        else:
            raise AssertionError(argv)
wrong = (({"user": "nobody-here"}, NotFound), ({"user": ""}, InvalidArgument), ({"cwd": "x"}, InvalidArgument))
for options, kind in wrong:
    try:
        box.exec(["true"], **options)
    except kind:
        pass
    else:
        raise AssertionError(options)
box.kill()
box.wait(timeout_s=60)
try:
    box.exec(["true"])
except FailedPrecondition as exc:
    assert str(exc).endswith("is not running"), exc
else:
    raise AssertionError
engine.containers.get("one").start()
""")
    )


def test_late_is_killed(pyrunc: Pyrunc) -> None:
    pyrunc.python(
        within("""
for timeout_s in (1, 5, 25):  # a slow machine may need a longer one to come to the program
    try:
        box.exec(["sh", "-c", "echo here; sleep 600"], timeout_s=timeout_s)
    except TimedOut as late:
        found = (late.stage, late.stdout)
    else:
        raise AssertionError
    if found[1]:
        break
assert found == ("run", b"here\\n"), found
assert b"600" not in box.exec(["busybox", "ps"]).stdout
""")
    )


def test_its_own_descriptors_and_its_end(pyrunc: Pyrunc) -> None:
    pyrunc.python(
        within("""
ours, theirs = os.pipe()
with box.exec_start(["sh", "-c", "echo out; exec sleep 600"], stdout=theirs) as program:
    os.close(theirs)
    assert os.read(ours, 100) == b"out\\n"
    until(lambda: open(f"/proc/{program.pid}/cmdline").read() == "sleep\\0" "600\\0")
    assert program.exit_code is None
    program.kill(9)
    assert program.wait(timeout_s=60) == 137
assert os.read(ours, 100) == b""
with box.exec_start(["sleep", "600"]) as program:
    pid = program.pid
assert ended(pid)
""")
    )


def test_a_terminal(pyrunc: Pyrunc) -> None:
    pyrunc.python(
        within("""
# crun gives a further program's terminal its size when the program runs.
sized = "until stty size | busybox grep -v '^0 0'; do sleep 0.05; done"
result = box.exec(["sh", "-c", f"{sized}; cat"], tty=True, size=(30, 90), stdin=b"typed\\n")
assert sorted(result.stdout.splitlines()) == [b"30 90", b"typed", b"typed"], result
with box.exec_start(["sh"], tty=True, size=(24, 80)) as program:
    def heard(text):
        found = b""
        while text not in found:
            found += os.read(program.terminal, 4096)
        return found
    heard(b"# ")
    program.resize(33, 77)
    for _ in range(100):
        os.write(program.terminal, b"stty size; echo do''ne\\n")
        if b"33 77" in heard(b"\\ndone\\r\\n"):
            break
    else:
        raise AssertionError
    os.write(program.terminal, b"exit 4\\n")
    assert program.wait(timeout_s=60) == 4
""")
    )


def test_many_at_once(pyrunc: Pyrunc) -> None:
    pyrunc.python(
        within("""
import asyncio
async def main():
    async with pyrunc.AsyncEngine() as other:
        box = await other.containers.get("one")
        found = await asyncio.gather(*(box.exec(["sh", "-c", f"cat; exit {n}"], stdin=b"x") for n in range(8)))
        assert [(each.exit_code, each.stdout) for each in found] == [(n, b"x") for n in range(8)]
        async with await box.exec_start(["sleep", "600"]) as program:
            program.kill()
            assert await program.wait() == 137
asyncio.run(main())
""")
    )


def test_it_ends_with_its_starter(pyrunc: Pyrunc) -> None:
    pyrunc.made("run", "-d", "--name", "one", "--", "sleep", "700")
    body = 'p = engine.containers.get("one").exec_start(["sleep", "654"]); print(p.pid, flush=True); time.sleep(600)'
    with pyrunc.python_process(body) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        try:
            # A runtime may say that it has started it just before it is executed.
            assert wait_until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00654\x00")
        finally:
            process.send_signal(signal.SIGKILL)
    assert wait_until(lambda: "654" not in pyrunc("top", "one", "-eo", "pid,args").stdout), "it runs on"
    assert pyrunc("inspect", "-f", "{{.State.Status}}", "one").stdout == "running\n"


def test_events(pyrunc: Pyrunc) -> None:
    pyrunc.python(within('box.exec(["sh", "-c", "exit 5"])'))
    said = pyrunc(
        "events", "--since", "1h", "--until", "0s", "--filter", "container=one", "--format", "{{.Action}}"
    )
    found = [line.split(":")[0] for line in said.stdout.splitlines() if line.startswith("exec")]
    assert found[-3:] == ["exec_create", "exec_start", "exec_die"]
