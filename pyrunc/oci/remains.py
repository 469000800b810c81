"""What `delete --force` can still find of a container whose state.json is damaged.

Only what is beyond doubt is taken from it: a process with the time of its birth, and cgroups at the place where the
front door writes them; no string of a bundle can look like that line (see `_native/oci_state.pxd`).
"""

from __future__ import annotations

import os
import re

from pyrunc.oci.log import Failure
from pyrunc.oci.reading import contents
from pyrunc.oci.state import FILE, Container
from pyrunc.records import loads
from pyrunc.runtime.cgroup_layout import detect

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

_PID = re.compile(r'^  "pid": (\d{1,10}),$', re.MULTILINE)
_OWN = re.compile(
    r'^  "pyrunc": \{"version":1,"start_time":(\d{1,19}),"native":(?:true|false),"own_pids":(true|false),"cgroups":\[',
    re.MULTILINE,
)
_CGROUP = re.compile(r'\{"path":"(/[^"\\]+)","version":([12]),"controllers":\[((?:"[^"\\]*",?)*)\]\},?')


def remains(directory: str, container_id: str) -> Container:
    """A container of what can be found in *directory*; its lists are empty where nothing is."""
    try:
        data = contents(f"{directory}/{FILE}", follow=False)
    except (OSError, Failure):
        data = b""
    text = data.decode("utf-8", "surrogateescape")
    try:
        document = loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        document = _torn(text)
    own = document.get("pyrunc")
    own = own if isinstance(own, dict) else {}
    cgroups = [entry for entry in _list(own.get("cgroups")) if _is_cgroup(entry)]
    born = own.get("start_time")
    return Container(
        directory,
        {
            "ociVersion": _text(document.get("ociVersion")), "id": container_id,
            "pid": _number(document.get("pid")), "status": "created", "bundle": _text(document.get("bundle")),
            "pyrunc": {
                "version": 1, "start_time": born if isinstance(born, int) else -1,
                "own_pids": own.get("own_pids") is True, "cgroups": cgroups, "freezer": _freezer(cgroups),
                "kill": next((one["path"] for one in sorted(cgroups, key=lambda one: -one["version"])), ""),
                "spec": _spec(own.get("spec")),
            },
        },
    )  # fmt: skip


def _torn(text: str) -> dict[str, Any]:
    """What stands in the lines that are whole, of a file that has lost others."""
    pid, own = _PID.search(text), _OWN.search(text)
    found: dict[str, Any] = {"pid": int(pid[1])} if pid else {}
    if own is None:
        return found
    cgroups, at = [], own.end()
    while entry := _CGROUP.match(text, at):
        at = entry.end()
        controllers = [word for word in entry[3].replace('"', "").split(",") if word]
        cgroups.append({"path": entry[1], "version": int(entry[2]), "controllers": controllers})
    found["pyrunc"] = {"start_time": int(own[1]), "own_pids": own[2] == "true", "cgroups": cgroups}
    return found


def _is_cgroup(entry: object) -> bool:
    """Whether it names a cgroup below the root of a hierarchy, and does so plainly."""
    if not isinstance(entry, dict) or entry.get("version") not in (1, 2):
        return False
    path, controllers = entry.get("path"), entry.get("controllers")
    if not isinstance(path, str) or os.path.normpath(path) != path or not isinstance(controllers, list):
        return False
    layout = detect()
    return any(path.startswith(f"{found.mountpoint}/") for found in (*layout.hierarchies, *layout.named))


def _freezer(cgroups: list[dict[str, Any]]) -> str:
    return next((c["path"] for c in cgroups if c["version"] == 2 or "freezer" in c["controllers"]), "")


def _spec(value: object) -> dict[str, Any]:
    """The container's document, if its hooks can be run."""
    from pyrunc.errors import InvalidSpec
    from pyrunc.oci.hooks import parse

    if not isinstance(value, dict):
        return {}
    try:
        parse(value)
    except InvalidSpec:
        return {}
    return value


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int:
    return value if isinstance(value, int) and 0 < value < 1 << 31 else 0
