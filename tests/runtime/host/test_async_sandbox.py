"""AsyncSandbox: results as Sandbox has them, hundreds at once without a thread, and cancellation."""

import asyncio
import gc
import os
import random
import signal
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import pyrunc
from pyrunc import errors
from tests.runtime.host.leftovers import alive, eventually, marked, new_mark, parent_of

Scenario = Callable[[pyrunc.AsyncSandbox], Coroutine[Any, Any, None]]
Play = Callable[[Scenario], None]


@pytest.fixture
def play(rootfs: Path, parent: str) -> Play:
    """Run a scenario with an AsyncSandbox in an event loop in debug mode."""

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            async with pyrunc.AsyncSandbox(rootfs, cgroup_parent=parent) as sandbox:
                await scenario(sandbox)

        asyncio.run(main(), debug=True)
        gc.collect()

    return run


def test_a_run_has_what_a_sandbox_run_has(play: Play) -> None:
    async def scenario(box: pyrunc.AsyncSandbox) -> None:
        result = await box.run(["sh", "-c", "cat; echo $WHO >&2; exit 3"], env={"WHO": "me"}, stdin=b"in")
        assert result[:4] == (3, b"in", b"me\n", False)
        assert next(iter(result.timings_ns)) == "request"
        assert result.maxrss_bytes > 0

    play(scenario)


def test_much_input_and_output_at_once(play: Play) -> None:
    async def scenario(box: pyrunc.AsyncSandbox) -> None:
        data = random.Random(1).randbytes(3 << 20)
        assert (await box.run(["cat"], stdin=data)).stdout == data

    play(scenario)


def test_input_that_nobody_reads_is_no_error(play: Play) -> None:
    async def scenario(box: pyrunc.AsyncSandbox) -> None:
        assert (await box.run(["true"], stdin=bytes(1 << 20))).exit_code == 0

    play(scenario)


@pytest.mark.usefixtures("many_descriptors")
def test_500_wait_at_once_without_a_thread(play: Play) -> None:
    async def scenario(box: pyrunc.AsyncSandbox) -> None:
        threads = threading.active_count()
        reading, writing = os.pipe()
        processes = await asyncio.gather(*(box.start(["cat"], stdin=reading) for _ in range(500)))
        os.close(reading)
        waits = asyncio.gather(*(process.wait() for process in processes))
        await asyncio.sleep(0)
        assert threading.active_count() == threads
        assert {process.exit_code for process in processes} == {None}
        assert len({process.pid for process in processes}) == 500
        os.close(writing)
        assert await waits == [0] * 500
        for process in processes:
            await process.close()

    play(scenario)


@pytest.mark.usefixtures("many_descriptors")
def test_500_runs_at_once_keep_their_output_apart(play: Play) -> None:
    async def scenario(box: pyrunc.AsyncSandbox) -> None:
        results = await asyncio.gather(*(box.run(["echo", str(number)]) for number in range(500)))
        assert [result.stdout for result in results] == [b"%d\n" % number for number in range(500)]

    play(scenario)


def test_a_cancelled_run_ends_with_nothing_left(play: Play) -> None:
    async def scenario(box: pyrunc.AsyncSandbox) -> None:
        mark = new_mark()
        task = asyncio.create_task(box.run(["sh", "-c", f"sleep {mark} & sleep {mark}"]))
        while not marked(mark):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert marked(mark) == []

    play(scenario)


def test_cancellation_at_any_moment(play: Play) -> None:
    async def scenario(box: pyrunc.AsyncSandbox) -> None:
        mark = new_mark()
        for number in range(60):
            method = box.run if number % 2 else box.start
            task = asyncio.create_task(method(["sleep", mark]))
            await asyncio.sleep(number * 0.0001)
            task.cancel()
            try:
                done = await task
            except asyncio.CancelledError:
                assert marked(mark) == []
            else:
                assert isinstance(done, pyrunc.AsyncSandboxProcess)
                await done.close()

    play(scenario)


def test_cancelled_twice_it_still_leaves_nothing(play: Play) -> None:
    async def scenario(box: pyrunc.AsyncSandbox) -> None:
        mark = new_mark()
        task = asyncio.create_task(box.run(["sleep", mark]))
        while not marked(mark):
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        await asyncio.to_thread(eventually, lambda: not marked(mark), mark)

    play(scenario)


