"""Streams of running containers from Python."""

import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrunc import Attachment, Container, Engine
from pyrunc.errors import FailedPrecondition, InvalidArgument, TimedOut
from tests.cli import samples
from tests.engine.conftest import PATIENCE_S, clear

pytestmark = [
    pytest.mark.usefixtures("host_unchanged"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture
def engine(tmp_path: Path, busybox: Path) -> Iterator[Engine]:
    samples.write(tmp_path, busybox)
    with Engine(tmp_path / "root") as made:
        made.images.load(tmp_path / "beta.tar")
        yield made
        clear(made)


def created(engine: Engine, script: str, **more: object) -> Container:
    return engine.containers.create("beta", ["sh", "-c", script], stdin_open=True, **more)  # type: ignore[arg-type]


def test_what_it_writes_from_its_first_byte_to_its_end(engine: Engine) -> None:
    with created(engine, "echo out; echo err >&2; exit 3") as container:
        with container.start_attached() as streams:
            assert isinstance(streams, Attachment)
            assert sorted(streams) == [("stderr", b"err\n"), ("stdout", b"out\n")]
            assert streams.exit_code == 3
            assert streams.read() is None
        assert container.wait() == 3


def test_a_conversation(engine: Engine) -> None:
    script = 'while read line; do echo "got $line"; done; echo over'
    with engine.start("beta", ["sh", "-c", script], stdin_open=True) as container:
        with container.attach(stdin=True) as first:
            first.write(b"one\n")
            assert first.read(60) == ("stdout", b"got one\n")
            with container.attach() as second:
                first.write(b"two\n")
                assert second.read(60) == first.read(60) == ("stdout", b"got two\n")
                with pytest.raises(TimedOut):
                    second.read(0.05)
                with pytest.raises(FailedPrecondition, match="without stdin=True"):
                    second.write(b"x")
            first.detach()
        with container.attach(stdin=True) as third:  # nobody has ended the input
            third.write(b"three\n")
            assert third.read(60) == ("stdout", b"got three\n")
            third.close_stdin()
            assert b"".join(data for _, data in third) == b"over\n"
            assert third.exit_code == 0
            with pytest.raises(FailedPrecondition, match="has ended"):
                third.write(b"x")


def test_leaving_the_block_ends_the_input_and_not_the_container(engine: Engine) -> None:
    with engine.start("beta", ["sh", "-c", "cat; sleep 0.1; exit 5"], stdin_open=True) as container:
        with container.attach(stdin=True) as streams:
            assert container.record().state == "running"
            streams.write(b"x")
        assert container.wait(60) == 5


def test_much_both_ways_from_one_thread(engine: Engine) -> None:
    data = os.urandom(1 << 20) * 8
    made = created(engine, "cat", host_config={"LogConfig": {"Type": "none"}})
    with made, made.start_attached(stdin=True) as streams:
        streams.write(data)  # all of it comes back before anybody reads
        streams.close_stdin()
        assert b"".join(part for _, part in streams) == data
    with created(engine, "cat") as container, container.start_attached(stdin=True) as streams:
        assert streams.communicate(data) == (data, b"")
        assert streams.exit_code == 0


def test_a_slow_reader_misses_nothing_and_stops_nobody(engine: Engine) -> None:
    with (
        created(
            engine,
            "i=0; while [ $i -lt 300 ]; do cat /bin/busybox; i=$((i+1)); done | busybox head -c 20000000",
        ) as c,
        c.start_attached() as slow,
        c.attach() as fast,
    ):
        much = sum(len(data) for _, data in fast)
        assert c.wait(60) == 0
        assert sum(len(data) for _, data in slow) == 20_000_000
        assert much <= 20_000_000


def test_communicate_in_time(engine: Engine) -> None:
    with created(engine, "echo one; sleep 600") as container, container.start_attached() as streams:
        told = b""
        for timeout_s in PATIENCE_S:
            with pytest.raises(TimedOut) as late:
                streams.communicate(timeout_s=timeout_s)
            told += late.value.stdout
            if told:
                break
        assert told == b"one\n"
        assert container.record().state == "running"


def test_a_thread_that_reads_stops_when_it_is_closed(engine: Engine) -> None:
    with engine.start("beta", ["sleep", "600"]) as container:
        streams = container.attach()
        found: list[object] = []
        reader = threading.Thread(target=lambda: found.append(streams.read()))
        reader.start()
        while not reader.is_alive():
            pass
        streams.close()
        reader.join(60)
        assert found == [None]
        assert streams.closed and streams.fileno() == -1


def test_who_reads_while_it_is_closed_waits_for_no_stranger(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of its descriptor may be another's as soon as it is closed."""
    with engine.start("beta", ["sleep", "600"]) as container:
        streams = container.attach()
        number, poll = streams.fileno(), select.poll
        reading, writing = os.pipe()

        class Late:
            def __init__(self) -> None:
                self._poll = poll()
                self.register = self._poll.register

            def poll(self, _: float | None) -> list[tuple[int, int]]:
                streams.close()
                os.dup2(reading, number)
                return self._poll.poll(5000)

        with monkeypatch.context() as patch:
            patch.setattr(select, "poll", Late)
            assert streams.read() is None
        for fd in (reading, writing, number):
            os.close(fd)


def test_a_terminal(engine: Engine) -> None:
    made = created(engine, "read x; busybox stty size; echo $x", tty=True)
    with made, made.start_attached(stdin=True) as streams:
        streams.resize(33, 44)
        streams.write(b"typed\n")
        told = b"".join(data for stream, data in streams if stream == "stdout")
    assert b"33 44\r\ntyped\r\n" in told


def test_wrong_uses(engine: Engine) -> None:
    container = engine.containers.create("beta", ["sleep", "60"], name="one")
    with pytest.raises(
        FailedPrecondition, match=r"^You cannot attach to a stopped container, start it first$"
    ):
        container.attach()
    with pytest.raises(FailedPrecondition, match="made without stdin_open"):
        container.start_attached(stdin=True)
    container.start()
    with pytest.raises(FailedPrecondition, match="runs already: attach to it"):
        container.start_attached()
    with pytest.raises(FailedPrecondition, match="made without stdin_open"):
        container.attach(stdin=True)
    with container.attach() as streams:
        with pytest.raises(FailedPrecondition, match="no terminal"):
            streams.resize(1, 2)
        with pytest.raises(InvalidArgument):
            streams.resize(-1, 2)
        with pytest.raises(InvalidArgument):
            streams.read(-1)
        with pytest.raises(InvalidArgument):
            streams.write("text")  # type: ignore[arg-type]
    container.pause()
    with pytest.raises(
        FailedPrecondition, match=r"^You cannot attach to a paused container, unpause it first$"
    ):
        container.attach()
