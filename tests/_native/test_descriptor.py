"""Open files that are somebody's from the first moment on, whenever an interrupt comes."""

import ctypes
import fcntl
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc._native.descriptor import Descriptor
from pyrunc.errors import TimedOut
from pyrunc.store.files import Lock


def test_a_block_has_its_number_and_closes_it(tmp_path: Path) -> None:
    with Descriptor(str(tmp_path), os.O_RDONLY | os.O_DIRECTORY) as directory:
        assert os.path.samestat(os.fstat(directory), tmp_path.stat())
        assert not os.get_inheritable(directory)
        with Descriptor("file\udcff", os.O_RDWR | os.O_CREAT, 0o600, dir_fd=directory) as file:
            os.write(file, b"text")
    assert os.listdir(os.fsencode(tmp_path)) == [b"file\xff"]
    assert (tmp_path / "file\udcff").stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(directory)


def test_it_is_closed_once_and_with_its_last_reference(tmp_path: Path) -> None:
    held = Descriptor(str(tmp_path), os.O_RDONLY)
    number = held.fd
    held.close()
    assert held.fd == -1
    other = os.open(tmp_path, os.O_RDONLY)
    assert other == number
    held.close()
    del held
    os.fstat(other)
    os.close(other)
    number = Descriptor(str(tmp_path), os.O_RDONLY).fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


@pytest.mark.parametrize(
    ("name", "flags", "error"),
    [
        ("none", os.O_RDONLY, FileNotFoundError), ("file", os.O_RDONLY | os.O_DIRECTORY, NotADirectoryError),
        ("link", os.O_RDONLY | os.O_NOFOLLOW, OSError), (".", os.O_WRONLY, IsADirectoryError),
    ],
)  # fmt: skip
def test_its_errors_are_those_of_open(tmp_path: Path, name: str, flags: int, error: type[OSError]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    path = str(tmp_path / name)
    with pytest.raises(error) as theirs:
        os.open(path, flags)
    with pytest.raises(error) as ours:
        Descriptor(path, flags)
    assert (ours.value.errno, ours.value.filename) == (theirs.value.errno, path)


def test_wrong_arguments_close_nobody_elses(tmp_path: Path) -> None:
    wrong: list[Callable[[], object]] = [
        lambda: Descriptor("a\0b", os.O_RDONLY),
        lambda: Descriptor(None, os.O_RDONLY),  # type: ignore[arg-type]
        lambda: Descriptor(str(tmp_path), "r"),  # type: ignore[arg-type]
        lambda: Descriptor(str(tmp_path), os.O_RDONLY, 0, dir_fd=None),  # type: ignore[arg-type]
        lambda: Descriptor("\ud800", os.O_RDONLY),
        Descriptor,  # type: ignore[list-item]
    ]
    child = os.fork()  # whose descriptor 0 this may be
    if child == 0:
        code = 1
        try:
            os.dup2(os.open("/dev/zero", os.O_RDONLY), 0)
            refused = 0
            for each in wrong:
                try:
                    each()
                except (TypeError, ValueError):
                    refused += 1
            code = 0 if refused == len(wrong) and os.read(0, 1) == b"\0" else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def interrupted(path: Path, opening: Callable[[str, int], object]) -> int:
    """How many descriptors *opening* leaves of the FIFO *path* if an interrupt comes when it has just been opened."""
    os.mkfifo(path)
    with_gil = ctypes.PyDLL(None, use_errno=True)
    main = threading.get_ident()

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            # The opener goes on from here, and waits for the interpreter until it is interrupted.
            writer = with_gil.open(os.fsencode(path), os.O_WRONLY | os.O_NONBLOCK)
            if writer >= 0:
                signal.pthread_kill(main, signal.SIGINT)
                os.close(writer)
                return
            time.sleep(0.001)

    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        thread.start()
        opening(str(path), os.O_RDONLY)
    thread.join()
    gc.collect()
    left = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == str(path):
                os.close(int(name))
                left += 1
        except FileNotFoundError:
            continue  # that of the list itself
    return left


def test_an_interrupt_leaves_nothing_open(tmp_path: Path) -> None:
    assert interrupted(tmp_path / "careless", os.open) == 1, "the interrupt has not come at that moment"
    assert interrupted(tmp_path / "ours", Descriptor) == 0


def test_a_lock_is_not_kept_by_who_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor by the traceback, which whoever asks why may hold on to."""
    flock = fcntl.flock

    def late(fd: int, kind: int) -> None:
        flock(fd, kind)
        raise KeyboardInterrupt

    path = str(tmp_path / "lock")
    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(KeyboardInterrupt) as told:
        Lock(path).acquire()
    monkeypatch.setattr(fcntl, "flock", flock)
    with Lock(path, timeout_s=0), pytest.raises(TimedOut):
        Lock(path, timeout_s=0).acquire()
    assert told.value.__traceback__ is not None
