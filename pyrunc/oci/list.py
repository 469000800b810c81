"""`list`: the containers below the root, as a table or as JSON."""

from __future__ import annotations

import os
import sys

from pyrunc.oci import go_json
from pyrunc.oci.log import Failure, print_out, reason
from pyrunc.oci.show_state import document
from pyrunc.oci.state import NO_SUCH, ids, load, root_of

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.oci.flags import Command
    from pyrunc.oci.log import Log

_HEADINGS = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
_LEAST_WIDTH, _GAP = 12, 3


def run(command: Command, log: Log) -> int:  # noqa: ARG001
    """Print the list. A root that was named and does not exist is an error, the default one is then empty."""
    root = root_of(command.options)
    found = _found(root, explicit=bool(command.options.root))
    if command.flag("quiet"):
        print_out("".join(f"{state['id']}\n" for state in found))
        return 0
    shape = command.text("format")
    if shape == "table":
        print_out(_table(found))
    elif shape == "json":
        print_out(f"{go_json.compact(found or None)}\n")
    else:
        raise Failure("invalid format option")
    return 0


def _found(root: str, explicit: bool) -> list[dict[str, Any]]:
    try:
        names = ids(root)
    except FileNotFoundError as error:
        if not explicit:
            return []
        raise Failure(f"open {root}: {reason(error)}") from None
    found = []
    for name in names:
        try:
            owner = _owner(os.lstat(f"{root}/{name}").st_uid)
            found.append({**document(load(root, name)), "owner": owner})
        except FileNotFoundError:
            continue  # deleted meanwhile
        except Failure as failure:
            if failure.message != NO_SUCH or os.path.lexists(f"{root}/{name}"):
                sys.stderr.write(f"load container {name}: {failure.message}\n")
    return found


def _owner(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _table(found: list[dict[str, Any]]) -> str:
    rows = [_HEADINGS]
    for state in found:
        keys = ("id", "pid", "status", "bundle", "created", "owner")
        id_, pid, status, bundle, created, owner = (str(state[key]) for key in keys)
        rows.append((id_, pid, status, bundle, created, owner))
    widths = [max(_LEAST_WIDTH, max(map(len, column)) + _GAP) for column in zip(*rows, strict=True)]
    widths[-1] = 0
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + "\n" for row in rows
    )
