"""`update`: new limits for a container that exists, by flags or as a document."""

from __future__ import annotations

import errno
import os

from pyrunc.oci.container_cgroups import place
from pyrunc.oci.flags import decimal, quote
from pyrunc.oci.kill import NOT_RUNNING
from pyrunc.oci.lock import Lock
from pyrunc.oci.log import Failure, reason
from pyrunc.oci.reading import contents, parsed, whole
from pyrunc.oci.state import load, root_of

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.oci.flags import Command
    from pyrunc.oci.log import Log
    from pyrunc.oci.state import Container
    from pyrunc.runtime.cgroups import CgroupDir

# Flags in the order in which runc looks at them: section and key of linux.resources, and how they are read.
_UNSIGNED = (
    ("cpu-period", "cpu", "period"),
    ("cpu-rt-period", "cpu", "realtimePeriod"),
    ("cpu-share", "cpu", "shares"),
    ("cpu-burst", "cpu", "burst"),
)
_SIGNED = (
    ("cpu-quota", "cpu", "quota"),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime"),
    ("cpu-idle", "cpu", "idle"),
)
_SIZES = (
    ("memory", "memory", "limit"),
    ("memory-swap", "memory", "swap"),
    ("memory-reservation", "memory", "reservation"),
)
_TEXTS = (("cpuset-cpus", "cpu", "cpus"), ("cpuset-mems", "cpu", "mems"))
_NUMBERS = (("blkio-weight", "blockIO", "weight"), ("pids-limit", "pids", "limit"))
_RDT = (
    ("l3-cache-schema", "Intel RDT/CAT: l3 cache schema is not enabled"),
    ("mem-bw-schema", "Intel RDT/MBA: memory bandwidth schema is not enabled"),
)
_MULTIPLES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def run(command: Command, log: Log) -> int:
    """Change the limits; what is not named stays as it is. When one is refused, those before it are put back."""
    from pyrunc.runtime.cgroups import plan_update

    container = load(root_of(command.options), command.arguments[0])
    resources = _document(command.text("resources")) if command.text("resources") else from_flags(command)
    if container.status() in ("stopped", "creating"):
        raise Failure(NOT_RUNNING)
    if not resources:
        return 0
    with Lock(container.directory) as lock:
        lock.claim(container.id)
        plan = plan_update(*place(container), resources)
        _apply(container, plan.dirs, log)
    for field in plan.ignored:
        log.write("warning", f"{field} is ignored: no kernel honours it any more")
    return 0


def from_flags(command: Command) -> dict[str, Any]:
    """The `linux.resources` that the flags of a command line mean. Raises Failure."""
    found: dict[str, dict[str, Any]] = {}
    for flags, read in (
        (_UNSIGNED, lambda text: decimal(text, 0, (1 << 64) - 1)),
        (_SIGNED, decimal),
        (_SIZES, lambda text: -1 if text == "-1" else size(text)),
        (_TEXTS, str),
    ):
        for flag, section, key in flags:
            text = command.text(flag)
            if text:
                try:
                    found.setdefault(section, {})[key] = read(text)
                except ValueError as error:
                    raise Failure(f"invalid value for {flag}: {error}") from None
    for flag, section, key in _NUMBERS:
        if command.number(flag):
            found.setdefault(section, {})[key] = command.number(flag)
    for flag, words in _RDT:
        # Needs a resctrl file system and a group of the container's in it.
        if command.text(flag):
            raise Failure(words)
    return found


def _document(path: str) -> dict[str, Any]:
    try:
        data = whole(0, path) if path == "-" else contents(path, piped=True)
    except OSError as error:
        raise Failure(f"open {path}: {reason(error)}") from None
    if not data.strip():
        raise Failure("EOF")
    found = parsed(data, "resources")
    if not isinstance(found, dict):
        raise Failure("resources: must be an object")
    return found


