"""Device rules: v1 writes and the BPF program, against a plain reading of the rules and on the kernel."""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyrunc.runtime.cgroup_devices import (
    ACCESS_ALL,
    ACCESS_MKNOD,
    ACCESS_READ,
    ACCESS_WRITE,
    DEFAULT_DEVICE_RULES,
    DENY_ALL,
    DeviceRule,
    device_program,
    parse_device_rules,
    v1_device_writes,
)
from pyrunc.runtime.cgroup_errors import InvalidResources, UnsupportedResource
from pyrunc.runtime.cgroup_files import write_at
from pyrunc.runtime.cgroup_layout import detect
from tests.runtime.cgroup_support import as_member_of, needs_root, own_cgroup

# --- oracles


def decide(rules: tuple[DeviceRule, ...], kind: str, major: int, minor: int, wanted: int) -> bool:
    """The rules as they are meant: for each access, the last rule that speaks of it decides."""
    for bit in (ACCESS_READ, ACCESS_WRITE, ACCESS_MKNOD):
        if not wanted & bit:
            continue
        allowed = False
        for rule in rules:
            if (
                rule.access & bit
                and rule.type in ("a", kind)
                and rule.major in (None, major)
                and rule.minor in (None, minor)
            ):
                allowed = rule.allow
        if not allowed:
            return False
    return True


def interpret(program: bytes, kind: str, major: int, minor: int, wanted: int) -> bool:
    """Run the few eBPF instructions that a device program may be made of."""
    mask = 0xFFFFFFFF
    context = struct.pack("<III", wanted << 16 | {"b": 1, "c": 2}[kind], major, minor)
    registers: dict[int, int] = {}
    counter = 0
    while True:
        opcode, operands, offset, immediate = struct.unpack_from("<BBhi", program, counter * 8)
        target, source = operands & 15, operands >> 4
        counter += 1
        match opcode:
            case 0x61:
                assert source == 1 and 1 not in registers
                registers[target] = struct.unpack_from("<I", context, offset)[0]
            case 0xB4:
                registers[target] = immediate & mask
            case 0x54:
                registers[target] &= immediate & mask
            case 0x74:
                registers[target] >>= immediate
            case 0x05:
                counter += offset
            case 0x56:
                counter += offset if registers[target] != immediate & mask else 0
            case 0x46:
                counter += offset if registers[target] & immediate else 0
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(f"opcode {opcode:#x} at {counter - 1}")


def kernel_v1(writes: tuple[tuple[str, str], ...], kind: str, major: int, minor: int, wanted: int) -> bool:
    """What security/device_cgroup.c makes of the writes: one default, exceptions united by device number."""
    default = False
    exceptions: dict[tuple[str, str, str], set[str]] = {}
    for file, value in writes:
        allow = file == "devices.allow"
        if value == "a":
            default, exceptions = allow, {}
            continue
        device, numbers, letters = value.split()
        one, two = numbers.split(":")
        key = (device, one, two)
        if allow == default:
            if key in exceptions:
                exceptions[key] -= set(letters)
        else:
            exceptions.setdefault(key, set()).update(letters)
    asked = {letter for letter, bit in (("r", 2), ("w", 4), ("m", 1)) if wanted & bit}
    for (device, one, two), letters_of in exceptions.items():
        if device == kind and one in ("*", str(major)) and two in ("*", str(minor)):
            if not default and asked <= letters_of:
                return True
            if default and asked & letters_of:
                return False
    return default


# --- pure


def test_default_rules_allow_what_every_container_needs() -> None:
    writes = v1_device_writes((DENY_ALL, *DEFAULT_DEVICE_RULES))
    assert writes[0] == ("devices.deny", "a")
    assert {file for file, _ in writes[1:]} == {"devices.allow"}
    # What Debian's runc 1.1.5 leaves in devices.list for the bundle that `runc spec` writes.
    assert {value for _, value in writes[1:]} == {
        "b *:* m", "c *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm",
        "c 5:0 rwm", "c 5:2 rwm", "c 10:200 rwm", "c 136:* rwm",
    }  # fmt: skip


def test_a_container_that_may_use_everything_is_one_write() -> None:
    rules = parse_device_rules([{"allow": True, "access": "rwm"}]) + DEFAULT_DEVICE_RULES
    assert v1_device_writes(rules) == (("devices.allow", "a"),)
    assert interpret(device_program(rules), "b", 8, 0, ACCESS_ALL)


