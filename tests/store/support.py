"""Images that say a name, and a snapshotter of rows only, for the tests of the store."""

import os
import random
from collections.abc import Iterator
from typing import NamedTuple

from pyrunc.errors import FailedPrecondition, NotFound
from pyrunc.store.content import ContentStore
from pyrunc.store.metadata import ImageRow, Metadata


class Info(NamedTuple):
    key: str
    parent: str | None


class Snapshots:
    """What a driver has, without any files."""

    def __init__(self, **parents: str | None) -> None:
        self.parents = dict(parents)
        self.reclaimed = 0

    def walk(self) -> Iterator[Info]:
        yield from [Info(*item) for item in self.parents.items()]

    def remove(self, key: str) -> None:
        if key not in self.parents:
            raise NotFound(key)
        if key in self.parents.values():
            raise FailedPrecondition(key)
        del self.parents[key]

    def reclaim(self) -> int:
        self.reclaimed += 1
        return 0


def put(
    content: ContentStore,
    metadata: Metadata,
    name: str,
    *references: str,
    layers: tuple[bytes, ...] = (b"layer",),
    chain_ids: tuple[str, ...] = (),
    created_ns: int = 1,
) -> ImageRow:
    """Store an image whose documents say *name*."""
    with metadata.lease() as lease:
        config = content.add(f"{name} config".encode(), lease=lease).digest
        manifest = content.add(f"{name} manifest".encode(), lease=lease).digest
        blobs = [(manifest, "manifest"), (config, "config")]
        blobs += [(content.add(layer, lease=lease).digest, "layer") for layer in layers]
        row = ImageRow(config, manifest, created_ns, 1234, "linux", "amd64", None, 77)
        metadata.put_image(row, blobs, references, chain_ids=chain_ids)
    return row


def layer(number: int) -> bytes:
    """The bytes of layer *number*, always the same; up to 300 kB, which is several writes."""
    rng = random.Random(number)
    return rng.randbytes(rng.choice((0, 10, 5000, 300_000)))


def in_ingest(root: str) -> list[str]:
    return sorted(os.listdir(os.path.join(root, "content", "ingest")))
