"""What mount(8) does itself: remount and X-mount.*, on real mounts."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrunc import Mount, Sandbox
from pyrunc._native import mount as native
from pyrunc.errors import InvalidSpec, StartError
from tests.conftest import Run
from tests.runtime.test_sandbox_mounts import mounted

pytestmark = pytest.mark.usefixtures("host_unchanged")
MNT_DETACH = 2


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    (path / "a/b").mkdir(parents=True)
    (path / "a/b/file").write_text("content\n")
    (path / "one").touch()
    return path


@pytest.fixture
def tree(source: Path) -> Iterator[Path]:
    """A directory with a tmpfs mounted below it, in this process's own mount namespace."""
    (source / "sub").mkdir()
    native.mount(b"none", os.fsencode(source / "sub"), fstype=b"tmpfs")
    yield source
    native.umount2(os.fsencode(source / "sub"), MNT_DETACH)


# --- remount


@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
@pytest.mark.parametrize(("first", "then", "expected"), [
    ([], ["ro"], {"ro", "relatime"}), (["ro"], ["rw"], {"rw", "relatime"}),
    # What is not named stays, as with mount(8): no protection gets lost.
    (["nosuid", "nodev"], ["ro"], {"ro", "nosuid", "nodev", "relatime"}),
    (["nosuid", "nodev"], ["suid", "noexec"], {"rw", "nodev", "noexec", "relatime"}),
    ([], ["noatime", "nosymfollow"], {"rw", "noatime", "nosymfollow"}),
    (["noatime"], ["strictatime"], {"rw"}),
    ([], ["user"], {"rw", "nosuid", "nodev", "noexec", "relatime"}), (["ro"], [], {"ro", "relatime"}),
])  # fmt: skip
def test_a_remount(
    run: Run, source: Path, kind: str, first: list[str], then: list[str], expected: set[str]
) -> None:
    where = str(source) if kind == "bind" else ""
    found = mounted(run, Mount("/m", where, kind, first), Mount("/m", options=["remount", "bind", *then]))
    assert found["/m"].options == expected


def test_a_remount_leaves_the_hosts_mount(run: Run, tree: Path) -> None:
    """And reaches what a recursive bind has brought along."""
    found = mounted(run, Mount("/m", str(tree)), Mount("/m/sub", options=["remount", "ro", "noexec"]))
    assert {"ro", "noexec"} <= found["/m/sub"].options
    assert not {"ro", "noexec"} & found["/m"].options
    found = mounted(run, Mount("/m", str(tree)), Mount("/m", options=["remount", "rro", "rslave"]))
    assert all("ro" in found[path].options for path in ("/m", "/m/sub"))
    (line,) = [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {tree}/sub " in line
    ]
    assert " rw,relatime " in line


def test_a_remount_of_a_default_mount(run: Run) -> None:
    script = "grep -E ' /(proc|dev/shm) ' /proc/self/mountinfo; df -k /dev/shm | tail -1 | awk '{print $2}'"
    text = run(script, mounts=[
        Mount("/proc", options=["remount", "noatime"]), Mount("/dev/shm", options=["remount", "size=8k", "ro"]),
    ])  # fmt: skip
    proc, shm, size = text.splitlines()
    assert "rw,nosuid,nodev,noexec,noatime - proc" in proc
    assert "ro,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=8k" in shm
    assert size == "8"


def test_options_of_a_file_system_change_where_it_is_the_documents(run: Run, source: Path) -> None:
    again = Mount("/m", options=["remount", "size=64k", "ro=fs"])
    found = mounted(run, Mount("/m", kind="tmpfs", options=["size=8k", "nr_inodes=9"]), again)
    assert {"size=64k", "nr_inodes=9", "ro"} <= found["/m"].superblock
    with pytest.raises(
        InvalidSpec, match=r"a remount changes 'size' only where this document mounts a tmpfs"
    ):
        run("true", mounts=[Mount("/m", str(source)), again])
    with pytest.raises(InvalidSpec, match=r"a remount changes 'hidepid' only"):
        run("true", mounts=[Mount("/proc", options=["remount", "hidepid=2"])])
    with pytest.raises(StartError, match=r"^cannot remount /m with options size=x: invalid argument$"):
        run("true", mounts=[Mount("/m", kind="tmpfs"), Mount("/m", options=["remount", "size=x"])])