def size(text: str) -> int:
    """A number of bytes as Docker and runc read it: `64M`, `1.5g`, `512 kb`. Raises ValueError."""
    end = max((text.rfind(character) for character in "0123456789. "), default=-1)
    if end < 0:
        raise ValueError(f"invalid size: '{text}'")
    number, suffix = text[:end] if text[end] == " " else text[: end + 1], text[end + 1 :]
    try:
        if not number.replace(".", "0").replace("-", "0").isdecimal():
            raise ValueError
        value = float(number)
    except ValueError:
        raise ValueError(f"strconv.ParseFloat: parsing {quote(number)}: invalid syntax") from None
    if value < 0:
        raise ValueError(f"invalid size: '{text}'")
    lower = suffix.lower()
    if lower in ("", "b"):
        return int(value)
    if lower[0] not in _MULTIPLES or lower[1:] not in ("", "b", "ib"):
        raise ValueError(f"invalid suffix: '{suffix}'")
    return int(value * _MULTIPLES[lower[0]])


def _apply(container: Container, directories: tuple[CgroupDir, ...], log: Log) -> None:
    """Write everything, after systemd has been told of it, where that has made the cgroups."""
    if not container.own.get("systemd"):
        _write(directories, log)
        return
    from pyrunc.oci import systemd

    unit = systemd.of_container(container)
    assert unit is not None
    before = _as_they_are(directories)
    systemd.set_limits(unit, directories)
    try:
        _write(directories, log)
    except Failure:
        systemd.set_limits(unit, before)
        _write(before, log)
        raise


def _as_they_are(directories: tuple[CgroupDir, ...]) -> tuple[CgroupDir, ...]:
    """The same with what is in their files now; those that are not there are left out."""
    from pyrunc.runtime.cgroup_files import read_at
    from pyrunc.runtime.cgroup_layout import Hierarchy

    found = []
    for directory in directories:
        descriptor = _open(Hierarchy(directory.mountpoint, "/", directory.version, ()), directory.path)
        writes = []
        try:
            for write in directory.writes:
                try:
                    writes.append(write._replace(value=_words(read_at(descriptor, write.file))))
                except OSError:
                    continue
        finally:
            os.close(descriptor)
        found.append(directory._replace(writes=tuple(writes)))
    return tuple(found)


def _write(directories: tuple[CgroupDir, ...], log: Log) -> None:
    """Write everything, or put back what was written. Raises Failure in runc's words."""
    from pyrunc.runtime.cgroup_files import read_at, write_at
    from pyrunc.runtime.cgroup_layout import Hierarchy
    from pyrunc.runtime.cgroup_writes import FAIL, NEXT

    undo: list[tuple[int, str, str]] = []
    opened: list[int] = []
    try:
        for directory in directories:
            hierarchy = Hierarchy(directory.mountpoint, "/", directory.version, ())
            descriptor = _open(hierarchy, directory.path)
            opened.append(descriptor)
            skip = False
            for write in directory.writes:
                if skip:
                    skip = False
                    continue
                try:
                    before = _words(read_at(descriptor, write.file))
                    write_at(descriptor, write.file, write.value)
                except OSError as error:
                    if error.errno == errno.ENOENT and write.on_missing != FAIL:
                        continue
                    place = f"{directory.mountpoint}/{directory.path}"
                    raise Failure(_refused(place, descriptor, write.file, write.value, error)) from None
                undo.append((descriptor, write.file, before))
                skip = write.on_missing == NEXT
    except Failure:
        for descriptor, file, before in reversed(undo):
            try:
                write_at(descriptor, file, before)
            except OSError as error:
                log.write("warning", f"{file} could not be put back to {before}: {reason(error)}")
        raise
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _open(hierarchy: Any, path: str) -> int:
    from pyrunc.runtime.cgroup_files import open_cgroup

    try:
        return open_cgroup(hierarchy, path)
    except OSError as error:
        raise Failure(f"open {hierarchy.mountpoint}/{path}: {reason(error)}") from None


def _words(text: str) -> str:
    """What a file showed, as it can be written again: one line of it."""
    return text.strip() or "\n"


def _refused(place: str, descriptor: int, file: str, value: str, error: OSError) -> str:
    from pyrunc.runtime.cgroup_files import read_at

    if error.errno == errno.EBUSY and file == "memory.limit_in_bytes":
        usage = read_at(descriptor, "memory.usage_in_bytes").strip()
        peak = read_at(descriptor, "memory.max_usage_in_bytes").strip()
        return f"unable to set memory limit to {value} (current usage: {usage}, peak usage: {peak})"
    return f"failed to write {quote(value)}: write {place}/{file}: {reason(error)}"
