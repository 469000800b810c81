"""AsyncContainer has Container's verbs, its streams, and lets go at once of what is cancelled."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc import AsyncAttachment, AsyncContainer, AsyncEngine, Container, Engine
from pyrunc.engine.containers import Containers
from pyrunc.engine.images import Images
from pyrunc.engine.volumes import Volumes
from pyrunc.errors import (
    AlreadyExists,
    CommandNotFound,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    TimedOut,
)
from tests.engine.conftest import PATIENCE_S, AsyncTest

pytestmark = [
    pytest.mark.usefixtures("host_unchanged"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

SLEEP = ["sleep", "600"]
_DOCUMENTED = {"pid"}  # a property of Container that looks; `record` has it
_BETWEEN_MODULES = {"shipped", "unpack", "claim", "damage", "data", "ensure_data", "is_known", "mount_points"}
_BETWEEN_MODULES |= {"release", "users", "close"}


async def eventually(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not true():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


async def shows(container: AsyncContainer, word: str) -> bool:
    """Whether a program with that *word* runs in it."""
    return any(word in " ".join(row) for row in (await container.top()).rows)


def test_the_twins_have_the_same_names(tmp_path: Path) -> None:
    engine = AsyncEngine(tmp_path)
    for twin, own in (
        (engine, Engine), (engine.containers, Containers), (engine.images, Images), (engine.volumes, Volumes),
        (AsyncContainer, Container),
    ):  # fmt: skip
        wanted = {name for name in vars(own) if not name.startswith("_")} - _DOCUMENTED - _BETWEEN_MODULES
        assert {name for name in wanted if not hasattr(twin, name)} == set(), twin
    asyncio.run(engine.close())


@pytest.mark.parametrize("more", [{"scratch": "disk"}, {"name": "one"}, {"name": "one", "remove": False}])
def test_a_run_on_disk(more: dict[str, Any], run: Callable[[AsyncTest], None]) -> None:
    async def test(engine: AsyncEngine) -> None:
        done = await engine.run(
            "beta", ["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"in" * 100_000, **more
        )
        assert (done.exit_code, done.stdout, done.stderr) == (3, b"in" * 100_000, b"err\n")
        assert list(done.timings_ns)[:3] == ["image", "create", "request"]
        if not more.get("remove", True):
            await (await engine.containers.get("one")).remove()
        for timeout_s in PATIENCE_S:
            with pytest.raises(TimedOut) as late:
                await engine.run(
                    "beta", ["sh", "-c", "echo one; sleep 600"], timeout_s=timeout_s, create_timeout_s=60,
                    scratch="disk",
                )  # fmt: skip
            if late.value.stdout:
                break
        assert (late.value.stage, late.value.stdout) == ("run", b"one\n")
        with pytest.raises(TimedOut) as late:
            await engine.run("beta", ["sleep", "600"], timeout_s=0.2, create_timeout_s=60)
        assert late.value.stage == "run"
        with pytest.raises(CommandNotFound):
            await engine.run("beta", ["nothing"], scratch="disk")

    run(test)


@pytest.mark.parametrize("more", [{"scratch": "disk"}, {"name": "one"}, {"name": "one", "remove": False}, {}])
def test_a_run_that_is_cancelled_ends_at_once(more: dict[str, Any], run: Callable[[AsyncTest], None]) -> None:
    async def test(engine: AsyncEngine) -> None:
        task = asyncio.create_task(engine.run("beta", SLEEP, **more))
        if more:
            while len(await engine.containers.list()) != 1:
                assert not task.done()
                await asyncio.sleep(0.02)
        else:
            await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        left = await engine.containers.list(all=True)
        assert [record.running for record in left] == ([False] if "remove" in more else [])
        for record in left:
            assert record.exit_code == 137
            await (await engine.containers.get(record.id)).remove()

    run(test)


def test_more_runs_on_disk_than_threads(run: Callable[[AsyncTest], None]) -> None:
    async def test(engine: AsyncEngine) -> None:
        tasks = [asyncio.create_task(engine.run("beta", SLEEP, scratch="disk")) for _ in range(12)]
        while len(await engine.containers.list()) < 12:  # there are 8 threads
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        assert {type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)} == {
            asyncio.CancelledError
        }

    run(test)


def test_exec(run: Callable[[AsyncTest], None]) -> None:
    async def test(engine: AsyncEngine) -> None:
        async with await engine.start("beta", SLEEP) as container:
            done = await container.exec(["sh", "-c", "cat; echo $A; exit 4"], stdin=b"in ", env={"A": "1"})
            assert (done.exit_code, done.stdout) == (4, b"in 1\n")
            many = await asyncio.gather(*(container.exec(["sh", "-c", f"exit {n}"]) for n in range(20)))
            assert [each.exit_code for each in many] == list(range(20))
            with pytest.raises(TimedOut):
                await container.exec(SLEEP, timeout_s=0.2)
            with pytest.raises(CommandNotFound):
                await container.exec(["nothing"])
            task = asyncio.create_task(container.exec(["sleep", "577"]))
            while not await shows(container, "577"):
                assert not task.done()
                await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not await shows(container, "577")
            async with await container.exec_start(SLEEP) as program:
                with pytest.raises(TimedOut):
                    await program.wait(0.05)
                program.kill()
                assert await program.wait() == 137
        found = [event.action async for event in engine.events()]
        assert found.count("exec_die") >= 22

    run(test)


def test_conditions(run: Callable[[AsyncTest], None]) -> None:
    async def test(engine: AsyncEngine) -> None:
        container = await engine.containers.create("beta", ["sh", "-c", "sleep 0.5; exit 6"])
        assert await container.wait() == 0
        next_exit = asyncio.create_task(container.wait(condition="next-exit"))
        removed = asyncio.create_task(container.wait(condition="removed"))
        with pytest.raises(TimedOut):
            await container.wait(0.1, "next-exit")
        await container.start()
        assert await container.wait(60) == 6
        assert await next_exit == 6
        with pytest.raises(TimedOut):
            await container.wait(0.2, "removed")
        await container.remove()
        assert await removed == 6
        assert await container.wait() == 6  # which is remembered
        gone = await engine.start("beta", ["sh", "-c", "exit 7"], remove=True)
        assert await gone.wait(60, "removed") == 7
        with pytest.raises(NotFound):
            await (await engine.containers.get(gone.id)).wait()
        with pytest.raises(InvalidArgument, match="invalid condition"):
            await gone.wait(condition="soon")  # type: ignore[arg-type]

    run(test)


def test_streams(run: Callable[[AsyncTest], None]) -> None:
    async def test(engine: AsyncEngine) -> None:
        data = os.urandom(1 << 20) * 4
        made = await engine.containers.create("beta", ["busybox", "cat"], stdin_open=True)
        async with made, await made.start_attached(stdin=True) as streams:
            assert await streams.communicate(data) == (data, b"")
            assert streams.exit_code == 0
        script = 'while read line; do echo "got $line"; done; echo over'
        async with await engine.start("beta", ["sh", "-c", script], stdin_open=True) as container:
            first, second = await container.attach(stdin=True), await container.attach()
            assert isinstance(first, AsyncAttachment)
            reader = asyncio.create_task(second.read(60))
            await first.write(b"one\n")
            assert await reader == await first.read(60) == ("stdout", b"got one\n")
            with pytest.raises(TimedOut):
                await second.read(0.05)
            stuck = asyncio.create_task(second.read())
            await asyncio.sleep(0.05)
            second.close()
            assert await stuck is None
            await first.close_stdin()
            assert b"".join([part async for _, part in first]) == b"over\n"
            with pytest.raises(FailedPrecondition):
                await first.write(b"x")
        with pytest.raises(NotFound):
            await container.attach()

    run(test)


def test_other_objects(run: Callable[[AsyncTest], None]) -> None:
    async def test(engine: AsyncEngine) -> None:
        assert "beta:latest" in (await engine.images.list())[0].references
        await engine.images.tag("beta", "other")
        assert (await engine.images.get("other")).id == (await engine.images.get("beta")).id
        await engine.images.remove("other")
        volume = await engine.volumes.create("data")
        assert [each.name for each in await engine.volumes.list()] == [volume.name] == ["data"]
        await engine.volumes.remove("data")
        assert (await engine.version())["ApiVersion"] == "1.51"
        assert (await engine.info())["Images"] == 1
        async with await engine.start(
            "beta", ["sh", "-c", "echo x > /new; sleep 600"], name="one"
        ) as container:
            await container.pause()
            await container.unpause()
            await container.update(PidsLimit=30)
            await container.rename("two")
            assert container.name == "two"
            assert ("A", "/new") in await container.diff()
            assert (await container.inspect())["HostConfig"]["PidsLimit"] == 30
            again = await engine.start("beta", ["sh", "-c", "echo x > /new; sleep 600"], name="three")
            async with again:
                with pytest.raises(AlreadyExists):
                    await container.rename("three")
        await engine.containers.prune()

    run(test)


def test_two_hundred_at_once_and_nothing_leaks(tmp_path: Path, archives: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(tmp_path / "root") as engine:
            await engine.images.load(archives / "beta.tar")
            made = await asyncio.gather(*(engine.start("beta", SLEEP, name=f"c{n}") for n in range(200)))
            codes = [asyncio.create_task(each.wait()) for each in made]
            assert len(await engine.containers.list()) == 200
            await asyncio.gather(*(each.kill() for each in made))
            assert await asyncio.gather(*codes) == [137] * 200
            await asyncio.gather(*(each.remove() for each in made))
        assert await eventually(
            lambda: not any(each.name.startswith("pyrunc") for each in threading.enumerate())
        )

    asyncio.run(main())
    before = len(os.listdir("/proc/self/fd"))

    async def few() -> None:
        async with AsyncEngine(tmp_path / "root") as engine:
            async with await engine.start("beta", SLEEP) as container:
                streams = await container.attach()
                await container.exec(["true"])
                await container.kill()
                assert [part async for part in streams] == []
            await engine.run("beta", ["true"], scratch="disk")
        assert await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before + 4)  # the loop's own

    for _ in range(3):
        asyncio.run(few())
    assert len(os.listdir("/proc/self/fd")) <= before
