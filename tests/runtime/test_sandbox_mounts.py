"""Bind mounts and file systems with every option, as mountinfo and the files themselves show them inside."""

import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Mount, Sandbox
from pyrunc._native import mount as native
from pyrunc._native import namespaces
from pyrunc.errors import InvalidArgument, InvalidSpec, StartError, Unsupported
from pyrunc.runtime import spawner
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("host_unchanged")


MS_BIND, MS_REC, MS_SHARED, MNT_DETACH = 0x1000, 0x4000, 1 << 20, 2


class Entry:
    """One line of mountinfo (proc(5))."""

    def __init__(self, line: str) -> None:
        left, right = line.split(" - ")
        fields = left.split()
        self.root, self.place, self.options = fields[3], fields[4], set(fields[5].split(","))
        self.optional = {field.split(":")[0] for field in fields[6:]}
        self.kind, self.source, superblock = [*right.split(), ""][:3]
        self.superblock = set(superblock.split(","))


def table(text: str) -> dict[str, Entry]:
    return {entry.place: entry for entry in map(Entry, text.splitlines()) if entry.place.startswith("/m")}


def mounted(run: Run, *mounts: Mount, **options: Any) -> dict[str, Entry]:
    return table(run("cat /proc/self/mountinfo", mounts=mounts, **options))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    (path / "file").write_text("content\n")
    (path / "link").symlink_to("file")
    (path / "device").touch()
    return path


@pytest.fixture
def tree(source: Path) -> Iterator[Path]:
    """A directory with a tmpfs mounted below it, in this process's own mount namespace."""
    (source / "sub").mkdir()
    native.mount(b"none", os.fsencode(source / "sub"), fstype=b"tmpfs")
    (source / "sub/deep").touch()
    yield source
    native.umount2(os.fsencode(source / "sub"), MNT_DETACH)


