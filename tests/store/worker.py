"""A process that does random things to a store, until it is killed or its time is over.

python -m tests.store.worker ROOT SEED SECONDS

It ends with 1 as soon as it sees what no user of a store may see: a row whose blobs are not there, or other bytes.
"""

import random
import sys
import time

from pyrunc.errors import AlreadyExists, FailedPrecondition, NotFound
from pyrunc.store.collect import collect
from pyrunc.store.content import ContentStore
from pyrunc.store.database import Database
from pyrunc.store.metadata import Metadata
from tests.store.support import layer, put

IMAGES, LAYERS, NAMES, CONTAINERS = 6, 8, 5, 4
_SNAPSHOTS = ("CREATE TABLE snapshots (key TEXT PRIMARY KEY, parent TEXT REFERENCES snapshots)",)


class StoredSnapshots:
    """A driver without files, whose rows all processes share."""

    def __init__(self, root: str) -> None:
        self.database = Database(f"{root}/snapshots.db", _SNAPSHOTS, "NORMAL")

    def walk(self) -> "list[Info]":
        return [Info(*row) for row in self.database.query("SELECT key, parent FROM snapshots")]

    def prepare(self, key: str, parent: str | None) -> None:
        with self.database.transaction() as connection:
            if connection.execute("SELECT 1 FROM snapshots WHERE key = ?", (key,)).fetchone():
                raise AlreadyExists(key)
            connection.execute("INSERT INTO snapshots VALUES (?, ?)", (key, parent))

    def remove(self, key: str) -> None:
        with self.database.transaction() as connection:
            if connection.execute("SELECT 1 FROM snapshots WHERE parent = ?", (key,)).fetchone():
                raise FailedPrecondition(key)
            if not connection.execute("DELETE FROM snapshots WHERE key = ?", (key,)).rowcount:
                raise NotFound(key)

    def reclaim(self) -> int:
        return 0


class Worker:
    """One process's view of the store at *root*."""

    def __init__(self, root: str, seed: int) -> None:
        self.rng = random.Random(seed)
        self.content = ContentStore(root)
        self.metadata = Metadata(root)
        self.snapshots = StoredSnapshots(root)

    def run(self, seconds: float) -> None:
        acts = [self.load] * 4 + [self.remove] * 3 + [self.create] * 3 + [self.look] * 3
        acts += [self.tag, self.destroy, self.destroy, self.abandon, self.collect, self.collect]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.rng.choice(acts)()

    def load(self) -> None:
        """Put one of few images, whose layers many share."""
        number = self.rng.randrange(IMAGES)
        choice = random.Random(number)
        layers = tuple(layer(choice.randrange(LAYERS)) for _ in range(choice.randrange(4)))
        names = [f"name:{self.rng.randrange(NAMES)}"] if self.rng.random() < 0.7 else []
        chain = tuple(f"chain {number} {at}" for at in range(len(layers)))
        put(self.content, self.metadata, f"image {number}", *names, layers=layers, chain_ids=chain)

    def image(self) -> str | None:
        images = self.metadata.images()
        return self.rng.choice(images).id if images else None

    def remove(self) -> None:
        image = self.image()
        if image:
            try:
                self.metadata.delete_image(image, if_unused=self.rng.random() < 0.5)
            except (NotFound, FailedPrecondition):
                pass

    def tag(self) -> None:
        image = self.image()
        if image:
            try:
                self.metadata.set_reference(f"name:{self.rng.randrange(NAMES)}", image)
            except NotFound:
                pass

    def create(self) -> None:
        """What the start of a container does: the layers' snapshots, made where they are missing, and its own."""
        image = self.image()
        container = f"container {self.rng.randrange(CONTAINERS)}"
        if image is None:
            return
        with self.metadata.lease() as lease:
            chain = self.metadata.chain_ids(image)
            lease.protect_snapshot(container, *chain)
            parent = None
            for key in [*chain, container]:
                try:
                    # Under the lease the parent cannot go: a broken foreign key ends this process.
                    self.snapshots.prepare(key, parent)
                except AlreadyExists:
                    if key == container:
                        return
                parent = key
            try:
                self.metadata.use_image(container, image)
            except NotFound:
                pass

    def destroy(self) -> None:
        self.metadata.unuse(f"container {self.rng.randrange(CONTAINERS)}")

    def abandon(self) -> None:
        """A writer that gives up."""
        with self.content.ingest() as writer:
            writer.write(layer(self.rng.randrange(LAYERS)))

    def collect(self) -> None:
        collect(self.content, self.metadata, [self.snapshots])

    def look(self) -> None:
        """Read an image whole: its blobs are there and right as long as a row or our lease names them."""
        image = self.image()
        if image is None:
            return
        with self.metadata.lease() as lease:
            digests = [digest for digest, _ in self.metadata.blobs(image)]
            lease.protect(*digests)
            if [digest for digest, _ in self.metadata.blobs(image)] != digests or not digests:
                return  # deleted before we held it
            for digest in digests:
                self.content.read(digest)


class Info:
    """A snapshot."""

    def __init__(self, key: str, parent: str | None) -> None:
        self.key = key
        self.parent = parent


if __name__ == "__main__":
    Worker(sys.argv[1], int(sys.argv[2])).run(float(sys.argv[3]))
