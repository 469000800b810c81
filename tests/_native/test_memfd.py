"""Sealed anonymous files: they hold what was written, nobody can change it, and their owner closes them."""

import errno
import fcntl
import os

import pytest

from pyrunc._native import memfd

F_GET_SEALS = 1034
ALL_SEALS = 0xF


def test_it_holds_its_content_and_nobody_can_change_it() -> None:
    sealed = memfd.Sealed(b"some-name", b"content" * 100_000)
    fd = sealed.fileno()
    assert os.pread(fd, 1 << 20, 0) == b"content" * 100_000
    assert os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:some-name")
    assert fcntl.fcntl(fd, F_GET_SEALS) == ALL_SEALS
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    for change in (lambda: os.pwrite(fd, b"x", 0), lambda: os.ftruncate(fd, 1)):
        with pytest.raises(PermissionError):
            change()


def test_its_owner_closes_it() -> None:
    sealed = memfd.Sealed(b"x", b"y")
    fd = sealed.fileno()
    sealed.close()
    sealed.close()
    assert sealed.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    fd = memfd.Sealed(b"x", b"y").fileno()  # dropped at once
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_refusal_names_the_call() -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        memfd.Sealed(b"n" * 300, b"")
    assert caught.value.errno == errno.EINVAL
    assert caught.value.__notes__ == ["in memfd_create(2)"]
