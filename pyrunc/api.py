"""What the engine is asked for and answers: values that do not change, the same in process and over a socket.

Sizes are bytes, times nanoseconds since 1970 (0: not known), ids ``sha256:…`` for images and 64 hex digits for
containers, references in their short form ("debian:bookworm").
"""

from pyrunc.records import NamedTuple

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Literal


class Image(NamedTuple):
    """An image; *digests* are ``name@sha256:…``, *parent* the id of the one that it was committed from."""

    id: str
    references: "tuple[str, ...]"
    digests: "tuple[str, ...]"
    parent: str
    created_ns: int
    size: int
    os: str
    architecture: str
    labels: "Mapping[str, str]"

    @property
    def dangling(self) -> bool:
        """Whether nothing names it."""
        return not self.references and not self.digests


class ImageDetails(NamedTuple):
    """An image, its *config* (OCI image-spec, config.md), its *layers* as diffIDs, the *driver* of its snapshots."""

    image: Image
    config: "Mapping[str, Any]"
    layers: "tuple[str, ...]"
    driver: str
    tagged_ns: int


class HistoryEntry(NamedTuple):
    """One step of how an image came to be, the latest first; *id* is "" for all but those that are images here."""

    id: str
    created_ns: int
    created_by: str
    size: int
    comment: str
    references: "tuple[str, ...]" = ()


class Loaded(NamedTuple):
    """An image that an archive had, and what it is called since."""

    id: str
    references: "tuple[str, ...]"


class Removed(NamedTuple):
    """One step of a removal: a reference that is gone, or the id of an image or a layer."""

    kind: "Literal['untagged', 'deleted']"
    name: str


class Pruned(NamedTuple):
    """What a prune removed, and the space of the layers that went."""

    removed: "tuple[Removed, ...]"
    reclaimed_bytes: int


class Progress(NamedTuple):
    """How far a step is: bytes *done* of *total* (0: not known) of *item*."""

    step: str
    item: str
    done: int
    total: int


class ContainerResult(NamedTuple):
    """What a finished run left; all but the last two as in RunResult.

    *container_id* and *name* are those of a container that was kept, "" otherwise.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    oom_killed: bool
    timings_ns: dict[str, int]
    utime_us: int
    stime_us: int
    maxrss_bytes: int
    overhead_us: int
    container_id: str = ""
    name: str = ""


class Container(NamedTuple):
    """A container that has a row: one that was kept, or that runs under a name.

    *image* is what it was asked for as, *argv* the program with its arguments; *config* is Docker's Config.
    """

    id: str
    name: str
    image: str
    image_id: str
    argv: "tuple[str, ...]"
    config: "Mapping[str, Any]"
    created_ns: int
    state: "Literal['created', 'running', 'exited']"
    pid: int = 0
    started_ns: int = 0
    finished_ns: int = 0
    exit_code: int = 0
    driver: str = ""
    remove: bool = False


class CommitRequest(NamedTuple):
    """A container's change as an image; *changes* are instructions of a Dockerfile, *pause* stops it meanwhile."""

    container: str
    reference: str = ""
    changes: "Sequence[str]" = ()
    author: str = ""
    message: str = ""
    pause: bool = True


if TYPE_CHECKING:
    OnProgress = Callable[[Progress], None]
