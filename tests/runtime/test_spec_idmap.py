"""Owners as an idmapped mount of a document shows them, by its own mappings or the container's."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc._native import mount as native
from pyrunc.errors import InvalidSpec, StartError
from tests.spec_run import bundle_spec, peer_run, run_spec

pytestmark = pytest.mark.usefixtures("host_unchanged")

Spec = dict[str, Any]
MNT_DETACH = 2


def maps(*rows: tuple[int, int, int]) -> Spec:
    listed = [{"containerID": inside, "hostID": outside, "size": size} for inside, outside, size in rows]
    return {"uidMappings": listed, "gidMappings": listed}


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """Files of two owners, and a file system mounted below with one of a third."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    native.mount(b"none", os.fsencode(source / "sub"), fstype=b"tmpfs")
    for path, owner in ((source / "root", 0), (source / "user", 1000), (source / "sub/deep", 5)):
        path.touch()
        os.chown(path, owner, owner)
    yield source
    native.umount2(os.fsencode(source / "sub"), MNT_DETACH)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory to which every user can walk."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="pyrunc-test-") as place:
        os.chmod(place, 0o755)
        yield Path(place)


def owners(
    rootfs: Path, source: Path, options: list[str], mount: Spec | None = None, user: Spec | None = None
) -> list[str]:
    """uid:gid of the three files, as the container sees them."""
    spec = bundle_spec(**(user or {}))
    if user is not None:
        spec["linux"]["namespaces"].append({"type": "user"})
    spec["mounts"].append(
        {"destination": "/tmp", "type": "bind", "source": str(source), "options": options, **(mount or {})}
    )
    return run_spec(rootfs, spec, "stat -c %u:%g /tmp/root /tmp/user /tmp/sub/deep").split()


USER = maps((0, 100000, 500), (500, 200000, 65536 - 500))


def test_without_mappings_the_containers_own_are_taken(rootfs: Path, tree: Path) -> None:
    nobody = "65534:65534"
    assert owners(rootfs, tree, ["rbind"], user=USER) == [nobody] * 3
    assert owners(rootfs, tree, ["rbind", "idmap"], user=USER) == ["0:0", "1000:1000", nobody]
    assert owners(rootfs, tree, ["rbind", "ridmap"], user=USER) == ["0:0", "1000:1000", "5:5"]


def test_a_mount_has_mappings_of_its_own(rootfs: Path, tree: Path) -> None:
    """The file system's owner is containerID; hostID is whom the mount shows, as the host calls them."""
    own = maps((0, 7, 1), (1000, 2000, 10))
    assert owners(rootfs, tree, ["rbind"], own) == ["7:7", "2000:2000", "5:5"]
    assert owners(rootfs, tree, ["rbind", "idmap"], own) == ["7:7", "2000:2000", "5:5"]
    both = maps((0, 100007, 1), (1000, 200500, 10), (5, 100001, 1))
    assert owners(rootfs, tree, ["rbind", "ridmap"], both, USER) == ["7:7", "1000:1000", "1:1"]


@pytest.mark.parametrize(("user", "options", "mount"), [
    (None, ["bind"], maps((0, 7, 2000))), (None, ["bind", "idmap"], maps((0, 7, 2000))),
    (USER, ["bind", "idmap"], {}), (USER, ["bind"], {}), (USER, ["bind", "idmap"], maps((0, 100007, 100))),
])  # fmt: skip
def test_owners_are_those_that_crun_shows(
    make_rootfs: Callable[[Path], Path], reachable: Path, user: Spec | None, options: list[str], mount: Spec
) -> None:
    rootfs = make_rootfs(reachable / "rootfs")
    spec = bundle_spec(**(user or {}))
    if user is not None:
        spec["linux"]["namespaces"].append({"type": "user"})
    spec["mounts"] = [one for one in spec["mounts"] if one["type"] != "cgroup"]
    source = reachable / "source"
    source.mkdir()
    for name, owner in (("root", 0), ("user", 1000)):
        (source / name).touch()
        os.chown(source / name, owner, owner)
    spec["mounts"].append(
        {"destination": "/tmp", "type": "bind", "source": str(source), "options": options, **mount}
    )
    script = "stat -c %u:%g /tmp/root /tmp/user"
    peer = peer_run(reachable, spec, script, "crun")
    assert run_spec(rootfs, spec, script) == peer.stdout, peer.stderr


def test_what_is_written_through_it_has_the_file_systems_owner(rootfs: Path, tree: Path) -> None:
    spec = bundle_spec(**USER)
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["mounts"].append(
        {"destination": "/tmp", "type": "bind", "source": str(tree), "options": ["bind", "idmap"]}
    )
    os.chown(tree, 0, 0)
    spec["process"]["user"] = {"uid": 0, "gid": 0}
    run_spec(rootfs, spec, "touch /tmp/made && chown 1001:1002 /tmp/made")
    status = (tree / "made").stat()
    assert (status.st_uid, status.st_gid) == (1001, 1002)


def test_a_joined_user_namespace_gives_its_mappings(rootfs: Path, tree: Path) -> None:
    child = subprocess.Popen(["unshare", "-U", "sh", "-c", "echo; read x"], stdin=-1, stdout=-1)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"\n"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child.pid}/{name}").write_text("0 300000 65536\n")
        spec = bundle_spec()
        spec["linux"]["namespaces"].append({"type": "user", "path": f"/proc/{child.pid}/ns/user"})
        spec["mounts"].append(
            {"destination": "/tmp", "type": "bind", "source": str(tree), "options": ["rbind", "ridmap"]}
        )
        script = "stat -c %u:%g /tmp/root /tmp/user /tmp/sub/deep"
        assert run_spec(rootfs, spec, script).split() == ["0:0", "1000:1000", "5:5"]
    finally:
        child.communicate(b"\n")


def test_a_file_system_of_the_documents_own(rootfs: Path) -> None:
    spec = bundle_spec()
    spec["mounts"].append(
        {
            "destination": "/tmp",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["mode=755"],
            **maps((0, 42, 1)),
        }
    )
    assert run_spec(rootfs, spec, "stat -c %u:%g /tmp") == "42:42\n"


@pytest.mark.parametrize(("options", "mount", "words"), [
    (["bind", "idmap"], {}, "an idmapped mount needs uidMappings and gidMappings"),
    (["bind"], {"uidMappings": maps((0, 1, 1))["uidMappings"]}, "gidMappings: an idmapped mount needs both"),
    (["bind"], {"gidMappings": maps((0, 1, 1))["uidMappings"]}, "gidMappings: an idmapped mount needs both"),
    (["bind", "X-mount.idmap=b:0:1:1"], maps((0, 1, 1)), "X-mount.idmap, and uidMappings too"),
])  # fmt: skip
def test_mappings_that_are_incomplete(
    rootfs: Path, tree: Path, options: list[str], mount: Spec, words: str
) -> None:
    with pytest.raises(InvalidSpec, match=rf"mounts\[\d+\]\..*{words}"):
        owners(rootfs, tree, options, mount)


def test_what_cannot_be_idmapped_is_named(rootfs: Path) -> None:
    spec = bundle_spec()
    spec["mounts"].append(
        {
            "destination": "/tmp",
            "type": "bind",
            "source": "/proc/self",
            "options": ["bind"],
            **maps((0, 1, 1)),
        }
    )
    with pytest.raises(
        StartError, match="cannot show /proc/self idmapped; can its file system, on this kernel"
    ):
        run_spec(rootfs, spec, "true")
