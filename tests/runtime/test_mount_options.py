"""Mount options sorted into what the mount API takes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrunc.errors import InvalidSpec, Unsupported
from pyrunc.runtime import mount_options as mo
from pyrunc.spec import defaults

# OCI runtime-spec config.md, "Linux mount options", and mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS"
OCI = [
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
    "idmap",
    "ridmap",
]
FSTAB = [
    "auto", "noauto", "user", "nouser", "users", "owner", "group", "_netdev", "nofail", "comment=a b", "uhelper=x",
    "helper=x", "x-systemd.automount", "X-anything=at all",
]  # fmt: skip
# mount(8), what it does itself; each argument of "ro" and its like that names a layer (2.39)
OWN = [
    "X-mount.mkdir", "X-mount.mkdir=0700", "x-mount.mkdir=700", "X-mount.subdir=a/b", "X-mount.owner=web",
    "X-mount.owner=7", "X-mount.group=7", "X-mount.mode=0750", "X-mount.idmap=0:1000:5",
    "X-mount.idmap=u:0:1:2 g:3:4:5",
    "X-mount.idmap=/proc/1/ns/user", "X-mount.auto-fstypes=ext4,btrfs", "X-mount.auto-fstypes=novfat", "X-mount.noloop",
    "X-mount.nocanonicalize", "X-mount.nocanonicalize=source",
    *(f"{name}=recursive" for name in (
        "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "atime", "noatime", "diratime", "nodiratime",
        "relatime", "norelatime", "strictatime", "nostrictatime", "symfollow", "nosymfollow",
    )), "ro=vfs", "rw=vfs",
]  # fmt: skip


@pytest.mark.parametrize("option", OCI + FSTAB + OWN)
def test_every_known_option_is_sorted(option: str) -> None:
    """Only the four flags of a superblock reach the file system."""
    found = mo.parse([option])
    assert found.data == (((option, ""),) if option in ("sync", "dirsync", "mand", "lazytime") else ())


def test_a_layer_of_an_attribute() -> None:
    assert mo.parse(["ro=recursive"]) == mo.parse(["rro"])
    assert mo.parse(["noatime=recursive", "atime=recursive"]) == mo.parse(["rnoatime", "ratime"])
    assert mo.parse(["ro=vfs"]) == mo.parse(["ro"])
    assert mo.parse(["ro=fs", "rw=fs"]).data == (("ro", ""), ("rw", ""))
    assert mo.parse(["ro=fs"]).attr_set == 0
    for option in (
        "noexec=fs",
        "ro=other",
        "dev=/dev/x",
    ):  # no layer: the file system's own, as far as is known here
        assert mo.parse([option]).data == (tuple(option.split("=")),)


def test_what_mount_does_itself() -> None:
    found = mo.parse(["X-mount.owner=1", "X-mount.owner=web", "X-mount.group=2", "X-mount.mode=1777"])
    assert (found.owner, found.group, found.mode) == ("web", "2", 0o1777)
    assert mo.parse(["X-mount.subdir=/a//b/./c/"]).subdir == "/a/b/c"
    assert mo.parse(["x-mount.mkdir=700"]).mkdir == 0o700
    assert mo.parse(["X-mount.idmap=u:1000:0:1 g:1001:1:2 5000:1000:2"]).maps == (
        "1000 0 1\n5000 1000 2\n", "1001 1 2\n5000 1000 2\n",
    )  # fmt: skip
    found = mo.parse(["X-mount.idmap=0:1:2", "X-mount.idmap=/proc/5/ns/user"])
    assert (found.maps, found.userns) == (("", ""), "/proc/5/ns/user")
    assert mo.parse(["remount", "ro"]).remount


@pytest.mark.skipif("selinuxfs" in Path("/proc/filesystems").read_text(), reason="SELinux is on")
@pytest.mark.parametrize(
    "option", ["context=a:b:c", "fscontext=x", "defcontext=x", "rootcontext=@target", "seclabel"]
)
def test_labels_need_selinux(option: str) -> None:
    with pytest.raises(Unsupported, match=f"'{option}' needs SELinux, which is off on this host"):
        mo.parse([option])


def test_the_recursive_ones_stand_apart() -> None:
    found = mo.parse(["ro", "rnosuid", "rnodev", "noexec"])
    assert (found.attr_set, found.rec_set) == (mo.RDONLY | mo.NOEXEC, mo.NOSUID | mo.NODEV)
    assert mo.parse(["rro", "rrw"]).rec_clear == mo.RDONLY


def test_an_access_time_clears_the_others() -> None:
    """mount_setattr(2) demands the whole mask when one of them is set."""
    for option in ("noatime", "strictatime", "relatime", "atime", "norelatime", "nostrictatime"):
        assert mo.parse([option]).attr_clear == mo.ATIME_MASK
    assert mo.parse(["noatime", "strictatime"]).attr_set == mo.STRICTATIME


def test_defaults_undo_but_lift_nothing_of_the_source() -> None:
    found = mo.parse(["ro", "nosuid", "noatime", "defaults"])
    assert (found.attr_set, found.attr_clear) == (mo.NOATIME, mo.ATIME_MASK)


def test_what_a_file_system_gets() -> None:
    assert mo.parse(["size=1m", "mode=755", "noswap", "sync", "async"]).data == (
        ("size", "1m"),
        ("mode", "755"),
        ("noswap", ""),
    )


def test_propagation() -> None:
    assert mo.parse(["rslave"])[6:8] == (mo.MS_SLAVE, True)
    assert mo.parse(["rslave", "private"])[6:8] == (mo.MS_PRIVATE, False)


@given(st.lists(st.sampled_from([option for option in OCI if option not in ("tmpcopyup", "defaults")])))
def test_no_bit_is_set_and_cleared_at_once(options: list[str]) -> None:
    found = mo.parse(options)
    outside = ~mo.ATIME_MASK
    assert not found.attr_set & found.attr_clear & outside
    assert not found.rec_set & found.rec_clear & outside


@given(st.lists(st.text()))
def test_any_text_is_sorted_or_refused(options: list[str]) -> None:
    try:
        mo.parse(options, "mounts[3].options")
    except (InvalidSpec, Unsupported) as exc:
        assert str(exc).startswith("mounts[3].options: ")


def test_what_is_refused() -> None:
    for option in (
        "move",
        "loop",
        "loop=/dev/loop7",
        "offset=5",
        "sizelimit=5",
        "encryption=aes",
        "verity.roothash=1",
    ):
        with pytest.raises(Unsupported, match=f"options: '{option}' (is not supported: it|makes no sense)"):
            mo.parse([option])
    for option in ("X-mount.mkdir=", "X-mount.mkdir"):
        assert mo.parse([option]).mkdir == 0o755
    for option in (
        "X-mount.mkdir=9",
        "X-mount.mkdir=17777",
        "X-mount.mode",
        "X-mount.mode=rwx",
        "X-mount.mode=-7",
    ):
        with pytest.raises(InvalidSpec, match="needs a mode in octal digits"):
            mo.parse([option])
    for option in ("X-mount.owner=", "X-mount.group"):
        with pytest.raises(InvalidSpec, match="needs a name or a number"):
            mo.parse([option])
    for option in (
        "X-mount.subdir",
        "X-mount.subdir=/",
        "X-mount.subdir=a/../b",
        "X-mount.subdir=..",
        "X-mount.subdir=.",
    ):
        with pytest.raises(InvalidSpec, match="needs a path without"):
            mo.parse([option])
    for maps in (
        "",
        "x",
        "0:1",
        "0:1:2:3",
        "0:1:0",
        "0:1:4294967296",
        "z:0:1:2",
        "u:0:1:2",
        "g:0:1:2",
        "-1:0:1",
        "0: 1:2",
    ):
        with pytest.raises(InvalidSpec, match=r"X-mount\.idmap"):
            mo.parse([f"X-mount.idmap={maps}"])
    for option in ("", "=x", "a\0b", "x=" + "y" * 256):
        with pytest.raises(InvalidSpec, match="no mount option"):
            mo.parse([option])
    with pytest.raises(InvalidSpec):
        mo.parse([5])


def test_the_default_mounts_have_only_known_options() -> None:
    """What is no attribute must be an option of that very file system."""
    own = {"tmpfs": {"mode", "size"}, "devpts": {"newinstance", "ptmxmode", "mode", "gid"}}
    for row in defaults.mounts():
        assert {key for key, _ in mo.parse(row["options"]).data} <= own.get(row["type"], set())
