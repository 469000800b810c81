"""config.json of any shape: it is planned, or refused with one message that names the field."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc.errors import PyruncError
from pyrunc.oci import bundle as bundles
from pyrunc.oci import create, flags
from pyrunc.oci.log import Failure
from pyrunc.runtime.plan import HOOK_KINDS as KINDS
from tests.oci.bundles import document

# One of each kind, and numbers and texts that are out of their places.
WRONG: tuple[Any, ...] = (None, -1, 1 << 64, 1.5, "x", "", [], {}, True, [None], {"a": None}, "\0")
Path_ = tuple[str | int, ...]


def rich(rootfs: Path) -> dict[str, Any]:
    """A document with a bit of everything that this host has."""
    spec = document(rootfs, ["true"])
    hook = {"path": "/bin/true", "args": ["x"], "env": ["A=b"], "timeout": 3}
    spec |= {"annotations": {"a": "b"}, "domainname": "d", "hooks": {kind: [dict(hook)] for kind in KINDS}}
    spec["process"] |= {
        "user": {"uid": 1, "gid": 2, "additionalGids": [3], "umask": 18}, "oomScoreAdj": 0,
        "consoleSize": {"height": 24, "width": 80}, "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 1},
        "scheduler": {"policy": "SCHED_OTHER", "nice": 1, "flags": []},
    }  # fmt: skip
    spec["mounts"].append(
        {
            "destination": "/data",
            "type": "bind",
            "source": "/tmp",
            "options": ["rbind", "ro"],
            "uidMappings": [],
        }
    )
    rule = {"names": ["ptrace"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
            "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_EQ"}]}  # fmt: skip
    spec["linux"] |= {
        "sysctl": {"net.ipv4.ip_forward": "1"}, "rootfsPropagation": "slave", "cgroupsPath": "/pyrunc-test/x",
        "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}],
        "personality": {"domain": "LINUX", "flags": []},
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule]},
        "resources": {
            "devices": [{"allow": False, "type": "c", "major": 1, "minor": 2, "access": "rwm"}],
            "memory": {"limit": 100_000_000}, "cpu": {"shares": 100, "quota": 1000, "period": 10000, "cpus": "0"},
            "pids": {"limit": 10}, "unified": {},
        },
    }  # fmt: skip
    return spec


def places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Every place in a document but the whole."""
    if path:
        yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in pairs:
        yield from places(below, (*path, key))


def changed(spec: dict[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    found = copy.deepcopy(spec)
    place: Any = found
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return found


def plan(bundle: Path, spec: dict[str, Any]) -> bytes:
    (bundle / "config.json").write_text(json.dumps(spec))
    command = flags.parse(["--root", "/run/nowhere", "create", "-b", str(bundle), "x"])
    return create.compile_command(command, -1, {}, terminal_ok=True).plan


def test_whatever_stands_anywhere_is_planned_or_refused_by_the_fields_name(
    tmp_path: Path, rootfs: Path
) -> None:
    spec = rich(rootfs)
    assert plan(tmp_path, spec)
    refused = 0
    for path in places(spec):
        for value in WRONG:
            try:
                plan(tmp_path, changed(spec, path, value))
            except (PyruncError, Failure) as error:
                refused += 1
                names = [str(key) for key in path if isinstance(key, str)]
                assert any(name in str(error) for name in names), (path, value, str(error))
    assert refused > 1000


def test_what_is_unknown_is_passed_over(tmp_path: Path, rootfs: Path) -> None:
    spec = document(rootfs, ["true"])
    spec |= {"windows": {"layerFolders": 1}, "unknown": [None]}
    spec["process"]["unknown"] = spec["linux"]["unknown"] = {"a": 1}
    assert plan(tmp_path, spec)


def test_what_is_no_text_is_read_as_go_reads_it(tmp_path: Path, rootfs: Path) -> None:
    text = json.dumps(document(rootfs, ["true"])).replace('"box"', '"\udcff"')
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert bundles.read(str(tmp_path)).spec["hostname"] == "\ufffd"


def test_paths_of_a_bundle_are_relative_to_it(tmp_path: Path, rootfs: Path) -> None:
    (tmp_path / "rootfs").symlink_to(rootfs)
    (tmp_path / "data").mkdir()
    spec = document(Path("rootfs"), ["true"])
    spec["mounts"].append({"destination": "/data", "type": "bind", "source": "data", "options": ["bind"]})
    found = plan(tmp_path, spec)
    assert f"{tmp_path}/data\0".encode() in found
    assert bundles.read(str(tmp_path)).rootfs == str(rootfs)


@pytest.mark.parametrize("name", ["process", "root"])
def test_what_must_be_there(tmp_path: Path, rootfs: Path, name: str) -> None:
    spec = document(rootfs, ["true"])
    del spec[name]
    with pytest.raises(PyruncError, match=f"^{name}"):
        plan(tmp_path, spec)
