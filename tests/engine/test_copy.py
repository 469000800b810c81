"""Files into containers and out of them; what programs in there do meanwhile leads nowhere, and neither do archives."""

import io
import os
import signal
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Engine
from pyrunc._native import openat2
from pyrunc.engine import archive_write
from pyrunc.engine.archive_extract import Extractor, Refused
from pyrunc.engine.container import Container
from pyrunc.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.engine.test_run import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@contextmanager
def running(engine: Engine, script: str, **options: Any) -> Iterator[Container]:
    """A container whose *script* has come to `touch /ready`, or to a file of that name in a volume at /vol."""
    program = ["busybox", "sh", "-c", f"{script}; busybox touch /ready; sleep 600"]
    with engine.start("beta", program, **options) as container:
        deadline = time.monotonic() + 60
        while True:
            try:
                container.stat_path("/ready")
            except NotFound:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                break
        yield container


def test_files_of_one_whose_end_is_not_yet_noted(loaded: Engine) -> None:
    with running(loaded, "echo a > /file") as one:
        record = one.record()
        os.kill(record.shim_pid, signal.SIGSTOP)  # it notes no end
        os.kill(record.pid, signal.SIGKILL)
        proceed = threading.Timer(0.5, os.kill, (record.shim_pid, signal.SIGCONT))
        proceed.start()
        found = io.BytesIO()
        one.get_archive("/file", found.write)
        proceed.join()
        with tarfile.open(fileobj=io.BytesIO(found.getvalue())) as tar:
            assert tar.getnames() == ["file"]