def in_mount_namespace(function: Callable[[], None]) -> None:
    """Run *function* in a forked child with private mounts; its spawner, made after the fork, has them too."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            namespaces.unshare(namespaces.CLONE_NEWNS)
            native.mount(None, b"/", flags=MS_REC | 1 << 18)
            function()
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, pytest must not go on in this process
            os.write(writing, traceback.format_exc().encode())
        finally:
            spawner.shut_down()
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as pipe:
        report = pipe.read().decode()
    assert os.waitpid(pid, 0)[1] == 0, report


ATTRIBUTES = [
    ("ro", "ro"), ("nosuid", "nosuid"), ("nodev", "nodev"), ("noexec", "noexec"), ("noatime", "noatime"),
    ("nodiratime", "nodiratime"), ("nosymfollow", "nosymfollow"),
]  # fmt: skip
WORDS = {word for _, word in ATTRIBUTES} | {"relatime"}


@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
@pytest.mark.parametrize(("option", "word"), ATTRIBUTES)
def test_an_attribute_of_a_mount(run: Run, source: Path, kind: str, option: str, word: str) -> None:
    found = mounted(run, Mount("/m", str(source), kind, [option]))["/m"]
    assert found.options & WORDS == ({word} if option == "noatime" else {word, "relatime"})


@pytest.mark.parametrize(("options", "expected"), [
    (["ro", "rw"], {"rw", "relatime"}), (["rw", "ro"], {"ro", "relatime"}),
    (["nosuid", "suid"], {"rw", "relatime"}), (["nodev", "dev"], {"rw", "relatime"}),
    (["noexec", "exec"], {"rw", "relatime"}), (["nodiratime", "diratime"], {"rw", "relatime"}),
    (["nosymfollow", "symfollow"], {"rw", "relatime"}), (["noatime", "atime"], {"rw", "relatime"}),
    (["noatime", "relatime"], {"rw", "relatime"}), (["strictatime"], {"rw"}), (["norelatime"], {"rw"}),
    (["strictatime", "nostrictatime"], {"rw", "relatime"}), (["noatime", "strictatime"], {"rw"}),
    (["ro", "nosuid", "nodev", "noexec", "noatime"], {"ro", "nosuid", "nodev", "noexec", "noatime"}),
    (["ro", "nosuid", "defaults"], {"rw", "relatime"}), (["user"], {"rw", "nosuid", "nodev", "noexec", "relatime"}),
    (["users", "exec"], {"rw", "nosuid", "nodev", "relatime"}), (["owner"], {"rw", "nosuid", "nodev", "relatime"}),
    (["group", "dev"], {"rw", "nosuid", "relatime"}),
    (["auto", "noauto", "nouser", "_netdev", "nofail", "loud", "silent", "iversion", "noiversion", "async", "x-note=1",
      "X-note", "nolazytime", "nomand"], {"rw", "relatime"}),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_options_that_undo_and_imply(
    run: Run, source: Path, kind: str, options: list[str], expected: set[str]
) -> None:
    assert mounted(run, Mount("/m", str(source), kind, options))["/m"].options == expected


@pytest.mark.parametrize(("option", "word"), ATTRIBUTES)
def test_a_recursive_attribute_reaches_what_is_mounted_below(
    run: Run, tree: Path, option: str, word: str
) -> None:
    plain = mounted(run, Mount("/m", str(tree), options=["rbind", option]))
    every = mounted(run, Mount("/m", str(tree), options=["rbind", f"r{option}"]))
    assert word in plain["/m"].options
    assert word not in plain["/m/sub"].options
    assert word in every["/m"].options & every["/m/sub"].options


def test_a_recursive_attribute_is_lifted_recursively(run: Run, tree: Path) -> None:
    found = mounted(run, Mount("/m", str(tree), options=["rbind", "rro", "rrw", "rnosuid", "rsuid"]))
    assert not {"ro", "nosuid"} & (found["/m"].options | found["/m/sub"].options)
    # what the one below has of its own is lifted too, by the recursive option only
    found = mounted(run, Mount("/m", str(tree), options=["rbind", "rnoatime", "ratime"]))
    assert "relatime" in found["/m/sub"].options


@pytest.mark.usefixtures("probe")
def test_attributes_do_what_they_say(run: Run, source: Path, rootfs: Path) -> None:
    for name in ("probe-root", "busybox"):
        (source / name).write_bytes((rootfs / "bin" / name).read_bytes())
        (source / name).chmod(0o4755)
    os.mknod(source / "null", 0o666 | 0o020000, os.makedev(1, 3))

    def attempt(script: str, *options: str, **others: Any) -> str:
        return run(f"({script}) 2>&1; true", mounts=[Mount("/m", str(source), options=options)], **others)

    assert attempt("echo x > /m/new", "ro") == "/bin/sh: can't create /m/new: Read-only file system\n"
    assert attempt("/m/probe-root ids", "nosuid", user="web") == "1000 1000 0\n"
    assert attempt("/m/probe-root ids", user="web") == "1000 0 0\n"
    assert "Permission denied" in attempt("/m/busybox true", "noexec")
    assert "Permission denied" in attempt("cat /m/null", "nodev")
    assert attempt("cat /m/null") == ""
    assert "Too many levels of symbolic links" in attempt("cat /m/link", "nosymfollow")
    assert attempt("cat /m/link") == "content\n"


def test_bind_and_rbind(run: Run, tree: Path) -> None:
    assert run("ls /m/sub", mounts=[Mount("/m", str(tree), options=["bind"])]) == ""
    assert run("ls /m/sub", mounts=[Mount("/m", str(tree), options=["rbind"])]) == "deep\n"
    assert run("ls /m/sub", mounts=[Mount("/m", str(tree))]) == "deep\n"
    run("echo new > /m/file", mounts=[Mount("/m", str(tree))])
    assert (tree / "file").read_text() == "new\n"


def test_a_source_below_proc_self_is_the_callers(run: Run, source: Path) -> None:
    directory = os.open(source, os.O_RDONLY)
    try:
        assert run("ls /m", mounts=[Mount("/m", f"/proc/self/fd/{directory}")]) == "device\nfile\nlink\n"
    finally:
        os.close(directory)


def test_files_and_missing_mount_points(run: Run, source: Path) -> None:
    file = str(source / "file")
    script = "cat /made/up/file /etc/passwd; ls -d /made/up/dir/deep"
    assert run(script, mounts=[
        Mount("/made/up/file", file), Mount("/etc/passwd", file), Mount("/made/up/dir/deep", kind="tmpfs"),
    ]) == "content\ncontent\n/made/up/dir/deep\n"  # fmt: skip
    with pytest.raises(StartError, match=r"cannot attach a mount at /etc/passwd: not a directory"):
        run("true", mounts=[Mount("/etc/passwd", str(source))])
    with pytest.raises(StartError, match=r"cannot attach a mount at /etc: "):
        run("true", mounts=[Mount("/etc", file)], etc_files=False)
    with pytest.raises(StartError, match=r"cannot attach a mount at /etc/passwd/x: not a directory"):
        run("true", mounts=[Mount("/etc/passwd/x", kind="tmpfs")])


def test_a_symlink_of_the_image_leads_to_the_image(
    source: Path, tmp_path: Path, make_rootfs: Callable[[Path], Path]
) -> None:
    root = make_rootfs(tmp_path / "root")
    (root / "etc/away").symlink_to("/../../../../../../mnt")
    (root / "mnt").mkdir()
    with Sandbox(root, mounts=[Mount("/etc/away/in", str(source))]) as box:
        assert box.run(["/bin/ls", "/mnt/in/file"]).stdout == b"/mnt/in/file\n"
    assert not os.path.exists("/mnt/in")


def test_mounts_lie_on_top_of_each_other_by_depth_and_order(run: Run, source: Path) -> None:
    (source / "a").mkdir()
    both = [Mount("/m/a/b", kind="tmpfs", options=["size=4k"]), Mount("/m", str(source))]
    assert run("ls /m/file; ls -d /m/a/b; df -k /m/a/b | tail -1 | awk '{print $2}'", mounts=both).split() == [
        "/m/file", "/m/a/b", "4",
    ]  # fmt: skip
    twice = [Mount("/m", kind="tmpfs"), Mount("/m", str(source))]
    assert run("cat /m/file", mounts=twice) == "content\n"
    assert run("ls /m", mounts=twice[::-1]) == ""


def test_a_mount_takes_the_place_of_a_default_one(run: Run, source: Path) -> None:
    assert run("ls /dev/shm", mounts=[Mount("/dev/shm/", str(source))]) == "device\nfile\nlink\n"
    assert run("ls /proc", tmpfs={"/proc": ""}, masked_paths=[], readonly_paths=[]) == ""
    assert run("df -k /dev/shm | tail -1 | awk '{print $2}'", tmpfs={"/dev/shm": "size=8k"}) == "8\n"


def test_options_of_a_tmpfs(run: Run) -> None:
    found = mounted(
        run,
        Mount("/m", kind="tmpfs", options=["size=64k", "mode=0710", "uid=1000", "gid=1001", "nr_inodes=9"]),
    )
    assert {"size=64k", "mode=710", "uid=1000", "gid=1001", "nr_inodes=9"} <= found["/m"].superblock
    script = "stat -c '%a %u %g' /m; df -k /m | tail -1 | awk '{print $2}'"
    assert run(script, tmpfs={"/m": "size=64k,mode=0710,uid=1000,gid=1001"}).split() == [
        "710",
        "1000",
        "1001",
        "64",
    ]
    assert table(run("cat /proc/self/mountinfo", tmpfs={"/m": ""}))["/m"].options == {
        "rw", "nosuid", "nodev", "noexec", "relatime",
    }  # fmt: skip
    assert "noexec" not in table(run("cat /proc/self/mountinfo", tmpfs={"/m": "exec"}))["/m"].options
    assert "No space left" in run(
        "dd if=/dev/zero of=/m/x bs=1M count=2 2>&1", code=1, tmpfs={"/m": "size=1m"}
    )


@pytest.mark.parametrize("option", ["sync", "dirsync", "lazytime"])
def test_flags_of_a_superblock(run: Run, option: str) -> None:
    assert option in mounted(run, Mount("/m", kind="tmpfs", options=[option]))["/m"].superblock


def test_flags_of_a_superblock_are_undone(run: Run) -> None:
    options = ["sync", "async", "lazytime", "nolazytime"]
    assert (
        not {"sync", "lazytime"} & mounted(run, Mount("/m", kind="tmpfs", options=options))["/m"].superblock
    )


@pytest.mark.parametrize("kind", ["proc", "sysfs", "mqueue", "devpts", "ramfs", "overlay"])
def test_other_file_systems(run: Run, source: Path, kind: str) -> None:
    (source.parent / "other").mkdir()
    options = ["newinstance"] if kind == "devpts" else []
    if kind == "overlay":
        options = [f"lowerdir={source}:{source.parent}/other"]
    assert mounted(run, Mount("/m", kind=kind, options=options))["/m"].kind == kind


@pytest.mark.parametrize(("mount", "words"), [
    (Mount("/m", kind="tmpfs", options=["shape=round"]),
     "cannot mount tmpfs at /m with options shape=round: invalid argument"),
    (Mount("/m", kind="tmpfs", options=["size=many", "mode=755"]),
     "cannot mount tmpfs at /m with options size=many,mode=755: invalid argument"),
    (Mount("/m", kind="nosuchfs"), "cannot mount nosuchfs at /m with options none: no such device"),
])  # fmt: skip
def test_what_the_kernel_refuses_is_named(run: Run, mount: Mount, words: str) -> None:
    with pytest.raises(StartError, match=f"^{words}$"):
        run("true", mounts=[mount])


@pytest.mark.parametrize(("mount", "kind", "words"), [
    (Mount("/m", "relative/path"), InvalidArgument,
     r"mounts\[0\].source must be an absolute path, not 'relative/path'"),
    (Mount("/m", ""), InvalidArgument, r"mounts\[0\].source must be an absolute path"),
    (Mount("/m", "/none"), InvalidArgument, r"mounts\[0\].source: /none: no such file or directory"),
    (Mount("m", "/etc"), InvalidArgument, r"mounts\[0\].target must be an absolute path"),
    (Mount("/", "/etc"), InvalidArgument, r"mounts\[0\].target must be below the root"),
    (Mount("/a/../b", "/etc"), InvalidArgument, r"mounts\[0\].target must be an absolute path without"),
    (Mount("/m\0", "/etc"), InvalidArgument, r"mounts\[0\].target must be text without NUL"),
    (Mount("/m", "/etc", ""), InvalidArgument, r"mounts\[0\].kind must be"),
    (Mount("/m", "/etc", options="ro"), InvalidArgument, r"mounts\[0\].options must be a list"),
    (Mount("/m", "/etc", options=["size=1m"]), InvalidSpec, r"a bind mount takes no option 'size' .*at /m"),
    (Mount("/m", "/etc", options=["sync"]), InvalidSpec, r"a bind mount takes no option 'sync'"),
    (Mount("/m", "/etc", options=[""]), InvalidSpec, r"mounts\[0\].options: '' is no mount option"),
    (Mount("/m", "/etc", options=["move"]), Unsupported, r"mounts\[0\].options: 'move' makes no sense in a document"),
    (Mount("/m", kind="tmpfs", options=["x" * 10 + "=" + "y" * 256]), InvalidSpec, r"at most 255 bytes"),
    (("/m", "/etc"), InvalidArgument, r"mounts\[0\] must be a Mount"),
    (None, InvalidArgument, r"mounts\[0\] must be a Mount"),
])  # fmt: skip
def test_what_no_mount_can_be(run: Run, mount: Mount, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        run("true", mounts=[mount])


def test_nofail_passes_over_a_missing_source(run: Run) -> None:
    assert mounted(run, Mount("/m", "/not/there", options=["nofail"])) == {}


@pytest.mark.parametrize(("option", "optional"), [
    (None, set()), ("private", set()), ("rprivate", set()), ("shared", {"shared"}), ("rshared", {"shared"}),
    ("slave", {"master"}), ("rslave", {"master"}), ("unbindable", {"unbindable"}), ("runbindable", {"unbindable"}),
])  # fmt: skip
def test_propagation_as_mountinfo_has_it(
    rootfs: Path, tree: Path, option: str | None, optional: set[str]
) -> None:
    """The source is shared on the host, in a mount namespace that dies with the child that made it."""

    def inside() -> None:
        native.mount(os.fsencode(tree), os.fsencode(tree), flags=MS_BIND | MS_REC)
        native.mount(None, os.fsencode(tree), flags=MS_SHARED | MS_REC)
        with Sandbox(rootfs, mounts=[Mount("/m", str(tree), options=[option] if option else [])]) as box:
            found = table(box.run(["/bin/cat", "/proc/self/mountinfo"]).stdout.decode())
        assert found["/m"].optional == optional
        # without the "r" what is below stays what it was in the source
        recursive = option is None or option[1:] in ("private", "shared", "slave", "unbindable")
        assert found["/m/sub"].optional == (optional if recursive else {"shared"})

    in_mount_namespace(inside)


@pytest.mark.parametrize(("option", "down", "up"), [
    ("rprivate", False, False), ("rslave", True, False), ("rshared", True, True),
])  # fmt: skip
def test_propagation_as_it_happens(rootfs: Path, source: Path, option: str, down: bool, up: bool) -> None:
    """*down*: what the host mounts later appears inside; *up*: what is mounted inside appears on the host."""
    for name in ("later", "inner"):
        (source / name).mkdir()

    def inside() -> None:
        native.mount(os.fsencode(source), os.fsencode(source), flags=MS_BIND)
        native.mount(None, os.fsencode(source), flags=MS_SHARED)
        ours, theirs = os.pipe()
        back, answer = os.pipe()
        script = "mount -t tmpfs none /m/inner; echo; head -n 1; ls /m/later"
        with Sandbox(rootfs, cap_add=["SYS_ADMIN"], seccomp="unconfined", mounts=[
            Mount("/m", str(source), options=[option]),
        ]) as box, box.start(["/bin/sh", "-c", script], stdin=ours, stdout=answer) as process:  # fmt: skip
            assert os.read(back, 1) == b"\n"
            assert os.path.ismount(source / "inner") == up
            native.mount(b"none", os.fsencode(source / "later"), fstype=b"tmpfs")
            (source / "later/seen").touch()
            os.write(theirs, b"\n")
            assert process.wait(60) == 0
            os.close(answer)
            assert os.read(back, 100) == (b"\nseen\n" if down else b"\n")

    in_mount_namespace(inside)


def test_the_root_propagates_nothing_to_the_host(run: Run) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    run(
        "mkdir /tmp/x; mount -t tmpfs none /tmp/x; mount -t tmpfs none /mnt 2>/dev/null; true",
        cap_add=["SYS_ADMIN"],
    )
    assert Path("/proc/self/mountinfo").read_text() == before
    assert all(not Entry(line).optional for line in run("cat /proc/self/mountinfo").splitlines())


def test_a_bundles_relative_source(make_rootfs: Callable[[Path], Path], tmp_path: Path) -> None:
    rootfs = make_rootfs(tmp_path / "rootfs")  # the default devices are made in it
    (tmp_path / "data").mkdir()
    (tmp_path / "data/x").touch()
    spec = {
        "ociVersion": "1.2.0", "root": {"path": str(rootfs), "readonly": True},
        "process": {"args": ["ls"], "cwd": "/", "env": ["PATH=/bin"]},
        "mounts": [{"destination": "/tmp", "source": "data", "type": "bind", "options": ["rbind"]}],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    }  # fmt: skip
    with Sandbox.from_spec(spec, tmp_path) as box:
        assert box.run(["/bin/ls", "/tmp"]).stdout == b"x\n"
