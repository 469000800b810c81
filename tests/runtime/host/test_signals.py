"""Signals of the host program: they are its own, and an interrupted call leaves nothing."""

import os
import signal

import pytest

from tests.runtime.host.conftest import Script, finish
from tests.runtime.host.leftovers import eventually, marked, new_mark


@pytest.mark.parametrize(
    "call",
    [
        "box.run(['sleep', MARK])",
        "box.run(['sh', '-c', f'sleep {MARK} & sleep {MARK}'], timeout_s=900)",
        "started()",
        "asyncio.run(waiting(), debug=False)",
    ],
)
def test_ctrl_c_in_a_call(script: Script, call: str) -> None:
    mark = new_mark()
    process = script(f"""
        import asyncio
        from tests.runtime.host.leftovers import eventually, marked

        MARK = {mark!r}

        async def waiting():
            async with pyrunc.AsyncSandbox(ROOTFS, cgroup_parent=PARENT) as async_box:
                await async_box.run(["sleep", MARK])

        def started():
            with box.start(["sleep", MARK]) as process:
                process.wait()

        try:
            {call}
        except KeyboardInterrupt:
            eventually(lambda: not marked(MARK), "alive after the interrupt")
            assert box.run(["echo", "and on"]).stdout == b"and on\\n"
            print("interrupted")
    """)
    eventually(lambda: bool(marked(mark)), "not started")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everybody in the foreground
    assert finish(process) == "interrupted\n"


def test_ctrl_c_that_the_host_handles_reaches_no_container(script: Script) -> None:
    process = script("""
        signal.signal(signal.SIGINT, lambda number, frame: None)
        with box.start(["sleep", "1000"]) as process:
            print("running", flush=True)
            sys.stdin.readline()
            assert process.exit_code is None
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    os.killpg(process.pid, signal.SIGINT)
    assert finish(process) == ""


def test_interrupts_at_any_moment_leave_nothing(script: Script) -> None:
    finish(
        script(
            """
        from tests.runtime.host.leftovers import descriptors, eventually, marked, new_mark

        mark = new_mark()
        box.run(["true"])
        before = len(descriptors())
        interrupted = 0
        for number in range(100):
            try:
                # The clock of the timer starts here; a run takes a few milliseconds to its sleep.
                signal.signal(signal.SIGALRM, signal.default_int_handler)
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + number * 0.00005)
                box.run(["sleep", mark])
            except KeyboardInterrupt:
                interrupted += 1
        assert interrupted == 100
        eventually(lambda: not marked(mark), "processes are left")
        assert len(descriptors()) <= before, descriptors()
    """,
            strict=False,
        )
    )  # an interrupted socketpair() is closed by its destructor, which warns


@pytest.mark.parametrize("handler", ["signal.SIG_IGN", "lambda number, frame: seen.append(number)"])
def test_sigchld_is_the_host_programs(script: Script, handler: str) -> None:
    finish(
        script(f"""
        from pyrunc.runtime import spawner

        seen = []
        signal.signal(signal.SIGCHLD, {handler})
        for _ in range(10):
            assert box.run(["sh", "-c", "sleep 0 & wait; exit 7"]).exit_code == 7
        with box.start(["sleep", "1000"]) as process:
            process.kill()
            assert process.wait() == 137
        assert seen == []
        spawner.shut_down()
        assert len(seen) <= 1
        assert box.run(["true"]).exit_code == 0
    """)
    )


def test_signals_that_the_host_blocks_or_ignores_are_not_the_containers(script: Script) -> None:
    finish(
        script("""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        fields = dict(line.split(":\\t") for line in box.run(["cat", "/proc/self/status"]).stdout.decode().splitlines())
        assert int(fields["SigBlk"], 16) == 0
        assert int(fields["SigIgn"], 16) == 0  # SIGPIPE too, which Python ignores
    """)
    )
