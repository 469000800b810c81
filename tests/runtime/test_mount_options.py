"""Mount options sorted into what the mount API takes."""

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
FSTAB = ["auto", "noauto", "user", "nouser", "users", "owner", "group", "_netdev", "nofail"]


@pytest.mark.parametrize("option", OCI + FSTAB)
def test_every_known_option_is_sorted(option: str) -> None:
    """Only the four flags of a superblock reach the file system."""
    found = mo.parse([option])
    assert found.data == (((option, ""),) if option in ("sync", "dirsync", "mand", "lazytime") else ())


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
    for option in ("remount", "move", "X-mount.idmap=x", "X-mount.subdir=x"):
        with pytest.raises(Unsupported, match=option.split("=")[0]):
            mo.parse([option])
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
