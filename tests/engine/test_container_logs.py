"""Logs and events of containers that run: what they write comes out, while it is rotated, and what happens is told."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrunc import Engine
from pyrunc.errors import NotFound, Unsupported
from tests.engine.conftest import clear

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

_COUNT = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo end >&2"


@pytest.fixture
def engine(tmp_path: Path, archives: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "root") as made:
        made.images.load(archives / "beta.tar")
        yield made
        clear(made)


def test_a_follower_misses_nothing_while_the_shim_rotates(engine: Engine) -> None:
    rotated = {"LogConfig": {"Type": "json-file", "Config": {"max-size": "4k", "max-file": "90"}}}
    container = engine.start("beta", ["sh", "-c", _COUNT], host_config=rotated)
    entries = list(container.logs(follow=True))
    assert container.wait(60) == 0
    text = b"".join(entry.data for entry in entries if entry.stream == "stdout")
    assert text == b"".join(b"line %d\n" % number for number in range(2000))
    assert [entry.data for entry in entries if entry.stream == "stderr"] == [b"end\n"]
    directory = Path(container.record().log_path).parent
    assert len(list(directory.glob("*-json.log.*"))) > 20
    whole = list(container.logs())
    assert [entry.data for entry in whole] == [entry.data for entry in entries]
    assert whole == sorted(whole, key=lambda entry: entry.time_ns)
    assert [entry.data for entry in container.logs(tail=3)][-2:] == [entry.data for entry in whole[-2:]]
    middle = whole[1000].time_ns
    assert all(entry.time_ns >= middle for entry in container.logs(since_ns=middle))
    assert all(entry.time_ns <= middle for entry in container.logs(until_ns=middle))


def test_what_has_no_end_of_line_is_seen_at_once(engine: Engine) -> None:
    container = engine.start("beta", ["sh", "-c", "printf hal; read x; echo f"], config={"OpenStdin": True})
    entries = container.logs(follow=True)
    first = next(entries)
    assert (first.data, first.whole_line) == (b"hal", False)
    container.kill()
    assert list(entries) == []


def test_a_container_without_a_log_has_none_to_read(engine: Engine) -> None:
    container = engine.start("beta", ["true"], host_config={"LogConfig": {"Type": "none", "Config": {}}})
    with pytest.raises(Unsupported, match="configured logging driver does not support reading"):
        container.logs()
    container.wait(60)
    container.remove()
    with pytest.raises(NotFound):
        container.logs()


def test_a_follower_ends_when_the_container_is_removed(engine: Engine) -> None:
    container = engine.start("beta", ["sleep", "100"])
    found: list[object] = []
    following = container.logs(follow=True)
    thread = threading.Thread(target=lambda: found.extend(following))
    thread.start()
    container.remove(force=True)
    thread.join(60)
    assert not thread.is_alive() and found == []


def test_the_life_of_a_container_is_told_in_order(engine: Engine) -> None:
    following = engine.events(follow=True, filters=[("type", "container")])
    found: list[tuple[str, str]] = []

    def follow() -> None:
        for event in following:
            found.append((event.action, event.attributes.get("exitCode", "")))
            if event.action == "destroy":
                return

    thread = threading.Thread(target=follow)
    thread.start()
    container = engine.start(
        "beta", ["sh", "-c", "exit 3"], name="told", config={"Labels": {"tier": "front"}}
    )
    assert container.wait(60) == 3
    container.remove()
    thread.join(60)
    assert [each for each in found if each[0] in ("create", "start", "die", "destroy")] == [
        ("create", ""), ("start", ""), ("die", "3"), ("destroy", ""),
    ]  # fmt: skip
    (create,) = engine.events(filters=[("event", "create"), ("label", "tier=front"), ("container", "told")])
    assert create.attributes["image"] == "beta" and create.id == container.id
