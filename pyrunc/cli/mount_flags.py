"""-v, --mount, --tmpfs, --volumes-from and --volume-driver: what of them Docker's client says to its daemon.

Source: the requests of Docker's client 28, and its errors, tests/fixtures/docker/mounts.txt.
"""

import csv
import os
from collections.abc import Iterable, Mapping
from typing import Any

from pyrunc.cli import units
from pyrunc.cli.flags import Refused
from pyrunc.errors import InvalidArgument
from pyrunc.runtime.options import Mount

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_ALONE = ("readonly", "volume-nocopy", "bind-nonrecursive")  # a key that needs no value
_RECURSION = {"enabled": "", "disabled": "NonRecursive", "writable": "ReadOnlyNonRecursive",
              "readonly": "ReadOnlyForceRecursive"}  # fmt: skip
_OF = {"BindOptions": ("bind", "bind-*"), "VolumeOptions": ("volume", "volume-*"),
       "TmpfsOptions": ("tmpfs", "tmpfs-*"), "ImageOptions": ("image", "image-*")}  # fmt: skip


def host_config(flags: Mapping[str, Any]) -> dict[str, Any]:
    """What of a HostConfig the flags say: Binds, Mounts, Tmpfs, VolumesFrom, VolumeDriver, each if it is used.

    Raises InvalidArgument in Docker's words.
    """
    found: dict[str, Any] = {}
    binds = [bind for text in dict.fromkeys(flags["volume"]) if (bind := _bind(text))]
    if binds:
        found["Binds"] = binds
    if flags["mount"]:
        found["Mounts"] = list(flags["mount"])
    if flags["tmpfs"]:
        found["Tmpfs"] = {
            path: options for path, _, options in (text.partition(":") for text in flags["tmpfs"])
        }
    if flags.get("volumes_from"):
        found["VolumesFrom"] = list(flags["volumes_from"])
    if flags.get("volume_driver"):
        found["VolumeDriver"] = flags["volume_driver"]
    return found


def volumes(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Those of -v that are Volumes of a Config: a place, and no source. Raises InvalidArgument."""
    return {text: {} for text in texts if not _bind(text)}


def _bind(text: str) -> str:
    """A bind or named volume as the daemon is told of it, "" for a volume without a name."""
    if not text:
        raise InvalidArgument("invalid empty volume spec")
    if len(text) <= 2:
        return ""
    fields = text.split(":")
    if len(fields) > 3:
        raise InvalidArgument(f"invalid spec: {text}: too many colons")
    if not all(fields):
        raise InvalidArgument(f"invalid spec: {text}: empty section between colons")
    if len(fields) == 1:
        return ""
    if fields[0].startswith("."):
        fields[0] = os.path.abspath(fields[0])
    return ":".join(fields)


def mount(text: str) -> dict[str, Any]:
    """``type=bind,source=…,target=…`` as one of Mounts. Raises ValueError with Docker's words."""
    found: dict[str, Any] = {"Type": "volume"}
    for field in _fields(text):
        key, equals, value = field.partition("=")
        name = _ALIASES.get(key.lower(), key.lower())
        if not equals:
            if name not in _ALONE:
                raise ValueError(f"invalid field '{field}' must be a key=value pair")
            value = "true"
        setter = _SETTERS.get(name)
        if setter is None:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
        setter(found, key.lower(), value)
    for options, (kind, prefix) in _OF.items():
        if options in found and found["Type"] != kind:
            raise ValueError(f"cannot mix '{prefix}' options with mount type '{found['Type']}'")
    bind = found.get("BindOptions") or {}
    for word, key in _RECURSION.items():
        if word in ("writable", "readonly") and bind.get(key):
            needed = "" if found.get("ReadOnly") else "readonly"
            if not needed and word == "readonly" and bind.get("Propagation") != "rprivate":
                needed = "bind-propagation=rprivate"
            if needed:
                raise ValueError(
                    f"option 'bind-recursive={word}' requires '{needed}' to be specified in conjunction"
                )
    if not found.get("Target"):
        raise ValueError("target is required")
    if "VolumeOptions" in found:
        found["VolumeOptions"].setdefault("DriverConfig", {})
    order = ("Type", "Source", "Target", "ReadOnly", "Consistency", *_OF)
    return {key: found[key] for key in order if found.get(key)}


def _fields(text: str) -> list[str]:
    """The fields of one line of CSV."""
    if text.count('"') % 2:
        raise ValueError(
            f'parse error on line 1, column {len(text.encode()) + 1}: extraneous or missing " in quoted-field'
        )
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as exc:
        raise ValueError(f"parse error on line 1: {exc}") from exc
    if not fields:
        raise ValueError("EOF")
    return fields


def _truth(key: str, value: str) -> bool:
    if value not in _TRUE | _FALSE:
        raise ValueError(f"invalid value for {key}: {value}")
    return value in _TRUE


def _options(found: dict[str, Any], kind: str) -> dict[str, Any]:
    options: dict[str, Any] = found.setdefault(kind, {})
    return options


def _set_source(found: dict[str, Any], _key: str, value: str) -> None:
    found["Source"] = os.path.abspath(value) if value == "." or value.startswith("./") else value


def _set_recursion(found: dict[str, Any], key: str, value: str) -> None:
    if value not in _RECURSION:
        raise ValueError(
            f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or "readonly")'
        )
    options = _options(found, "BindOptions")
    if _RECURSION[value]:
        options[_RECURSION[value]] = True


