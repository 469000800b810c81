"""-v and --mount as Docker's client reads them: Binds, Volumes and Mounts of the documents of a container."""

from __future__ import annotations

import os

from pyrunc.cli import units
from pyrunc.errors import InvalidArgument

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_ALONE = ("readonly", "volume-nocopy", "bind-nonrecursive")  # keys that need no value
_KEYS = (
    "type", "source", "target", "readonly", "consistency", "bind-propagation", "bind-nonrecursive", "bind-recursive",
    "volume-subpath", "volume-nocopy", "volume-label", "volume-driver", "volume-opt", "image-subpath", "tmpfs-size",
    "tmpfs-mode", "tmpfs-options",
)  # fmt: skip


def volumes(texts: Iterable[str]) -> tuple[list[str], dict[str, Any]]:
    """The Binds and the Volumes of every -v. Raises InvalidArgument."""
    binds: list[str] = []
    anonymous: dict[str, Any] = {}
    for text in dict.fromkeys(texts):
        if not text:
            raise InvalidArgument("invalid empty volume spec")
        source, colon, rest = text.partition(":")
        if colon and "" in text.split(":"):
            raise InvalidArgument(f"invalid spec: {text}: empty section between colons")
        if text.count(":") > 2:
            raise InvalidArgument(f"invalid spec: {text}: too many colons")
        if not colon:
            anonymous[text] = {}
        elif source.startswith("."):
            binds.append(f"{os.path.abspath(source)}:{rest}")
        else:
            binds.append(text)
    return binds, anonymous


def mount(text: str) -> dict[str, Any]:
    """One --mount as one of Mounts. Raises ValueError in Docker's words."""
    found: dict[str, Any] = {"Type": "volume"}
    bind: dict[str, Any] = {}
    volume: dict[str, Any] = {}
    tmpfs: dict[str, Any] = {}
    subpath = ""
    for field in _fields(text):
        key, value = _field(field)
        if key == "type":
            found["Type"] = value.lower()
        elif key == "source":
            found["Source"] = os.path.abspath(value) if value.startswith(".") else value
        elif key == "target":
            found["Target"] = value
        elif key == "readonly":
            found["ReadOnly"] = _flag(key, value)
        elif key == "consistency":
            found["Consistency"] = value.lower()
        elif key == "image-subpath":
            subpath = value
        elif key.startswith("bind-"):
            _bind(bind, key, value)
        elif key.startswith("volume-"):
            _volume(volume, key, value)
        else:
            _tmpfs(tmpfs, key, value)
    _check(found, bind, volume, tmpfs)
    if not found.get("ReadOnly"):
        found.pop("ReadOnly", None)
    if volume:
        volume.setdefault("DriverConfig", {})
    more = {
        "BindOptions": bind, "VolumeOptions": volume, "ImageOptions": {"Subpath": subpath} if subpath else {},
        "TmpfsOptions": tmpfs,
    }  # fmt: skip
    return {**found, **{name: options for name, options in more.items() if options}}


def _fields(text: str) -> list[str]:
    """The fields of one line of CSV. Raises ValueError in Docker's words."""
    import csv

    if text.count('"') % 2:
        place = f"line 1, column {len(text.encode()) + 1}"
        raise ValueError(f'parse error on {place}: extraneous or missing " in quoted-field')
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as exc:
        raise ValueError(f"parse error on line 1: {exc}") from exc
    if not fields:
        raise ValueError("EOF")
    return fields


def _field(field: str) -> tuple[str, str]:
    key, equals, value = field.partition("=")
    name = _ALIASES.get(key.lower(), key.lower())
    if not equals:
        if name not in _ALONE:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        value = "true"
    if name not in _KEYS:
        raise ValueError(f"unexpected key '{key}' in '{field}'")
    return name, value


def _flag(key: str, value: str) -> bool:
    if value in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if value in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError(f"invalid value for {key}: {value}")


def _bind(bind: dict[str, Any], key: str, value: str) -> None:
    if key == "bind-propagation":
        bind["Propagation"] = value.lower()
    elif key == "bind-nonrecursive":
        if _flag(key, value):
            bind["NonRecursive"] = True
    elif value == "disabled":
        bind["NonRecursive"] = True
    elif value == "writable":
        bind["ReadOnlyNonRecursive"] = True
    elif value == "readonly":
        bind["ReadOnlyForceRecursive"] = True
    elif value != "enabled":
        raise ValueError(
            f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or "readonly")'
        )


def _volume(volume: dict[str, Any], key: str, value: str) -> None:
    if key == "volume-nocopy":
        if _flag(key, value):
            volume["NoCopy"] = True
    elif key == "volume-subpath":
        volume["Subpath"] = value
    elif key == "volume-label":
        name, _, content = value.partition("=")
        volume.setdefault("Labels", {})[name] = content
    elif key == "volume-driver":
        volume.setdefault("DriverConfig", {})["Name"] = value
    else:
        name, _, content = value.partition("=")
        volume.setdefault("DriverConfig", {}).setdefault("Options", {})[name] = content


def _tmpfs(tmpfs: dict[str, Any], key: str, value: str) -> None:
    try:
        if key == "tmpfs-size":
            tmpfs["SizeBytes"] = units.memory(value)
        elif key == "tmpfs-mode":
            tmpfs["Mode"] = int(value, 8)
        else:
            tmpfs["Options"] = [part.split("=", 1) for part in value.split(",")]
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None


def _check(
    found: dict[str, Any], bind: dict[str, Any], volume: dict[str, Any], tmpfs: dict[str, Any]
) -> None:
    kind = found["Type"]
    if not kind:
        raise ValueError("type is required")
    if not found.get("Target"):
        raise ValueError("target is required")
    for options, of in ((volume, "volume"), (bind, "bind"), (tmpfs, "tmpfs")):
        if options and kind != of:
            raise ValueError(f"cannot mix '{of}-*' options with mount type '{kind}'")
    for word, key in (("writable", "ReadOnlyNonRecursive"), ("readonly", "ReadOnlyForceRecursive")):
        if bind.get(key) and not found.get("ReadOnly"):
            raise ValueError(
                f"option 'bind-recursive={word}' requires 'readonly' to be specified in conjunction"
            )
    if bind.get("ReadOnlyForceRecursive") and bind.get("Propagation") != "rprivate":
        raise ValueError(
            "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction"
        )
