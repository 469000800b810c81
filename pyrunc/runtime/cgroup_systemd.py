"""`linux.cgroupsPath` where systemd manages the cgroups: which unit it names, and where systemd puts that.

Source: runc docs/systemd.md, "Systemd unit name and placement"; systemd.slice(5) for the names of slices.
"""

from __future__ import annotations

from pyrunc.errors import InvalidSpec
from pyrunc.records import NamedTuple

_FIELD = "linux.cgroupsPath"


class SystemdPath(NamedTuple):
    """A unit of systemd that holds a container."""

    slice: str
    """The slice that the unit is in; "" for the root slice."""
    unit: str
    """The scope that is made, or itself a slice."""

    @property
    def path(self) -> str:
        """Where that is in each hierarchy, absolute."""
        return f"{expand_slice(self.slice)}/{self.unit}"


def parse(cgroups_path: str, container_id: str, *, rootless: bool = False) -> SystemdPath:
    """Read ``slice:prefix:name``; without one of them it is what runc takes in its place.

    Raises InvalidSpec for another form and for a name that no slice can have.
    """
    parts = cgroups_path.split(":") if cgroups_path else ["", "runc", container_id]
    if len(parts) != 3:
        raise InvalidSpec(
            f'{_FIELD}: expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, '
            f'got "{cgroups_path}" instead'
        )
    place, prefix, name = parts
    for part in parts:
        if "/" in part or "\0" in part or "\n" in part:
            raise InvalidSpec(f"{_FIELD}: {part!r} is no part of the name of a unit")
    if not name:
        raise InvalidSpec(f"{_FIELD}: {cgroups_path!r} names no unit")
    place = place or ("user.slice" if rootless else "system.slice")
    expand_slice(place)
    if name.endswith(".slice"):
        expand_slice(name)
        return SystemdPath(place, name)
    return SystemdPath(place, f"{prefix}-{name}.scope" if prefix else f"{name}.scope")


def expand_slice(name: str) -> str:
    """The path of a slice: ``a-b.slice`` is in ``a.slice``; ``-.slice`` is the root, "".

    Raises InvalidSpec for what is no name of a slice.
    """
    stem = name.removesuffix(".slice")
    if name == "-.slice":
        return ""
    parts = stem.split("-")
    if stem == name or "/" in name or not all(parts):
        raise InvalidSpec(f"{_FIELD}: invalid slice name: {name}")
    return "".join(f"/{'-'.join(parts[: count + 1])}.slice" for count in range(len(parts)))
