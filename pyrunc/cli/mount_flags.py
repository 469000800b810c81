"""-v, --mount and --tmpfs: what is mounted in a container."""

import csv
import os
from collections.abc import Iterable

from pyrunc.cli import units
from pyrunc.cli.flags import Refused
from pyrunc.errors import InvalidArgument
from pyrunc.runtime.options import Mount

_NAMED = "named volumes do not exist yet; a path of the host begins with a slash or ./"
_IGNORED = ("z", "Z", "nocopy", "cached", "delegated", "consistent")
_PROPAGATION = ("private", "rprivate", "shared", "rshared", "slave", "rslave")


def mounts(volumes: Iterable[str], wanted: Iterable[str]) -> list[Mount]:
    """The binds of -v and --mount. Raises InvalidArgument, Refused for named volumes."""
    found = [_volume(text) for text in volumes if ":" in text]
    for text in wanted:
        fields = _fields(text)
        if fields["type"] == "bind":
            found.append(_bind(text, fields))
    return found


def tmpfs_of(wanted: Iterable[str], mounts_wanted: Iterable[str]) -> dict[str, str]:
    """The tmpfs of --tmpfs and --mount, by path, with their options."""
    found = {path: options for path, _, options in (text.partition(":") for text in wanted)}
    for text in mounts_wanted:
        fields = _fields(text)
        if fields["type"] == "tmpfs":
            options = []
            if fields.get("tmpfs-size"):
                options.append(f"size={_size(text, fields['tmpfs-size'])}")
            if fields.get("tmpfs-mode"):
                options.append(f"mode={fields['tmpfs-mode']}")
            if _yes(fields, "readonly"):
                options.append("ro")
            found[_target(text, fields)] = ",".join(options)
    return found


def _volume(text: str) -> Mount:
    source, _, rest = text.partition(":")
    target, _, flags = rest.partition(":")
    if not source or not target.startswith("/") or ":" in flags:
        raise InvalidArgument(f"invalid volume specification: '{text}'")
    if source.startswith("."):
        source = os.path.abspath(source)
    if not source.startswith("/"):
        raise Refused(f"--volume: {text}: {_NAMED}")
    options = ["rbind"]
    for flag in filter(None, flags.split(",")):
        if flag in ("ro", "rw", *_PROPAGATION):
            options.append(flag)
        elif flag not in _IGNORED:
            raise InvalidArgument(f"invalid mode: {flag}")
    os.makedirs(source, exist_ok=True) if not os.path.lexists(source) else None
    return Mount(target, source, "bind", options)


def _bind(text: str, fields: dict[str, str]) -> Mount:
    source = fields.get("source", "")
    if not source:
        raise InvalidArgument(f'invalid argument "{text}" for "--mount" flag: field source must not be empty')
    source = os.path.abspath(source) if source.startswith(".") else source
    if not os.path.lexists(source):
        raise InvalidArgument(
            f'invalid mount config for type "bind": bind source path does not exist: {source}'
        )
    options = ["rbind", *(["ro"] if _yes(fields, "readonly") else [])]
    if fields.get("bind-propagation"):
        options.append(fields["bind-propagation"])
    return Mount(_target(text, fields), source, "bind", options)


def _fields(text: str) -> dict[str, str]:
    """``type=bind,source=…,target=…`` as names and values, aliases by their one name."""
    aliases = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
    found = {"type": "volume"}
    for field in next(csv.reader([text]), ()):
        key, equals, value = field.partition("=")
        name = aliases.get(key.lower(), key.lower())
        if name not in _KNOWN:
            raise InvalidArgument(
                f"invalid argument \"{text}\" for \"--mount\" flag: unexpected key '{key}' in '{field}'"
            )
        found[name] = value if equals else "true"
    if found["type"] not in ("bind", "tmpfs"):
        raise Refused(f"--mount: {text}: only type=bind and type=tmpfs exist yet")
    return found


_KNOWN = (
    "type",
    "source",
    "target",
    "readonly",
    "consistency",
    "bind-propagation",
    "tmpfs-size",
    "tmpfs-mode",
)


def _target(text: str, fields: dict[str, str]) -> str:
    if not fields.get("target"):
        raise InvalidArgument(f'invalid argument "{text}" for "--mount" flag: target is required')
    return fields["target"]


def _yes(fields: dict[str, str], name: str) -> bool:
    return fields.get(name, "false").lower() in ("true", "1")


def _size(text: str, size: str) -> int:
    try:
        return units.memory(size)
    except ValueError as exc:
        raise InvalidArgument(f'invalid argument "{text}" for "--mount" flag: {exc}') from exc