def test_a_time_out_kills_and_keeps_the_output(play: Play) -> None:
    async def scenario(box: pyrunc.AsyncSandbox) -> None:
        mark = new_mark()
        for timeout_s in (0.3, 3, 30):  # until there is time for a beginning
            with pytest.raises(errors.TimedOut, match=rf"sh: killed after {timeout_s} s") as caught:
                await box.run(["sh", "-c", f"echo so far; sleep {mark}"], timeout_s=timeout_s)
            assert marked(mark) == []
            if caught.value.stdout:
                break
        assert caught.value.stdout == b"so far\n"
        with pytest.raises(errors.TimedOut):
            await box.run(["sleep", mark], timeout_s=0)
        assert marked(mark) == []

    play(scenario)


def test_an_outer_time_out_is_a_cancellation(play: Play) -> None:
    async def scenario(box: pyrunc.AsyncSandbox) -> None:
        mark = new_mark()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await box.run(["sleep", mark])
        assert marked(mark) == []

    play(scenario)


def test_a_started_process(play: Play) -> None:
    async def scenario(box: pyrunc.AsyncSandbox) -> None:
        async with await box.start(["sleep", "1000"]) as process:
            assert alive(process.pid)
            with pytest.raises(errors.TimedOut):
                await process.wait(timeout_s=0.01)
            assert process.exit_code is None
            waits = [asyncio.create_task(process.wait()) for _ in range(3)]
            await asyncio.sleep(0)
            waits[0].cancel()
            await asyncio.sleep(0)
            assert alive(process.pid)
            process.kill(signal.SIGKILL)
            assert await asyncio.gather(*waits[1:]) == [137, 137]
        assert process.exit_code == 137
        await process.close()

    play(scenario)


def test_a_dropped_process_is_killed(play: Play) -> None:
    async def scenario(box: pyrunc.AsyncSandbox) -> None:
        process = await box.start(["sleep", "1000"])
        with pytest.raises(errors.TimedOut):
            await process.wait(timeout_s=0.01)
        pid = process.pid
        del process
        gc.collect()
        await asyncio.to_thread(eventually, lambda: not alive(pid))

    play(scenario)


def test_a_killed_supervisor_is_an_error_and_ends_the_container(play: Play) -> None:
    async def scenario(box: pyrunc.AsyncSandbox) -> None:
        process = await box.start(["sleep", "1000"])
        os.kill(parent_of(process.pid), signal.SIGKILL)
        for _ in range(2):  # every wait tells
            with pytest.raises(errors.Unavailable):
                await process.wait()
        assert not alive(process.pid)
        await process.close()

    play(scenario)


def test_errors_are_those_of_sandbox(play: Play) -> None:
    async def scenario(box: pyrunc.AsyncSandbox) -> None:
        for start in (box.run, box.start):
            with pytest.raises(errors.CommandNotFound, match='exec: "nothing": executable file not found'):
                await start(["nothing"])
        with pytest.raises(errors.InvalidArgument):
            await box.run([])
        box.close()
        with pytest.raises(errors.FailedPrecondition, match="closed"):
            await box.run(["true"])

    play(scenario)


def test_event_loops_of_several_threads(rootfs: Path, parent: str) -> None:
    outputs: list[bytes] = []

    async def main(name: str) -> None:
        async with pyrunc.AsyncSandbox(rootfs, cgroup_parent=parent) as sandbox:
            results = await asyncio.gather(*(sandbox.run(["echo", name]) for _ in range(20)))
            outputs.extend(result.stdout for result in results)

    threads = [threading.Thread(target=lambda name=name: asyncio.run(main(name))) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outputs) == sorted([b"a\n", b"b\n", b"c\n", b"d\n"] * 20)


@pytest.fixture
def uvloop() -> Any:
    module = pytest.importorskip("uvloop", reason="uvloop is not installed")
    module.run(asyncio.sleep(0))  # libuv keeps a pipe for signals from its first loop on
    return module


def test_uvloop(uvloop: Any, rootfs: Path, parent: str) -> None:
    async def main() -> None:
        async with pyrunc.AsyncSandbox(rootfs, cgroup_parent=parent) as sandbox:
            results = await asyncio.gather(*(sandbox.run(["cat"], stdin=b"x" * 100_000) for _ in range(20)))
            assert {result.stdout for result in results} == {b"x" * 100_000}
            task = asyncio.create_task(sandbox.run(["sleep", "1000"]))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    uvloop.run(main())
