"""Stores to load into, and proof that a refused archive leaves nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyrunc.image.images import ImageStore


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[Callable[[str], ImageStore]]:
    """Make an empty store of a name."""
    made = []

    def make(name: str) -> ImageStore:
        made.append(ImageStore(str(tmp_path / name)))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def images(make_store: Callable[[str], ImageStore]) -> ImageStore:
    """An empty store."""
    return make_store("store")
