"""Volumes: data that outlives containers. The rows are volumes.db, which survives a loss of power.

    volumes        name → created_ns, labels, options (both JSON)
    mount_points   container, destination → position, volume ("" for none), document (JSON, see mount_parse.py); one
                   without a destination says that the container has claimed all that it mounts

    volumes/<name>/_data          what is in it
    volumes/.removed-<random>     a volume whose row is gone; its files follow
    volumes/<name>/.fill-<random> what the first container is to find there, until it is whole

A mount point that names a volume is its container's claim, written before anything is mounted; so within one
transaction it is known whether a volume is in use, and its directory is moved away in the same one. A directory
without a row is never removed with anything in it: whoever creates a volume of that name finds it again.
"""

import json
import os
import time

from pyrunc.drivers.graph import trees
from pyrunc.engine import events, volume_options
from pyrunc.engine.argument_checks import check_text
from pyrunc.engine.image_filters import flag, group, labelled
from pyrunc.errors import FailedPrecondition, InvalidArgument, NotFound, PyruncError
from pyrunc.records import NamedTuple
from pyrunc.store.check import Problem
from pyrunc.store.database import Database
from pyrunc.store.files import make_directory, said_full, sync_directory

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Filters = Sequence[tuple[str, str]]
    Names = list[str]  # as `list` is a method below
    Documents = list[dict[str, Any]]
    Found = list["Volume"]

SCHEMA = (
    """
    CREATE TABLE volumes (
        name TEXT PRIMARY KEY, created_ns INTEGER NOT NULL, labels TEXT NOT NULL, options TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE mount_points (
        container TEXT NOT NULL, destination TEXT NOT NULL, position INTEGER NOT NULL, volume TEXT NOT NULL,
        document TEXT NOT NULL, PRIMARY KEY (container, destination)
    ) WITHOUT ROWID;
    CREATE INDEX mount_points_volume ON mount_points (volume);
    """,
)
ANONYMOUS = "com.docker.volume.anonymous"  # the label of a volume that nobody gave a name
DRIVER = "local"
_DATA = "_data"
_REMOVED = ".removed-"


class Volume(NamedTuple):
    """A volume: *options* are its driver's, *mountpoint* is the directory on the host."""

    name: str
    driver: str
    labels: "Mapping[str, str]"
    options: "Mapping[str, str]"
    created_ns: int
    mountpoint: str
    scope: str = "local"


class PrunedVolumes(NamedTuple):
    """The names of volumes that were removed, and the bytes of their files."""

    names: "tuple[str, ...]"
    reclaimed_bytes: int


class Claim(NamedTuple):
    """A mount point that a container is to have; one with a *volume* (None: a new one without a name) claims it.

    *document* is kept with it; *labels* and *options* are those of a volume that has to be made.
    """

    destination: str
    volume: str | None
    document: "dict[str, Any]"
    labels: "Mapping[str, str] | None" = None
    options: "Mapping[str, str] | None" = None


