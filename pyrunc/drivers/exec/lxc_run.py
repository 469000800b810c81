"""What LXC leaves on the host whatever it is told: locks in /run/lxc. Its processes get a file system there.

The directory is the host's, and goes with the last container that is being made: each has one of its own in it, so
that nobody removes it under another's mount.
"""

from __future__ import annotations

import os

from pyrunc._native import mount

_RUN = "/run/lxc"


def cover(container_id: str) -> None:
    """Mount an empty file system over /run/lxc, in a mount namespace of this process's own. Raises OSError."""
    while True:
        try:
            os.makedirs(_mark(container_id))
            break
        except FileExistsError:
            break
        except FileNotFoundError:
            continue  # the last one before this one has gone
    mount.mount(b"tmpfs", _RUN.encode(), b"tmpfs", 0, b"mode=755")


def uncover(container_id: str) -> None:
    """Undo what `cover` has done, as far as it has. Raises OSError."""
    mount.umount2(_RUN.encode(), mount.MNT_DETACH)
    forget(container_id)


def forget(container_id: str) -> None:
    """Remove what `cover` has left on the host, if it was killed; it may be nothing."""
    for path in (_mark(container_id), _RUN):
        try:
            os.rmdir(path)
        except OSError:
            return  # others are being made, or it is LXC's own


def _mark(container_id: str) -> str:
    return f"{_RUN}/pyrunc-{container_id}"
