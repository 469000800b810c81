"""Whether an OCI runtime document has the shape that it must have, before anything is made of it.

Only what this runtime reads is looked at: OCI demands that unknown fields are ignored. `null` stands, as in
the document's own language, for a field that is left out. What values mean is judged where they are used.
Source: OCI runtime-spec config.md, config-linux.md and its JSON schema.
"""

from _collections_abc import Mapping  # collections.abc would import all of collections

from pyrunc.errors import InvalidSpec

TYPE_CHECKING = False  # typing costs 9 ms at the start of a program; type checkers take this name for theirs
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Check = Callable[[object, str], None]
_SHOWN = 100


def check(spec: object) -> None:
    """Check the whole document; raises InvalidSpec, which begins with the path of the field."""
    _document(spec, "")


def _refuse(field: str, wanted: str, value: object) -> InvalidSpec:
    return InvalidSpec(f"{field or 'the document'}: must be {wanted}, not {repr(value)[:_SHOWN]}")


def _text(value: object, field: str) -> None:
    if not isinstance(value, str):
        raise _refuse(field, "a string", value)
    try:
        unfit = b"\0" in value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        unfit = True
    if unfit:
        raise _refuse(field, "text without NUL characters", value)


def _flag(value: object, field: str) -> None:
    if not isinstance(value, bool):
        raise _refuse(field, "true or false", value)


def _integer(low: int, high: int) -> "Check":
    def check(value: object, field: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _refuse(field, f"an integer from {low} to {high}", value)

    return check


def _list(item: "Check") -> "Check":
    def check(value: object, field: str) -> None:
        if not isinstance(value, list | tuple):
            raise _refuse(field, "a list", value)
        for index, member in enumerate(value):
            item(member, f"{field}[{index}]")

    return check


def _map(item: "Check") -> "Check":
    def check(value: object, field: str) -> None:
        if not isinstance(value, Mapping):
            raise _refuse(field, "an object", value)
        for key, member in value.items():
            _text(key, field)
            item(member, f"{field}[{key!r}]")

    return check


def _object(**fields: "Check") -> "Check":
    def check(value: object, field: str) -> None:
        if not isinstance(value, Mapping):
            raise _refuse(field, "an object", value)
        for key, item in fields.items():
            member: Any = value.get(key)
            if member is not None:
                item(member, f"{field}.{key}" if field else key)

    return check


_ID = _integer(0, 0xFFFFFFFF)
_INT64 = _integer(-(1 << 63), (1 << 63) - 1)
_UINT64 = _integer(0, (1 << 64) - 1)
_TEXTS = _list(_text)
_MAPS = _list(_object(containerID=_ID, hostID=_ID, size=_ID))

_PROCESS = _object(
    terminal=_flag, args=_TEXTS, env=_TEXTS, cwd=_text, noNewPrivileges=_flag, oomScoreAdj=_INT64,
    consoleSize=_object(height=_ID, width=_ID),
    user=_object(uid=_ID, gid=_ID, umask=_ID, additionalGids=_list(_ID)),
    capabilities=_object(bounding=_TEXTS, effective=_TEXTS, permitted=_TEXTS, inheritable=_TEXTS, ambient=_TEXTS),
    rlimits=_list(_object(type=_text, soft=_UINT64, hard=_UINT64)),
)  # fmt: skip
_LINUX = _object(
    namespaces=_list(_object(type=_text, path=_text)), uidMappings=_MAPS, gidMappings=_MAPS, sysctl=_map(_text),
    devices=_list(_object(type=_text, path=_text, major=_INT64, minor=_INT64, fileMode=_ID, uid=_ID, gid=_ID)),
    cgroupsPath=_text, resources=_object(), seccomp=_object(), rootfsPropagation=_text, maskedPaths=_TEXTS,
    readonlyPaths=_TEXTS,
)  # fmt: skip
_document = _object(
    ociVersion=_text, root=_object(path=_text, readonly=_flag), hostname=_text, domainname=_text, process=_PROCESS,
    mounts=_list(_object(
        destination=_text, type=_text, source=_text, options=_TEXTS, uidMappings=_MAPS, gidMappings=_MAPS,
    )),
    annotations=_map(_text), linux=_LINUX,
)  # fmt: skip