class Volumes:
    """The volumes below *root*; *exists* says whether there still is a container of that id.

    Raises what Database raises.
    """

    def __init__(self, root: str, exists: "Callable[[str], bool]") -> None:
        self._root = root
        self.directory = os.path.join(root, "volumes")
        self._exists = exists
        path = os.path.join(root, "volumes.db")
        new = not os.path.exists(path)
        self._database = Database(
            path, SCHEMA, "FULL",
            remedy=f"the labels of volumes and who uses them are lost with it, the data in {self.directory} is not:"
            " move volumes.db, volumes.db-wal and volumes.db-shm away, and every volume is found again",
        )  # fmt: skip
        make_directory(self.directory)
        if new:
            self._find_again()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def damage(self) -> list[Problem]:
        """What is wrong with the file."""
        return [Problem("database", self._database.path, text) for text in self._database.integrity()]

    # ---- for users

    def create(
        self,
        name: str = "",
        *,
        driver: str = DRIVER,
        labels: "Mapping[str, str] | None" = None,
        options: "Mapping[str, str] | None" = None,
    ) -> Volume:
        """Make a volume, or return the one that has that name, as it is; without a name it gets one of 64 hex digits.

        *options* are Docker's of the driver local: type, o, device. Raises InvalidArgument in Docker's words,
        Unsupported.
        """
        check_text("name", name)
        for what, given in (("labels", labels), ("options", options)):
            if given is not None and not _are_texts(given):
                raise InvalidArgument(f"{what} must be texts by name, not {given!r:.100}")
        if driver not in ("", DRIVER):
            raise NotFound(
                f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found'
            )
        made: Names = []
        with self._database.transaction() as connection:
            name = self._ensure(connection, name, labels or {}, options or {}, made)
        self._say("create", made)
        return self.get(name)

    def get(self, name: str) -> Volume:
        """The volume *name*. Raises NotFound in Docker's words."""
        check_text("name", name)
        rows = self._database.query(f"SELECT {_FIELDS} FROM volumes WHERE name = ?", (name,))
        if not rows:
            raise NotFound(f"get {name}: no such volume")
        return self._volume(rows[0])

    def list(self, filters: "Filters" = ()) -> "Found":
        """All volumes that pass Docker's *filters* (dangling, driver, label, name), by name.

        Raises InvalidArgument in Docker's words.
        """
        by = group(filters, ("dangling", "driver", "label", "name"))
        dangling = flag(by, "dangling")
        named = [_pattern(text) for text in by.get("name", ())]
        found = []
        for row in self._database.query(f"SELECT {_FIELDS} FROM volumes ORDER BY name"):
            volume = self._volume(row)
            if (
                (not named or any(matches(volume.name) for matches in named))
                and ("driver" not in by or volume.driver in by["driver"])
                and labelled(volume.labels, by)
                and (dangling is None or dangling is not bool(self.users(volume.name)))
            ):
                found.append(volume)
        return found

    def remove(self, name: str, force: bool = False) -> None:
        """Remove a volume with its data; with *force*, one that is not there is no error.

        Raises NotFound, and FailedPrecondition for one that a container has, running or not, in Docker's words.
        """
        check_text("name", name)
        gone = ""
        with self._database.transaction(frees=True) as connection:
            if not connection.execute("SELECT 1 FROM volumes WHERE name = ?", (name,)).fetchone():
                if not force:
                    raise NotFound(f"get {name}: no such volume")
            else:
                users = self._users(connection, name)
                if users:
                    raise FailedPrecondition(f"remove {name}: volume is in use - [{', '.join(users)}]")
                gone = self._take_away(connection, name)
        if gone:
            self._say("destroy", [name])
        self._delete(gone)
        self._sweep()

    def prune(self, *, everything: bool = False, filters: "Filters" = ()) -> PrunedVolumes:
        """Remove the volumes that no container has and nobody gave a name; *everything*: those with a name too.

        *filters* are Docker's label, label! and all. Raises InvalidArgument.
        """
        by = group(filters, ("all", "label", "label!"))
        everything = everything or bool(flag(by, "all"))
        names, reclaimed = [], 0
        for volume in self.list():
            if not labelled(volume.labels, by) or not (everything or ANONYMOUS in volume.labels):
                continue
            with self._database.transaction(frees=True) as connection:
                gone = (
                    "" if self._users(connection, volume.name) else self._take_away(connection, volume.name)
                )
            if gone:
                names.append(volume.name)
                self._say("destroy", [volume.name])
                reclaimed += self._delete(gone)
        self._sweep()
        events.write(self._root, "volume", "prune", "", {"reclaimed": reclaimed})
        return PrunedVolumes(tuple(names), reclaimed)

    def users(self, name: str) -> "Names":
        """The ids of the containers that have the volume *name*, sorted."""
        rows = self._database.query(
            "SELECT DISTINCT container FROM mount_points WHERE volume = ? ORDER BY container", (name,)
        )
        return [row[0] for row in rows if self._exists(row[0])]

    # ---- for containers

    def claim(self, container_id: str, claims: "Sequence[Claim]") -> None:
        """Say what a container, which has its row already, mounts; make the volumes that do not exist yet.

        All of it is on the disk when this returns, or nothing. Raises InvalidArgument, Unsupported.
        """
        made: Names = []
        with self._database.transaction() as connection:
            # A place that there is not, which says that it has been decided, also for a container without mounts.
            marks = [Claim("", "", {"Type": ""})]
            for position, claim in enumerate([*marks, *claims]):
                document, name = claim.document, ""
                if claim.document["Type"] == "volume":
                    name = self._ensure(
                        connection, claim.volume or "", claim.labels or {}, claim.options or {}, made
                    )
                    document = {**document, "Name": name}
                connection.execute(
                    "INSERT OR REPLACE INTO mount_points (container, destination, position, volume, document)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (container_id, claim.destination, position, name, json.dumps(document)),
                )
        self._say("create", made)

    def is_known(self, container_id: str) -> bool:
        """Whether a container has claimed what it mounts, be it nothing."""
        return bool(
            self._database.query(
                "SELECT 1 FROM mount_points WHERE container = ? AND destination = ''", (container_id,)
            )
        )

    def mount_points(self, container_id: str) -> "Documents":
        """The documents of what a container claimed, in their order."""
        rows = self._database.query(
            "SELECT document FROM mount_points WHERE container = ? AND destination != '' ORDER BY position",
            (container_id,),
        )
        return [json.loads(row[0]) for row in rows]

    def release(self, container_id: str, *, anonymous: bool) -> "Names":
        """Let go of all that a container claimed; with *anonymous*, its volumes without a name go with it.

        One that another container has stays. Their names are returned.
        """
        if not self.is_known(container_id):
            return []
        names: Names = []
        gone: Names = []
        with self._database.transaction(frees=True) as connection:
            rows = connection.execute(
                "SELECT volume, document FROM mount_points WHERE container = ?", (container_id,)
            ).fetchall()
            connection.execute("DELETE FROM mount_points WHERE container = ?", (container_id,))
            for name, document in rows:
                if (
                    anonymous
                    and name
                    and json.loads(document).get("Anonymous")
                    and not self._users(connection, name)
                ):
                    taken = self._take_away(connection, name)
                    names += [name] * bool(taken)
                    gone.append(taken)
        self._say("destroy", names)
        for each in gone:
            try:
                self._delete(each)
            except PyruncError:
                pass  # such as an immutable file: the container goes all the same, and a prune tries again
        return names

    def data(self, name: str) -> str:
        """The directory of the volume *name*."""
        return os.path.join(self.directory, name, _DATA)

    def ensure_data(self, name: str) -> str:
        """The same; made if a process was killed, or a disk was full, before that was done."""
        home = os.path.join(self.directory, name)
        path = os.path.join(home, _DATA)
        if not os.path.isdir(path):
            try:
                make_directory(home)
                os.mkdir(path)
                os.chmod(path, 0o755)
                sync_directory(home)
            except FileExistsError:
                pass
            except OSError as exc:
                raise said_full(exc, path) from exc
        return path

    # ---- inside of a transaction

    def _ensure(
        self,
        connection: "sqlite3.Connection",
        name: str,
        labels: "Mapping[str, str]",
        options: "Mapping[str, str]",
        made: "Names",
    ) -> str:
        """See that the volume *name* exists; its name, which is among *made* if it did not."""
        if not name:
            name, labels = os.urandom(32).hex(), {**labels, ANONYMOUS: ""}
        if connection.execute("SELECT 1 FROM volumes WHERE name = ?", (name,)).fetchone():
            return name
        volume_options.check_name(name)
        volume_options.check(name, options)
        connection.execute(
            "INSERT INTO volumes (name, created_ns, labels, options) VALUES (?, ?, ?, ?)",
            (name, time.time_ns(), json.dumps(dict(labels)), json.dumps(dict(options))),
        )
        try:
            self.ensure_data(name)
        except OSError as exc:
            if isinstance(exc, PyruncError) or not exc.strerror:
                raise
            raise InvalidArgument(f"create {name}: {exc.strerror.lower()}") from exc
        made.append(name)
        return name

    def _users(self, connection: "sqlite3.Connection", name: str) -> "Names":
        """As `users`; claims of containers that are gone are forgotten, since their rows came before these."""
        found = []
        for (container,) in connection.execute(
            "SELECT DISTINCT container FROM mount_points WHERE volume = ? ORDER BY container", (name,)
        ).fetchall():
            if self._exists(container):
                found.append(container)
            else:
                connection.execute("DELETE FROM mount_points WHERE container = ?", (container,))
        return found

    def _take_away(self, connection: "sqlite3.Connection", name: str) -> str:
        """Forget a volume and move its directory out of the way; where that is now, "" if there was no such volume."""
        if not connection.execute("DELETE FROM volumes WHERE name = ?", (name,)).rowcount:
            return ""
        home = os.path.join(self.directory, name)
        below = _mounted_below(home)
        if below:
            raise FailedPrecondition(f"remove {name}: something is mounted at {below}")
        gone = os.path.join(self.directory, _REMOVED + os.urandom(8).hex())
        try:
            os.rename(home, gone)
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise PyruncError(f"remove {name}: {(exc.strerror or str(exc)).lower()}") from exc
        return gone

    # ---- files

    def _say(self, action: str, names: "Names") -> None:
        for name in names:
            events.write(self._root, "volume", action, name, {"driver": DRIVER})

    def _delete(self, gone: str) -> int:
        """Remove what was moved to *gone*; the bytes of its files."""
        if not gone:
            return 0
        name = os.path.basename(gone)
        with trees.opened(self.directory) as home:
            try:
                with trees.opened(name, home) as top:
                    size = trees.content_bytes(top)
            except OSError:
                size = 0
            try:
                trees.remove(home, name)
            except OSError as exc:
                raise PyruncError(f"{gone}: cannot be removed: {(exc.strerror or str(exc)).lower()}") from exc
        return size

    def _sweep(self) -> None:
        """Remove what killed processes have moved away, or made and never filled."""
        with self._database.transaction(durable=False) as connection:
            known = {row[0] for row in connection.execute("SELECT name FROM volumes")}
            found = [name for name in os.listdir(self.directory) if name not in known]
            for name in found:
                if not name.startswith(_REMOVED):
                    for path in (self.data(name), os.path.join(self.directory, name)):
                        try:
                            os.rmdir(path)
                        except OSError:
                            pass  # there is something in it: it stays for whoever creates the volume again
        for name in found:
            if name.startswith(_REMOVED):
                try:
                    self._delete(os.path.join(self.directory, name))
                except PyruncError:
                    pass  # it was said when it was removed

    def _find_again(self) -> None:
        """Make rows for the directories of a root whose database was lost."""
        with self._database.transaction() as connection:
            for name in sorted(os.listdir(self.directory)):
                if name.startswith(".") or not os.path.isdir(self.data(name)):
                    continue
                connection.execute(
                    "INSERT OR IGNORE INTO volumes (name, created_ns, labels, options) VALUES (?, ?, '{}', '{}')",
                    (name, os.stat(self.data(name)).st_mtime_ns),
                )

    def _volume(self, row: "tuple[Any, ...]") -> Volume:
        name, created_ns, labels, options = row
        return Volume(name, DRIVER, json.loads(labels), json.loads(options), created_ns, self.data(name))


_FIELDS = "name, created_ns, labels, options"


def _pattern(text: str) -> "Callable[[str], object]":
    """What Docker takes a name in a filter for: an expression that is found anywhere, or the whole name."""
    import re

    try:
        search = re.compile(text).search
    except re.error:
        return lambda name: name == text
    return lambda name: name == text or search(name)


def _mounted_below(directory: str) -> str:
    """Where in *directory* something is mounted that this process sees; "" for nowhere.

    Whatever mounted it there uses it, and removing the directory would remove what is mounted.
    Source: proc(5), /proc/pid/mountinfo.
    """
    begin = os.fsencode(os.path.realpath(directory)) + b"/"
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            place = line.split()[4].decode("unicode_escape").encode("latin-1")
            if place.startswith(begin):
                return os.fsdecode(place)
    return ""


def _are_texts(given: object) -> bool:
    return isinstance(given, dict) and all(isinstance(text, str) for pair in given.items() for text in pair)
