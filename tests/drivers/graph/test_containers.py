"""Containers on snapshots: what they write is the snapshot's change, and nothing is mounted on the host."""

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from pyrunc.drivers.graph.snapshotter import Snapshotter
from pyrunc.drivers.registry import graph
from pyrunc.errors import FailedPrecondition, StartError
from pyrunc.runtime.options import IdMap
from pyrunc.testing.snapshotters import mounts
from tests.drivers.graph.conftest import Shell, box

CHANGE = """
    cd /data
    echo new > added; rm gone; echo otherwise >> changed; rm -r below; mkdir below; echo x > below/other
    chown 3:4 added; chmod 4711 added; ln added linked; touch -d '2001-02-03 04:05:06' added
"""
SHOW = "cd /data; ls; ls below; cat changed; stat -c '%a %u %g %h %Y' added"
SHOWN = "added\nbelow\nchanged\nkept\nlinked\nother\nchanged\notherwise\n4711 3 4 2 981173106\n"
MAPS: dict[str, Any] = {"uid_maps": [IdMap(0, 100000, 65536)]}


def chain(driver: Snapshotter, length: int) -> None:
    """Commit snapshots "1" to *length* over "image", each with a file of its own."""
    for number in range(1, length + 1):
        driver.prepare("making", str(number - 1) if number > 1 else "image")
        with driver.mounted("making", writable=True) as root:
            os.close(os.open(f"file{number}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=root))
        driver.commit(str(number), "making")


@pytest.mark.usefixtures("host_unchanged")
@pytest.mark.parametrize("options", [{}, MAPS], ids=["root", "user-namespace"])
def test_what_a_container_writes_becomes_a_parent(
    driver: Snapshotter, shell: Shell, options: dict[str, Any]
) -> None:
    before = mounts()
    work = driver.prepare("work", "image")
    shell(work, CHANGE, **options)
    changes = driver.changes("work")
    assert [pair for pair in changes if pair[1].startswith("/data")] == [
        ("C", "/data"), ("A", "/data/added"), ("C", "/data/below"), ("D", "/data/below/deep"),
        ("A", "/data/below/other"), ("C", "/data/changed"), ("D", "/data/gone"), ("A", "/data/linked"),
    ]  # fmt: skip
    blocks: list[bytes] = []
    written = driver.write_diff("work", lambda data: blocks.append(bytes(data)))
    assert written.size == sum(map(len, blocks)) and b"data/.wh.gone" in b"".join(blocks)
    driver.commit("changed", "work")
    child = driver.prepare("child", "changed")
    assert shell(child, SHOW, **options) == SHOWN
    assert shell(child, SHOW) == SHOWN  # the owners on the disk are the image's, whoever looks
    assert "gone" in shell(driver.prepare("other", "image"), "ls /data")
    assert mounts() == before


@pytest.mark.usefixtures("host_unchanged")
def test_a_container_that_comes_again_finds_its_files(driver: Snapshotter, shell: Shell) -> None:
    shell(driver.prepare("work", "image"), "echo one >> /data/log")
    shell(driver.rootfs("work"), "echo two >> /data/log")
    with driver.mounted("work") as root, open(os.open("data/log", os.O_RDONLY, dir_fd=root)) as file:
        assert file.read() == "one\ntwo\n"


def test_the_first_snapshot_of_all_can_be_run(driver: Snapshotter, shell: Shell) -> None:
    """It has nothing below, which an overlay needs."""
    with driver.mounted("image") as root:
        program = os.open("bin/busybox", os.O_RDONLY, dir_fd=root)
    first = driver.prepare("first", None)
    with driver.mounted("first", writable=True) as root, open(program, "rb") as file:
        os.mkdir("bin", dir_fd=root)
        target = os.open("bin/sh", os.O_CREAT | os.O_WRONLY, 0o755, dir_fd=root)
        with open(target, "wb") as copy:
            copy.write(file.read())
    assert shell(first, "echo hi > /file; read line < /file; echo $line") == "hi\n"
    assert ("A", "/file") in driver.changes("first")


@pytest.mark.parametrize("options", [{}, MAPS], ids=["root", "user-namespace"])
def test_a_view_is_run_and_never_changes(driver: Snapshotter, shell: Shell, options: dict[str, Any]) -> None:
    view = driver.view("view", "image")
    shell(view, "rm /data/gone; echo new > /data/kept; cat /data/kept", **options)
    with driver.mounted("image") as root:
        assert sorted(os.listdir(f"/proc/self/fd/{root}/data")) == ["below", "changed", "gone", "kept"]
        assert Path(f"/proc/self/fd/{root}/data/kept").read_text() == "kept\n"
    with pytest.raises(FailedPrecondition):
        driver.commit("x", "view")
    driver.usage("view")
    driver.remove("view")


@pytest.mark.parametrize("options", [{}, MAPS, {**MAPS, "etc_files": False}])
def test_a_view_of_layers_with_opaque_directories(
    driver: Snapshotter, shell: Shell, options: dict[str, Any]
) -> None:
    """A user namespace does not see the attribute that makes them so; the host has to mount it."""
    shell(driver.prepare("work", "image"), CHANGE)
    driver.commit("changed", "work")
    view = driver.view("view", "changed")
    written = "; touch /mine; stat -c %u /mine"
    assert shell(view, SHOW + written, **options) == f"{SHOWN}0\n"
    assert shell(driver.rootfs("view"), SHOW, **options) == SHOWN
    if driver.name == "overlay2":  # a view of vfs is a copy
        full = "dd if=/dev/zero of=/x bs=1M count=3 2>&1; true"
        assert "No space" in shell(view._replace(scratch_bytes=1 << 20), full, **options)


def test_a_committed_snapshot_is_shown_read_only(driver: Snapshotter) -> None:
    driver.prepare("work", "image")
    for key in ("image", "work"):
        with driver.mounted(key) as root, pytest.raises(OSError, match="Read-only file system"):
            os.unlink("data/gone", dir_fd=root)


@pytest.mark.parametrize("options", [
    {"etc_files": False}, {"writable": "no"}, {"hostname": "name"}, {**MAPS, "etc_files": False},
    {**MAPS, "writable": "no"},
])  # fmt: skip
def test_options_of_the_root_hold_on_a_snapshot(
    driver: Snapshotter, shell: Shell, options: dict[str, Any]
) -> None:
    work = driver.prepare("work", "image")
    written = shell(
        work, "echo x 2>/dev/null > /new && echo written; cat /etc/hostname 2>/dev/null; true", **options
    )
    assert written.startswith("written\n") == (options.get("writable") != "no")
    assert ("name\n" in written) == ("hostname" in options)
    assert (("A", "/new") in driver.changes("work")) == (options.get("writable") != "no")


@pytest.mark.usefixtures("host_unchanged")
@pytest.mark.parametrize("options", [{}, MAPS], ids=["root", "user-namespace"])
def test_128_layers_run(driver: Snapshotter, shell: Shell, options: dict[str, Any]) -> None:
    length = 127 if driver.name == "overlay2" else 5  # with the image; a copy knows no layers
    chain(driver, length)
    work = driver.prepare("work", str(length))
    assert len(work.layers) == (128 if driver.name == "overlay2" else 1)
    assert shell(work, "ls / | grep -c file; rm /file1; echo x > /new", **options) == f"{length}\n"
    assert {("D", "/file1"), ("A", "/new")} <= set(driver.changes("work"))


@pytest.mark.parametrize("driver", ["overlay2"], indirect=True)
def test_more_layers_than_a_page_can_name(driver: Snapshotter, shell: Shell, tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "state/snapshots/overlay2/metadata.db", isolation_level=None)
    database.execute("UPDATE sqlite_sequence SET seq = 1000000")
    database.close()
    chain(driver, 420)
    work = driver.prepare("work", "420")
    with box(work) as sandbox:
        assert "lowerdir+" in sandbox.plan(["x"])
    assert shell(work, "ls / | grep -c file; echo new > /new") == "420\n"
    assert ("A", "/new") in driver.changes("work")
    with driver.mounted("work") as root:
        assert {"new", "file1", "file420"} <= set(os.listdir(root))


@pytest.mark.parametrize("driver", ["overlay2"], indirect=True)
@pytest.mark.parametrize("options", [{}, MAPS], ids=["root", "user-namespace"])
def test_a_volatile_snapshot(driver: Snapshotter, shell: Shell, options: dict[str, Any]) -> None:
    table = "cat /proc/mounts | grep ' / overlay' | grep -c '[,=]volatile'; echo x >> /data/kept"
    assert shell(driver.prepare("plain", "image"), table, **options) == "0\n"
    assert shell(driver.prepare("work", "image", volatile=True), table, **options) == "1\n"
    again = driver.rootfs("work")
    assert shell(again, table, **options) == "1\n"
    with pytest.raises(StartError, match=r"cannot mount the overlay .*: (invalid argument|file exists)"):
        shell(again, table, **options)  # the kernel's mark is there once more
    with driver.mounted("work", writable=True) as root:  # which takes it away
        assert Path(f"/proc/self/fd/{root}/data/kept").read_text() == "kept\nx\nx\n"
    driver.commit("done", "work")
    assert shell(driver.prepare("child", "done"), f"{table}; cat /data/kept", **options) == (
        "0\nkept\nx\nx\nx\n"
    )


def test_owners_in_a_user_namespace(driver: Snapshotter, shell: Shell) -> None:
    """Layers and disk have the image's numbers, the host's processes the mapped ones."""
    work = driver.prepare("work", "image")
    script = "stat -c %u:%g /data/kept; touch /mine; chown 7:8 /data/kept; mknod /fifo p; stat -c %u:%g /mine"
    assert shell(work, script, **MAPS) == "0:0\n0:0\n"
    directory = Path(work.upper or work.layers[0])
    owners = [
        (status.st_uid, status.st_gid)
        for name in ("mine", "data/kept", "fifo")
        for status in [(directory / name).stat()]
    ]
    assert owners == [(0, 0), (7, 8), (0, 0)]
    assert shell(work, "cat /data/kept", user="7:8", **MAPS) == "kept\n"
    assert "denied" in shell(work, "echo x 2>&1 > /data/gone; true", user="7:8", **MAPS)


@pytest.mark.parametrize("driver", ["overlay2"], indirect=True)
def test_a_killed_container_leaves_a_snapshot_that_can_be_used(driver: Snapshotter, shell: Shell) -> None:
    work = driver.prepare("work", "image")
    with box(work) as sandbox, sandbox.start(["/bin/sh", "-c", "echo x > /data/new; sleep 60"]) as process:
        place = Path(work.upper) / "data/new"
        while not place.exists():
            os.sched_yield()
        process.kill()
    assert shell(driver.rootfs("work"), "cat /data/new") == "x\n"
    driver.remove("work")


def test_special_files_and_attributes_of_a_container(driver: Snapshotter, shell: Shell) -> None:
    work = driver.prepare("work", "image")
    shell(work, "mknod /null c 1 3; mkfifo /fifo; chmod 6755 /bin/busybox; mkdir -m 1777 /shared")
    driver.commit("done", "work")
    child = driver.prepare("child", "done")
    script = "stat -c '%F %a %t:%T' /null /fifo /bin/busybox /shared"
    assert shell(child, script).splitlines() == [
        "character special file 644 1:3", "fifo 644 0:0", "regular file 6755 0:0", "directory 1777 0:0",
    ]  # fmt: skip


def test_two_drivers_of_one_root_do_not_mix(tmp_path: Path) -> None:
    drivers = [graph(name, str(tmp_path)) for name in ("overlay2", "vfs")]
    for each in drivers:
        each.prepare("same", None)
        assert [info.key for info in each.walk()] == ["same"]
        each.close()
