"""A SQLite file that processes and threads share: whole transactions, versions, forks, and errors that name it."""

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pyrunc.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    PyruncError,
    TimedOut,
    Unavailable,
    Unsupported,
)
from pyrunc.store.database import Database

ONE = "CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT); -- the first version"
TWO = "ALTER TABLE t ADD COLUMN more TEXT DEFAULT 'new'; CREATE INDEX i ON t (text)"


def make(path: Path, schema: tuple[str, ...] = (ONE,), timeout_s: float = 60) -> Database:
    return Database(str(path / "x.db"), schema, "FULL", timeout_s=timeout_s)


def add(database: Database, text: str) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO t (text) VALUES (?)", (text,))


def texts(database: Database) -> list[str]:
    return [row[0] for row in database.query("SELECT text FROM t ORDER BY id")]


def test_a_new_file_is_private_whole_and_logs_ahead(tmp_path: Path) -> None:
    database = make(tmp_path)
    assert os.stat(database.path).st_mode & 0o7777 == 0o600
    assert database.query("PRAGMA journal_mode") == [("wal",)]
    assert database.query("PRAGMA synchronous") == [(2,)]
    assert Database(str(tmp_path / "y.db"), (ONE,), "NORMAL").query("PRAGMA synchronous") == [(1,)]
    assert not [name for name in os.listdir(tmp_path) if ".new" in name]
    assert database.integrity() == []


def test_a_transaction_happens_or_does_not(tmp_path: Path) -> None:
    database = make(tmp_path)
    add(database, "a")

    def fail(durable: bool) -> None:
        with database.transaction(durable=durable) as connection:
            connection.execute("INSERT INTO t (text) VALUES ('b')")
            assert texts(database) == ["a", "b"]  # inside, it is seen
            raise ZeroDivisionError

    for durable in (True, False):
        with pytest.raises(ZeroDivisionError):
            fail(durable)
        assert texts(database) == ["a"]
    for durable, level in ((True, 2), (False, 1), (True, 2)):
        with database.transaction(durable=durable) as connection:
            assert connection.execute("PRAGMA synchronous").fetchone() == (level,)


def test_a_snapshot_sees_one_state(tmp_path: Path) -> None:
    database = make(tmp_path)
    with database.snapshot():
        assert texts(database) == []
        thread = threading.Thread(target=add, args=(database, "a"))
        thread.start()
        thread.join()
        assert texts(database) == []
    assert texts(database) == ["a"]


def test_threads_have_connections_of_their_own_and_lose_nothing(tmp_path: Path) -> None:
    database = make(tmp_path)

    def write() -> None:
        for _ in range(20):
            add(database, "x")

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts(database)) == 160


def test_many_processes_make_the_same_file_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.store.test_database import *\n"
        "input(); add(make(Path(sys.argv[1])), 'x')"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE) for _ in range(8)
    ]
    for child in children:
        assert child.stdin
        child.stdin.write(b"go\n")
        child.stdin.close()
    assert [child.wait() for child in children] == [0] * 8
    assert texts(make(tmp_path)) == ["x"] * 8


def test_a_writer_that_waits_too_long_says_for_what(tmp_path: Path) -> None:
    database, other = make(tmp_path), make(tmp_path, timeout_s=0.1)
    with (
        database.transaction(),
        pytest.raises(TimedOut, match=r"x\.db is locked by another process for 0\.1 s"),
    ):
        add(other, "x")
    add(other, "y")
    assert texts(database) == ["y"]


def test_conditions_have_their_errors_and_harm_nothing(tmp_path: Path) -> None:
    database = make(tmp_path)
    with pytest.raises(AlreadyExists), database.transaction() as connection:
        connection.executemany("INSERT INTO t (id) VALUES (?)", [(1,), (1,)])
    with pytest.raises(PyruncError, match=r"x\.db: no such table: other"):
        database.query("SELECT * FROM other")
    assert texts(database) == []


# ---- versions


def test_an_older_schema_is_brought_up_to_date_with_its_rows(tmp_path: Path) -> None:
    old = make(tmp_path)
    add(old, "a")
    new = make(tmp_path, (ONE, TWO))
    assert new.query("SELECT text, more FROM t") == [("a", "new")]
    with pytest.raises(Unsupported, match=r"schema 2; this one knows 1"):
        add(old, "b")  # of a process that went on with the code of before
    assert texts(new) == ["a"]


def test_a_later_schema_is_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path, (ONE, TWO)).close()
    with pytest.raises(
        Unsupported, match=r"x\.db: written by another version of pyrunc \(schema 2; this one knows 1\)"
    ):
        make(tmp_path)


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path) -> None:
    add(make(tmp_path), "a")
    with pytest.raises(PyruncError, match="syntax"):
        make(tmp_path, (ONE, TWO + "; NONSENSE"))
    assert texts(make(tmp_path)) == ["a"]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(DataLoss, match=r"x\.db is damaged: the file has no schema of pyrunc"):
        make(tmp_path)


def test_the_log_of_a_file_that_was_moved_away_is_not_taken_for_the_new_ones(tmp_path: Path) -> None:
    database = make(tmp_path)
    add(database, "old")
    os.rename(database.path, tmp_path / "away")  # and not its log
    assert (tmp_path / "x.db-wal").stat().st_size
    assert texts(make(tmp_path)) == []