def test_files_of_one_that_is_being_made(loaded: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    one = loaded.containers.create("beta", ["true"])
    snapshotter, again = loaded._parts.snapshotter, iter((True, True, False))
    mounted = snapshotter.mounted

    def late(key: str, **how: Any) -> Any:
        return mounted("0" * 64 if next(again) else key, **how)

    monkeypatch.setattr(snapshotter, "mounted", late)
    found = io.BytesIO()
    one.get_archive("/bin/busybox", found.write)
    with tarfile.open(fileobj=io.BytesIO(found.getvalue())) as tar:
        assert tar.getnames() == ["busybox"]


@pytest.fixture
def stopped(loaded: Engine) -> Container:
    loaded.run("beta", ["sh", "-c", "mkdir /tree; echo a > /tree/a"], name="one", remove=False)
    return loaded.containers.get("one")


def archive(*entries: tuple[str, bytes | str | None], **more: Any) -> io.BytesIO:
    """A tar of files (bytes), symlinks (text), directories (None); other types by *more*, name → (type, target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = 0o644, 1_577_836_800
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
        for name, (kind, target) in more.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    out.seek(0)
    return out


def contents(container: Container, path: str) -> dict[str, bytes | None]:
    """The archive of *path*: files by their name; None for what is no file."""
    out = io.BytesIO()
    container.get_archive(path, out.write)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        return {
            entry.name: file.read() if (file := tar.extractfile(entry) if entry.isreg() else None) else None
            for entry in tar
        }


class TestRunning:
    """The container's own view: volumes, and what is in memory; not what the kernel shows."""

    def test_volumes_and_memory_are_there(self, loaded: Engine) -> None:
        script = "echo v > /vol/f; busybox mkdir /t/d; echo t > /t/d/f"
        host = {"Binds": ["vol:/vol"], "Tmpfs": {"/t": ""}}
        with running(loaded, script, host_config=host) as container:
            assert contents(container, "/vol/f") == {"f": b"v\n"}
            assert contents(container, "/t/d") == {"d": None, "d/f": b"t\n"}
            container.put_archive("/vol", archive(("new", b"n")))
            assert Path(loaded.volumes.get("vol").mountpoint, "new").read_bytes() == b"n"
            container.pause()
            assert contents(container, "/vol/new") == {"new": b"n"}
            container.unpause()

    def test_what_the_kernel_shows_is_not(self, loaded: Engine) -> None:
        with running(loaded, "true") as container:
            for path in ("/proc/self/status", "/proc/1/environ", "/sys/kernel", "/dev/null", "/dev/shm"):
                with pytest.raises(NotFound, match="Could not find the file"):
                    container.stat_path(path)
            found = contents(container, "/")
            assert {"/proc", "/sys", "/dev"} <= found.keys()
            assert not [name for name in found if name.startswith(("/proc/", "/sys/", "/dev/"))]
            with pytest.raises(NotFound):
                container.put_archive("/proc", archive(("x", b"x")))

    def test_a_link_to_what_the_kernel_shows_is_not_written_to(self, loaded: Engine) -> None:
        with running(loaded, "busybox ln -s /proc/self /away; busybox mkdir /out") as container:
            with pytest.raises(NotFound):
                container.put_archive("/away", archive(("comm", b"x")))
            container.put_archive("/out", archive(("link", "/proc/self")))
            with pytest.raises((NotFound, FileNotFoundError)):
                container.put_archive("/out", archive(("link/comm", b"x")))

    def test_neither_a_fifo_nor_a_file_that_grows_holds_up_a_copy(self, loaded: Engine) -> None:
        script = "busybox mkdir /d; busybox mkfifo /d/fifo; while :; do echo line >> /d/log; done & true"
        with running(loaded, script) as container:
            found = contents(container, "/d")
            assert found.keys() == {"d", "d/fifo", "d/log"} and found["d/fifo"] is None


class TestHostileLinks:
    """CVE-2018-15664: a program exchanges what is copied for a link to the host."""

    def test_a_link_leads_to_the_containers_own_file(self, loaded: Engine, tmp_path: Path) -> None:
        host = tmp_path / "host"
        host.mkdir()
        (host / "secret").write_text("of the host")
        script = f"busybox mkdir -p {tmp_path}; busybox ln -s {host} /link; busybox ln -s {host}/secret /file"
        with running(loaded, script) as container:
            with pytest.raises(NotFound):
                container.put_archive("/link", archive(("planted", b"x")))
            with pytest.raises(NotFound):
                contents(container, "/link/secret")
            assert contents(container, "/file") == {"file": None}
            assert os.listdir(host) == ["secret"]
            # A path below /proc/pid/root, as if that was enough: the link is followed by us, on the host.
            careless = f"/proc/{container.pid}/root/link"
            assert Path(careless, "secret").read_text() == "of the host"
            Path(careless, "planted").write_text("x")
            assert (host / "planted").exists()

    def test_whoever_exchanges_a_directory_for_a_link_meets_nobody(
        self, loaded: Engine, tmp_path: Path
    ) -> None:
        host = tmp_path / "host"
        host.mkdir()
        (host / "f").write_text("of the host")
        script = (
            f"busybox mkdir -p /w/d; echo own > /w/d/f; busybox ln -s {host} /w/l;"
            "while :; do busybox mv /w/d /w/x; busybox mv /w/l /w/d; busybox mv /w/d /w/l; busybox mv /w/x /w/d; done &"
            "true"
        )
        with running(loaded, script) as container:
            seen: set[bytes | None] = set()
            for number in range(150):
                try:
                    container.put_archive("/w/d", archive((f"p{number}", b"x"), ("d2/deep", b"y")))
                except (NotFound, FailedPrecondition, OSError):
                    pass
                try:
                    seen |= set(contents(container, "/w/d/f").values())
                except (NotFound, FailedPrecondition, OSError):
                    pass
            assert os.listdir(host) == ["f"]
            assert seen <= {b"own\n"}

    def test_a_path_that_was_looked_at_first_would_have_met_them(
        self, loaded: Engine, tmp_path: Path
    ) -> None:
        """The careless variant: resolved, then used."""
        host = tmp_path / "host"
        host.mkdir()
        with running(loaded, f"busybox mkdir -p /w/d; busybox ln -s {host} /w/l") as container:
            path = f"/proc/{container.pid}/root/w/d"
            assert not os.path.islink(path)
            for step in ("mv /w/d /w/x", "mv /w/l /w/d"):
                assert container.exec(["busybox", *step.split()]).exit_code == 0
            Path(path, "planted").write_text("x")
            assert os.listdir(host) == ["planted"]
            with pytest.raises(NotFound):
                container.put_archive("/w/d", archive(("other", b"x")))
            assert os.listdir(host) == ["planted"]


class TestHostileArchives:
    """What an archive says of places outside."""

    def extract(self, place: Path, source: io.BytesIO) -> None:
        top = os.open(place, os.O_RDONLY | os.O_DIRECTORY)

        def open_directory(path: str, flags: int) -> int:
            resolve = openat2.RESOLVE_BENEATH | openat2.RESOLVE_NO_MAGICLINKS
            return openat2.openat2(top, os.fsencode(path), flags, resolve=resolve)

        try:
            Extractor(open_directory, str(place)).extract(source)
        finally:
            os.close(top)

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            (archive(("../out/x", b"x")), "is outside of"),
            (archive(("./../out/x", b"x")), "is outside of"),
            (archive(("l", "../out"), ("l/x", b"x")), "invalid symlink"),
            (archive(("a", None), ("a/l", "../../out")), "invalid symlink"),
            (archive(h=(tarfile.LNKTYPE, "../out/secret")), "invalid hardlink"),
        ],
    )
    def test_it_is_refused(self, tmp_path: Path, source: io.BytesIO, words: str) -> None:
        for name in ("out", "in", "careless"):
            (tmp_path / name).mkdir()
        (tmp_path / "out/secret").write_text("secret")
        with pytest.raises(Refused, match=words):
            self.extract(tmp_path / "in", source)
        assert os.listdir(tmp_path / "out") == ["secret"]
        # Whoever extracts as the archive says is led outside.
        source.seek(0)
        with tarfile.open(fileobj=source) as tar:
            tar.extractall(tmp_path / "careless", filter="fully_trusted")
        led = sorted(os.listdir(tmp_path / "out")) == ["secret", "x"]
        linked = [path for path in (tmp_path / "careless").rglob("*") if (tmp_path / "out") == path.resolve()]
        hard = os.stat(tmp_path / "out/secret").st_nlink == 2
        assert led or linked or hard

    def test_an_absolute_link_is_made_and_not_followed(self, tmp_path: Path) -> None:
        for name in ("out", "in"):
            (tmp_path / name).mkdir()
        with pytest.raises(OSError, match="link") as caught:
            self.extract(tmp_path / "in", archive(("l", str(tmp_path / "out")), ("l/x", b"x")))
        assert caught.value.errno in (18, 40)  # EXDEV, ELOOP
        assert os.listdir(tmp_path / "out") == []
        # In a container the same leads to the container's own directory.

    def test_nothing_takes_the_place_of_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "kept").mkdir()
        (tmp_path / "file").write_text("x")
        with pytest.raises(Refused, match=r'cannot overwrite directory ".*/kept" with non-directory'):
            self.extract(tmp_path, archive(("kept", b"x")))
        with pytest.raises(Refused, match=r'cannot overwrite non-directory ".*/file" with directory'):
            self.extract(tmp_path, archive(("file", None)))

    def test_a_link_of_the_archive_leads_within_the_container(self, stopped: Container) -> None:
        stopped.put_archive("/", archive(("tree/l", "/tree"), ("tree/l/through", b"x")))
        assert contents(stopped, "/tree/through") == {"through": b"x"}

    def test_garbage_is_no_archive(self, stopped: Container) -> None:
        with pytest.raises(InvalidArgument, match="archive/tar"):
            stopped.put_archive("/", io.BytesIO(b"this is none" * 100))
        stopped.put_archive("/", io.BytesIO(b""))


