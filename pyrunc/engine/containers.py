"""Rows about containers that were kept, or that run under a name: containers.db, which may lose its latest rows.

    containers    id → name, image (as asked for), image_id, driver, created_ns, state, started_ns, finished_ns,
                  exit_code, pid, removes (1: goes with its end), document (JSON: argv, config), and the process
                  that owns it while it runs: boot, pid_namespace, owner, owner_started

A container ends with its owner, so a running one whose owner is dead has ended: whoever looks first says so.
"""

import json
import os
import time

from pyrunc.api import Container
from pyrunc.errors import AlreadyExists, InvalidArgument, NotFound
from pyrunc.store import leases
from pyrunc.store.check import Problem
from pyrunc.store.database import Database

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

SCHEMA = (
    """
    CREATE TABLE containers (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, image TEXT NOT NULL, image_id TEXT NOT NULL,
        driver TEXT NOT NULL, created_ns INTEGER NOT NULL, state TEXT NOT NULL
        CHECK (state IN ('starting', 'created', 'running', 'exited')), started_ns INTEGER NOT NULL DEFAULT 0,
        finished_ns INTEGER NOT NULL DEFAULT 0, exit_code INTEGER NOT NULL DEFAULT 0, pid INTEGER NOT NULL DEFAULT 0,
        removes INTEGER NOT NULL, document TEXT NOT NULL, boot TEXT NOT NULL, pid_namespace INTEGER NOT NULL,
        owner INTEGER NOT NULL, owner_started INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
)
KILLED = 137
_FIELDS = (
    "id, name, image, image_id, document, created_ns, state, pid, started_ns, finished_ns, exit_code, driver, removes,"
    " boot, pid_namespace, owner, owner_started"
)
_NAME_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME_REST = _NAME_FIRST | frozenset("_.-")


def check_name(name: str) -> str:
    """Return *name*. Raises InvalidArgument, in Docker's words, if no container can be called so."""
    bare = name.removeprefix("/")
    if len(bare) < 2 or bare[0] not in _NAME_FIRST or not _NAME_REST.issuperset(bare):
        raise InvalidArgument(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return bare


class Containers:
    """The rows below *root*."""

    def __init__(self, root: str) -> None:
        self._database = Database(
            os.path.join(root, "containers.db"),
            SCHEMA,
            "NORMAL",
            remedy="containers that were kept are lost with it: move it away, then prune",
        )

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def damage(self) -> list[Problem]:
        """What is wrong with the file."""
        return [Problem("database", self._database.path, text) for text in self._database.integrity()]

    def add(
        self, container_id: str, name: str, image: str, image_id: str, driver: str, argv: "Sequence[str]",
        config: "Mapping[str, Any]", remove: bool,
    ) -> None:  # fmt: skip
        """Add a container that this process is about to start. Raises AlreadyExists in Docker's words."""
        document = json.dumps({"argv": list(argv), "config": dict(config)})
        with self._database.transaction() as connection:
            taken = connection.execute("SELECT id FROM containers WHERE name = ?", (name,)).fetchone()
            if taken:
                raise AlreadyExists(
                    f'Conflict. The container name "/{name}" is already in use by container "{taken[0]}". You have to'
                    " remove (or rename) that container to be able to reuse that name."
                )
            connection.execute(
                "INSERT INTO containers (id, name, image, image_id, driver, created_ns, state, removes, document, boot,"
                " pid_namespace, owner, owner_started) VALUES (?, ?, ?, ?, ?, ?, 'starting', ?, ?, ?, ?, ?, ?)",
                (
                    container_id, name, image, image_id, driver, time.time_ns(), int(remove), document,
                    *leases.this_process(),
                ),
            )  # fmt: skip

    def started(self, container_id: str, pid: int) -> None:
        """Say that it runs."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE containers SET state = 'running', pid = ?, started_ns = ? WHERE id = ?",
                (pid, time.time_ns(), container_id),
            )

    def ended(self, container_id: str, exit_code: int, *, started: bool = True) -> None:
        """Say that it has ended; one that never *started* stays "created", as with Docker."""
        # It may have filled the disk itself, and is what can be removed.
        with self._database.transaction(frees=True) as connection:
            connection.execute(
                "UPDATE containers SET state = ?, pid = 0, finished_ns = ?, exit_code = ? WHERE id = ?",
                (
                    "exited" if started else "created",
                    time.time_ns() if started else 0,
                    exit_code,
                    container_id,
                ),
            )

    def remove(self, container_id: str) -> None:
        """Forget it."""
        with self._database.transaction(frees=True) as connection:
            connection.execute("DELETE FROM containers WHERE id = ?", (container_id,))

    def all(self) -> list[Container]:
        """Every container, the latest first, in its true state."""
        rows = self._database.query(f"SELECT {_FIELDS} FROM containers ORDER BY created_ns DESC, id")
        return [self._container(row) for row in rows]

    def get(self, text: str) -> Container:
        """The container of that id, name, or beginning of an id. Raises NotFound in Docker's words."""
        for where in ("id = ?1", "name = ?1", "substr(id, 1, length(?1)) = ?1"):
            rows = self._database.query(
                f"SELECT {_FIELDS} FROM containers WHERE {where}", (text.removeprefix("/"),)
            )
            if len(rows) == 1 and text:
                return self._container(rows[0])
        raise NotFound(f"No such container: {text}")

    def _container(self, row: "tuple[Any, ...]") -> Container:
        *fields, boot, pid_namespace, owner, owner_started = row
        document = json.loads(fields[4])
        found = Container(
            fields[0], fields[1], fields[2], fields[3], tuple(document["argv"]), document["config"], fields[5],
            fields[6], fields[7], fields[8], fields[9], fields[10], fields[11], bool(fields[12]),
        )  # fmt: skip
        dead = not leases.is_alive(leases.Owner(boot, pid_namespace, owner, owner_started), time.time_ns())
        if fields[6] == "starting":
            return found._replace(state="created")
        if found.state == "running" and dead:
            self.ended(found.id, KILLED)
            return found._replace(state="exited", pid=0, exit_code=KILLED, finished_ns=time.time_ns())
        return found

    def running(self, image_id: str) -> list[str]:
        """The ids of the containers of an image that run, or are about to."""
        rows = self._database.query(
            "SELECT id, boot, pid_namespace, owner, owner_started FROM containers"
            " WHERE image_id = ? AND state IN ('starting', 'running') ORDER BY id",
            (image_id,),
        )
        return [row[0] for row in rows if leases.is_alive(leases.Owner(*row[1:]), time.time_ns())]

    def abandoned(self) -> list[Container]:
        """Containers that were to go with their end, and whose owner died before it could do that."""
        return [
            each
            for each in self.all()
            if each.remove and each.state != "running" and self._is_orphan(each.id)
        ]

    def _is_orphan(self, container_id: str) -> bool:
        rows = self._database.query(
            "SELECT boot, pid_namespace, owner, owner_started FROM containers WHERE id = ?", (container_id,)
        )
        return bool(rows) and not leases.is_alive(leases.Owner(*rows[0]), time.time_ns())
