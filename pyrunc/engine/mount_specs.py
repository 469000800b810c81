"""What a container mounts: decided once, when it is created, and made into mounts each time it starts.

Docker's precedence: of what one place is named for, Mounts and Binds win over VolumesFrom (the last of several), and
all of them over the Volumes of the config; a tmpfs of Tmpfs covers whatever else is there.
"""

import os

from pyrunc.engine import events, mount_parse, observing, volume_options
from pyrunc.engine.mounts_wanted import wanted
from pyrunc.engine.volume_fill import fill
from pyrunc.engine.volumes import Claim
from pyrunc.errors import FailedPrecondition, InvalidArgument, NotFound, PyruncError, Unsupported
from pyrunc.runtime.options import Mount
from pyrunc.store.files import make_directory

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pyrunc.engine.parts import Parts

    Point = dict[str, Any]

_KEYS = ("Type", "Name", "Source", "Destination", "Driver", "Mode", "RW", "Propagation")
_LEFT_OUT = frozenset(("Name", "Driver"))  # by Docker, when they are empty
_RUNS = frozenset(("running", "paused", "restarting"))
_TMPFS = ("noexec", "nosuid", "nodev")


def resolve(
    parts: "Parts", container_id: str, config: "Mapping[str, Any]", host_config: "Mapping[str, Any]"
) -> list[Mount]:
    """The mounts of a container, which is about to start; what they are is decided now, if it was not before.

    Raises what `prepare` and `mounts` do.
    """
    prepare(parts, container_id, config, host_config)
    if not wanted(config, host_config):
        return []
    found = mounts(parts, container_id, host_config)
    for point in _volumes(parts, container_id):
        attributes = {
            "container": container_id, "destination": point["Destination"], "driver": point["Driver"],
            "propagation": point["Propagation"], "read/write": str(point["RW"]).lower(),
        }  # fmt: skip
        events.write(parts.root, "volume", "mount", point["Name"], attributes)
    return found


def mounted(parts: "Parts", container_id: str) -> "list[Point]":
    """The volumes that a container mounts while it runs."""
    return _volumes(parts, container_id) if _has_rows(parts) else []


def say_unmounted(parts: "Parts", container_id: str, points: "list[Point]") -> None:
    """Say of the volumes of a container that has ended that it does not mount them any more."""
    for point in points:
        attributes = {"container": container_id, "driver": point["Driver"]}
        events.write(parts.root, "volume", "unmount", point["Name"], attributes)


def _volumes(parts: "Parts", container_id: str) -> "list[Point]":
    return [point for point in parts.volumes.mount_points(container_id) if point["Type"] == "volume"]


def prepare(
    parts: "Parts", container_id: str, config: "Mapping[str, Any]", host_config: "Mapping[str, Any]"
) -> None:
    """Decide what a container mounts, once, and claim it; the container has its row and its snapshot already.

    Volumes are made, and those that are empty get what its image has there. Raises InvalidArgument, NotFound,
    FailedPrecondition in Docker's words, Unsupported, and OSError. After an error `release` undoes it.
    """
    if not wanted(config, host_config) or parts.volumes.is_known(container_id):
        return
    points = _points(parts, config, host_config)
    parts.volumes.claim(container_id, [_claim(point) for point in points])
    copied = [
        point
        for point in parts.volumes.mount_points(container_id)
        if point.get("Copy") and not point.get("Subpath")
    ]
    if copied:
        with parts.snapshotter.mounted(container_id) as tree:
            _fill(parts, container_id, copied, tree)


def _claim(point: "Point") -> Claim:
    kept = {
        key: value for key, value in point.items() if key not in ("Labels", "Options")
    }  # the volume has these
    return Claim(
        point["Destination"], point.get("Name") or None, kept, point.get("Labels"), point.get("Options")
    )


def mounts(parts: "Parts", container_id: str, host_config: "Mapping[str, Any]") -> list[Mount]:
    """What a container that `prepare` was called for mounts now; missing directories of -v are made.

    Raises InvalidArgument for a source that is not there, FailedPrecondition for one that does not propagate as asked,
    Unsupported, in Docker's words. What Tmpfs covers is left out; Tmpfs itself is an option of the sandbox.
    """
    covered = _tmpfs(host_config)
    return [
        _mount(parts, container_id, point)
        for point in parts.volumes.mount_points(container_id)
        if point["Destination"] not in covered
    ]