def test_everything_that_a_tar_has_comes_back(stopped: Container, tmp_path: Path) -> None:
    place = tmp_path / "tree"
    (place / "sub/empty").mkdir(parents=True)
    (place / "file").write_bytes(b"x" * 100_000)
    (place / "file").chmod(0o4755)
    os.chown(place / "file", 1000, 1001)
    os.chmod(place / "file", 0o4755)
    os.link(place / "file", place / "sub/hard")
    (place / "link").symlink_to("file")
    os.mkfifo(place / "fifo")
    os.mknod(place / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    (place / ("n" * 200)).write_text("long")
    (place / os.fsdecode(b"\xff\xfe")).write_text("no text")
    os.utime(place / "file", ns=(1, 1_577_836_800_123_456_789))
    os.utime(place / "sub", ns=(1, 1_577_836_800_000_000_000))
    parent = os.open(tmp_path, os.O_RDONLY)
    out = io.BytesIO()
    archive_write.write(parent, "tree", "tree", out.write)
    os.close(parent)
    out.seek(0)
    stopped.put_archive("/", out)
    again = io.BytesIO()
    stopped.get_archive("/tree", again.write)

    def listed(data: io.BytesIO) -> list[tuple[Any, ...]]:
        data.seek(0)
        with tarfile.open(fileobj=data, errors="surrogateescape") as tar:
            return sorted(
                (e.name, e.type, e.mode, e.uid, e.gid, e.size, e.linkname, e.devmajor, e.devminor, e.mtime
                 if e.name != "tree" else 0, e.pax_headers.get("mtime"))
                for e in tar if e.name != "tree/a"
            )  # fmt: skip

    assert listed(again) == listed(out)


def test_sparse_and_large_files_are_whole(stopped: Container, tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"middle")
    made = subprocess.run(
        ["tar", "-S", "-C", tmp_path, "-czf", "-", "sparse"], capture_output=True, check=True
    )
    stopped.put_archive("/tree", io.BytesIO(made.stdout))
    assert contents(stopped, "/tree/sparse")["sparse"] == (tmp_path / "sparse").read_bytes()


def test_a_container_that_does_not_run_has_its_volumes_too(loaded: Engine) -> None:
    host = {"Binds": ["vol:/vol", "vol:/ro:ro"]}
    container = loaded.containers.create("beta", ["true"], name="one", host_config=host)
    container.put_archive("/vol", archive(("f", b"x")))
    assert Path(loaded.volumes.get("vol").mountpoint, "f").read_bytes() == b"x"
    assert contents(container, "/ro/f") == {"f": b"x"}
    with pytest.raises(FailedPrecondition, match="mounted volume is marked read-only"):
        container.put_archive("/ro", archive(("f", b"y")))
    readonly = loaded.containers.create(
        "beta", ["true"], name="two", host_config={"ReadonlyRootfs": True, "Binds": ["vol:/vol"]}
    )
    with pytest.raises(FailedPrecondition, match="container rootfs is marked read-only"):
        readonly.put_archive("/", archive(("f", b"y")))
    readonly.put_archive("/vol", archive(("g", b"y")))
    assert contents(container, "/vol/g") == {"g": b"y"}


def test_what_was_copied_is_there_at_the_next_start_and_is_a_change(
    stopped: Container, loaded: Engine
) -> None:
    stopped.put_archive("/", archive(("new", b"hello\n")))
    assert ("A", "/new") in stopped.diff()
    stopped.start()
    assert stopped.wait() == 0
    assert contents(stopped, "/new") == {"new": b"hello\n"}
    stopped.commit("copied:1")
    assert loaded.run("copied:1", ["busybox", "cat", "/new"]).stdout == b"hello\n"


def test_files_belong_to_whom_is_asked_for(loaded: Engine) -> None:
    container = loaded.containers.create("alpha:1", ["true"], name="one")  # whose user is web
    container.put_archive("/tmp", archive(("archives", b"x")))
    container.put_archive("/tmp", archive(("users", b"x")), copy_owner=True)
    out = io.BytesIO()
    container.get_archive("/tmp", out.write)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        owners = {entry.name: (entry.uid, entry.gid) for entry in tar}
    assert owners["tmp/archives"] == (0, 0) and owners["tmp/users"] == (1000, 1001)


def test_top_shows_the_programs_of_the_container_and_no_other(loaded: Engine) -> None:
    with running(loaded, "sleep 500 & true") as container, running(loaded, "true"):
        found = container.top(["-eo", "pid,args"])
        assert found.titles == ("PID", "COMMAND")
        assert str(container.pid) in {fields[0] for fields in found.rows}

        def shown() -> set[str]:
            """What each program was started with at last; the shell's children are not yet that at once."""
            return {fields[1].split()[-1] for fields in container.top(["-eo", "pid,args"]).rows}

        until(lambda: shown() == {"500", "600"})
        assert "UID" in container.top().titles
        with pytest.raises(FailedPrecondition, match="Couldn't find PID field in ps output"):
            container.top(["-o", "args"])
    made = loaded.containers.create("beta", ["true"], name="idle")
    with pytest.raises(FailedPrecondition, match=f"Container {made.id} is not running"):
        made.top()
