"""AsyncEngine on an event loop of another kind, which keeps two descriptors of its own for good."""

import asyncio
import os
from pathlib import Path

import pytest

from pyrunc import AsyncEngine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SLEEP = ["sleep", "600"]


def test_another_event_loop(tmp_path: Path, archives: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with AsyncEngine(tmp_path / "root") as engine:
            await engine.images.load(archives / "beta.tar")
            done = await engine.run("beta", ["busybox", "cat"], stdin=b"x" * 300_000, scratch="disk")
            assert done.stdout == b"x" * 300_000
            made = await engine.containers.create("beta", ["busybox", "cat"], stdin_open=True)
            async with made, await made.start_attached(stdin=True) as streams:
                waits = asyncio.create_task(made.wait())
                assert await streams.communicate(b"y" * 300_000) == (b"y" * 300_000, b"")
                assert await waits == 0
            task = asyncio.create_task(engine.run("beta", SLEEP))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
