"""Users and groups by name, as the container's own /etc/passwd and /etc/group know them."""

from __future__ import annotations

import errno
import os
import stat

from pyrunc._native import openat2
from pyrunc.errors import InvalidArgument, NotFound
from pyrunc.records import NamedTuple

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_FILE = 4 << 20
_MAX_ID = 0xFFFF_FFFE


class User(NamedTuple):
    """Who a process is: numeric ids, supplementary groups, and the home directory ("" if unknown)."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def resolve(user: str, groups: Sequence[str], layers: Sequence[str]) -> User:
    """Resolve ``user[:group]`` and further *groups*, by name or number, in the root that *layers* make.

    *layers* are directories, the lowest first. Raises NotFound for a name that does not
    exist and InvalidArgument for one that is malformed or a number out of range.
    Source: Docker's rules for --user (Engine API, Config.User).
    """
    name, colon, group = user.partition(":")
    if not name or (colon and not group) or any(c in user for c in "\0\n,/"):
        raise InvalidArgument(f"user {user!r} must be a name or number, optionally with :group")
    passwd = _table(_read(layers, b"/etc/passwd"), 7)
    known_groups = _table(_read(layers, b"/etc/group"), 4)
    entry = next((row for row in passwd if row[0] == name), None)
    uid = _number(name)
    if entry is None and uid is not None:
        entry = next((row for row in passwd if row[2] == str(uid)), None)
    if entry is None and uid is None:
        raise NotFound(f"unable to find user {name}: no matching entries in passwd file")
    if entry is not None:
        uid = _id(entry[2], name)
    assert uid is not None
    gid = _group(group, known_groups) if group else (_id(entry[3], name) if entry else 0)
    extra = [_group(wanted, known_groups) for wanted in groups]
    if entry is not None and not group:
        # As initgroups(3) does: a group named with the user stands for all of its memberships.
        # One with a malformed id was not asked for by name, and is passed over.
        extra += [int(row[2]) for row in known_groups if entry[0] in row[3].split(",") and _is_id(row[2])]
    # The primary group is among them, as with login(1) and docker: else a program that is set-group-ID to another group
    # could lay it aside, and with it what files deny to that group (CVE-2022-36109).
    return User(uid, gid, tuple(sorted({gid, *extra})), entry[5] if entry else "")


def _group(wanted: str, table: list[list[str]]) -> int:
    row = next((row for row in table if row[0] == wanted), None)
    if row is not None:
        return _id(row[2], wanted)
    number = _number(wanted)
    if number is None:
        raise NotFound(f"unable to find group {wanted}: no matching entries in group file")
    return number


def _number(text: str) -> int | None:
    """A decimal id, or None for a name; ids outside 0..2**32-2 are refused."""
    if not (text.isascii() and text.isdigit()):
        return None
    return _id(text, text)


def _id(text: str, name: str) -> int:
    if not _is_id(text):
        raise InvalidArgument(f"id of {name} is not a number between 0 and {_MAX_ID}: {text!r}")
    return int(text)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _MAX_ID


def _table(data: bytes, columns: int) -> list[list[str]]:
    rows = []
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        row = line.strip().split(":")
        if len(row) >= columns and row[0] and not row[0].startswith("#"):
            rows.append(row)
    return rows


def _read(layers: Sequence[str], path: bytes) -> bytes:
    """The file of the topmost layer that has it, never leaving that layer; b"" where there is none."""
    for layer in reversed(layers):
        root = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = openat2.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return b""  # a whiteout: this layer has removed it
            continue
        finally:
            os.close(root)
        try:
            return os.read(fd, _MAX_FILE) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        finally:
            os.close(fd)
    return b""
