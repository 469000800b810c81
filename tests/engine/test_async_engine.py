"""AsyncEngine does what Engine does, many at once, and a task that is cancelled leaves no container."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pyrunc import AsyncEngine, Mount
from pyrunc.errors import CommandNotFound, FailedPrecondition, InvalidArgument, NotFound, TimedOut
from tests.engine.conftest import AsyncTest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_many_throw_away_runs_at_once(run: Callable[[AsyncTest], None]) -> None:
    async def test(engine: AsyncEngine) -> None:
        results = await asyncio.gather(
            *(engine.run("beta", ["sh", "-c", f"echo {number}; exit {number}"]) for number in range(20))
        )
        assert [(done.exit_code, done.stdout) for done in results] == [
            (number, b"%d\n" % number) for number in range(20)
        ]
        assert (
            await engine.run("beta", ["sh", "-c", "read x; echo $x$Y"], stdin=b"in\n", env={"Y": "!"})
        ).stdout == b"in!\n"

    run(test)


def test_errors_are_the_engines(run: Callable[[AsyncTest], None]) -> None:
    async def test(engine: AsyncEngine) -> None:
        with pytest.raises(NotFound):
            await engine.run("nothing")
        with pytest.raises(CommandNotFound):
            await engine.run("beta", ["nothing"])
        with pytest.raises(TimedOut):
            await engine.run("beta", ["sleep", "9"], timeout_s=0.2)
        with pytest.raises(NotFound):
            await engine.containers.get("nobody")
        with pytest.raises(InvalidArgument):
            async for _ in engine.events(filters=[("colour", "red")]):
                pass

    run(test)


def test_a_container_has_a_life(run: Callable[[AsyncTest], None]) -> None:
    async def test(engine: AsyncEngine) -> None:
        following = engine.events(
            since_ns=None, follow=True, filters=[("type", "container"), ("container", "one")]
        )
        actions = asyncio.create_task(_actions(following))
        await asyncio.sleep(0)
        script = "echo out; echo err >&2; while [ ! -e /go ]; do sleep 0.05; done; echo late; exit 5"
        async with await engine.start("beta", ["sh", "-c", script], name="one") as container:
            assert (container.name, (await container.record()).state) == ("one", "running")
            assert (await container.exec(["sh", "-c", "echo in"])).stdout == b"in\n"
            with pytest.raises(TimedOut):
                await container.wait(0.05)
            with pytest.raises(FailedPrecondition):
                await container.remove()
            assert (await container.exec(["touch", "/go"])).exit_code == 0
            entries = [(entry.stream, entry.data) async for entry in container.logs(follow=True)]
            assert sorted(entries) == [("stderr", b"err\n"), ("stdout", b"late\n"), ("stdout", b"out\n")]
            assert await container.wait() == 5
            assert [entry.data async for entry in container.logs(tail=1)] == [b"late\n"]
            assert [record.name for record in await engine.containers.list(all=True)] == ["one"]
        found = await actions
        assert [each for each in found if each in ("create", "start", "die", "destroy")] == [
            "create", "start", "die", "destroy",
        ]  # fmt: skip

    async def _actions(following: AsyncIterator[object]) -> list[str]:
        found: list[str] = []
        async for event in following:
            found.append(event.action)  # type: ignore[attr-defined]
            if found[-1] == "destroy":
                break
        return found

    run(test)


def test_waiting_takes_no_threads(run: Callable[[AsyncTest], None]) -> None:
    async def test(engine: AsyncEngine) -> None:
        made = [await engine.start("beta", ["sleep", "600"]) for _ in range(10)]
        codes = asyncio.gather(*(each.wait() for each in made))
        await asyncio.sleep(0.1)
        assert len(await engine.containers.list()) == 10  # there are 8 threads
        for each in made:
            await each.kill()
        assert await codes == [137] * 10
        for each in made:
            await each.remove()

    run(test)


@pytest.mark.parametrize("after_ms", [0, 1, 5, 20, 60, 200])
def test_a_start_that_is_cancelled_leaves_nothing(after_ms: int, run: Callable[[AsyncTest], None]) -> None:
    async def test(engine: AsyncEngine) -> None:
        tasks = [
            asyncio.create_task(engine.start("beta", ["sleep", "100"])),
            asyncio.create_task(engine.containers.create("beta", ["sleep", "100"])),
            asyncio.create_task(engine.run("beta", ["sleep", "100"])),
        ]
        await asyncio.sleep(after_ms / 1000)
        begun = time.monotonic()
        for task in tasks:
            task.cancel()
        for task in tasks:
            try:
                made = await task
            except asyncio.CancelledError:
                continue
            await made.remove(force=True)  # type: ignore[attr-defined]
        assert time.monotonic() - begun < 50
        assert await engine.containers.list(all=True) == []

    run(test)


def test_what_is_left_of_a_block_goes_with_it(run: Callable[[AsyncTest], None]) -> None:
    async def test(engine: AsyncEngine) -> None:
        with pytest.raises(ZeroDivisionError):
            async with await engine.start("beta", ["sleep", "100"]):
                raise ZeroDivisionError
        assert await engine.containers.list(all=True) == []

    run(test)


def test_a_run_that_is_not_awaited_before_the_engine_closes(
    run: Callable[[AsyncTest], None], tmp_path: Path
) -> None:
    shared = Mount("/d", str(tmp_path))
    script = "busybox touch /d/$NAME; while [ ! -e /d/go ]; do busybox sleep 0.02; done; echo done"

    async def test(engine: AsyncEngine) -> None:
        async with AsyncEngine(engine.engine._parts.root) as other:
            runs = [
                asyncio.create_task(
                    other.run(
                        "beta", ["sh", "-c", script], name=name, env={"NAME": name or "none"}, mounts=[shared]
                    )
                )
                for name in (None, "named")
            ]
            while not ((tmp_path / "none").exists() and (tmp_path / "named").exists()):
                await asyncio.sleep(0.02)
        (tmp_path / "go").touch()
        assert (await runs[0]).stdout == b"done\n"
        with pytest.raises(FailedPrecondition, match=r"^the engine is closed$"):
            await runs[1]
        with pytest.raises(FailedPrecondition, match=r"^the engine is closed$"):
            await other.containers.list()
        while await engine.containers.list(all=True):
            await asyncio.sleep(0.02)

    run(test)


def test_asyncio_is_imported_by_who_uses_it_only() -> None:
    program = "import sys, pyrunc; pyrunc.Engine; print('asyncio' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment)
    assert done.stdout == b"False\n"
