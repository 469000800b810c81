"""The state directory of a container, read: `<root>/<id>/state.json` and what is true beside it.

The file is written by the native front door, once as "creating" and once as "created". Everything later is derived:

| what is found                                                     | status   |
|-------------------------------------------------------------------|----------|
| the file says creating, and its creator lives: it holds the lock  | creating |
| no process of that pid and start time, or a zombie of one         | stopped  |
| its freezer is frozen                                             | paused   |
| its first process never executed anything, and the socket `start` | created  |
| none of these                                                     | running  |

That nobody has to note what has happened: who does may be killed before. The kernel knows what executed a program
(PF_FORKNOEXEC, linux/sched.h). What criu has restored did not, but has no socket.

Source: OCI runtime.md, "State"; proc_pid_stat(5).
"""

from __future__ import annotations

import os

from pyrunc.oci.lock import is_held
from pyrunc.oci.log import Failure, reason
from pyrunc.oci.reading import contents, parsed

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.oci.flags import Options

ROOT = "/run/pyrunc-oci"
_ID = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_+-.")

FILE = "state.json"
NO_SUCH = "container does not exist"
_MEMBERS = {"id": str, "pid": int, "status": str, "bundle": str, "ociVersion": str, "pyrunc": dict}
_OWN_MEMBERS = {"version": int, "start_time": int, "cgroups": list, "freezer": str, "kill": str, "spec": dict}
_PF_FORKNOEXEC = 0x40


class Container:
    """A container as its state.json has it."""

    __slots__ = ("directory", "document", "id", "own")

    def __init__(self, directory: str, document: dict[str, Any]) -> None:
        self.directory = directory
        self.document = document
        self.id: str = document["id"]
        self.own: dict[str, Any] = document["pyrunc"]

    @property
    def pid(self) -> int:
        """The pid of its first process, alive or not; 0 where none was made yet."""
        return int(self.document.get("pid") or 0)

    @property
    def spec(self) -> dict[str, Any]:
        """Its whole config.json."""
        found: dict[str, Any] = self.own["spec"]
        return found

    @property
    def unfinished(self) -> bool:
        """Whether its creation has not come to its end yet, or never did."""
        return self.document.get("status") == "creating"

    def alive(self) -> bool:
        """Whether its first process exists: the same one, and no zombie."""
        return self.pid > 0 and start_time(self.pid) == self.own.get("start_time")

    def status(self, *, locked: bool = False) -> str:
        """What is true now; see the table above. The caller who has it *locked* knows that nobody creates it."""
        if self.unfinished:
            return "creating" if not locked and is_held(self.directory) else "stopped"
        birth = _birth(self.pid)
        if birth is None or birth[0] != self.own.get("start_time"):
            return "stopped"
        if frozen(self.own.get("freezer") or ""):
            return "paused"
        return "created" if birth[1] and os.path.lexists(f"{self.directory}/start") else "running"


def default_root() -> str:
    """The root where none is given: /run/pyrunc-oci, or one of an unprivileged user's own."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return f"{runtime}/pyrunc-oci" if runtime and _is_users() else ROOT


def _is_users() -> bool:
    """Whether the caller is a user, or root of a user namespace who does not call themselves so, as runc has it."""
    if os.geteuid():
        return True
    from pyrunc.oci.rootless import in_user_namespace

    return in_user_namespace() and os.environ.get("USER") != "root"


def root_of(options: Options) -> str:
    """The absolute path of the root that a command line means."""
    if not options.root:
        return default_root()
    path = os.path.abspath(options.root)
    if path == "/":
        raise Failure("option --root argument should not be set to /")
    return path


def check_id(container_id: str) -> None:
    """Refuse what is no id of a container, in runc's words."""
    if not container_id:
        raise Failure("container id cannot be empty")
    if container_id in (".", "..") or not _ID.issuperset(container_id):
        raise Failure("invalid container ID format")


def load(root: str, container_id: str) -> Container:
    """Read a container's state.

    Raises Failure in runc's words where there is none, or where it cannot be read.
    """
    check_id(container_id)
    directory = f"{root}/{container_id}"
    try:
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            document = parsed(contents(FILE, directory=place, follow=False), FILE)
        finally:
            os.close(place)
    except (FileNotFoundError, NotADirectoryError):
        raise Failure(NO_SUCH) from None
    except OSError as error:
        raise Failure(f"unable to read the state of container {container_id}: {reason(error)}") from None
    except Failure as failure:
        raise Failure(f"unable to read the state of container {container_id}: {failure.message}") from None
    wrong = _wrong(document, container_id)
    if wrong:
        raise Failure(f"unable to read the state of container {container_id}: {FILE}: {wrong}")
    return Container(directory, document)


def _wrong(document: Any, container_id: str) -> str:
    """What a state.json lacks of what every verb relies on, "" if nothing."""
    if not isinstance(document, dict):
        return "must be an object"
    for name, kind in _MEMBERS.items():
        if not isinstance(document.get(name), kind):
            return f"{name}: is missing, or of another type"
    own = document["pyrunc"]
    for name, kind in _OWN_MEMBERS.items():
        if not isinstance(own.get(name), kind):
            return f"pyrunc.{name}: is missing, or of another type"
    if document["id"] != container_id:
        return f"id: is that of another container, {document['id']}"
    if own["version"] != 1:
        return f"pyrunc.version: {own['version']} is not known"
    for entry in own["cgroups"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str) or "version" not in entry:
            return "pyrunc.cgroups: must be objects with path and version"
    return ""


def ids(root: str) -> list[str]:
    """The ids of the containers below *root*, sorted. Raises OSError as scandir does."""
    with os.scandir(root) as entries:
        return sorted(
            entry.name
            for entry in entries
            if _ID.issuperset(entry.name) and entry.is_dir(follow_symlinks=False)
        )


def start_time(pid: int) -> int | None:
    """When the process *pid* was started, in ticks since boot; None if there is none, or only a zombie."""
    birth = _birth(pid)
    return birth and birth[0]


def _birth(pid: int) -> tuple[int, bool] | None:
    """When the process *pid* was started, and whether it is what was forked then; see proc_pid_stat(5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A zombie with threads is a process whose first thread has ended alone.
    if fields[0] == b"X" or (fields[0] == b"Z" and int(fields[17]) <= 1):
        return None
    return int(fields[19]), bool(int(fields[6]) & _PF_FORKNOEXEC)


def frozen(directory: str) -> bool:
    """Whether the cgroup *directory* is frozen, by v1's freezer or by v2; False for "" and where it is gone."""
    if not directory:
        return False
    for file, words in (
        ("cgroup.freeze", ("1",)),
        ("freezer.state", ("FROZEN", "FREEZING")),
    ):
        try:
            with open(f"{directory}/{file}", encoding="ascii") as state:
                return state.read().strip() in words
        except OSError:
            continue
    return False
