"""The pseudo-image "host": this host's own root under a scratch in memory, for those who asked for it by flag.

What a container of it can read is said in pyrunc/image/host.py.
"""

import os

from pyrunc.engine import throwaway
from pyrunc.engine.process import Starting
from pyrunc.errors import InvalidArgument
from pyrunc.image.host import host_root
from pyrunc.runtime.compile import Rootfs
from pyrunc.runtime.options import Mount

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyrunc.runtime.options import SandboxOptions


def create(
    root: str,
    argv: "Sequence[str] | None",
    entrypoint: "Sequence[str] | None",
    options: "SandboxOptions",
    keep: bool,
) -> Starting:
    """A container of the host's root, ready to start; *root* is what is hidden of pyrunc's own.

    Raises InvalidArgument for one that shall be kept (*keep*), or without a command.
    """
    if keep:
        raise InvalidArgument(
            "a container of the host's root is always thrown away: it takes no name, and needs --rm"
        )
    command = [*(entrypoint or ()), *(argv or ())]
    if not command:
        raise InvalidArgument("No command specified")
    state = os.environ.get("PYRUNC_STATE", "/run/pyrunc")
    place = host_root((root, state))
    mounts = [Mount(each.target, each.source, each.kind, each.options) for each in place.mounts]
    launcher = throwaway.launcher(
        Rootfs(place.layers, scratch=True), {**options, "mounts": [*mounts, *options.get("mounts", ())]}
    )
    return Starting(os.urandom(32).hex(), "", command, launcher, _nothing, _nothing, {})


def _nothing(*_: object) -> None:
    """No row is kept."""
