"""Users and groups by the files of an image, which may hold anything."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyrunc.errors import InvalidArgument, NotFound
from pyrunc.runtime import users
from pyrunc.runtime.users import User

PASSWD = """root:x:0:0:root:/root:/bin/sh

# comment
short:x:1
web:x:1000:1001::/home/web:/bin/sh
web:x:5:5::/second:
"""
GROUP = "root:x:0:\nweb:x:1001:\naudio:x:29:other,web\nbroken:x:abc:web\nhuge:x:99999999999:web\n"


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    root = tmp_path / "layer"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    return root


def resolve(layer: Path, user: str, *groups: str) -> User:
    return users.resolve(user, groups, [str(layer)])


def test_the_first_entry_counts_and_malformed_ones_do_not(layer: Path) -> None:
    assert resolve(layer, "web") == User(1000, 1001, (29, 1001), "/home/web")
    assert resolve(layer, "5") == User(5, 5, (5, 29), "/second")
    with pytest.raises(NotFound):
        resolve(layer, "short")


def test_a_group_takes_the_place_of_all_memberships(layer: Path) -> None:
    assert resolve(layer, "web:audio") == User(1000, 29, (29,), "/home/web")
    assert resolve(layer, "7:8", "audio", "3") == User(7, 8, (3, 8, 29), "")


def test_a_name_of_digits_is_a_name_first(layer: Path) -> None:
    with open(layer / "etc/passwd", "a") as file:
        file.write("4242:x:6:7::/six:\n")
    assert resolve(layer, "4242")[:2] == (6, 7)


def test_ids_out_of_range(layer: Path) -> None:
    for text in ("4294967295", "18446744073709551616", "0x10", "+1", "1_000", "٣"):
        with pytest.raises((InvalidArgument, NotFound)):
            resolve(layer, text)
    with pytest.raises(InvalidArgument):
        resolve(layer, "0:huge")
    assert resolve(layer, "4294967294").uid == 4294967294


def test_symlinks_stay_inside_the_layer(layer: Path, tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("evil:x:1:1::/:\n")
    (layer / "etc/passwd").unlink()
    (layer / "etc/passwd").symlink_to(tmp_path / "passwd")
    with pytest.raises(NotFound):
        resolve(layer, "evil")
    (layer / "etc/passwd").unlink()
    (layer / "etc/passwd").symlink_to("/real")
    (layer / "real").write_text("inside:x:9:9::/in:\n")
    assert resolve(layer, "inside").home == "/in"


def test_what_is_no_file_is_no_table(layer: Path) -> None:
    for make in (os.mkdir, os.mkfifo):
        (layer / "etc/passwd").unlink(missing_ok=True)
        make(layer / "etc/passwd")
        assert resolve(layer, "0") == User(0, 0, (0,), "")
        if make is os.mkdir:
            os.rmdir(layer / "etc/passwd")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a device node")
def test_the_topmost_layer_decides(layer: Path, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "etc").mkdir(parents=True)
    both = [str(layer), str(upper)]
    assert users.resolve("web", (), both).uid == 1000
    (upper / "etc/passwd").write_text("web:x:77:77::/:\n")
    assert users.resolve("web", (), both).uid == 77
    (upper / "etc/passwd").unlink()
    os.mknod(upper / "etc/passwd", 0o020600, 0)  # a whiteout
    with pytest.raises(NotFound):
        users.resolve("web", (), both)


@given(passwd=st.binary(max_size=200), group=st.binary(max_size=200), user=st.text(max_size=12))
@settings(suppress_health_check=list(HealthCheck), deadline=None)
def test_no_image_and_no_name_breaks_it(layer: Path, passwd: bytes, group: bytes, user: str) -> None:
    (layer / "etc/passwd").write_bytes(b"a:x:1:2:\n" + passwd)
    (layer / "etc/group").write_bytes(group)
    try:
        found = resolve(layer, user)
    except (InvalidArgument, NotFound):
        return
    assert 0 <= found.uid <= 0xFFFFFFFE
    assert 0 <= found.gid <= 0xFFFFFFFE
