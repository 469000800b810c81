"""Paths inside a root: whatever the tree holds, and whatever changes in it meanwhile, nothing leads outside."""

import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyrunc._native import openat2
from tests.child import refused

_libc = ctypes.CDLL(None, use_errno=True)
MAGIC_LINKS = ("cwd", "root", "exe", "fd/0")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """A descriptor of the directory "root"; "outside" and "root/inside" beside and in it hold files of that name."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("outside")
    inside = tmp_path / "root"
    inside.mkdir()
    (inside / "etc").mkdir()
    (inside / "etc" / "passwd").write_text("inside")
    fd = os.open(inside, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def content(fd: int) -> str:
    with open(fd) as file:
        return file.read()


@pytest.mark.parametrize(
    "target", ["/etc", "../etc", "../../../../../../etc", "/../../etc", "//etc", "./../etc/."]
)
def test_symlinks_and_dots_are_resolved_inside(root: int, tmp_path: Path, target: str) -> None:
    (tmp_path / "root" / "link").symlink_to(target)
    for path in (b"/link/passwd", b"link/passwd", b"../link/passwd", b"/../../link/passwd"):
        fd = openat2.open_in_root(root, path, os.O_RDONLY)
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert content(fd) == "inside"


def test_a_symlink_to_the_outside_does_not_exist_inside(root: int, tmp_path: Path) -> None:
    (tmp_path / "root" / "absolute").symlink_to(tmp_path / "outside" / "secret")
    (tmp_path / "root" / "relative").symlink_to("../outside/secret")
    # the attack works with a plain open
    assert (tmp_path / "root" / "absolute").read_text() == "outside"
    assert (tmp_path / "root" / "relative").read_text() == "outside"
    for path in ("absolute", "relative", "../outside/secret", str(tmp_path / "outside" / "secret")):
        with refused(errno.ENOENT, "openat2", path):
            openat2.open_in_root(root, path.encode(), os.O_RDONLY)


@pytest.mark.parametrize("link", MAGIC_LINKS)
def test_magic_links_are_refused(link: str) -> None:
    path = f"self/{link}"
    os.stat(f"/proc/{path}")  # the attack works with a plain walk
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with refused(errno.ELOOP, "openat2", path):
            openat2.open_in_root(proc, path.encode(), os.O_PATH)
    finally:
        os.close(proc)


def test_rules_of_resolution(root: int, tmp_path: Path) -> None:
    (tmp_path / "root" / "link").symlink_to("etc")
    with refused(errno.ELOOP, "openat2", "/link/passwd"):
        openat2.open_in_root(root, b"/link/passwd", os.O_RDONLY, resolve=openat2.RESOLVE_NO_SYMLINKS)
    with refused(errno.EXDEV, "openat2", "../outside"):
        openat2.openat2(root, b"../outside", os.O_PATH, resolve=openat2.RESOLVE_BENEATH)
    with refused(errno.EXDEV, "openat2", "/proc/version"):
        openat2.openat2(openat2.AT_FDCWD, b"/proc/version", os.O_RDONLY, resolve=openat2.RESOLVE_NO_XDEV)
    with refused(errno.EINVAL, "openat2", "new"):
        openat2.openat2(root, b"new", os.O_RDONLY, mode=0o600)  # a mode without O_CREAT
    with pytest.raises(ValueError, match="null byte"):
        openat2.open_in_root(root, b"/etc\0/x", os.O_PATH)
    fd = openat2.openat2(root, b"new", os.O_CREAT | os.O_WRONLY, mode=0o600)
    assert os.fstat(fd).st_mode & 0o777 == 0o600
    os.close(fd)


def exchange(one: Path, other: Path) -> None:
    """Let two names change places at once; renameat2(2), RENAME_EXCHANGE."""
    if _libc.renameat2(openat2.AT_FDCWD, os.fsencode(one), openat2.AT_FDCWD, os.fsencode(other), 2):
        raise OSError(ctypes.get_errno(), "renameat2")


@contextmanager
def lost_race() -> Iterator[None]:
    """Pass over what a walk may say when the tree changes under it."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EAGAIN):
            raise


def racing(change: Callable[[], None]) -> tuple[threading.Thread, threading.Event]:
    """Repeat *change* in a thread until the event is set."""
    end = threading.Event()

    def loop() -> None:
        while not end.is_set():
            change()

    thread = threading.Thread(target=loop)
    thread.start()
    return thread, end


def test_a_rename_loop_never_leads_outside(root: int, tmp_path: Path) -> None:
    """A directory moves out of the root and back while "..", taken from inside it, is resolved."""
    base = tmp_path / "root"
    deep = base / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "outside" / "etc").mkdir()
    (tmp_path / "outside" / "etc" / "passwd").write_text("outside")
    away = tmp_path / "outside" / "moved"

    def change() -> None:
        os.rename(deep, away)
        os.rename(away, deep)

    thread, end = racing(change)
    escapes = 0
    seen = {"inside": 0, "outside": 0}
    try:
        for attempt in range(400_000):
            if attempt >= 3000 and escapes and seen["inside"]:
                break
            # the unsafe variant: two steps, the directory first and ".." from there
            try:
                fd = os.open(deep, os.O_PATH | os.O_DIRECTORY)
            except FileNotFoundError:
                continue
            with lost_race():
                escapes += content(os.open("../etc/passwd", os.O_RDONLY, dir_fd=fd)) == "outside"
            os.close(fd)
            with lost_race():
                seen[content(openat2.open_in_root(root, b"/a/b/../../etc/passwd", os.O_RDONLY))] += 1
    finally:
        end.set()
        thread.join()
    assert seen["outside"] == 0
    assert seen["inside"] > 0
    assert escapes > 0, "the race never happened"


