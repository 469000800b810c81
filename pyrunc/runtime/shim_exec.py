"""A further program in a running container that outlives its starter, or has clients: with a shim of its own."""

from __future__ import annotations

from pyrunc._native import plan as native
from pyrunc.runtime import shim
from pyrunc.runtime.joining import Joined, Joining

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence
    from socket import socket

    from pyrunc.runtime.supervised import Supervised


class ShimmedExec(shim.Shimmed, Joined):
    """As Shimmed, of a program in a container of another's."""


def start(
    joining: Joining, settings: shim.ShimSettings, client: socket | int | None = None
) -> shim.ShimProcess:
    """Start the program of *joining*, as pyrunc.runtime.shim.start does a container's.

    Raises FailedPrecondition if the container has ended, and StartError or one of its kind.
    """
    shim.check(settings)
    block = settings.block(client is not None)
    flags = native.FLAG_KEEP_RUNNING if settings.keep_running else 0

    def ask(descriptors: Sequence[int]) -> Supervised:
        return joining.request(descriptors, flags, True, block, ShimmedExec)

    return shim.started(ask, settings, client)