def mount_points_of(parts: "Parts", container_id: str) -> "list[dict[str, Any]]":
    """The array Mounts of `docker inspect`."""
    found = []
    for point in parts.volumes.mount_points(container_id) if _has_rows(parts) else ():
        document = {key: point.get(key, "") for key in _KEYS}
        if point["Type"] == "volume":
            document["Source"] = parts.volumes.data(point["Name"])
        found.append({key: value for key, value in document.items() if value != "" or key not in _LEFT_OUT})
    return found


def release(parts: "Parts", container_id: str, *, anonymous: bool) -> list[str]:
    """Let go of what a container, which is gone or about to go, has claimed; see `Volumes.release`.

    The names of the volumes that went with it.
    """
    return parts.volumes.release(container_id, anonymous=anonymous) if _has_rows(parts) else []


def _has_rows(parts: "Parts") -> bool:
    """Whether there ever was a mount point, so that who has none opens no database."""
    return os.path.exists(os.path.join(parts.root, "volumes.db"))


def _points(parts: "Parts", config: "Mapping[str, Any]", host_config: "Mapping[str, Any]") -> "list[Point]":
    """The mount points that are asked for, each place once."""
    found: dict[str, Point] = {}
    for spec in host_config.get("VolumesFrom") or ():
        found |= _from_other(parts, spec)
    tmpfs = _tmpfs(host_config)
    taken: set[str] = set()
    for spec in host_config.get("Binds") or ():
        point = mount_parse.bind(spec, host_config.get("VolumeDriver") or "")
        _take(point, taken | tmpfs)
        taken.add(point["Destination"])
        found[point["Destination"]] = point
    for mount in host_config.get("Mounts") or ():
        point = mount_parse.mounted(mount)
        _take(point, taken)
        taken.add(point["Destination"])
        if point["Type"] == "bind" and not point["Create"] and not os.path.lexists(point["Source"]):
            raise _missing(point["Source"])
        found[point["Destination"]] = point
    for path in config.get("Volumes") or ():
        point = mount_parse.anonymous(path)
        if point["Destination"] not in tmpfs:
            mount_parse.check_driver("", host_config.get("VolumeDriver") or "")
            found.setdefault(point["Destination"], point)
    return list(found.values())


def _tmpfs(host_config: "Mapping[str, Any]") -> "set[str]":
    """Where Tmpfs is mounted. Raises InvalidArgument for what is no path or no option."""
    return {mount_parse.tmpfs(path, text) for path, text in (host_config.get("Tmpfs") or {}).items()}


def _take(point: "Point", taken: "set[str]") -> None:
    if point["Destination"] in taken:
        raise InvalidArgument(f"Duplicate mount point: {point['Destination']}")


def _from_other(parts: "Parts", spec: str) -> "dict[str, Point]":
    """What another container mounts, as ``container[:mode]`` of VolumesFrom has it."""
    name, writable = mount_parse.volumes_from(spec)
    other = parts.containers.find(name).record
    return {
        point["Destination"]: {**point, "Mode": "", "RW": point["RW"] and writable, "Copy": False}
        for point in (parts.volumes.mount_points(other.id) if _has_rows(parts) else ())
    }


def _fill(parts: "Parts", container_id: str, points: "list[Point]", tree: int) -> None:
    for point in points:
        volume = parts.volumes.get(point["Name"])
        if volume_options.is_mounted(volume.options) and not volume_options.is_bind(volume.options):
            continue  # its file system is there while it is mounted only
        alone = parts.volumes.users(volume.name) == [container_id]
        place = volume.options["device"] if volume.options else ""
        fill(parts, volume.name, tree, point["Destination"], alone=alone, place=place)


def _mount(parts: "Parts", container_id: str, point: "Point") -> Mount:
    target, readonly = point["Destination"], not point["RW"]
    _check_proc(point, target)
    if point["Type"] == "tmpfs":
        options = [*_TMPFS, *(word for word in point["Tmpfs"].split(",") if word), *(["ro"] * readonly)]
        return Mount(target, "tmpfs", "tmpfs", options)
    recursion = point.get("Recursion") or ""
    words = ["bind" if recursion == "disabled" else "rbind"]
    if readonly:
        # As Docker since 25: what is mounted below a read-only bind is read-only too.
        words.append("ro" if recursion in ("disabled", "writable") else "rro")
    words.append(point["Propagation"] or "rprivate")
    if point["Type"] == "bind":
        source = point["Source"]
        if not os.path.lexists(source):
            if not point.get("Create"):
                raise _missing(source)
            _make(source)
        _check_propagation(source, point["Propagation"])
        return Mount(target, source, "bind", words)
    return _volume(parts, container_id, point, target, words)