def test_an_exchanged_symlink_never_leads_outside(root: int, tmp_path: Path) -> None:
    """A directory and a symlink to the outside take each other's place."""
    base = tmp_path / "root"
    (base / "dir").mkdir()
    (base / "dir" / "secret").write_text("inside")
    (base / "other").symlink_to(tmp_path / "outside")

    thread, end = racing(lambda: exchange(base / "dir", base / "other"))
    escapes = 0
    seen = {"inside": 0, "outside": 0}
    try:
        for attempt in range(400_000):
            if attempt >= 3000 and escapes and seen["inside"]:
                break
            with lost_race():
                escapes += (base / "dir" / "secret").read_text() == "outside"
            with lost_race():
                seen[content(openat2.open_in_root(root, b"/dir/secret", os.O_RDONLY))] += 1
    finally:
        end.set()
        thread.join()
    assert seen["outside"] == 0
    assert seen["inside"] > 0
    assert escapes > 0, "the race never happened"


def test_make_in_root_makes_parents_and_leaves_what_exists(root: int, tmp_path: Path) -> None:
    base = tmp_path / "root"
    openat2.make_in_root(root, b"/var//lib/data/")
    assert (base / "var" / "lib" / "data").is_dir()
    openat2.make_in_root(root, b"/var/run/socket", directory=False)
    assert (base / "var" / "run" / "socket").read_bytes() == b""
    openat2.make_in_root(root, b"/etc/passwd", directory=False)
    assert (base / "etc" / "passwd").read_text() == "inside"
    openat2.make_in_root(root, b"/etc")


def test_make_in_root_follows_symlinks_inside_only(root: int, tmp_path: Path) -> None:
    base = tmp_path / "root"
    (base / "absolute").symlink_to("/etc")
    (base / "up").symlink_to("../../../..")
    (base / "away").symlink_to(tmp_path / "outside")
    openat2.make_in_root(root, b"/absolute/new/dir")
    assert (base / "etc" / "new" / "dir").is_dir()
    openat2.make_in_root(root, b"/up/made")
    assert (base / "made").is_dir()
    openat2.make_in_root(root, b"/../../beside/file", directory=False)
    assert (base / "beside" / "file").is_file()
    with refused(errno.ENOENT, "mkdirat", "/away/made"):
        openat2.make_in_root(root, b"/away/made")
    assert sorted(os.listdir(tmp_path)) == ["outside", "root"]
    assert os.listdir(tmp_path / "outside") == ["secret"]


def test_make_in_root_makes_what_a_dangling_symlink_names_inside(root: int, tmp_path: Path) -> None:
    base, outside = tmp_path / "root", tmp_path / "outside"
    (base / "link").symlink_to(outside / "new")
    (base / "etc" / "link").symlink_to("../../outside/new")
    (base / "etc" / "resolv.conf").symlink_to("../run/resolve/chain")
    (base / "run/resolve").mkdir(parents=True)
    (base / "run/resolve/chain").symlink_to("/run/other/./stub")
    for path in (b"/link", b"/etc/link", b"/etc/resolv.conf"):
        openat2.make_in_root(root, path, directory=False)
        openat2.make_in_root(root, path)  # exists by now
    assert os.listdir(outside) == ["secret"]
    assert base.joinpath(*outside.parts[1:], "new").is_file()
    assert (base / "outside/new").is_file() and (base / "run/other/stub").is_file()
    (base / "data").symlink_to("/srv/data")
    openat2.make_in_root(root, b"/data")
    assert (base / "srv/data").is_dir()


def test_make_in_root_refuses_symlinks_without_end_or_too_long(root: int, tmp_path: Path) -> None:
    base = tmp_path / "root"
    (base / "round").symlink_to("round")
    (base / "there").symlink_to("back")
    (base / "back").symlink_to("there")
    for path in (b"/round", b"/there"):
        with refused(errno.ELOOP, "mkdirat", path.decode()):
            openat2.make_in_root(root, path)
    deep = base
    for _ in range(20):
        deep /= "d" * 100
        deep.mkdir()
    (deep / "long").symlink_to("e/" * 1500 + "end")
    path = ("/" + "/".join(deep.relative_to(base).parts) + "/long").encode()
    with refused(errno.ENAMETOOLONG, "openat", path.decode()):
        openat2.make_in_root(root, path, directory=False)
    assert sorted(os.listdir(deep)) == ["long"]


def test_make_in_root_under_a_rename_loop_never_makes_anything_outside(root: int, tmp_path: Path) -> None:
    base = tmp_path / "root"
    (base / "dir").mkdir()
    (base / "other").symlink_to(tmp_path / "outside")

    thread, end = racing(lambda: exchange(base / "dir", base / "other"))
    made = 0
    try:
        for number in range(2000):
            with lost_race():
                openat2.make_in_root(root, b"/dir/x/%d" % number)
                made += 1
    finally:
        end.set()
        thread.join()
    assert made > 0
    assert os.listdir(tmp_path / "outside") == ["secret"]


def test_make_in_root_refusals(root: int) -> None:
    for path in (b"", b"/", b"//"):
        with refused(errno.EISDIR, "mkdirat", path.decode()):
            openat2.make_in_root(root, path)
    with refused(errno.ENOTDIR, "mkdirat", "/etc/passwd/x"):
        openat2.make_in_root(root, b"/etc/passwd/x")
    with refused(errno.ENAMETOOLONG, "mkdirat", "/x" * 2048):
        openat2.make_in_root(root, b"/x" * 2048)
    with refused(errno.EBADF, "openat", "/x"):
        openat2.make_in_root(-1, b"/x", directory=False)
