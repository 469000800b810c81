"""Files are replaced whole, durably; a lock excludes, ends with its holder, and waits no longer than it was told."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pyrunc.errors import TimedOut
from pyrunc.store import files


def test_save_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    files.save(str(path), b"a long first text", 0o600)
    before = path.open("rb")
    files.save(str(path), memoryview(b"short"))
    assert path.read_bytes() == b"short"
    assert path.stat().st_mode & 0o7777 == 0o644
    with before:
        assert before.read() == b"a long first text"
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with pytest.raises(IsADirectoryError):
        files.save(str(tmp_path / "state"), b"x")
    assert os.listdir(tmp_path) == ["state"]


def test_directories_are_made_as_far_as_they_are_missing(tmp_path: Path) -> None:
    for _ in range(2):
        files.make_directory(str(tmp_path / "a/b/c"))
    assert (tmp_path / "a/b/c").stat().st_mode & 0o7777 == 0o700
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        files.make_directory(str(tmp_path / "file/x"))


def test_an_exclusive_lock_excludes_and_shared_ones_do_not(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    shared_twice = (files.Lock(path, shared=True), files.Lock(path, shared=True, timeout_s=0))
    for lock in shared_twice:
        lock.acquire()
    with pytest.raises(TimedOut, match=f"{path} is locked"):
        files.Lock(path, timeout_s=0.05).acquire()
    for lock in shared_twice:
        lock.release()
    with files.Lock(path):
        for shared in (True, False):
            with pytest.raises(TimedOut):
                files.Lock(path, shared=shared, timeout_s=0).acquire()
    with files.Lock(path, timeout_s=0):
        pass


@pytest.mark.parametrize("transient", [False, True])
def test_a_lock_that_is_interrupted_while_it_is_let_go_is_free(tmp_path: Path, transient: bool) -> None:
    path = str(tmp_path / "lock")
    cut = True
    for at in range(1, 20):
        calls, cut = 0, False

        def interrupt(_frame: FrameType, event: str, called: Any, at: int = at) -> None:
            nonlocal calls, cut
            # Its descriptor may stay open after an interrupt just before it is closed; what it locks may not.
            if event == "c_call" and called not in (os.close, sys.setprofile):
                calls += 1
                if calls == at:
                    cut = True
                    raise KeyboardInterrupt

        lock = files.Lock(path, transient=transient)
        lock.acquire()
        sys.setprofile(interrupt)
        try:
            lock.release()
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        with files.Lock(path, timeout_s=0):
            pass
        if not cut:
            break
    assert not cut and calls == (3 if transient else 2)


def test_who_waits_gets_the_lock_when_it_is_let_go(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    order = []
    first = files.Lock(path)
    first.acquire()

    def wait(timeout_s: float | None) -> None:
        with files.Lock(path, timeout_s=timeout_s):
            order.append("second")

    threads = [threading.Thread(target=wait, args=(timeout_s,)) for timeout_s in (None, 60.0)]
    for thread in threads:
        thread.start()
    threads[0].join(0.1)
    order.append("first")
    first.release()
    for thread in threads:
        thread.join()
    assert order == ["first", "second", "second"]


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    code = (
        "import sys, time; from pyrunc.store.files import Lock\n"
        "lock = Lock(sys.argv[1]); lock.acquire(); print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(TimedOut):
            files.Lock(path, timeout_s=0).acquire()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        with files.Lock(path, timeout_s=0):
            pass


def test_a_forked_child_does_not_let_go_of_the_parents_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    lock = files.Lock(path)
    lock.acquire()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(writing)
            lock.release()
            os.read(reading, 1)
        finally:
            os._exit(0)
    os.close(reading)
    with pytest.raises(TimedOut):
        files.Lock(path, timeout_s=0).acquire()
    lock.release()
    with files.Lock(path, timeout_s=0):  # though the child lives
        os.close(writing)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_lock_file_that_was_removed_meanwhile_locks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = files.Lock(str(path))
    first.acquire()
    second = files.Lock(str(path))
    waiting = threading.Thread(target=second.acquire)
    waiting.start()
    waiting.join(0.1)
    path.unlink()
    first.release()
    waiting.join()
    with pytest.raises(TimedOut):
        files.Lock(str(path), timeout_s=0).acquire()
    second.release()


def traced(code: str, root: Path) -> list[str]:
    """The calls that change or flush names and files below *root*, in their order, with what they act on."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    done = subprocess.run(
        ["strace", "-y", "-e", "trace=write,pwrite64,fsync,fdatasync,rename,openat", sys.executable, "-c", code, root],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = []
    for line in done.stderr.splitlines():
        call = re.match(r"(\w+)\(", line)
        path = re.search(rf"{root}(/[^>\", ]*)?", line)
        if call and path and call[1] != "openat":
            found.append(f"{call[1].replace('fdata', 'f')} {path[1] or '/'}")
    return found


def test_a_row_comes_after_the_name_and_the_name_after_the_bytes(tmp_path: Path) -> None:
    """The order that survives a loss of power, as the kernel was asked for it."""
    code = (
        "import sys; from tests.store.support import *\n"
        "put(ContentStore(sys.argv[1]), Metadata(sys.argv[1]), 'one', 'name:1', layers=())\n"
        "from pyrunc.store.files import save; save(sys.argv[1] + '/state', b'x')"
    )
    calls = traced(code, tmp_path)
    renames = [at for at, call in enumerate(calls) if call.startswith("rename /content/ingest/")]
    assert len(renames) == 2
    for at in renames:
        name = calls[at].removeprefix("rename ")
        assert calls.index(f"write {name}") < calls.index(f"fsync {name}") < at
        assert calls[at + 1] == "fsync /content/blobs/sha256"
    row = max(at for at, call in enumerate(calls) if call == "fsync /images.db-wal")
    assert row > renames[-1] + 1
    assert "pwrite64 /images.db-wal" in calls[renames[-1] + 2 : row]
    made = calls.index("rename /images.db.new")
    assert calls.index("fsync /images.db.new") < made
    assert calls[made + 1] == "fsync /"
    assert [re.sub(r"\.[0-9a-f]{16}$", "", call) for call in calls[-4:]] == [
        "write /.state", "fsync /.state", "rename /.state", "fsync /",
    ]  # fmt: skip


def test_the_file_of_a_transient_lock_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for _ in range(2):
        with files.Lock(str(path), transient=True):
            assert path.exists()
            with pytest.raises(TimedOut):
                files.Lock(str(path), transient=True, timeout_s=0).acquire()
        assert not path.exists()


def test_transient_locks_exclude_whoever_waits_while_their_file_goes(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    inside = overlaps = 0

    def work() -> None:
        nonlocal inside, overlaps
        for _ in range(200):
            with files.Lock(path, transient=True):
                inside += 1
                overlaps += inside != 1
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (overlaps, os.listdir(tmp_path)) == (0, [])


def test_locks_of_the_dead_are_swept_and_held_ones_stay(tmp_path: Path) -> None:
    (tmp_path / "dead").touch()
    with files.Lock(str(tmp_path / "held"), transient=True):
        files.sweep_locks(str(tmp_path))
        assert os.listdir(tmp_path) == ["held"]
    assert os.listdir(tmp_path) == []
