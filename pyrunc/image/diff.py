"""Layers written from directories, with their digests; and what a container has changed, as ``docker diff`` lists it.

What is written is a plain tar, so its digest is the layer's diffID as well. The work is done by `_native.layer_diff`,
which says what a layer holds; here bytes are hashed as they pass, and errors get their names.
"""

import errno
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from pyrunc._native import layer_diff
from pyrunc.errors import FailedPrecondition, Unsupported

Sink = Callable[[memoryview], object]


class Written(NamedTuple):
    """A plain layer that was written: *digest* is ``sha256:`` and 64 hex digits, *size* is in bytes."""

    digest: str
    size: int
    members: int


def write_tree(root_fd: int, sink: Sink, *, clamp_mtime_ns: int | None = None) -> Written:
    """Write all that is below the directory *root_fd* as one layer, the root itself as "./".

    *sink* gets the bytes, at most 1 MiB at a time, valid during the call only. Times of change after
    *clamp_mtime_ns* (nanoseconds since 1970) are written as that.

    Raises FailedPrecondition for a file or directory that changes under the walk, OSError with the path for what the
    file system refuses, and what *sink* raises.
    """
    return _hashed(sink, lambda out: layer_diff.write_tree(root_fd, out, clamp_mtime_ns=clamp_mtime_ns))


def write_overlay_diff(
    upper_fd: int, sink: Sink, *, userxattr: bool = False, clamp_mtime_ns: int | None = None
) -> Written:
    """Write the upper directory *upper_fd* of an overlay as an OCI layer, otherwise as `write_tree`.

    *userxattr*: the overlay was mounted with that option. Raises Unsupported for an overlay with redirect_dir or
    metacopy in use, whose upper directory is not all there is, and for names that begin with ".wh.".
    Source: OCI image-spec, layer.md, "Representing Changes".
    """
    return _hashed(
        sink,
        lambda out: layer_diff.write_overlay_diff(
            upper_fd, out, userxattr=userxattr, clamp_mtime_ns=clamp_mtime_ns
        ),
    )


def write_tree_diff(
    lower_fd: int, upper_fd: int, sink: Sink, *, clamp_mtime_ns: int | None = None
) -> Written:
    """Write what makes the tree *lower_fd* the tree *upper_fd* as an OCI layer, otherwise as `write_tree`.

    Content is trusted to be equal where size and time of change are, if that time has a fraction of a second.
    Raises Unsupported for names that begin with ".wh.".
    """
    return _hashed(
        sink, lambda out: layer_diff.write_tree_diff(lower_fd, upper_fd, out, clamp_mtime_ns=clamp_mtime_ns)
    )


def overlay_changes(
    upper_fd: int, lower_fds: Sequence[int], *, userxattr: bool = False
) -> list[tuple[str, str]]:
    """List what the upper directory *upper_fd* of an overlay changes in the layers *lower_fds*, the highest first.

    Pairs of "A" (added), "C" (changed, or something in it was) or "D" (deleted) and a path from "/", as ``docker
    diff`` has them. Raises as `write_overlay_diff`.
    """
    with _named():
        return layer_diff.overlay_changes(upper_fd, lower_fds, userxattr=userxattr)


def tree_changes(lower_fd: int, upper_fd: int) -> list[tuple[str, str]]:
    """List what differs between the trees *lower_fd* and *upper_fd*, as `overlay_changes` does."""
    with _named():
        return layer_diff.tree_changes(lower_fd, upper_fd)


def _hashed(sink: Sink, write: Callable[[Sink], tuple[int, int]]) -> Written:
    digest = hashlib.sha256()

    def pass_on(data: memoryview) -> None:
        digest.update(data)
        sink(data)

    with _named():
        members, size = write(pass_on)
    return Written(f"sha256:{digest.hexdigest()}", size, members)


@contextmanager
def _named() -> Iterator[None]:
    """Give the conditions of a walk their names; what a file system or a sink says passes."""
    try:
        yield
    except OSError as exc:
        text = f"{exc.filename}: {exc.strerror}"
        if exc.errno == errno.ESTALE:
            raise FailedPrecondition(text) from exc
        if exc.errno in (errno.EOPNOTSUPP, errno.EINVAL):
            raise Unsupported(text) from exc
        raise
