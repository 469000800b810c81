"""The unit that a cgroupsPath names for systemd, its properties, and the calls that say so."""

import struct
from typing import Any

import pytest

from pyrunc.errors import InvalidSpec
from pyrunc.runtime import dbus, gvariant
from pyrunc.runtime.cgroup_layout import Hierarchy, Layout
from pyrunc.runtime.cgroup_systemd import Unit, calls, expand_slice, limits, parse, properties, told
from pyrunc.runtime.cgroups import plan_cgroup

V2 = Layout(
    "v2", (Hierarchy("/sys/fs/cgroup", "/", 2, ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")),)
)
V1 = Layout("v1", tuple(
    Hierarchy(f"/sys/fs/cgroup/{name}", "/", 1, tuple(name.split(",")))
    for name in ("cpu,cpuacct", "cpuset", "memory", "pids", "blkio", "devices", "freezer")
))  # fmt: skip


@pytest.mark.parametrize(("text", "unit", "path"), [
    ("machine.slice:libpod:abc", "libpod-abc.scope", "/machine.slice/libpod-abc.scope"),
    ("kubepods-burstable-pod1.slice:cri-containerd:abc", "cri-containerd-abc.scope",
     "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-abc.scope"),
    ("::abc", "-abc.scope", "/system.slice/-abc.scope"),
    (":a:b", "a-b.scope", "/system.slice/a-b.scope"),
    ("-.slice:a:b", "a-b.scope", "/a-b.scope"),
    ("user.slice:x:my.slice", "my.slice", "/user.slice/my.slice"),
    ("", "runc-box.scope", "/system.slice/runc-box.scope"),
])  # fmt: skip
def test_a_unit_and_its_place(text: str, unit: str, path: str) -> None:
    found = parse(text, "box", {})
    assert (found.name, found.path) == (unit, path)


@pytest.mark.parametrize(("text", "words"), [
    ("/a/b", 'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "/a/b" instead'),
    ("a.slice:b", "expected cgroupsPath"), ("a:b:c:d", "expected cgroupsPath"),
    ("a:b:c", "invalid slice name: a$"), ("a--b.slice:b:c", "invalid slice name: a--b.slice"),
    ("-a.slice:b:c", "invalid slice name"), (".slice:b:c", "invalid slice name"),
    ("../a.slice:b:c", "invalid slice name"), ("a.slice:../b:c", "Invalid unit name"), ("a.slice:b:x/y", "unit name"),
    ("a.slice:b:c-.slice", "invalid slice name: c-.slice"),
])  # fmt: skip
def test_what_no_unit_can_be(text: str, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        parse(text, "box", {})


def test_slices_are_below_each_other() -> None:
    assert expand_slice("a-b-c.slice") == "/a.slice/a-b.slice/a-b-c.slice"


def _limits(layout: Layout, resources: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, _, value in limits(plan_cgroup(layout, "/a.slice/b.scope", resources).dirs)}


def test_limits_are_those_of_the_files() -> None:
    resources = {
        "memory": {"limit": 64 << 20, "reservation": 32 << 20, "swap": 96 << 20},
        "cpu": {"shares": 1024, "quota": 12345, "period": 100000, "cpus": "0-1,9", "mems": "0"},
        "pids": {"limit": 20}, "blockIO": {"weight": 1000},
    }  # fmt: skip
    assert _limits(V2, {**resources, "unified": {"memory.high": "50000000", "cpu.max.burst": "5"}}) == {
        "MemoryMax": 64 << 20, "MemoryLow": 32 << 20, "MemorySwapMax": 32 << 20, "MemoryHigh": 50000000,
        "CPUWeight": 100, "CPUQuotaPeriodUSec": 100000, "CPUQuotaPerSecUSec": 130000,
        "AllowedCPUs": b"\x03\x02", "AllowedMemoryNodes": b"\x01", "TasksMax": 20, "IOWeight": 10000,
    }  # fmt: skip
    assert _limits(V1, resources) == {
        "MemoryLimit": 64 << 20, "CPUShares": 1024, "CPUQuotaPeriodUSec": 100000, "CPUQuotaPerSecUSec": 130000,
        "AllowedCPUs": b"\x03\x02", "AllowedMemoryNodes": b"\x01", "TasksMax": 20, "BlockIOWeight": 1000,
    }  # fmt: skip


def test_no_limit_is_one_too() -> None:
    most = (1 << 64) - 1
    assert _limits(V2, {"memory": {"limit": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}) == {
        "MemoryMax": most, "MemorySwapMax": most, "CPUQuotaPerSecUSec": most, "TasksMax": most,
    }  # fmt: skip
    assert _limits(V2, {}) == {}


def _devices(rules: list[dict[str, Any]], version: int = 2) -> tuple[str, list[tuple[str, str]]]:
    found = {
        name: value for name, _, value in properties(Unit("a.slice", "b.scope", "b"), version, rules, ())
    }
    return found["DevicePolicy"], found["DeviceAllow"]


DENIED = {"allow": False, "access": "rwm"}
ALLOWED = {"allow": True, "access": "rwm"}


def test_devices_are_allowed_one_by_one() -> None:
    policy, allowed = _devices([
        DENIED, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": True, "type": "b", "major": 8, "access": "r"},
        {"allow": True, "type": "c", "major": 4, "minor": 1, "access": "rw"},
        {"allow": False, "type": "c", "major": 4, "access": "w"},
    ])  # fmt: skip
    assert policy == "strict"
    assert {("/dev/char/10:229", "rw"), ("block-8", "r"), ("/dev/char/4:1", "r"), ("char-*", "m")} <= {
        *allowed
    }
    assert {("/dev/char/1:3", "rwm"), ("char-136", "rwm")} <= {*allowed}


def test_what_systemd_cannot_deny_it_does_not_decide_on_v2_and_denies_on_v1() -> None:
    rules = [ALLOWED, {"allow": False, "type": "c", "major": 10, "access": "rwm"}]
    assert _devices([ALLOWED]) == _devices([ALLOWED], 1) == ("auto", [])
    assert _devices(rules) == ("auto", [])
    assert _devices(rules, 1) == ("strict", [])
    one_minor = [DENIED, {"allow": True, "type": "c", "minor": 5, "access": "r"}]
    assert ("char-*", "r") in _devices(one_minor)[1]
    assert ("char-*", "r") not in _devices(one_minor, 1)[1]


def test_a_scope_is_delegated_and_a_slice_is_not() -> None:
    scope = properties(Unit("a.slice", "b.scope", "b"), 2, None, ())
    assert ("Slice", "s", "a.slice") in scope
    assert ("Delegate", "b", True) in scope
    assert ("DefaultDependencies", "b", False) in scope
    slice_ = properties(Unit("a.slice", "a-b.slice", "a-b.slice"), 1, None, ())
    assert ("Wants", "as", ["a.slice"]) in slice_
    assert not {"Delegate", "Slice", "IOAccounting"} & {name for name, _, _ in slice_}


def test_annotations_are_properties() -> None:
    notes = {
        "org.systemd.property.TimeoutStopUSec": "uint64 123456789", "other": "x",
        "org.systemd.property.CollectMode": "'inactive-or-failed'", "org.systemd.property.TimeoutStopSec": "1.5",
    }  # fmt: skip
    assert parse("", "x", notes).annotations == (
        ("CollectMode", "s", "inactive-or-failed"),
        ("TimeoutStopUSec", "t", 1500000),
        ("TimeoutStopUSec", "t", 123456789),
    )


@pytest.mark.parametrize(("key", "value", "words"), [
    ("ab", "1", "annotation org.systemd.property.ab name incorrect: too short"),
    ("a_b", "1", "name incorrect: contains non-alphabetic character"),
    ("TasksMax", "uint64 -1", "annotation org.systemd.property.TasksMax=uint64 -1 value parse error: -1 is out of"),
    ("TasksMax", "", "value parse error: "), ("TasksMax", "'a", "value parse error: "),
    ("After", "[]", "value parse error"), ("X" * 9, "'a\0'", "value parse error"),
    ("TimeoutSec", "'a'", "value parse error: not a number"), ("TasksMax", "1 2", "value parse error: unexpected '2'"),
    ("After", "[" * 5000, "value parse error"), ("TasksMax", "@t", "value parse error"),
    ("TasksMax", "@aa 1", "value parse error"), ("TimeoutSec", "1e999999999", "value parse error"),
])  # fmt: skip
def test_a_wrong_annotation_is_named(key: str, value: str, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        parse("", "x", {f"org.systemd.property.{key}": value})


@pytest.mark.parametrize(("text", "found"), [
    ("true", ("b", True)), ("5", ("i", 5)), ("-0x10", ("i", -16)), ("010", ("i", 8)), ("byte 0xff", ("y", 255)),
    ("uint64 18446744073709551615", ("t", (1 << 64) - 1)), ("1.5", ("d", 1.5)), ("double 2", ("d", 2.0)),
    ('"a\\"\\n\\u00e9"', ("s", 'a"\né')), ("'a' ", ("s", "a")), ("['a', 'b']", ("as", ["a", "b"])),
    ("@as []", ("as", [])), ("[uint64 1, 2]", ("at", [1, 2])), ("@a(st) [('/dev/x', 5)]", ("a(st)", [("/dev/x", 5)])),
    ("('a', uint32 7)", ("(su)", ("a", 7))), ("<'a'>", ("v", ("s", "a"))), ("objectpath '/a'", ("o", "/a")),
])  # fmt: skip
def test_values_as_people_write_them(text: str, found: tuple[str, Any]) -> None:
    assert gvariant.parse(text) == found


def test_the_pid_has_its_place_in_the_call() -> None:
    unit = Unit("a.slice", "b.scope", "b")
    data = calls(unit, properties(unit, 2, None, ()))
    start, pid_at, stop, reset = struct.unpack_from("=4I", data)
    assert len(data) % 8 == 0
    assert pid_at % 4 == 0
    assert data[16 + pid_at - 4 : 16 + pid_at + 4] == struct.pack("<II", 4, 0)
    assert data[16 : 16 + start].find(b"PIDs\0\x02au\0") > 0
    at = 16 + (start + 7) // 8 * 8
    assert b"StopUnit" in data[at : at + stop]
    at += (stop + 7) // 8 * 8
    assert b"ResetFailedUnit" in data[at : at + reset]
    slice_ = Unit("a.slice", "a-b.slice", "a-b.slice")
    assert struct.unpack_from("=4I", calls(slice_, properties(slice_, 2, None, ())))[1] == 0


def test_a_message_is_laid_out_as_the_specification_has_it() -> None:
    message = dbus.call(7, "d.e", "/p", "i.f", "M", "sy", "ab", 9).data
    fields = (
        b"\x01\x01o\0\x02\0\0\0/p\0" + bytes(5) + b"\x02\x01s\0\x03\0\0\0i.f\0" + bytes(4)
        + b"\x03\x01s\0\x01\0\0\0M\0" + bytes(6) + b"\x06\x01s\0\x03\0\0\0d.e\0" + bytes(4) + b"\x08\x01g\0\x02sy\0"
    )  # fmt: skip
    body = b"\x02\0\0\0ab\0\x09"
    head = b"l\x01\0\x01" + struct.pack("<III", len(body), 7, len(fields)) + fields
    assert bytes(message) == head + bytes(-len(head) % 8) + body


def test_properties_are_told_as_runc_tells_them() -> None:
    found = [("Slice", "s", 'a"b'), ("Delegate", "b", True), ("TasksMax", "t", 5), ("After", "as", ["x"])]
    assert told([*found, ("DeviceAllow", "a(ss)", [("char-*", "m")])]) == (
        '{Name:Slice Value:"a\\"b"} {Name:Delegate Value:true} {Name:TasksMax Value:@t 5} {Name:After Value:@as ["x"]} '
        '{Name:DeviceAllow Value:[("char-*", "m")]}'
    )