def _set_flag(kind: str, name: str) -> Any:
    def set_flag(found: dict[str, Any], key: str, value: str) -> None:
        options = _options(found, kind)
        if _truth(key, value):
            options[name] = True

    return set_flag


def _set_option(kind: str, name: str, lower: bool = False) -> Any:
    def set_option(found: dict[str, Any], _key: str, value: str) -> None:
        _options(found, kind)[name] = value.lower() if lower else value

    return set_option


def _set_readonly(found: dict[str, Any], key: str, value: str) -> None:
    found["ReadOnly"] = _truth(key, value)


def _set_label(found: dict[str, Any], _key: str, value: str) -> None:
    name, _, text = value.partition("=")
    _options(found, "VolumeOptions").setdefault("Labels", {})[name] = text


def _set_driver(found: dict[str, Any], _key: str, value: str) -> None:
    _options(found, "VolumeOptions").setdefault("DriverConfig", {})["Name"] = value


def _set_driver_option(found: dict[str, Any], _key: str, value: str) -> None:
    name, _, text = value.partition("=")
    driver = _options(found, "VolumeOptions").setdefault("DriverConfig", {})
    driver.setdefault("Options", {})[name] = text


def _set_size(found: dict[str, Any], key: str, value: str) -> None:
    try:
        _options(found, "TmpfsOptions")["SizeBytes"] = units.memory(value)
    except ValueError as exc:
        raise ValueError(f"invalid value for {key}: {value}") from exc


def _set_mode(found: dict[str, Any], key: str, value: str) -> None:
    if not value or value.strip("01234567") or int(value, 8) >= 1 << 32:
        raise ValueError(f"invalid value for {key}: {value}")
    _options(found, "TmpfsOptions")["Mode"] = int(value, 8)


def _set(name: str, lower: bool = False) -> Any:
    def set_one(found: dict[str, Any], _key: str, value: str) -> None:
        found[name] = value.lower() if lower else value

    return set_one


_SETTERS = {
    "type": _set("Type", True), "source": _set_source, "target": _set("Target"), "readonly": _set_readonly,
    "consistency": _set("Consistency", True), "bind-propagation": _set_option("BindOptions", "Propagation", True),
    "bind-nonrecursive": _set_flag("BindOptions", "NonRecursive"), "bind-recursive": _set_recursion,
    "volume-nocopy": _set_flag("VolumeOptions", "NoCopy"), "volume-label": _set_label, "volume-driver": _set_driver,
    "volume-opt": _set_driver_option, "volume-subpath": _set_option("VolumeOptions", "Subpath"),
    "tmpfs-size": _set_size, "tmpfs-mode": _set_mode, "image-subpath": _set_option("ImageOptions", "Subpath"),
}  # fmt: skip


def mounts(given: Iterable[str], wanted: Iterable[Mapping[str, Any]]) -> list[Mount]:
    """The binds of -v and --mount as mounts. Raises InvalidArgument, Refused for named volumes."""
    from pyrunc.engine import mount_parse

    points = [mount_parse.bind(bind) for text in given if (bind := _bind(text))]
    points += [mount_parse.mounted(each) for each in wanted if each["Type"] != "tmpfs"]
    found = []
    for point in points:
        if point["Type"] != "bind":
            raise Refused(f"--volume: {point['Name']}: named volumes do not exist yet")
        if not os.path.lexists(point["Source"]):
            if not point["Create"]:
                raise InvalidArgument(
                    f'invalid mount config for type "bind": bind source path does not exist: {point["Source"]}'
                )
            os.makedirs(point["Source"])
        words = ["rbind", point["Propagation"], *([] if point["RW"] else ["ro"])]
        found.append(Mount(point["Destination"], point["Source"], "bind", words))
    return found


def tmpfs_of(wanted: Iterable[str], mounts_wanted: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The tmpfs of --tmpfs and --mount, by path, with their options."""
    from pyrunc.engine import mount_parse

    found = {path: options for path, _, options in (text.partition(":") for text in wanted)}
    for each in mounts_wanted:
        if each["Type"] == "tmpfs":
            point = mount_parse.mounted(each)
            found[point["Destination"]] = ",".join(
                filter(None, (point["Tmpfs"], "" if point["RW"] else "ro"))
            )
    return found
