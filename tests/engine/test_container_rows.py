"""containers.db: what a row keeps, how containers are found, and that no look-up reads all rows."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrunc.api import ContainerRecord
from pyrunc.engine.container_rows import SCHEMA, ContainerRows
from pyrunc.errors import AlreadyExists, InvalidArgument, NotFound

A, B, C = "a" * 64, "ab" + "c" * 62, "ab" + "d" * 62


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[ContainerRows]:
    found = ContainerRows(str(tmp_path))
    yield found
    found.close()


def record(container_id: str, name: str, **fields: object) -> ContainerRecord:
    config = {"Cmd": ["true"], "Env": ["A=b"]}
    return ContainerRecord(
        container_id,
        name,
        "beta",
        "sha256:1",
        "vfs",
        config,
        {"AutoRemove": False},
        {"umask": 18},
        5,
        "created",
    )._replace(**fields)  # type: ignore[arg-type]


def test_what_is_written_is_read(rows: ContainerRows) -> None:
    rows.add(record(A, "one"))
    found = rows.get("one")
    assert (found.id, found.name, found.image, found.image_id, found.state) == (
        A,
        "one",
        "beta",
        "sha256:1",
        "created",
    )
    assert (found.config["Env"], found.options, found.argv) == (["A=b"], {"umask": 18}, ("true",))
    assert found.log_path.endswith(f"/containers/{A}/{A}-json.log")
    rows.starting(A, "boot", "/state", again=False)
    rows.starting(A, "boot", "/state", again=True)
    row = rows.find("one")
    assert (row.record.state, row.record.restart_count, row.boot, row.record.state_dir) == (
        "running",
        1,
        "boot",
        "/state",
    )
    rows.change(A, state="exited", exit_code=3, oom_killed=True, error="why", finished_ns=9, stopped=True)
    found = rows.get("one")
    assert (found.exit_code, found.oom_killed, found.error, found.finished_ns, found.stopped) == (
        3,
        True,
        "why",
        9,
        True,
    )
    rows.write_documents(found._replace(host_config={"Memory": 5, "LogConfig": {"Type": "none"}}))
    assert (rows.get(A).host_config["Memory"], rows.get(A).log_path) == (5, "")
    rows.remove(A)
    with pytest.raises(NotFound, match=r"^No such container: one$"):
        rows.get("one")


def test_a_container_is_found_by_id_name_and_beginning(rows: ContainerRows) -> None:
    for container_id, name in ((A, "one"), (B, "aaaa"), (C, "three")):
        rows.add(record(container_id, name))
    assert rows.get(B).id == B
    assert rows.get("/three").id == C
    assert rows.get("abc").id == B
    assert rows.get("aaaa").id == B  # a name before the beginning of an id
    assert rows.get("aaaaa").id == A
    with pytest.raises(InvalidArgument, match="multiple IDs found with provided prefix: ab"):
        rows.get("ab")
    for text in ("", "%", "a_", "nothing", "b"):
        with pytest.raises(NotFound):
            rows.get(text)


def test_a_name_is_one_containers(rows: ContainerRows) -> None:
    rows.add(record(A, "one"))
    rows.add(record(B, "two"))
    words = f'Conflict. The container name "/one" is already in use by container "{A}". You have to remove'
    with pytest.raises(AlreadyExists) as caught:
        rows.add(record(C, "one"))
    assert str(caught.value).startswith(words)
    with pytest.raises(AlreadyExists) as caught:
        rows.rename(B, "one")
    assert str(caught.value).startswith(words)
    rows.rename(A, "free")
    rows.rename(B, "one")
    assert (rows.get("free").id, rows.get("one").id) == (A, B)


def test_no_look_up_reads_all_rows(rows: ContainerRows, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, tuple[object, ...]]] = []
    query = rows._database.query

    def note(sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        asked.append((sql, parameters))
        return query(sql, parameters)

    monkeypatch.setattr(rows._database, "query", note)
    for text in (A, "one", "abc"):
        with pytest.raises(NotFound):
            rows.get(text)
    rows.of_image("sha256:1")
    rows.live()
    rows.latest(1)
    assert len(asked) == 9
    for sql, parameters in asked:
        plan = " ".join(str(row[3]) for row in query(f"EXPLAIN QUERY PLAN {sql}", parameters))
        assert "USING" in plan and (
            "SEARCH" in plan or "containers_live" in plan or "containers_created" in plan
        ), plan


def test_rows_of_version_1_are_taken_over(tmp_path: Path) -> None:
    """As they were before the shim: such containers ended with their owners."""
    database = sqlite3.connect(tmp_path / "containers.db")
    database.executescript(f"PRAGMA journal_mode=WAL;{SCHEMA[0]};PRAGMA user_version=1;")
    document = json.dumps(
        {"argv": ["sh", "-c", "x"], "config": {"Entrypoint": ["sh"], "Cmd": ["-c", "x"], "StopTimeout": 3}}
    )
    for number, (state, removes) in enumerate(
        (("exited", 0), ("running", 0), ("starting", 1), ("created", 0))
    ):
        database.execute(
            "INSERT INTO containers VALUES (?, ?, 'beta', 'sha256:1', 'vfs', ?, ?, 7, 8, 5, 0, ?, ?, 'b', 1, 2, 3)",
            (f"{number}" * 64, f"c{number}", number, state, removes, document),
        )
    database.commit()
    database.close()
    rows = ContainerRows(str(tmp_path))
    found = [row.record for row in rows.all()]
    rows.close()
    assert [(each.name, each.state, each.exit_code, each.auto_remove) for each in found] == [
        ("c3", "created", 5, False), ("c2", "created", 5, True), ("c1", "exited", 137, False),
        ("c0", "exited", 5, False),
    ]  # fmt: skip
    assert found[0].config["StopTimeout"] == 3
    assert (found[0].argv, found[0].host_config, found[0].options) == (
        ("sh", "-c", "x"),
        {"AutoRemove": False},
        {},
    )
