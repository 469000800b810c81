"""Talking to systemd's manager: what comes of answers that a real one gives seldom or never.

The other side is a script of bytes; tests/oci/test_systemd.py has a real one.
"""

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyrunc._native import systemd
from pyrunc.runtime import dbus

GREETING = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"
OK = b"DATA\r\nOK 0123456789abcdef0123456789abcdef\r\n"
JOB = "/org/freedesktop/systemd1/job/7"
CALL = bytes(
    dbus.call(1, "org.freedesktop.systemd1", "/p", "org.freedesktop.systemd1.Manager", "M", "s", "x").data
)


def message(
    kind: int, answers: int, signature: str, *values: object, name: str = "", member: str = ""
) -> bytes:
    """An answer (2), an error (3) or a signal (4), as systemd sends it."""
    body = dbus.Message()
    for of, value in zip(dbus.split(signature), values, strict=True):
        body.put(of, value)
    fields: list[tuple[int, tuple[str, object]]] = [(1, ("o", "/p"))] if kind == 4 else [(5, ("u", answers))]
    fields += [(number, ("s", text)) for number, text in ((3, member), (4, name), (7, "org.x")) if text]
    fields += [(8, ("g", signature))] if signature else []
    head = dbus.Message()
    for of, value in zip("yyyyuu", (ord("l"), kind, 1, 1, len(body.data), 99), strict=True):
        head.put(of, value)
    head.put("a(yv)", fields)
    head.align(8)
    return bytes(head.data + body.data)


def answer(signature: str = "o", *values: object) -> bytes:
    return message(2, 1, signature, *(values or (JOB,)))


def removed(result: str, unit: str = "x.scope", job: str = JOB) -> bytes:
    return message(4, 0, "uoss", 7, job, unit, result, member="JobRemoved")


@contextmanager
def manager(path: Path, *pieces: bytes, greeting: bytes = OK) -> Iterator[Callable[[], bytes]]:
    """Listens at *path*, greets and, if kindly, hears one call and says *pieces*; hangs up. Yields what it heard."""
    heard: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            heard.append(connection.recv(len(GREETING), socket.MSG_WAITALL))
            connection.sendall(greeting)
            if greeting != OK:
                return
            heard.append(connection.recv(len(CALL), socket.MSG_WAITALL))
            for piece in pieces:
                connection.sendall(piece)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield lambda: b"".join(heard)
        thread.join()


def ask(path: Path, unit: bytes | None = b"x.scope") -> tuple[int, str, str]:
    return systemd.call(os.fsencode(path), CALL, unit)


def test_the_end_of_the_job_is_waited_for(tmp_path: Path) -> None:
    others = removed("failed", "other.scope"), removed("failed", job="/org/freedesktop/systemd1/job/6")
    with manager(tmp_path / "s", *others, answer(), *others, removed("done")) as heard:
        assert ask(tmp_path / "s") == (0, "done", "")
    assert heard() == GREETING + CALL


def test_a_job_may_end_before_the_call_is_answered(tmp_path: Path) -> None:
    with manager(tmp_path / "s", removed("done"), answer()):
        assert ask(tmp_path / "s") == (0, "done", "")


def test_bytes_come_as_they_like(tmp_path: Path) -> None:
    data = answer() + removed("done")
    with manager(tmp_path / "s", *(data[at : at + 1] for at in range(len(data)))):
        assert ask(tmp_path / "s") == (0, "done", "")


def test_a_job_that_fails_says_how(tmp_path: Path) -> None:
    with manager(tmp_path / "s", answer(), removed("dependency")):
        assert ask(tmp_path / "s") == (-errno.ECANCELED, "dependency", "")


@pytest.mark.parametrize(("name", "code"), [
    ("org.freedesktop.systemd1.UnitExists", errno.EEXIST), ("org.freedesktop.systemd1.NoSuchUnit", errno.ENOENT),
    ("org.freedesktop.DBus.Error.AccessDenied", errno.EREMOTEIO),
])  # fmt: skip
def test_an_error_has_its_words(tmp_path: Path, name: str, code: int) -> None:
    with manager(tmp_path / "s", message(3, 1, "s", "no such \u00e9", name=name)):
        assert ask(tmp_path / "s") == (-code, "no such \u00e9", name)


def test_without_a_job_the_answer_is_all(tmp_path: Path) -> None:
    for place, (signature, value, text) in enumerate(
        [("v", ("s", "/a"), "/a"), ("s", "b", "b"), ("u", 5, "")]
    ):
        with manager(tmp_path / str(place), message(2, 2, "s", "another's"), answer(signature, value)):
            assert ask(tmp_path / str(place), None) == (0, text, "")


def test_long_ones_are_passed_over(tmp_path: Path) -> None:
    long = message(4, 0, "s", "x" * 300000, member="PropertiesChanged")
    words = message(3, 1, "s", "y" * 5000, name="z" * 3000)
    with manager(tmp_path / "s", long, words):
        code, text, name = ask(tmp_path / "s")
    assert (code, text, name) == (-errno.EREMOTEIO, "y" * 1023, "z" * 1023)


@pytest.mark.parametrize("broken", [
    b"", b"l", b"B" + answer()[1:], answer()[:-1], bytes(64), b"\xff" * 64,
    answer()[:12] + struct.pack("<I", 1 << 31) + answer()[16:], answer()[:12] + struct.pack("<I", 3) + answer()[16:],
    answer()[:16] + b"\x05\x09" + answer()[18:],
])  # fmt: skip
def test_nothing_broken_is_believed(tmp_path: Path, broken: bytes) -> None:
    with manager(tmp_path / "s", broken):
        code, _, _ = ask(tmp_path / "s")
    assert code in (-errno.ECONNRESET, -errno.EPROTO)


@pytest.mark.parametrize(
    "greeting", [b"REJECTED EXTERNAL\r\n", b"", b"x" * 1000 + b"\r\n", b"DATA\r\nERROR\r\n"]
)
def test_who_is_not_let_in_is_told(tmp_path: Path, greeting: bytes) -> None:
    with manager(tmp_path / "s", greeting=greeting):
        code, _, _ = ask(tmp_path / "s")
    assert code in (-errno.EACCES, -errno.ECONNRESET, -errno.EPIPE)


def test_where_nobody_listens(tmp_path: Path) -> None:
    assert ask(tmp_path / "s")[0] == -errno.ENOENT
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(tmp_path / "s"))
    assert ask(tmp_path / "s")[0] == -errno.ECONNREFUSED
