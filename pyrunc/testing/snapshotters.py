"""What every graph driver must do: subclass `SnapshotterSuite`, say how the driver is opened, and let pytest find it.

    class TestMine(SnapshotterSuite):
        def open(self, root: str) -> Snapshotter:
            return Mine(root)

Nothing here needs pytest; each ``test_`` method gets the root of a fresh durable state and needs root's privileges.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import stat
import tarfile
import time
import traceback
from contextlib import contextmanager
from functools import partial

from pyrunc._native.layer_apply import LayerApplier
from pyrunc.errors import AlreadyExists, FailedPrecondition, NotFound
from pyrunc.testing.trees import deep, entries, fill, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyrunc.drivers.graph.snapshotter import Snapshotter
    from pyrunc.testing.trees import Entry


@contextmanager
def raises(kind: type[Exception], words: str = "") -> Iterator[None]:
    """What is inside must raise *kind*, with *words* in its message."""
    try:
        yield
    except kind as exc:
        assert words in str(exc), f"{exc!r} does not say {words!r}"
    else:
        raise AssertionError(f"{kind.__name__} was not raised")


class SnapshotterSuite:
    """The tests; *tmp_path* is any fresh directory."""

    #: how many layers `test_a_long_chain` makes; a driver that copies may take fewer
    chain = 128
    #: how often a process is killed
    kills = 40
    #: processes at once on one root, and what each does
    processes, rounds = 8, 12

    def open(self, root: str) -> Snapshotter:
        """Open the driver under test on *root*."""
        raise NotImplementedError

    # Content.

    def test_a_child_shows_its_parent_and_its_own_change(self, tmp_path: object) -> None:
        with self._opened(tmp_path) as driver:
            base(driver)
            before = listing(driver, "base")
            driver.prepare("work", "base")
            with driver.mounted("work", writable=True) as root:
                assert entries(root) == before
                change(root)
                changed = entries(root)
            driver.commit("changed", "work")
            assert listing(driver, "changed") == changed
            assert listing(driver, "base") == before
            assert "gone" not in changed
            assert "emptied/below" not in changed
            assert "emptied/new" in changed
            driver.prepare("more", "changed")
            assert listing(driver, "more") == changed
            with driver.mounted("more", writable=True) as root:
                write(root, "gone", b"again")
                write(root, "emptied/below", b"again")
            driver.commit("again", "more")
            found = listing(driver, "again")
            assert found["gone"].content == found["emptied/below"].content == b"again"

    def test_everything_that_a_file_system_keeps_is_kept(self, tmp_path: object) -> None:
        with self._opened(tmp_path) as driver:
            driver.prepare("a", None)
            with driver.mounted("a", writable=True) as root:
                fill(root)
                before = entries(root)
            driver.commit("A", "a")
            driver.prepare("b", "A")
            assert listing(driver, "b") == before
            driver.commit("B", "b")
            driver.prepare("c", "B")
            found = listing(driver, "c")
            assert found == before
            # what the comparison would not notice if `fill` did not make it
            assert found["hard/one"].links == ("hard/one", "hard/three", "hard/two")
            assert {"security.capability", "user.note", "trusted.note"} <= dict(
                found["plain"].attributes
            ).keys()
            assert found["set-user-id"].mode == stat.S_IFREG | 0o6755
            assert found["old"].mtime_ns == 1_000_000_000_123_456_789
            with driver.mounted("c") as root:
                assert os.stat("sparse", dir_fd=root).st_blocks * 512 < found["sparse"].size

    def test_siblings_do_not_see_each_other(self, tmp_path: object) -> None:
        with self._opened(tmp_path) as driver:
            base(driver)
            for name in ("one", "two"):
                driver.prepare(name, "base")
                with driver.mounted(name, writable=True) as root:
                    write(root, name, name.encode())
                    write(root, "kept", name.encode())
            assert listing(driver, "one")["kept"].content == b"one"
            assert listing(driver, "two")["kept"].content == b"two"
            assert "one" not in listing(driver, "two")
            assert listing(driver, "base")["kept"].content == b"kept"

    def test_the_root_directory_is_inherited(self, tmp_path: object) -> None:
        with self._opened(tmp_path) as driver:
            driver.prepare("a", None)
            with driver.mounted("a", writable=True) as root:
                assert stat.S_IMODE(os.fstat(root).st_mode) == 0o755
                os.fchmod(root, 0o1711)
                os.fchown(root, 5, 6)
                os.setxattr(root, "user.note", b"root")
                os.utime(root, ns=(1, 1_234_567_890_123_456_789))
            driver.commit("A", "a")
            driver.prepare("b", "A")
            with driver.mounted("b") as root:
                status = os.fstat(root)
                assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o1711, 5, 6)
                assert status.st_mtime_ns == 1_234_567_890_123_456_789
                assert os.getxattr(root, "user.note") == b"root"

    def test_a_long_chain(self, tmp_path: object) -> None:
        with self._opened(tmp_path) as driver:
            for number in range(self.chain):
                driver.prepare("work", str(number - 1) if number else None)
                with driver.mounted("work", writable=True) as root:
                    write(root, f"file{number}", str(number).encode())
                    write(root, "all", str(number).encode())
                driver.commit(str(number), "work")
            found = listing(driver, str(self.chain - 1))
            assert len(found) == self.chain + 2  # with the root and "all"
            assert found["all"].content == str(self.chain - 1).encode()
            assert found["file0"].content == b"0"

    # Layers.

    def test_a_layer_is_applied_over_its_parent(self, tmp_path: object) -> None:
        """Whiteouts take away what the parent has, in the form that this driver needs."""
        with self._opened(tmp_path) as driver:
            base(driver)
            driver.prepare("work", "base")
            apply(
                driver,
                "work",
                layer(
                    {
                        ".wh.gone": b"",
                        "emptied/.wh..wh..opq": b"",
                        "emptied/new": b"new",
                        "changed": b"otherwise",
                    }
                ),
            )
            driver.commit("layer", "work")
            found = listing(driver, "layer")
            assert sorted(found) == [
                ".",
                "became-file",
                "became-file/below",
                "changed",
                "emptied",
                "emptied/new",
                "kept",
            ]
            assert found["changed"].content == b"otherwise"
            assert set(driver.changes("layer")) >= {
                ("D", "/gone"),
                ("D", "/emptied/below"),
                ("A", "/emptied/new"),
                ("C", "/changed"),
            }
            for key in ("base", "view"):
                if key == "view":
                    driver.view("view", "base")
                with raises(FailedPrecondition, key):
                    driver.target(key)

    def test_a_written_change_makes_the_same_tree(self, tmp_path: object) -> None:
        with self._opened(tmp_path) as driver:
            base(driver)
            driver.prepare("work", "base")
            with driver.mounted("work", writable=True) as root:
                change(root)
                fill(root)
                os.link("kept", "linked", src_dir_fd=root, dst_dir_fd=root)
                os.chmod("became-file", 0o600, dir_fd=root)
                os.utime(root, ns=(1, 1))
            blocks: list[bytes] = []
            written = driver.write_diff("work", lambda data: blocks.append(bytes(data)))
            tar = b"".join(blocks)
            assert (written.digest, written.size) == (f"sha256:{hashlib.sha256(tar).hexdigest()}", len(tar))
            driver.prepare("copy", "base")
            apply(driver, "copy", tar)
            with driver.mounted("copy", writable=True) as root:
                os.utime(root, ns=(1, 1))  # an image's root directory is what each engine makes it
            assert listing(driver, "work") == listing(driver, "copy")
            assert driver.changes("copy") == driver.changes("work")
            again: list[bytes] = []
            driver.write_diff("copy", lambda data: again.append(bytes(data)))
            assert b"".join(again) == tar
            driver.view("view", "base")
            assert driver.changes("view") == []

    # Keys and states.

    def test_names_are_taken_once(self, tmp_path: object) -> None:
        with self._opened(tmp_path) as driver:
            base(driver)
            driver.prepare("key", "base")
            with raises(AlreadyExists, "key"):
                driver.prepare("key", None)
            with raises(AlreadyExists, "key"):
                driver.view("key", "base")
            with raises(AlreadyExists, "base"):
                driver.prepare("base", None)
            with raises(AlreadyExists, "base"):
                driver.commit("base", "key")
            assert driver.stat("key").kind == "active"
            driver.commit("name", "key")
            with raises(NotFound, "key"):
                driver.stat("key")
            driver.prepare("key", "name")

    def test_what_cannot_be_done_is_refused(self, tmp_path: object) -> None:
        with self._opened(tmp_path) as driver:
            base(driver)
            driver.prepare("active", "base")
            driver.view("view", "base")
            with raises(NotFound, "none"):
                driver.prepare("x", "none")
            for parent in ("active", "view"):
                with raises(FailedPrecondition, parent):
                    driver.prepare("x", parent)
                with raises(FailedPrecondition, parent):
                    driver.view("x", parent)
            with raises(FailedPrecondition, "base"):
                driver.rootfs("base")
            for key in ("base", "view"):
                with raises(FailedPrecondition, key):
                    driver.commit("x", key)
                with raises(FailedPrecondition, key), driver.mounted(key, writable=True):
                    pass
            for act in (driver.rootfs, driver.stat, driver.usage, driver.remove, driver.changes):
                with raises(NotFound, "none"):
                    act("none")
            with raises(NotFound, "none"):
                driver.commit("x", "none")
            assert sorted(info.key for info in driver.walk()) == ["active", "base", "view"]

    def test_a_parent_cannot_be_removed(self, tmp_path: object) -> None:
        with self._opened(tmp_path) as driver:
            base(driver)
            driver.prepare("child", "base")
            with raises(FailedPrecondition, "base is the parent of child"):
                driver.remove("base")
            driver.remove("child")
            driver.remove("base")
            with raises(NotFound, "base"):
                driver.stat("base")
            assert list(driver.walk()) == []

    def test_a_forgotten_snapshot_goes_with_the_next_reclaim(self, tmp_path: object) -> None:
        with self._opened(tmp_path) as driver:
            before = files(tmp_path)
            base(driver)
            driver.prepare("work", "base")
            with raises(FailedPrecondition, "base is the parent of work"):
                driver.forget("base")
            for key in ("work", "base"):
                driver.forget(key)
                with raises(NotFound, key):
                    driver.stat(key)
            base(driver)
            shown = listing(driver, "base")
            assert driver.reclaim() == 2
            assert listing(driver, "base") == shown
            driver.remove("base")
            assert files(tmp_path) == before

    def test_what_is_known_of_a_snapshot(self, tmp_path: object) -> None:
        begun = time.time_ns()
        with self._opened(tmp_path) as driver:
            base(driver)
            driver.prepare("work", "base")
            driver.view("view", "base")
            found = list(driver.walk())
            assert [info[:3] for info in found] == [
                ("base", None, "committed"),
                ("work", "base", "active"),
                ("view", "base", "view"),
            ]
            assert all(begun <= info.created_ns <= time.time_ns() for info in found)
            assert [driver.stat(info.key) for info in found] == found

    def test_usage_grows_with_what_is_written(self, tmp_path: object) -> None:
        with self._opened(tmp_path) as driver:
            base(driver)
            driver.prepare("work", "base")
            before = driver.usage("work")
            with driver.mounted("work", writable=True) as root:
                write(root, "big", bytes(1 << 20))
                os.link("big", "again", src_dir_fd=root, dst_dir_fd=root)
            after = driver.usage("work")
            assert after.inodes == before.inodes + 1
            assert 1 << 20 <= after.bytes - before.bytes < (1 << 20) + (64 << 10)
            driver.commit("done", "work")
            assert driver.usage("done") == driver.usage("done") == after

    def test_the_next_process_finds_everything(self, tmp_path: object) -> None:
        with self._opened(tmp_path) as driver:
            base(driver)
            driver.prepare("work", "base")
            found, before = list(driver.walk()), listing(driver, "base")
        with self._opened(tmp_path) as driver:
            assert list(driver.walk()) == found
            assert listing(driver, "base") == before
            assert driver.reclaim() == 0
            driver.rootfs("work")
            driver.commit("done", "work")

    def test_nothing_is_mounted_on_the_host(self, tmp_path: object) -> None:
        before = mounts()
        with self._opened(tmp_path) as driver:
            base(driver)
            driver.prepare("work", "base")
            driver.view("view", "base")
            driver.rootfs("work")
            with driver.mounted("work"), driver.mounted("view"), driver.mounted("base"):
                assert mounts() == before
            assert mounts() == before

    def test_removal_leaves_nothing(self, tmp_path: object) -> None:
        """However deep a container has made its directories, and whatever it has put there."""
        with self._opened(tmp_path) as driver:
            before = files(tmp_path)
            base(driver)
            driver.prepare("work", "base")
            with driver.mounted("work", writable=True) as root:
                deep(root, 1500)
                fill(root)
            driver.commit("deep", "work")
            driver.prepare("above", "deep")
            with driver.mounted("above") as root:
                assert "deep" in os.listdir(root)
            for key in ("above", "deep", "base"):
                driver.remove(key)
            assert files(tmp_path) == before
            assert driver.reclaim() == 0

    # Others on the same root, and deaths.

    def test_many_processes_on_one_root(self, tmp_path: object) -> None:
        with self._opened(tmp_path) as driver:
            base(driver)
            before = listing(driver, "base")

        def work(number: int) -> None:
            with self._opened(tmp_path) as driver:
                for turn in range(self.rounds):
                    name = f"{number}-{turn}"
                    driver.prepare(name, "base")
                    with driver.mounted(name, writable=True) as root:
                        write(root, "mine", name.encode())
                    driver.commit(f"done-{name}", name)
                    driver.prepare(name, f"done-{name}")
                    assert listing(driver, name)["mine"].content == name.encode()
                    driver.remove(name)
                    if turn % 3 == 0:
                        driver.reclaim()
                    if turn % 2:
                        driver.remove(f"done-{name}")
                    try:  # the same name for all: one gets it
                        driver.prepare(f"race-{turn}", "base")
                    except AlreadyExists:
                        pass

        children = [in_child(partial(work, number)) for number in range(self.processes)]
        assert [ended(child) for child in children] == [0] * self.processes
        with self._opened(tmp_path) as driver:
            assert driver.reclaim() == 0
            keys = {info.key for info in driver.walk()}
            kept = {f"done-{n}-{t}" for n in range(self.processes) for t in range(0, self.rounds, 2)}
            assert keys == {"base", *kept, *(f"race-{turn}" for turn in range(self.rounds))}
            assert listing(driver, "base") == before
            for key in kept:
                assert listing(driver, key)["mine"].content == key[5:].encode()

    def test_killed_at_any_point(self, tmp_path: object) -> None:
        """SIGKILL in a loop of prepare, commit and remove; then nothing is half and nothing is left."""
        seed = int.from_bytes(os.urandom(4), "little")
        print(f"seed {seed}")  # noqa: T201 - to repeat a failure with
        chance = random.Random(seed)
        with self._opened(tmp_path) as driver:
            base(driver)
            wanted, clean = listing(driver, "base"), files(tmp_path)

        def work() -> None:
            with self._opened(tmp_path) as driver:
                turn = 0
                while True:
                    key = f"{os.getpid()}-{turn}"
                    driver.prepare(key, "base")
                    with driver.mounted(key, writable=True) as root:
                        for name in ("one", "two", "three"):
                            write(root, name, name.encode())
                    driver.commit(f"done-{key}", key)
                    driver.view(f"view-{key}", f"done-{key}")
                    driver.remove(f"view-{key}")
                    if turn % 3 == 0:
                        driver.remove(f"done-{key}")
                    if turn % 5 == 0:
                        driver.reclaim()
                    turn += 1

        made = 0
        for _ in range(self.kills):
            child = in_child(work)
            time.sleep(chance.uniform(0.01, 0.15))
            os.kill(child, signal.SIGKILL)
            assert ended(child) == -signal.SIGKILL
            with self._opened(tmp_path) as driver:
                driver.reclaim()
                assert driver.reclaim() == 0
                for info in driver.walk():
                    found = listing(driver, info.key)
                    if info.kind == "committed" and info.key != "base":
                        assert [found[name].content for name in ("one", "two", "three")] == [
                            b"one",
                            b"two",
                            b"three",
                        ]
                        made += 1
                for info in reversed(list(driver.walk())):
                    if info.key != "base":
                        driver.remove(info.key)
                assert listing(driver, "base") == wanted
                assert files(tmp_path) == clean
        assert made, "no snapshot was ever committed: the kills come too early to say anything"

    # Helpers.

    @contextmanager
    def _opened(self, root: object) -> Iterator[Snapshotter]:
        driver = self.open(f"{root}/state")
        try:
            yield driver
        finally:
            driver.close()


def base(driver: Snapshotter) -> None:
    """Commit a small snapshot ``base``."""
    driver.prepare("making", None)
    with driver.mounted("making", writable=True) as root:
        for name in ("kept", "gone", "changed"):
            write(root, name, name.encode())
        for name in ("emptied", "became-file"):
            os.mkdir(name, dir_fd=root)
            write(root, f"{name}/below", b"below")
    driver.commit("base", "making")


def layer(files: dict[str, bytes]) -> bytes:
    """A layer tar with these files, in this order."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def apply(driver: Snapshotter, key: str, tar: bytes) -> None:
    """Apply a layer tar to an active snapshot."""
    root, whiteouts = driver.target(key)
    try:
        applier = LayerApplier(root, whiteouts, max_bytes=1 << 30, max_members=1 << 20, max_path_bytes=4095)
        try:
            applier.feed(tar)
            applier.finish()
        finally:
            applier.close()
    finally:
        os.close(root)


def change(root: int) -> None:
    """Change ``base`` in each way that a layer can express."""
    os.unlink("gone", dir_fd=root)
    write(root, "changed", b"otherwise")
    write(root, "added", b"added")
    for name in ("emptied", "became-file"):
        os.unlink(f"{name}/below", dir_fd=root)
        os.rmdir(name, dir_fd=root)
    os.mkdir("emptied", dir_fd=root)
    write(root, "emptied/new", b"new")
    write(root, "became-file", b"file")


def listing(driver: Snapshotter, key: str) -> dict[str, Entry]:
    """All that a snapshot shows."""
    with driver.mounted(key) as root:
        return entries(root)


def mounts() -> list[str]:
    """The mounts of this process."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return sorted(line.split(" - ")[0].split()[4] for line in table)


def files(root: object) -> set[str]:
    """Every path below *root* that is not of a database."""
    found = set()
    for directory, below, names in os.walk(f"{root}/state"):
        found |= {os.path.join(directory, name) for name in (*below, *names) if "metadata.db" not in name}
    return found


def in_child(function: Callable[[], None]) -> int:
    """Run *function* in a forked child; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        function()
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it is, nothing of the parent may go on in this process
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """Wait for the child *pid*: its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
