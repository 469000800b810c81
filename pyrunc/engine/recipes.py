"""What containers that are made alike have in common, kept by the process that makes them: documents and a plan.

The plan of one that was started is that of the next but for the number of its snapshot, as long as nothing in it
depends on more than the image and the options: what the host may change meanwhile is looked up each time.
"""

import os

from pyrunc.engine import throwaway
from pyrunc.engine.container_rows import document_of
from pyrunc.engine.parts import lock
from pyrunc.records import NamedTuple

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pyrunc.engine.bases import Base
    from pyrunc.engine.creating import Wanted
    from pyrunc.runtime.compile import Rootfs
    from pyrunc.runtime.launcher import Launcher
    from pyrunc.runtime.options import SandboxOptions

_MOST = 64  # recipes that are kept; each is some 50 KB
_MARK = "\x04"  # as many as the number of the snapshot has digits
# What depends on the host's files and devices, or on other containers.
_CHANGING = frozenset({"mounts", "devices", "privileged"})
_NAMESPACES = ("pid", "ipc", "uts", "cgroupns")
_RESOLV_CONF = "/etc/resolv.conf"


class Recipe:
    """Documents of containers, the *document* in which a row keeps them, and the plan that the latest of them had."""

    __slots__ = ("config", "document", "host_config", "options", "plan")

    def __init__(
        self, config: "Mapping[str, Any]", host_config: "Mapping[str, Any]", options: "Mapping[str, Any]"
    ) -> None:
        self.config = config
        self.host_config = host_config
        self.options = options
        self.document = document_of(config, host_config, options)
        self.plan: tuple[object, Launcher] | None = None  # and what it is for


class Fresh(NamedTuple):
    """A container that has just been made: its root (None without a snapshot), in which nothing was written yet."""

    rootfs: "Rootfs | None"
    recipe: Recipe

    def launcher(self) -> "Launcher | None":
        """What starts it, if one that is alike was started before."""
        plan = self.recipe.plan
        if plan is None or self.rootfs is None:
            return None
        number = _number(self.rootfs)
        shape, found = plan
        if shape != _shape(self.rootfs, number):
            return None
        return found.renamed(_MARK * len(number), number)

    def compiled(self, options: "SandboxOptions") -> "Launcher":
        """What starts it with *options*, for the next one too. Raises as throwaway.launcher."""
        rootfs = self.rootfs
        assert rootfs is not None
        number = _number(rootfs)
        if not number or not _stays(options):
            return throwaway.launcher(rootfs, options)
        shape = _shape(rootfs, number)
        place = os.path.join(os.path.dirname(os.path.dirname(rootfs.upper)), _MARK * len(number))
        said = rootfs._replace(
            upper=os.path.join(place, os.path.basename(rootfs.upper)),
            work=os.path.join(place, os.path.basename(rootfs.work)),
        )
        found = throwaway.launcher(rootfs, options, said)
        self.recipe.plan = shape, found
        return found.renamed(_MARK * len(number), number)


class Recipes:
    """Those of one engine."""

    def __init__(self) -> None:
        self._kept: dict[object, Recipe] = {}

    def get(self, key: object) -> Recipe | None:
        """The recipe of *key*, if it is kept."""
        return self._kept.get(key)

    def put(self, key: object, recipe: Recipe) -> None:
        """Keep one; the oldest goes when there are too many."""
        with lock:
            if len(self._kept) >= _MOST:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = recipe


def key_of(base: "Base", wanted: "Wanted") -> object:
    """What is the same for containers that are made alike."""
    return (
        base.image_id, base.driver, wanted.image, repr(wanted.argv), repr(wanted.entrypoint), repr(wanted.config),
        repr(wanted.host_config), repr(sorted(wanted.options.items())),
    )  # fmt: skip


def _number(rootfs: "Rootfs") -> str:
    """The name of the directory of *rootfs* that is its own; "" if it has none."""
    own = os.path.dirname(rootfs.upper)
    number = os.path.basename(own)
    return number if number.isdigit() and rootfs.work.startswith(f"{own}/") else ""


def _shape(rootfs: "Rootfs", number: str) -> object:
    """What a plan is for, but the number."""
    try:
        status = os.stat(_RESOLV_CONF)
        names: tuple[int, ...] = status.st_ino, status.st_mtime_ns, status.st_size
    except OSError:
        names = ()
    return rootfs.layers, os.path.dirname(os.path.dirname(rootfs.upper)), len(number), rootfs.volatile, names


def _stays(options: "SandboxOptions") -> bool:
    """Whether *options* mean the same the next time."""
    if _CHANGING & set(options) or options.get("network", "none") != "none":
        return False
    return not any(str(options.get(key, "")).startswith("/") for key in _NAMESPACES)