def test_nothing_to_remount(run: Run) -> None:
    with pytest.raises(
        StartError, match=r"^cannot remount /etc, where nothing is mounted: invalid argument$"
    ):
        run("true", mounts=[Mount("/etc", options=["remount", "ro"])])
    with pytest.raises(StartError, match=r"^cannot remount /none: no such file or directory$"):
        run("true", mounts=[Mount("/none", options=["remount", "ro"])])


# --- X-mount.mkdir


@pytest.mark.parametrize(("option", "modes"), [
    ("X-mount.mkdir", "755 755"), ("X-mount.mkdir=0700", "700 700"), ("x-mount.mkdir=1711", "1711 1711"),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_a_mount_point_is_made_with_a_mode(
    run: Run, source: Path, kind: str, option: str, modes: str
) -> None:
    """/proc/self/mountinfo shows nothing of it: it is looked at with the mount gone."""
    mounts = [Mount("/made/up/here", str(source), kind, [option])]
    script = "umount -l /made/up/here && stat -c %a /made/up /made/up/here | xargs"
    assert run(script, mounts=mounts, cap_add=["SYS_ADMIN"], seccomp="unconfined") == f"{modes}\n"
    assert (
        run("stat -c %a /etc", mounts=[Mount("/etc/x", str(source), kind, ["X-mount.mkdir=700"])]) == "755\n"
    )


def test_a_file_is_no_directory_to_make(run: Run, source: Path) -> None:
    assert run(
        "ls /new/file", mounts=[Mount("/new/file", str(source / "one"), options=["X-mount.mkdir=700"])]
    )


# --- X-mount.owner, group, mode


@pytest.mark.parametrize("more", [[], ["ro"]])
def test_the_owner_of_a_new_file_system(run: Run, more: list[str]) -> None:
    options = ["X-mount.owner=1000", "X-mount.group=7", "X-mount.mode=2750", *more]
    assert (
        run("stat -c '%u %g %a' /m", mounts=[Mount("/m", kind="tmpfs", options=options)]) == "1000 7 2750\n"
    )
    assert run("id -u web; stat -c '%u %g' /m", mounts=[
        Mount("/m", kind="tmpfs", options=["X-mount.owner=web", "X-mount.group=root", "uid=5", "gid=6", *more]),
    ]) == "1000\n1000 0\n"  # fmt: skip


@pytest.mark.parametrize("more", [[], ["ro"], ["rro"]])
@pytest.mark.parametrize("what", ["", "one"])
def test_the_owner_of_a_bind_is_the_sources(run: Run, source: Path, what: str, more: list[str]) -> None:
    options = ["X-mount.owner=1000", "X-mount.mode=0640", *more]
    script = "stat -c '%u %g %a' /m; grep ' /m ' /proc/self/mountinfo"
    text = run(script, mounts=[Mount("/m", str(source / what), options=options)])
    assert text.startswith("1000 0 640\n")
    assert (" ro," in text) == bool(more)
    status = (source / what).stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1000, 0, 0o640)


def test_a_read_only_source_keeps_its_owner(run: Run, source: Path) -> None:
    native.mount(os.fsencode(source), os.fsencode(source), flags=0x1000)
    native.mount(None, os.fsencode(source), flags=0x1000 | 0x20 | 1)
    try:
        with pytest.raises(
            StartError, match=r"^cannot change the owner or mode of what is mounted at /m: read-only file"
        ):
            run("true", mounts=[Mount("/m", str(source), options=["X-mount.owner=5"])])
    finally:
        native.umount2(os.fsencode(source), MNT_DETACH)
    assert source.stat().st_uid == 0


# --- X-mount.subdir


def test_a_directory_of_a_bind(run: Run, tree: Path) -> None:
    assert run("cat /m/file", mounts=[Mount("/m", str(tree), options=["X-mount.subdir=/a/b"])]) == "content\n"
    found = mounted(run, Mount("/m", str(tree), options=["X-mount.subdir=sub", "ro"]))["/m"]
    assert (found.kind, found.root) == ("tmpfs", "/")
    assert "ro" in found.options
    for missing, words in (("none", "no such file or directory"), ("one", "not a directory")):
        with pytest.raises(StartError, match=f"^cannot show {missing} of {tree}: {words}$"):
            run("true", mounts=[Mount("/m", str(tree), options=[f"X-mount.subdir={missing}"])])


def test_a_directory_of_a_new_file_system(run: Run) -> None:
    mount = Mount("/m", kind="proc", options=["X-mount.subdir=sys/kernel", "ro", "nosuid"])
    assert run("cat /m/hostname", mounts=[mount], hostname="marker") == "marker\n"
    found = mounted(run, mount)["/m"]
    assert found.root == "/sys/kernel"
    assert found.options == {"ro", "nosuid", "relatime"}
    with pytest.raises(StartError, match=r"^cannot show none of tmpfs: no such file or directory$"):
        run("true", mounts=[Mount("/m", kind="tmpfs", options=["X-mount.subdir=none"])])


# --- X-mount.idmap


@pytest.mark.parametrize(("maps", "shown"), [
    ("0:1000:1", "1000 1000"), ("u:0:1000:1 g:0:7:1", "1000 7"), ("b:0:3000:10", "3000 3000"),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_owners_through_a_map(run: Run, source: Path, kind: str, maps: str, shown: str) -> None:
    options = [f"X-mount.idmap={maps}", *(["uid=0", "gid=0"] if kind == "tmpfs" else [])]
    text = run(
        "stat -c '%u %g' /m; grep ' /m ' /proc/self/mountinfo",
        mounts=[Mount("/m", str(source), kind, options)],
    )
    assert text.startswith(f"{shown}\n")
    assert "idmapped" in text


def test_owners_through_a_user_namespace(run: Run, source: Path) -> None:
    with subprocess.Popen(
        ["unshare", "--user", "sh", "-c", "echo; read x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        Path(f"/proc/{holder.pid}/uid_map").write_text("0 5000 1")
        Path(f"/proc/{holder.pid}/gid_map").write_text("0 5001 1")
        options = [f"X-mount.idmap=/proc/{holder.pid}/ns/user"]
        text = run("stat -c '%u %g' /m", mounts=[Mount("/m", str(source), options=options)])
        holder.communicate(b"\n")
    assert text == "5000 5001\n"
    with pytest.raises(StartError, match=r"no such file"):
        run("true", mounts=[Mount("/m", str(source), options=["X-mount.idmap=/proc/1/ns/none"])])
    with pytest.raises(StartError):
        run("true", mounts=[Mount("/m", str(source), options=["X-mount.idmap=/proc/self/ns/mnt"])])


def test_a_map_and_an_owner(run: Run, source: Path) -> None:
    """The owner is what the map shows."""
    options = ["X-mount.idmap=0:1000:10", "X-mount.owner=1003"]
    assert run("stat -c %u /m", mounts=[Mount("/m", str(source), options=options)]) == "1003\n"
    assert source.stat().st_uid == 3


# --- sources, devices, and the options of a tmpfs


def test_the_source_of_a_file_system_is_shown(run: Run) -> None:
    assert mounted(run, Mount("/m", "name", "tmpfs"))["/m"].source == "name"
    assert mounted(run, Mount("/m", kind="tmpfs"))["/m"].source == "tmpfs"
    assert "- tmpfs shm " in run("grep ' /dev/shm ' /proc/self/mountinfo")


def test_a_missing_device(run: Run) -> None:
    with pytest.raises(InvalidSpec, match=r"mounts\[\d\].source: /dev/none: no such file or directory"):
        run("true", mounts=[Mount("/m", "/dev/none", "ext4")])
    assert mounted(run, Mount("/m", "/dev/none", "ext4", ["nofail", "ro"])) == {}


def test_a_file_system_in_a_file(run: Run, tmp_path: Path) -> None:
    """erofs needs no loop device, and so noloop has nothing to do."""
    if not any(os.access(f"{path}/mkfs.erofs", os.X_OK) for path in ("/usr/bin", "/usr/sbin")):
        pytest.skip("needs mkfs.erofs")
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_text("read me")
    image = tmp_path / "image"
    subprocess.run(["mkfs.erofs", image, tmp_path / "tree"], check=True, capture_output=True)
    options = ["ro", "X-mount.noloop", "X-mount.auto-fstypes=erofs"]
    try:
        text = run("cat /m/sub/file", mounts=[Mount("/m", str(image), "erofs", options)])
    except StartError as exc:
        pytest.skip(f"this kernel: {exc}")
    assert text == "read me"
    mount = Mount("/m", str(image), "erofs", [*options, "X-mount.subdir=sub"])
    assert run("cat /m/file", mounts=[mount]) == "read me"


# tmpfs(5), and Documentation/filesystems/tmpfs.rst: what mountinfo shows, or None for what it may or may not
TMPFS = [
    ("size=64k", "size=64k"), ("size=1%", None), ("nr_blocks=8", "size=32k"), ("nr_inodes=9", "nr_inodes=9"),
    ("mode=0711", "mode=711"), ("uid=7", "uid=7"), ("gid=7", "gid=7"), ("huge=never", None),
    ("huge=always", "huge=always"),
    ("huge=within_size", "huge=within_size"), ("huge=advise", "huge=advise"), ("mpol=default", None),
    ("mpol=local", "mpol=local"), ("mpol=prefer:0", "mpol=prefer:0"), ("mpol=bind:0", "mpol=bind:0"),
    ("mpol=interleave:0", "mpol=interleave:0"), ("inode32", None), ("inode64", "inode64"), ("noswap", "noswap"),
    ("quota", "quota"), ("usrquota", "usrquota"), ("grpquota", "grpquota"), ("usrquota_block_hardlimit=1m", None),
    ("sync", "sync"), ("dirsync", "dirsync"), ("lazytime", "lazytime"), ("mand", None), ("ro=fs", "ro"),
]  # fmt: skip


@pytest.mark.parametrize(("option", "shown"), TMPFS, ids=[option for option, _ in TMPFS])
def test_each_option_of_a_tmpfs(run: Run, option: str, shown: str | None) -> None:
    """It reaches the kernel: that has it, or is what refuses it."""
    try:
        found = mounted(run, Mount("/m", kind="tmpfs", options=[option]))["/m"].superblock
    except StartError as exc:
        assert option in str(exc)
        assert (
            option.partition("=")[0] in ("huge", "mpol", "noswap", "inode64", "inode32", "mand")
            or "quota" in option
        )
        pytest.skip(f"not on this kernel: {exc}")
    assert shown is None or any(word.startswith(shown) for word in found), found


def test_a_user_namespace_changes_what_is_its_own(rootfs: Path, source: Path) -> None:
    """X-mount.owner counts in the container's ids, and gives away nothing that is not the container's."""
    rows = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    counter = itertools.count()

    def run_one(*mounts: dict[str, object]) -> str:
        spec = {
            "ociVersion": "1.2.0", "root": {"path": str(rootfs)},
            "process": {"args": ["x"], "cwd": "/", "env": ["PATH=/bin"]}, "mounts": [
                {"destination": "/proc", "type": "proc"}, *mounts],
            "linux": {"namespaces": [{"type": kind} for kind in ("mount", "pid", "user")],
                      "uidMappings": rows, "gidMappings": rows, "cgroupsPath": f"/pyrunc/special-{next(counter)}"},
        }  # fmt: skip
        with Sandbox.from_spec(spec, "/") as box:
            return box.run(["/bin/stat", "-c", "%u %a", "/tmp"]).stdout.decode()

    options = ["X-mount.owner=5", "X-mount.mode=700"]
    assert run_one({"destination": "/tmp", "type": "tmpfs", "options": [*options, "ro"]}) == "5 700\n"
    bind = {"destination": "/tmp", "type": "bind", "source": str(source)}
    with pytest.raises(StartError, match=r"cannot change the owner or mode .*: operation not permitted"):
        run_one({**bind, "options": options})
    os.chown(source, 100000, 100000)
    assert run_one({**bind, "options": [*options, "ro"]}) == "5 700\n"
    assert source.stat().st_uid == 100005
    assert run_one(
        {**bind, "options": ["X-mount.mode=711"]}, {"destination": "/tmp", "options": ["remount", "ro"]}
    )
    os.chown(source, 0, 0)
