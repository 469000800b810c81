"""Rows about containers: containers.db, which may lose its latest rows.

    containers    id → name, image (as asked for), image_id, driver, created_ns, state, started_ns, finished_ns,
                  exit_code, oom_killed, error, restart_count, backoff_ms, stopped, document (JSON: config, host_config,
                  options); of one that runs: boot, state_dir; of one that is restarting: restarter, restarter_started

A row says "running" from before the start until somebody has taken note of the end; whether that is still true is
seen in state_dir (engine/observing.py). restarter is the process that waits to start the container again.
"""

import os
import time

from pyrunc.api import ContainerRecord
from pyrunc.engine.argument_checks import check_text
from pyrunc.errors import AlreadyExists, InvalidArgument, NotFound
from pyrunc.records import NamedTuple, dumps, loads
from pyrunc.store.database import Database

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from pyrunc.store.check import Problem

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
    # Those of version 1 ended with their owners, which an upgrade has ended.
    """
    ALTER TABLE containers RENAME TO containers_1;
    CREATE TABLE containers (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, image TEXT NOT NULL, image_id TEXT NOT NULL,
        driver TEXT NOT NULL, created_ns INTEGER NOT NULL, state TEXT NOT NULL
        CHECK (state IN ('created', 'running', 'paused', 'restarting', 'removing', 'exited', 'dead')),
        started_ns INTEGER NOT NULL DEFAULT 0, finished_ns INTEGER NOT NULL DEFAULT 0,
        exit_code INTEGER NOT NULL DEFAULT 0, oom_killed INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '',
        restart_count INTEGER NOT NULL DEFAULT 0, backoff_ms INTEGER NOT NULL DEFAULT 0,
        stopped INTEGER NOT NULL DEFAULT 0, boot TEXT NOT NULL DEFAULT '', state_dir TEXT NOT NULL DEFAULT '',
        restarter INTEGER NOT NULL DEFAULT 0, restarter_started INTEGER NOT NULL DEFAULT 0, document TEXT NOT NULL
    ) WITHOUT ROWID;
    INSERT INTO containers (id, name, image, image_id, driver, created_ns, state, started_ns, finished_ns, exit_code,
        document)
        SELECT id, name, image, image_id, driver, created_ns,
            CASE state WHEN 'starting' THEN 'created' WHEN 'running' THEN 'exited' ELSE state END, started_ns,
            CASE state WHEN 'running' THEN started_ns ELSE finished_ns END,
            CASE state WHEN 'running' THEN 137 ELSE exit_code END,
            json_object('config', json_extract(document, '$.config'), 'host_config',
                json_object('AutoRemove', json(iif(removes, 'true', 'false'))), 'options', json('{}'))
        FROM containers_1;
    DROP TABLE containers_1;
    CREATE INDEX containers_image ON containers (image_id);
    CREATE INDEX containers_created ON containers (created_ns);
    CREATE INDEX containers_live ON containers (state)
        WHERE state IN ('running', 'paused', 'restarting', 'removing');
    """,
)
_LIVE = "state IN ('running', 'paused', 'restarting', 'removing')"
_FIELDS = (
    "id, name, image, image_id, driver, document, created_ns, state, started_ns, finished_ns, exit_code, oom_killed,"
    " error, restart_count, stopped, state_dir, boot, backoff_ms, restarter, restarter_started"
)
_NAME_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME_REST = _NAME_FIRST | frozenset("_.-")
_HEX = frozenset("0123456789abcdef")


class Row(NamedTuple):
    """A row: the *record* as it was written, and what only the engine needs of it."""

    record: ContainerRecord
    boot: str
    backoff_ms: int
    restarter: int
    restarter_started: int


def log_path(root: str, container_id: str, host_config: "Mapping[str, Any]") -> str:
    """Where the log of a container is; "" if it has none."""
    if (host_config.get("LogConfig") or {}).get("Type") == "none":
        return ""
    return os.path.join(root, "containers", container_id, f"{container_id}-json.log")