def test_a_file_that_goes_away_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    database = make(tmp_path)
    os.unlink(database.path)
    errors: list[BaseException] = []

    def read() -> None:
        try:
            texts(database)
        except PyruncError as exc:
            errors.append(exc)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert isinstance(errors[0], Unavailable)
    assert not os.path.exists(database.path)


def test_without_the_right_to_it_the_error_says_so() -> None:
    code = (
        "import os, sys; from pathlib import Path; from tests.store.test_database import *\n"
        "from pyrunc.errors import PermissionDenied\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: make(Path(sys.argv[1]))\n"
        "except PermissionDenied as exc: print(exc)"
    )
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        make(Path(directory)).close()
        found = subprocess.run(
            [sys.executable, "-c", code, directory], capture_output=True, text=True, check=True
        )
        assert found.stdout == f"{directory}/x.db: permission denied\n"


# ---- fork


def forked(database: Database, *, expect: int = 0) -> None:
    """Write and read in a forked child."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            add(database, "child")
            code = 0 if texts(database)[-1] == "child" else 2
        except FailedPrecondition:
            code = 3
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == expect


def test_it_is_usable_after_a_fork_on_both_sides(tmp_path: Path) -> None:
    database = make(tmp_path)
    add(database, "parent")
    forked(database)
    add(database, "parent")
    forked(database)
    assert texts(database) == ["parent", "child", "parent", "child"]
    assert database.integrity() == []


def test_no_connection_is_open_while_python_forks(tmp_path: Path) -> None:
    """SQLite would take the parent's locks for the child's own, which has none."""
    database = make(tmp_path)
    add(database, "parent")
    pid = os.fork()
    if pid == 0:
        held = [
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
        ]
        os._exit(any(database.path in path for path in held))
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_waits_for_the_transactions_of_other_threads(tmp_path: Path) -> None:
    database, other = make(tmp_path), Database(str(tmp_path / "y.db"), (ONE,), "NORMAL")
    inside, go = threading.Event(), threading.Event()

    def write() -> None:
        with database.transaction() as connection:
            inside.set()
            go.wait()
            add(other, "nested")  # of a database that this thread had not used before
            connection.execute("INSERT INTO t (text) VALUES ('thread')")

    thread = threading.Thread(target=write)
    thread.start()
    inside.wait()
    threading.Timer(0.2, go.set).start()
    forked(database)
    thread.join()
    assert texts(database) == ["thread", "child"]
    assert texts(other) == ["nested"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_waits_for_a_connection_that_goes_with_its_thread(tmp_path: Path) -> None:
    """Closing locks the file for a moment; SQLite would go on to think so in the child, for ever."""
    database = make(tmp_path)
    begun, closed = threading.Event(), []

    class Slow:
        in_transaction = False

        def __init__(self, raw: sqlite3.Connection) -> None:
            self._raw = raw

        def close(self) -> None:
            begun.set()
            time.sleep(0.5)
            self._raw.close()
            closed.append(True)

    def read() -> None:
        texts(database)
        database._local.handle.raw = Slow(database._local.handle.raw)

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(60)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if closed else 1)
    assert os.waitpid(pid, 0)[1] == 0
    thread.join()
    forked(database)


def test_a_fork_inside_a_transaction_leaves_it_to_the_parent(tmp_path: Path) -> None:
    database = make(tmp_path)
    with database.transaction() as connection:
        connection.execute("INSERT INTO t (text) VALUES ('parent')")
        forked(database, expect=3)
    forked(database)
    assert texts(database) == ["parent", "child"]


def test_a_closed_one_says_so(tmp_path: Path) -> None:
    database = make(tmp_path)
    database.close()
    with pytest.raises(FailedPrecondition, match=r"x\.db is closed"):
        texts(database)


def test_neither_a_sandbox_nor_the_modules_of_the_store_import_sqlite() -> None:
    code = (
        "import sys, pyrunc; pyrunc.Sandbox; assert not any(name.startswith('pyrunc.store') for name in sys.modules)\n"
        "import pyrunc.store.metadata, pyrunc.store.collect, pyrunc.store.check\n"
        "print([name for name in ('sqlite3', 'typing', 'asyncio', 'inspect', 'dataclasses') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == "[]\n"


@pytest.mark.parametrize("durable", [True, False])
def test_whoever_is_interrupted_anywhere_keeps_nobody_out(tmp_path: Path, durable: bool) -> None:
    database, other = make(tmp_path), make(tmp_path, timeout_s=1)
    steps, at, came = 0, 0, True

    def interrupt(_frame: object, event: str, arg: object) -> None:
        nonlocal steps, came
        ours = getattr(arg, "__name__", "") in ("execute", "fetchone", "fetchall")
        if event in ("c_call", "c_return") and ours:
            steps += 1
            if steps == at:
                came = True
                sys.setprofile(None)
                raise KeyboardInterrupt

    while came:
        steps, at, came = 0, at + 1, False
        with suppress(KeyboardInterrupt):
            sys.setprofile(interrupt)
            try:
                with database.transaction(durable=durable) as connection:
                    connection.execute("INSERT INTO t (text) VALUES ('a')")
                    if at % 2:
                        raise KeyboardInterrupt
            finally:
                sys.setprofile(None)
        add(other, "b")  # it waits for nobody
        add(database, "c")
        assert database.query("PRAGMA synchronous") == [(2,)]
    assert at > 8
    assert texts(database).count("b") == at