def test_entries_are_read_as_oci_means_them() -> None:
    rules = parse_device_rules(
        [
            {"allow": False},
            {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            {"allow": True, "type": "b", "major": 8, "minor": -1, "access": "r"},
            {"allow": False, "type": "u", "major": 4},
        ]
    )
    assert rules == (
        DENY_ALL,
        DeviceRule(True, "c", 10, 229, ACCESS_READ | ACCESS_WRITE),
        DeviceRule(True, "b", 8, None, ACCESS_READ),
        DeviceRule(False, "c", 4, None, ACCESS_ALL),
    )
    assert [str(rule) for rule in rules] == ["a *:* rwm", "c 10:229 rw", "b 8:* r", "c 4:* rwm"]
    assert parse_device_rules(None) == ()


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({}, "allow"),
        ({"allow": 1}, "allow"),
        ("c 1:3 rwm", "allow"),
        ({"allow": True, "type": "p"}, "type"),
        ({"allow": True, "major": 1 << 32}, "major"),
        ({"allow": True, "minor": "*"}, "minor"),
        ({"allow": True, "minor": True}, "minor"),
        ({"allow": True, "access": "rwx"}, "access"),
    ],
)
def test_bad_entries_are_named(entry: object, field: str) -> None:
    with pytest.raises(InvalidResources, match=rf"^linux\.resources\.devices\[1\]\.{field}: "):
        parse_device_rules([{"allow": False}, entry])


def test_v1_refuses_a_hole_that_the_kernel_would_ignore() -> None:
    rules = parse_device_rules(
        [
            {"allow": True, "type": "c", "major": 1, "access": "rw"},
            {"allow": False, "type": "c", "major": 1, "minor": 1, "access": "w"},
        ]
    )
    with pytest.raises(
        UnsupportedResource, match=r"cannot deny 'c 1:1 w' as a part of the wider rule 'c 1:\* rw'"
    ):
        v1_device_writes(rules)
    # cgroup v2 can: the program does what the rules say.
    program = device_program(rules)
    assert interpret(program, "c", 1, 1, ACCESS_READ)
    assert not interpret(program, "c", 1, 1, ACCESS_READ | ACCESS_WRITE)
    assert interpret(program, "c", 1, 3, ACCESS_READ | ACCESS_WRITE)


def test_type_all_with_numbers_does_not_open_everything() -> None:
    """The v1 files take 'a' for everything, numbers or not: `a 10:200` must not get there."""
    rules = parse_device_rules([{"allow": False}, {"allow": True, "type": "a", "major": 10, "minor": 200}])
    assert [value for _, value in v1_device_writes(rules)] == ["a", "b 10:200 rwm", "c 10:200 rwm"]


def test_two_rules_add_up_to_one_open() -> None:
    rules = (DeviceRule(True, "c", 1, 3, ACCESS_READ), DeviceRule(True, "c", 1, 3, ACCESS_WRITE))
    assert interpret(device_program(rules), "c", 1, 3, ACCESS_READ | ACCESS_WRITE)
    assert v1_device_writes(rules)[1:] == (("devices.allow", "c 1:3 rw"),)