def check_name(name: str) -> str:
    """Return *name*. Raises InvalidArgument, in Docker's words, if no container can be called so."""
    bare = name.removeprefix("/")
    if len(bare) < 2 or bare[0] not in _NAME_FIRST or not _NAME_REST.issuperset(bare):
        raise InvalidArgument(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return bare


class ContainerRows:
    """The rows below *root*."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._database = Database(
            os.path.join(root, "containers.db"),
            SCHEMA,
            "NORMAL",
            remedy="containers that were kept are lost with it: move it away, then prune",
        )

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def damage(self) -> "list[Problem]":
        """What is wrong with the file."""
        from pyrunc.store.check import Problem

        return [Problem("database", self._database.path, text) for text in self._database.integrity()]

    def add(self, record: ContainerRecord, boot: str = "", document: str = "") -> None:
        """Add a container, whose *document* may be known. Raises AlreadyExists for the name, in Docker's words."""
        document = document or document_of(record.config, record.host_config, record.options)
        with self._database.transaction() as connection:
            _check_free(connection, record.name)
            connection.execute(
                "INSERT INTO containers (id, name, image, image_id, driver, created_ns, state, started_ns, boot,"
                " state_dir, document) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.id, record.name, record.image, record.image_id, record.driver, record.created_ns,
                    record.state, record.started_ns, boot, record.state_dir, document,
                ),
            )  # fmt: skip

    def change(self, container_id: str, *, frees: bool = False, **fields: object) -> None:
        """Write some columns of a container; *frees* for what must be possible on a full disk."""
        names = ", ".join(f"{name} = ?" for name in fields)
        with self._database.transaction(frees=frees) as connection:
            connection.execute(
                f"UPDATE containers SET {names} WHERE id = ?", (*map(_value, fields.values()), container_id)
            )

    def starting(self, container_id: str, boot: str, state_dir: str, *, again: bool) -> None:
        """Say that a start begins; *again* is one by a restart policy, which counts."""
        count = "restart_count + 1" if again else "0"
        reset = "" if again else ", backoff_ms = 0"
        with self._database.transaction() as connection:
            connection.execute(
                f"UPDATE containers SET state = 'running', started_ns = ?, exit_code = 0, oom_killed = 0, error = '',"
                f" stopped = 0, restart_count = {count}{reset}, boot = ?, state_dir = ?, restarter = 0 WHERE id = ?",
                (time.time_ns(), boot, state_dir, container_id),
            )

    def rename(self, container_id: str, name: str) -> None:
        """Give it another name. Raises AlreadyExists in Docker's words."""
        with self._database.transaction() as connection:
            _check_free(connection, name)
            connection.execute("UPDATE containers SET name = ? WHERE id = ?", (name, container_id))

    def write_documents(self, record: ContainerRecord) -> None:
        """Store the documents of *record*."""
        text = document_of(record.config, record.host_config, record.options)
        self.change(record.id, document=text)

    def remove(self, container_id: str) -> None:
        """Forget it."""
        with self._database.transaction(frees=True) as connection:
            connection.execute("DELETE FROM containers WHERE id = ?", (container_id,))

    def all(self) -> list[Row]:
        """Every container, the latest first."""
        return self._rows("1 ORDER BY created_ns DESC, id")

    def live(self) -> list[Row]:
        """Those that run, or are being restarted or removed, the latest first."""
        return self._rows(f"{_LIVE} ORDER BY created_ns DESC, id")

    def latest(self, count: int) -> list[Row]:
        """The *count* that were created last, the latest first."""
        return self._rows("1 ORDER BY created_ns DESC, id LIMIT ?", (count,))

    def of_image(self, image_id: str) -> list[Row]:
        """The containers of an image, by id."""
        return self._rows("image_id = ? ORDER BY id", (image_id,))

    def by_id(self, container_id: str) -> Row | None:
        """The container of that id, if there is one."""
        rows = self._rows("id = ?", (container_id,))
        return rows[0] if rows else None

    def by_name(self, name: str) -> Row | None:
        """The container of that name, if there is one."""
        rows = self._rows("name = ?", (name,))
        return rows[0] if rows else None

    def get(self, text: str) -> ContainerRecord:
        """What the row of `find` says, which may not be so any more."""
        return self.find(text).record

    def find(self, text: str) -> Row:
        """The container of that id, name, or beginning of an id. Raises NotFound, InvalidArgument in Docker's words."""
        check_text("a container", text)
        found = self.by_id(text) if len(text) == 64 else None
        found = found or self.by_name(text.removeprefix("/"))
        if found is None and text and _HEX.issuperset(text):
            # "g" follows all hex digits.
            rows = self._rows("id >= ?1 AND id < ?1 || 'g' ORDER BY id LIMIT 2", (text,))
            if len(rows) > 1:
                raise InvalidArgument(f"multiple IDs found with provided prefix: {text}")
            found = rows[0] if rows else None
        if found is None:
            raise NotFound(f"No such container: {text}")
        return found

    def _rows(self, where: str, parameters: "Sequence[object]" = ()) -> list[Row]:
        found = self._database.query(f"SELECT {_FIELDS} FROM containers WHERE {where}", parameters)
        return [self._row(row) for row in found]

    def _row(self, row: "tuple[Any, ...]") -> Row:
        documents = loads(row[5])
        host_config = documents["host_config"]
        record = ContainerRecord(
            row[0], row[1], row[2], row[3], row[4], documents["config"], host_config, documents["options"],
            row[6], row[7], 0, 0, row[8], row[9], row[10], bool(row[11]), row[12], row[13], bool(row[14]), row[15],
            log_path(self._root, row[0], host_config),
        )  # fmt: skip
        return Row(record, *row[16:])


def document_of(*documents: "Mapping[str, Any]") -> str:
    """The column `document` of a container with this config, host_config and options."""
    names: Iterable[str] = ("config", "host_config", "options")
    return dumps(dict(zip(names, map(dict, documents), strict=True)))


def _value(value: object) -> object:
    return int(value) if isinstance(value, bool) else value


def _check_free(connection: "sqlite3.Connection", name: str) -> None:
    taken = connection.execute("SELECT id FROM containers WHERE name = ?", (name,)).fetchone()
    if taken:
        raise AlreadyExists(
            f'Conflict. The container name "/{name}" is already in use by container "{taken[0]}". You have to'
            " remove (or rename) that container to be able to reuse that name."
        )
