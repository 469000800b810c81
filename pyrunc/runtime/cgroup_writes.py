"""What converting `linux.resources` reads from and writes to: objects of the document, and the writes they come to.

Whatever is not of its type, or outside its range, is told by the name of its field.
"""

from __future__ import annotations

from _collections_abc import Mapping  # collections.abc would import all of collections

from pyrunc.records import NamedTuple
from pyrunc.runtime.cgroup_errors import InvalidResources, UnsupportedResource
from pyrunc.runtime.cgroup_layout import Hierarchy, Layout

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    # Reads a file of the existing cgroup in that hierarchy, for an update; "" where it cannot be read.
    Current = Callable[[Hierarchy, str], str]

ROOT = "linux.resources"
FAIL, SKIP, NEXT = 0, 1, 2
"""What a missing file (ENOENT) means for a write: an error; nothing; that the write after it is done in its
place, which is skipped otherwise."""


class Write(NamedTuple):
    """One write(2) of a whole value to a file of a cgroup."""

    file: str
    value: str
    on_missing: int = FAIL


class Section:
    """One object of the document, with the name that errors call it by."""

    __slots__ = ("name", "values")

    def __init__(self, values: object, name: str) -> None:
        """Wrap *values*, or nothing where it is None; raises InvalidResources where it is no object."""
        if values is not None and not isinstance(values, Mapping):
            raise InvalidResources(f"{name}: must be an object")
        self.values: Mapping[str, Any] = values or {}
        self.name = name

    def integer(self, key: str, low: int, high: int) -> int | None:
        """Read an integer, None where it is absent; raises InvalidResources outside low..high."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidResources(f"{self.name}.{key}: must be an integer of {low}..{high}, not {value!r}")
        return value

    def flag(self, key: str) -> bool:
        """Read a boolean, False where it is absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise InvalidResources(f"{self.name}.{key}: must be true or false, not {value!r}")
        return bool(value)

    def text(self, key: str) -> str:
        """Read a string without line breaks, "" where it is absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise InvalidResources(f"{self.name}.{key}: must be a string, not {value!r}")
        if value and ("\n" in value or "\0" in value):
            raise InvalidResources(f"{self.name}.{key}: must be one line")
        return value or ""

    def sections(self, key: str) -> list[Section]:
        """Read a list of objects, empty where it is absent."""
        entries = self.values.get(key)
        if entries is not None and not isinstance(entries, list):
            raise InvalidResources(f"{self.name}.{key}: must be a list")
        return [Section(entry, f"{self.name}.{key}[{index}]") for index, entry in enumerate(entries or ())]


class Writes:
    """The writes of one container, collected for each hierarchy in the order in which they must happen."""

    __slots__ = ("by_hierarchy", "current", "ignored", "layout", "needed")

    def __init__(self, layout: Layout, current: Current | None) -> None:
        """Start empty; *current* is None for a cgroup that does not exist yet, whose files have their
        defaults.
        """
        self.layout = layout
        self.current = current
        self.by_hierarchy: dict[Hierarchy, list[Write]] = {}
        self.needed: set[str] = set()
        self.ignored: list[str] = []

    def target(self, field: str, v1: str, v2: str | None) -> Hierarchy:
        """Find the hierarchy with the controller that is called *v1* and *v2* in the two versions, for
        *field*.

        None for *v2* where only cgroup v1 can do it. Raises UnsupportedResource where no hierarchy has it.
        """
        for hierarchy in self.layout.hierarchies:
            name = v1 if hierarchy.version == 1 else v2
            if name in hierarchy.controllers:
                if hierarchy.version == 2 and name is not None:
                    self.needed.add(name)
                return hierarchy
        if v2 is None and (self.layout.mode == "v2" or self.layout.of(v1) is not None):
            raise UnsupportedResource(f"{ROOT}.{field}: cgroup v2 has nothing like it")
        missing = v2 if self.layout.mode == "v2" else v1
        raise UnsupportedResource(f"{ROOT}.{field}: no {missing} controller on this host")

    def put(self, hierarchy: Hierarchy, file: str, value: int | str, on_missing: int = FAIL) -> None:
        """Add one write."""
        self.by_hierarchy.setdefault(hierarchy, []).append(Write(file, str(value), on_missing))

    def read(self, hierarchy: Hierarchy, file: str) -> int | None:
        """Read the first number of a file of an existing cgroup; None for no limit, no file and no cgroup
        yet.
        """
        words = self.current(hierarchy, file).split() if self.current is not None else []
        return int(words[0]) if words and words[0].lstrip("-").isdigit() else None
