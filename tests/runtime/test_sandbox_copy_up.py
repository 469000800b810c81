"""A tmpfs that begins with what the image has there, as runc fills it."""

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc import IdMap, Mount, Sandbox
from pyrunc.errors import InvalidSpec, StartError
from tests.runtime.cgroup_support import unique_name

pytestmark = pytest.mark.usefixtures("host_unchanged")

TREE = "cd /data && find . | sort | xargs stat -c '%n %F %a %u %g %s'; cat /data/file; readlink /data/link"


@pytest.fixture
def image(tmp_path: Path, make_rootfs: Callable[[Path], Path]) -> Path:
    """A root whose /data has entries of every kind that runc copies."""
    root = make_rootfs(tmp_path / "rootfs")
    data = root / "data"
    (data / "sub/deep").mkdir(parents=True)
    (data / "file").write_text("content\n")
    (data / "sub/large").write_bytes(bytes(200_000))
    (data / "link").symlink_to("/nowhere")
    for number, path in enumerate((data, data / "sub", data / "file", data / "link"), 5):
        os.chown(path, number, number + 1, follow_symlinks=False)
    data.chmod(0o751)
    (data / "sub").chmod(0o500)
    (data / "file").chmod(0o640)
    return root


def run(image: Path, script: str, *options: str, code: int = 0, **others: Any) -> str:
    """Run *script* with a tmpfs over /data."""
    with Sandbox(image, mounts=[Mount("/data", kind="tmpfs", options=options)], **others) as box:
        result = box.run(["/bin/sh", "-c", script], timeout_s=30)
    assert result.exit_code == code, result
    return result.stdout.decode()


def test_the_contents_are_there_and_the_image_stays_as_it_is(image: Path) -> None:
    assert run(image, "cat /data/file; echo new > /data/file; rm -r /data/sub; echo x > /data/made",
               "tmpcopyup") == "content\n"  # fmt: skip
    assert (image / "data/file").read_text() == "content\n"
    assert sorted(os.listdir(image / "data")) == ["file", "link", "sub"]
    script = "cat /data/file; grep ' /data ' /proc/mounts | cut -d ' ' -f 1"
    with Sandbox(image, tmpfs={"/data": "tmpcopyup,size=1m"}) as box:
        assert box.run(["/bin/sh", "-c", script]).stdout == b"content\ntmpfs\n"


@pytest.mark.parametrize("writable", ["scratch", "direct", "no"])
def test_on_every_kind_of_root(image: Path, writable: str) -> None:
    found = run(image, TREE, "tmpcopyup", writable=writable).splitlines()
    assert found == [
        ". directory 751 0 0 100", "./file regular file 640 7 8 8", "./link symbolic link 777 8 9 8",
        "./sub directory 500 6 7 80", "./sub/deep directory 755 0 0 40", "./sub/large regular file 644 0 0 200000",
        "content", "/nowhere",
    ]  # fmt: skip


def test_a_read_only_one_is_filled_first(image: Path) -> None:
    script = "cat /data/file; touch /data/x 2>&1"
    for option in ("ro", "rro"):
        assert "content\n" in (found := run(image, script, "tmpcopyup", option, code=1))
        assert "Read-only file system" in found


def test_the_mode_is_the_directorys_unless_it_is_given(image: Path) -> None:
    (image / "data").chmod(0o2710)
    for options, mode in (((), "2710"), (("mode=0700",), "700"), (("mode=1777", "uid=3"), "1777")):
        for copy in ((), ("tmpcopyup",)):
            assert run(image, "stat -c %a /data", *options, *copy) == f"{mode}\n"
    with Sandbox(image, tmpfs={"/root": "ro", "/made/new": ""}) as box:
        (image / "root").chmod(0o700)
        assert box.run(["/bin/stat", "-c", "%a", "/root", "/made/new"]).stdout == b"700\n1777\n"