numbers = st.sampled_from([None, 0, 1, 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
rule_lists = st.lists(
    st.builds(DeviceRule, st.booleans(), st.sampled_from("abc"), numbers, numbers, st.integers(1, 7)),
    max_size=6,
).map(tuple)
REQUESTS = list(product("bc", (0, 1, 3, 0x80000000), (0, 3, 0xFFFFFFFF), range(1, 8)))


@given(rule_lists)
@example((DENY_ALL, *DEFAULT_DEVICE_RULES))
@example((*DEFAULT_DEVICE_RULES, DeviceRule(True, "a", None, None, ACCESS_ALL)))
def test_program_decides_as_the_rules_say(rules: tuple[DeviceRule, ...]) -> None:
    program = device_program(rules)
    for request in REQUESTS:
        assert interpret(program, *request) == decide(rules, *request), request


@given(rule_lists)
@example((DENY_ALL, *DEFAULT_DEVICE_RULES))
def test_v1_writes_never_allow_more_than_the_rules_say(rules: tuple[DeviceRule, ...]) -> None:
    try:
        writes = v1_device_writes(rules)
    except UnsupportedResource:
        return
    for kind, major, minor, wanted in REQUESTS:
        allowed = kernel_v1(writes, kind, major, minor, wanted)
        if wanted in (ACCESS_READ, ACCESS_WRITE, ACCESS_MKNOD):
            assert allowed == decide(rules, kind, major, minor, wanted)
        else:
            # Of two wider rules for one access each, v1 makes no rule for both at once.
            assert allowed <= decide(rules, kind, major, minor, wanted)


# --- the kernel

NULL, ZERO, FULL, RANDOM = "/dev/null", "/dev/zero", "/dev/full", "/dev/urandom"
RULES = parse_device_rules(
    [
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"},
        {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"},
        {"allow": True, "type": "c", "major": 1, "minor": 9, "access": "rw"},
        {"allow": False, "type": "c", "major": 1, "minor": 9, "access": "w"},
        {"allow": True, "type": "b", "access": "m"},
    ]
)


def attempts(directory: Path) -> dict[str, bool]:
    """What a process may do with devices: an open for each access, and making nodes of both types."""
    results = {}
    for path in (NULL, ZERO, FULL, RANDOM):
        for name, flags in (("r", os.O_RDONLY), ("w", os.O_WRONLY), ("rw", os.O_RDWR)):
            try:
                os.close(os.open(path, flags))
                results[f"{path} {name}"] = True
            except PermissionError:
                results[f"{path} {name}"] = False
    for name, mode in (("b", 0o60600), ("c", 0o20600)):
        node = directory / name
        try:
            os.mknod(node, mode, os.makedev(1, 3))
            results[f"mknod {name}"] = True
            node.unlink()
        except PermissionError:
            results[f"mknod {name}"] = False
    return results


def expected(rules: tuple[DeviceRule, ...]) -> dict[str, bool]:
    access = {"r": ACCESS_READ, "w": ACCESS_WRITE, "rw": ACCESS_READ | ACCESS_WRITE}
    results = {
        f"{path} {name}": decide(rules, "c", 1, os.minor(os.stat(path).st_rdev), bits)
        for path in (NULL, ZERO, FULL, RANDOM)
        for name, bits in access.items()
    }
    return results | {f"mknod {kind}": decide(rules, kind, 1, 3, ACCESS_MKNOD) for kind in "bc"}


def bpf(command: int, attributes: bytes) -> int:
    number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result: int = libc.syscall(
        ctypes.c_long(number), ctypes.c_int(command), buffer, ctypes.c_uint(len(attributes))
    )
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "bpf")
    return result


def load(program: bytes) -> int:
    """BPF_PROG_LOAD of a BPF_PROG_TYPE_CGROUP_DEVICE program; the verifier's log becomes the error."""
    code = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache")
    log = ctypes.create_string_buffer(1 << 16)
    attributes = struct.pack(
        "<IIQQIIQ", 15, len(program) // 8, ctypes.addressof(code), ctypes.addressof(licence), 1, len(log),
        ctypes.addressof(log),
    )  # fmt: skip
    try:
        return bpf(5, attributes)
    except OSError as error:
        if error.errno == errno.EPERM:
            pytest.skip("this kernel or its lockdown does not let us load BPF programs")
        raise AssertionError(log.value.decode()) from error


@pytest.fixture
def v2_cgroup() -> Iterator[int]:
    hierarchy = detect().v2
    if hierarchy is None:
        pytest.skip("no cgroup v2 here")
    with own_cgroup(hierarchy) as (_, descriptor):
        yield descriptor


@needs_root
@pytest.mark.parametrize(
    "rules",
    [RULES, (DENY_ALL, *DEFAULT_DEVICE_RULES), (), (DeviceRule(True, "a", None, None, ACCESS_ALL),)],
    ids=["mixed", "default", "nothing", "everything"],
)
def test_the_kernel_runs_the_program_as_meant(
    rules: tuple[DeviceRule, ...], v2_cgroup: int, tmp_path: Path
) -> None:
    program = load(device_program(rules))
    try:
        before = as_member_of([v2_cgroup], "cgroup.procs", lambda: attempts(tmp_path))
        assert all(before.values())
        bpf(8, struct.pack("<IIII", v2_cgroup, program, 6, 2))  # BPF_PROG_ATTACH, BPF_F_ALLOW_MULTI
        assert as_member_of([v2_cgroup], "cgroup.procs", lambda: attempts(tmp_path)) == expected(rules)
    finally:
        os.close(program)


@needs_root
@given(rule_lists)
def test_the_verifier_accepts_every_program(rules: tuple[DeviceRule, ...]) -> None:
    os.close(load(device_program(rules)))


@needs_root
@pytest.mark.parametrize(
    "rules", [RULES, (DENY_ALL, *DEFAULT_DEVICE_RULES), ()], ids=["mixed", "default", "nothing"]
)
def test_v1_files_do_what_the_rules_say(rules: tuple[DeviceRule, ...], tmp_path: Path) -> None:
    hierarchy = detect().of("devices")
    if hierarchy is None:
        pytest.skip("no v1 devices controller here")
    with own_cgroup(hierarchy) as (_, descriptor):
        for file, value in v1_device_writes(rules):
            write_at(descriptor, file, value)
        assert as_member_of([descriptor], "tasks", lambda: attempts(tmp_path)) == expected(rules)
