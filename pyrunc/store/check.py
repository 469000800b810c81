"""What the store has lost, and whom it concerns."""

from pyrunc.errors import DataLoss, NotFound
from pyrunc.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal

    from pyrunc.store.collect import Collectable
    from pyrunc.store.content import ContentStore
    from pyrunc.store.metadata import Metadata


class Problem(NamedTuple):
    """Something that is not as it was written.

    *what* is a digest, a snapshot's key or a path, *text* one sentence about it; *images* are the ids of those that it
    concerns, *names* their references and repository digests, *containers* those that use them.
    """

    kind: "Literal['missing', 'damaged', 'unexpected', 'database']"
    what: str
    text: str
    images: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()


def check(
    content: "ContentStore",
    metadata: "Metadata | None",
    snapshotters: "Sequence[Collectable]" = (),
    *,
    progress: "Callable[[int], None] | None" = None,
) -> list[Problem]:
    """Read the database and every blob that it names, and tell what is wrong; with no *metadata*, all blobs.

    With *snapshotters*, containers whose own snapshot none of them has are told too. *progress* gets the size of
    each blob once it has been read. A blob that is stored again is whole again; nothing is changed here.
    """
    problems = [
        Problem("unexpected", path, f"{path} is no blob, and not pyrunc's") for path in content.strangers()
    ]
    if metadata is None:
        named = [blob.digest for blob in content.walk()]
    else:
        path = metadata.database.path
        problems += [Problem("database", path, text) for text in metadata.database.integrity()]
        try:
            named = metadata.named_blobs()
        except DataLoss as exc:
            return [*problems, Problem("database", path, str(exc))]
    for digest in named:
        found = _examine(content, digest, progress)
        if found is None:
            continue
        concerned = _concerned(metadata, digest) if metadata else ((), (), ())
        # Without any image it was deleted while we looked.
        if metadata is None or concerned[0]:
            problems.append(Problem(*found, *concerned))
    if metadata is not None and snapshotters:
        problems += _lost_snapshots(metadata, snapshotters)
    return problems


def _examine(
    content: "ContentStore", digest: str, progress: "Callable[[int], None] | None"
) -> "tuple[Literal['missing', 'damaged'], str, str] | None":
    try:
        with content.open(digest) as reader:
            reader.finish()
    except NotFound as exc:
        return "missing", digest, str(exc)
    except DataLoss as exc:
        return "damaged", digest, str(exc)
    except OSError as exc:
        return "damaged", digest, f"{digest} cannot be read: {exc}"
    if progress:
        progress(reader.size)
    return None


def _concerned(metadata: "Metadata", digest: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the images whose rows name *digest*, their names and users."""
    images = tuple(metadata.images_of(digest))
    names = [name for image in images for name, _ in (*metadata.references(image), *metadata.digests(image))]
    containers = [user for image in images for user in metadata.users(image)]
    return images, tuple(names), tuple(containers)


def _lost_snapshots(metadata: "Metadata", snapshotters: "Sequence[Collectable]") -> list[Problem]:
    before = metadata.uses()
    there = {snapshot.key for each in snapshotters for snapshot in each.walk()}
    # Those that were made or removed while we looked do not count.
    return [
        Problem("missing", snapshot, f"container {container} has lost its files", (image,), (), (container,))
        for container, image, snapshot in metadata.uses()
        if snapshot not in there and (container, image, snapshot) in before
    ]