def test_a_full_tmpfs_is_named(image: Path) -> None:
    with pytest.raises(StartError) as failed:
        run(image, "true", "tmpcopyup", "size=64k")
    assert str(failed.value) == (
        "cannot copy what the image has at /data into the tmpfs there: no space left on device"
    )
    assert (failed.value.step, failed.value.path, failed.value.errno) == ("copy_up", "/data", 28)


def test_what_is_too_deep_is_named(image: Path) -> None:
    Path(image / "data", *["d"] * 128).mkdir(parents=True)
    with pytest.raises(
        StartError, match="at /data into the tmpfs there, at most 127 directories deep: file name"
    ):
        run(image, "true", "tmpcopyup")


def test_in_a_user_namespace(image: Path) -> None:
    options: dict[str, Any] = {"uid_maps": [IdMap(0, 0, 65536)]}
    assert run(image, TREE, "tmpcopyup", **options) == run(image, TREE, "tmpcopyup")
    os.mknod(image / "data/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert run(image, "stat -c %t:%T /data/null", "tmpcopyup") == "1:3\n"
    with pytest.raises(StartError, match="at /data into the tmpfs there: operation not permitted"):
        run(image, "true", "tmpcopyup", **options)


def test_over_dev_the_default_nodes_stay(image: Path) -> None:
    (image / "dev/of-the-image").touch()
    (image / "dev/null").write_text("no device")
    with Sandbox(image, mounts=[Mount("/dev", kind="tmpfs", options=["tmpcopyup"])]) as box:
        found = box.run(["/bin/stat", "-c", "%F", "/dev/of-the-image", "/dev/null", "/dev/pts"])
    assert found.stdout == b"regular empty file\ncharacter special file\ndirectory\n"


def test_of_anything_but_a_tmpfs_it_is_refused(image: Path) -> None:
    for mount in (Mount("/data", kind="ramfs", options=["tmpcopyup"]),
                  Mount("/data", "/etc", options=["tmpcopyup"])):  # fmt: skip
        with pytest.raises(InvalidSpec, match=r"options: tmpcopyup is an option of a tmpfs .*at /data"):
            Sandbox(image, mounts=[mount])


@pytest.mark.usefixtures("image")
@pytest.mark.skipif(shutil.which("runc") is None, reason="needs runc")
@pytest.mark.parametrize("options", [["tmpcopyup"], ["nosuid", "tmpcopyup", "size=1m", "ro"], ["size=1m"]])
@pytest.mark.parametrize("user", [False, True])
def test_the_tree_is_runcs(tmp_path: Path, options: list[str], user: bool) -> None:
    """Not with mode=: Debian's runc 1.1.5 gives the directory's mode even then."""
    kinds = ["mount", "pid", "ipc", "uts", "network", *(["user"] if user else [])]
    rows = [{"containerID": 0, "hostID": 0, "size": 65536}]
    spec: dict[str, Any] = {
        "ociVersion": "1.0.2", "root": {"path": "rootfs", "readonly": True},
        "process": {
            "args": ["/bin/sh", "-c", f"({TREE}) 2>&1; grep ' /data ' /proc/mounts"], "cwd": "/",
            "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
            "capabilities": {key: ["CAP_DAC_OVERRIDE"] for key in ("bounding", "effective", "permitted")},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": options},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in kinds]},
    }  # fmt: skip
    if user:
        spec["linux"] |= {"uidMappings": rows, "gidMappings": rows}
    (tmp_path / "config.json").write_text(json.dumps(spec))
    command: list[str | Path] = [
        "runc",
        "--root",
        tmp_path / "state",
        "run",
        "--bundle",
        tmp_path,
        unique_name(),
    ]
    peer = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
    with Sandbox.from_spec(spec, tmp_path) as box:
        assert box.run(spec["process"]["args"]).stdout.decode() == peer.stdout
    assert (peer.stdout.count("regular file") == 2) == ("tmpcopyup" in options)
