"""Engines on temporary roots, and the archives of tests/cli/samples.py to fill them."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from pyrunc import AsyncEngine, Engine
from pyrunc.errors import NotFound
from tests.cli import samples

AsyncTest = Callable[[AsyncEngine], Awaitable[None]]
# For who looks at what a program has said when its time was over: how long it may take to say so, on slower hosts too.
PATIENCE_S = (0.4, 3.0, 30.0)


def clear(engine: Engine) -> None:
    """Remove all containers; one that goes with its end may be gone by itself."""
    for record in engine.containers.list(all=True):
        with suppress(NotFound):
            engine.containers.get(record.id).remove(force=True, volumes=True)


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory, busybox: Path) -> Path:
    """A directory of image archives that no test changes."""
    directory = tmp_path_factory.mktemp("archives")
    samples.write(directory, busybox)
    return directory


@pytest.fixture(params=["overlay2", "vfs"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs is told where nobody else looks."""
    monkeypatch.setenv("PYRUNC_STATE", str(tmp_path / "state"))


@pytest.fixture
def open_engine(tmp_path: Path, driver: str) -> Iterator[Callable[[], Engine]]:
    """Further engines on the root of `engine`, as another process would have them."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    opened: list[Engine] = []

    def make() -> Engine:
        opened.append(Engine(tmp_path / "root", graph=driver))
        return opened[-1]

    yield make
    for each in opened:
        each.close()
    with Engine(tmp_path / "root", graph=driver) as last:
        clear(last)


@pytest.fixture
def engine(open_engine: Callable[[], Engine]) -> Engine:
    """An engine without images."""
    return open_engine()


@pytest.fixture
def loaded(engine: Engine, archives: Path) -> Engine:
    """An engine with alpha:1, beta:latest and their other names."""
    engine.images.load(archives / "alpha.tar")
    engine.images.load(archives / "beta.tar")
    return engine


@pytest.fixture
def run(tmp_path: Path, archives: Path) -> Callable[[AsyncTest], None]:
    """Run a test on an AsyncEngine that has beta; at its end no container is left."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[AsyncEngine]:
        async with AsyncEngine(tmp_path / "root") as engine:
            await engine.images.load(archives / "beta.tar")
            yield engine
            left = await engine.containers.list(all=True)
            for record in left:
                await (await engine.containers.get(record.id)).remove(force=True)
            assert not left

    async def main(test: AsyncTest) -> None:
        async with asyncio.timeout(300):
            async with opened() as engine:
                await test(engine)

    return lambda test: asyncio.run(main(test))
