"""What the engine is asked for and answers: values that do not change, the same in process and over a socket.

Sizes are bytes, times nanoseconds since 1970 (0: not known), ids ``sha256:…`` for images and 64 hex digits for
containers, references in their short form ("debian:bookworm").
"""

from pyrunc.records import NamedTuple

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Literal

    State = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]


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


class ContainerRecord(NamedTuple):
    """What is known of a container, at one moment.

    *image* is what it was asked for as; *config* and *host_config* are Docker's Config and HostConfig, *options* those
    options of a Sandbox that Docker has no word for. *state* is Docker's. *exit_code* is of the latest run, *error* why
    it could not start, *pid* its init's and *shim_pid* its shim's while it runs. *stopped* says that a user ended it,
    *state_dir* where its shim is spoken to, "" for one that never ran here.
    """

    id: str
    name: str
    image: str
    image_id: str
    driver: str
    config: "Mapping[str, Any]"
    host_config: "Mapping[str, Any]"
    options: "Mapping[str, Any]"
    created_ns: int
    state: "State"
    pid: int = 0
    shim_pid: int = 0
    started_ns: int = 0
    finished_ns: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    restart_count: int = 0
    stopped: bool = False
    state_dir: str = ""
    log_path: str = ""

    @property
    def argv(self) -> "tuple[str, ...]":
        """The program with its arguments."""
        return *(self.config.get("Entrypoint") or ()), *(self.config.get("Cmd") or ())

    @property
    def auto_remove(self) -> bool:
        """Whether it goes with its end."""
        return bool(self.host_config.get("AutoRemove"))

    @property
    def running(self) -> bool:
        """Whether it has processes, stopped ones included."""
        return self.state in ("running", "paused")


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