def _check_proc(point: "Point", target: str) -> None:
    """Refuse what would stand in the place of the kernel's own files, as runc does; with files of /proc it may."""
    if target != "/proc" and not target.startswith("/proc/"):
        return
    from pyrunc.runtime.mount_words import COVERED

    if target in COVERED:
        return
    why = "it is inside /proc"
    if target == "/proc":
        why = "it is not of type proc"
        try:
            if point["Type"] == "bind" and os.stat(point["Source"]).st_dev == os.stat("/proc").st_dev:
                return
        except OSError:
            pass  # it is not there
    raise InvalidArgument(
        f'error mounting to rootfs at "{target}": "{target}" cannot be mounted because {why}'
    )


def _volume(parts: "Parts", container_id: str, point: "Point", target: str, words: "list[str]") -> Mount:
    volume = parts.volumes.get(point["Name"])
    subpath = point.get("Subpath") or ""
    if volume.options:
        if subpath:
            raise Unsupported(f"volume {volume.name}: a subpath of a volume with options of its own")
        if volume.options["type"] == "tmpfs" and not volume_options.is_bind(volume.options):
            _check_alone(parts, container_id, volume.name)
        elif volume_options.is_bind(volume.options) and not os.path.lexists(volume.options["device"]):
            raise FailedPrecondition(
                f"error while mounting volume '{volume.mountpoint}': failed to mount local volume: mount"
                f" {volume.options['device']}:{volume.mountpoint}, flags: 0x1000: no such file or directory"
            )
        return volume_options.mount_of(volume.options, target, words)
    source = parts.volumes.ensure_data(volume.name)
    if subpath:
        _check_subpath(source, subpath)
        words.append(f"X-mount.subdir={subpath}")
    return Mount(target, source, "bind", words)


def _check_alone(parts: "Parts", container_id: str, name: str) -> None:
    """A tmpfs is a new one for each container that mounts it: two at a time would not see each other's files."""
    for other in parts.volumes.users(name):
        row = parts.containers.by_id(other)
        if other != container_id and row is not None and observing.seen(row).state in _RUNS:
            raise Unsupported(
                f"volume {name} is a tmpfs, which one running container can have; {other} has it"
            )


def _check_subpath(source: str, subpath: str) -> None:
    """Say what is wrong with a subpath; whether it leads outside is seen again, by descriptor, at the mount."""
    from pyrunc._native import openat2

    words = ""
    try:
        top = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(openat2.openat2(top, os.fsencode(subpath), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC,
                                     resolve=openat2.RESOLVE_BENEATH | openat2.RESOLVE_NO_MAGICLINKS))  # fmt: skip
        finally:
            os.close(top)
    except NotADirectoryError:
        raise Unsupported(
            f"volume-subpath {subpath}: a single file of a volume cannot be mounted, its directory can"
        ) from None
    except OSError as exc:
        words = (exc.strerror or str(exc)).lower()
    if words:
        raise FailedPrecondition(f"cannot access path {source}/{subpath}: {words}")


def _make(source: str) -> None:
    try:
        make_directory(source, 0o755)
    except OSError as exc:
        raise PyruncError(
            f"error while creating mount source path '{source}': mkdir {exc.filename}:"
            f" {(exc.strerror or str(exc)).lower()}"
        ) from exc


def _missing(source: str) -> InvalidArgument:
    return InvalidArgument(f'invalid mount config for type "bind": bind source path does not exist: {source}')


def _check_propagation(source: str, propagation: str) -> None:
    """Raise FailedPrecondition, in Docker's words, if mounts cannot propagate as asked from or to *source*."""
    kind = propagation.removeprefix("r") if propagation not in ("", "private", "rprivate") else ""
    if not kind:
        return
    place, tags = _mount_over(source)
    shared = any(tag.startswith("shared:") for tag in tags)
    if kind == "shared" and not shared:
        raise FailedPrecondition(f"path {source} is mounted on {place} but it is not a shared mount")
    if kind == "slave" and not shared and not any(tag.startswith("master:") for tag in tags):
        raise FailedPrecondition(f"path {source} is mounted on {place} but it is not a shared or slave mount")


def _mount_over(path: str) -> tuple[str, list[str]]:
    """The mount that *path* is on, by its mount point, and its optional fields.

    Source: proc(5), /proc/pid/mountinfo.
    """
    wanted_id = -1
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
            for line in info:
                if line.startswith("mnt_id:"):
                    wanted_id = int(line.split()[1])
    finally:
        os.close(fd)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields = line.split()
            if int(fields[0]) == wanted_id:
                return fields[4], fields[6 : fields.index("-")]
    raise NotFound(f"path {path} is on no mount that is seen here")
