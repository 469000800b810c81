"""One Sandbox and one spawner, used by many threads, while others close and kill."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

import pyrunc
from pyrunc import errors
from pyrunc.runtime import spawner
from tests.runtime.host.leftovers import alive, parent_of

THREADS = 32


def in_threads(function: Callable[[int], object], count: int = THREADS) -> list[object]:
    """Call *function* with 0..count-1, each in a thread of its own, all at once; returns what they returned."""
    barrier = threading.Barrier(count)

    def work(number: int) -> object:
        barrier.wait()
        return function(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def test_32_threads_share_a_sandbox(box: pyrunc.Sandbox) -> None:
    def work(number: int) -> list[bytes]:
        return [box.run(["cat"], stdin=b"%d %d" % (number, turn)).stdout for turn in range(6)]

    assert in_threads(work) == [[b"%d %d" % (number, turn) for turn in range(6)] for number in range(THREADS)]


def test_the_first_starts_of_a_sandbox_at_once(rootfs: os.PathLike[str], parent: str) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(5):
            with pyrunc.Sandbox(rootfs, cgroup_parent=parent) as box:
                outputs = in_threads(lambda number: box.run(["echo", str(number)]).stdout, 16)
                assert outputs == [b"%d\n" % number for number in range(16)]
    finally:
        sys.setswitchinterval(before)


def test_runs_go_on_while_the_spawner_is_killed_again_and_again(box: pyrunc.Sandbox) -> None:
    over = threading.Event()
    done: list[bytes] = []

    def killer() -> int:
        """As often as eight more runs have ended: a request is made anew a few times only, however slow the machine."""
        kills = 0
        while not over.wait(0.01):
            if len(done) >= 8 * (kills + 1):
                with suppress(ProcessLookupError):  # spares of the last one have served these
                    os.kill(spawner.current().pid, signal.SIGKILL)
                kills += 1
        return kills

    def run(number: int) -> bytes:
        found = box.run(["echo", str(number)]).stdout
        done.append(found)
        return found

    def work(number: int) -> list[bytes]:
        return [run(number) for _ in range(8)]

    with ThreadPoolExecutor(1) as pool:
        kills = pool.submit(killer)
        try:
            assert in_threads(work, 8) == [[b"%d\n" % number] * 8 for number in range(8)]
        finally:
            over.set()
        assert kills.result() > 0


def test_runs_go_on_while_the_spawner_is_shut_down(box: pyrunc.Sandbox) -> None:
    def work(number: int) -> bytes:
        if number % 8 == 0:
            spawner.shut_down()
        return b"".join(box.run(["echo", str(number)]).stdout for _ in range(3))

    assert in_threads(work, 16) == [b"%d\n" % number * 3 for number in range(16)]


def test_a_sandbox_closed_in_the_middle(rootfs: os.PathLike[str], parent: str) -> None:
    box = pyrunc.Sandbox(rootfs, cgroup_parent=parent)
    running = threading.Semaphore(0)

    def run_on() -> None:
        for _ in range(1000):
            assert box.run(["sh", "-c", "cat; echo out"]).stdout == b"out\n"
            running.release()

    def work(number: int) -> None:
        if number == 0:
            for _ in range(THREADS):
                running.acquire()
            box.close()
            return
        with pytest.raises(errors.FailedPrecondition, match="the sandbox is closed"):
            run_on()

    in_threads(work, 8)


def test_many_threads_wait_for_one_process(box: pyrunc.Sandbox) -> None:
    with box.start(["sleep", "1000"]) as process:
        # One of them ends it while the others wait, and closes it while they leave.
        def work(number: int) -> int:
            if number == 0:
                process.close()
            return process.wait()

        assert in_threads(work, 16) == [137] * 16
    assert not alive(process.pid)


def test_every_waiting_thread_hears_of_a_killed_supervisor(box: pyrunc.Sandbox) -> None:
    process = box.start(["sleep", "1000"])

    def work(number: int) -> str:
        if number == 0:
            os.kill(parent_of(process.pid), signal.SIGKILL)
        with pytest.raises(errors.Unavailable) as caught:
            process.wait()
        return str(caught.value)

    assert len(set(in_threads(work, 8))) == 1
    assert not alive(process.pid)
    process.close()


def test_kill_at_the_very_end_loses_no_exit_code(box: pyrunc.Sandbox) -> None:
    for _ in range(100):
        process = box.start(["true"])
        while process.exit_code is None:
            process.kill(signal.SIGCONT)
        assert process.wait() == 0
        process.close()
