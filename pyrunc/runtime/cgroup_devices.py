"""Which devices a container may use: OCI rules to cgroup v1 writes, or to a BPF program for cgroup v2.

A rule allows or denies some of read, write and mknod for some devices. **The last rule that speaks of a
device and an access decides it**; where none speaks, it is denied. Both outputs keep to that. What cgroup v1
cannot express (it has one default and exceptions from it, never an exception from an exception) is refused,
since the kernel would ignore such a write silently and leave the device open.

Source: OCI config-linux.md, "Allowed Device list"; kernel Documentation/admin-guide/cgroup-v1/devices.rst;
cgroup-v2.rst, "Device controller"; include/uapi/linux/bpf.h, struct bpf_cgroup_dev_ctx.
"""

from __future__ import annotations

from pyrunc.records import NamedTuple, lru_cache
from pyrunc.runtime.cgroup_errors import InvalidResources, UnsupportedResource

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

ACCESS_MKNOD, ACCESS_READ, ACCESS_WRITE = 1, 2, 4
ACCESS_ALL = ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE
LETTERS = (("r", ACCESS_READ), ("w", ACCESS_WRITE), ("m", ACCESS_MKNOD))
_TYPES = {"b": 1, "c": 2}
_FIELD = "linux.resources.devices"


class DeviceRule(NamedTuple):
    """One entry of `linux.resources.devices`."""

    allow: bool
    type: str
    """`b`, `c`, or `a` for both."""
    major: int | None
    """None stands for all of them, as it does in *minor*."""
    minor: int | None
    access: int
    """A union of ACCESS_READ, ACCESS_WRITE and ACCESS_MKNOD."""

    def __str__(self) -> str:
        """Spell the rule as devices.list does."""
        major = "*" if self.major is None else self.major
        minor = "*" if self.minor is None else self.minor
        letters = "".join(letter for letter, bit in LETTERS if self.access & bit)
        return f"{self.type} {major}:{minor} {letters}"

    def covers(self, other: DeviceRule) -> bool:
        """Whether every device of *other* is one of this rule."""
        return (
            self.type in ("a", other.type)
            and self.major in (None, other.major)
            and self.minor in (None, other.minor)
        )

    def meets(self, other: DeviceRule) -> bool:
        """Whether some device is in both rules."""
        return (
            (self.type == other.type or "a" in (self.type, other.type))
            and (self.major == other.major or None in (self.major, other.major))
            and (self.minor == other.minor or None in (self.minor, other.minor))
        )


def _allow(kind: str, major: int | None, minor: int | None, access: int = ACCESS_ALL) -> DeviceRule:
    return DeviceRule(True, kind, major, minor, access)


DENY_ALL = DeviceRule(False, "a", None, None, ACCESS_ALL)
DEFAULT_DEVICE_RULES: tuple[DeviceRule, ...] = (
    # Making a node gives nothing: opening it is what the other rules decide.
    _allow("c", None, None, ACCESS_MKNOD),
    _allow("b", None, None, ACCESS_MKNOD),
    _allow("c", 1, 3),  # null
    _allow("c", 1, 5),  # zero
    _allow("c", 1, 7),  # full
    _allow("c", 1, 8),  # random
    _allow("c", 1, 9),  # urandom
    _allow("c", 5, 0),  # tty
    _allow("c", 5, 2),  # ptmx
    _allow("c", 136, None),  # pts/*
    # net/tun: runc 1.2.0 took it out of its list, and 1.2.4 put it back because VPNs in containers broke.
    _allow("c", 10, 200),
)
"""What every container may use, after its own rules, as OCI's "Default Devices" needs it and runc allows
it."""


def _number(entry: Mapping[str, Any], key: str, where: str) -> int | None:
    value = entry.get(key)
    if value is None or value == -1:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0xFFFFFFFF:
        raise InvalidResources(f"{where}.{key}: must be a device number or absent, not {value!r}")
    return value


def parse_device_rules(entries: object) -> tuple[DeviceRule, ...]:
    """Read `linux.resources.devices` (None where it is absent).

    Raises InvalidResources for an entry without `allow`, an unknown type, a number out of range or an unknown
    access. An absent type or number stands for all, and so does, as in runc, an absent access.
    """
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise InvalidResources(f"{_FIELD}: must be a list")
    rules = []
    for index, entry in enumerate(entries):
        where = f"{_FIELD}[{index}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("allow"), bool):
            raise InvalidResources(f"{where}.allow: must be true or false")
        kind, letters = entry.get("type"), entry.get("access")
        kind = "a" if kind is None or kind == "" else kind
        # 'u' is mknod(1)'s other name of 'c'; a fifo is no device.
        if not isinstance(kind, str) or kind not in ("a", "b", "c", "u"):
            raise InvalidResources(f"{where}.type: must be one of a, b, c, not {kind!r}")
        letters, access = "rwm" if letters is None or letters == "" else letters, 0
        if not isinstance(letters, str) or not set(letters) <= {"r", "w", "m"}:
            raise InvalidResources(f"{where}.access: must be made of r, w and m, not {letters!r}")
        for letter, bit in LETTERS:
            access |= bit if letter in letters else 0
        major, minor = _number(entry, "major", where), _number(entry, "minor", where)
        rules.append(DeviceRule(entry["allow"], "c" if kind == "u" else kind, major, minor, access))
    return tuple(rules)


@lru_cache(maxsize=16)
def v1_device_writes(rules: tuple[DeviceRule, ...]) -> tuple[tuple[str, str], ...]:
    """Turn *rules*, in their order, into (file, value) writes for a new cgroup of the v1 devices controller.

    The first write sets the default and forgets what was inherited; the others are the exceptions from it.
    Raises UnsupportedResource for a rule that would have to be an exception from an exception.
    """
    allowed = False
    exceptions: list[DeviceRule] = []
    for rule in rules:
        if rule[1:] == DENY_ALL[1:]:
            allowed, exceptions = rule.allow, []
            continue
        # The kernel takes 'a' for "all devices, all access" whatever else is written: spelled out, it means
        # what it says.
        for kind in "bc" if rule.type == "a" else rule.type:
            exact = rule._replace(type=kind)
            exceptions = (_withdraw if rule.allow == allowed else _add)(exceptions, exact)
    default, exception = ("devices.allow", "devices.deny") if allowed else ("devices.deny", "devices.allow")
    return ((default, "a"), *((exception, str(rule)) for rule in exceptions))


def _add(exceptions: Sequence[DeviceRule], rule: DeviceRule) -> list[DeviceRule]:
    """Add an exception; the kernel keeps one for each device number, so that its accesses are united."""
    same = [known for known in exceptions if known[1:4] == rule[1:4]]
    if not same:
        return [*exceptions, rule]
    united = rule._replace(access=rule.access | same[0].access)
    return [united if known is same[0] else known for known in exceptions]


def _withdraw(exceptions: Sequence[DeviceRule], rule: DeviceRule) -> list[DeviceRule]:
    """Take what *rule* names out of the exceptions that it covers, and refuse to take a part out of a wider
    one.
    """
    left = []
    for known in exceptions:
        if rule.covers(known):
            access = known.access & ~rule.access
            if access:
                left.append(known._replace(access=access))
            continue
        if rule.meets(known) and rule.access & known.access:
            verb = "allow" if rule.allow else "deny"
            raise UnsupportedResource(
                f"{_FIELD}: cgroup v1 cannot {verb} {str(rule)!r} as a part of the wider rule {str(known)!r}"
            )
        left.append(known)
    return left


# Opcodes of the eBPF instructions used below; the letter K is for an immediate operand, X for a register.
_LOAD_WORD = 0x61
_MOV_K, _AND_K, _SHIFT_RIGHT_K = 0xB4, 0x54, 0x74  # on the lower 32 bits
_JUMP_NOT_EQUAL_K, _JUMP_SET_K = 0x56, 0x46  # JMP32 (Linux 5.1): device numbers are unsigned 32 bit
_JUMP, _EXIT = 0x05, 0x95
_R0, _CONTEXT, _TYPE, _WANTED, _MAJOR, _MINOR = range(6)


def _instruction(opcode: int, target: int, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    registers = source << 4 | target
    head = bytes((opcode, registers)) + offset.to_bytes(2, "little", signed=True)
    return head + (immediate & 0xFFFFFFFF).to_bytes(4, "little")


def _answer(value: int) -> bytes:
    return _instruction(_MOV_K, _R0, immediate=value) + _instruction(_EXIT, 0)


@lru_cache(maxsize=16)
def device_program(rules: tuple[DeviceRule, ...]) -> bytes:
    """Compile *rules* into a BPF_PROG_TYPE_CGROUP_DEVICE program, as raw instructions of 8 bytes, little
    endian.

    The rules are tried from the last to the first, and a register holds the wanted accesses which no rule has
    decided yet: a rule that denies one of them ends in 0, one that allows takes its own out, and 1 is the
    answer when none is left. So `r` from one rule and `w` from another add up to an open for both, as two
    rules of cgroup v1 for the same device do. The program calls no helper and needs no particular licence; it
    is for BPF_CGROUP_DEVICE with BPF_F_ALLOW_MULTI.
    """
    program = [
        _instruction(_LOAD_WORD, _TYPE, _CONTEXT, 0),
        _instruction(_AND_K, _TYPE, immediate=0xFFFF),
        _instruction(_LOAD_WORD, _WANTED, _CONTEXT, 0),
        _instruction(_SHIFT_RIGHT_K, _WANTED, immediate=16),
        _instruction(_LOAD_WORD, _MAJOR, _CONTEXT, 4),
        _instruction(_LOAD_WORD, _MINOR, _CONTEXT, 8),
    ]
    default = 0
    for rule in reversed(rules):
        if rule[1:] == DENY_ALL[1:]:
            # It decides everything that is left, so that nothing before it can matter.
            default = int(rule.allow)
            break
        program.append(_compile(rule))
    return b"".join(program) + _answer(default)


def _compile(rule: DeviceRule) -> bytes:
    if not rule.allow:
        verdict = _instruction(_JUMP_SET_K, _WANTED, offset=1, immediate=rule.access)
        verdict += _instruction(_JUMP, 0, offset=2) + _answer(0)
    elif rule.access == ACCESS_ALL:
        verdict = _answer(1)
    else:
        verdict = _instruction(_AND_K, _WANTED, immediate=~rule.access)
        verdict += _instruction(_JUMP_NOT_EQUAL_K, _WANTED, offset=2) + _answer(1)
    conditions = []
    if rule.type != "a":
        conditions.append((_TYPE, _TYPES[rule.type]))
    if rule.major is not None:
        conditions.append((_MAJOR, rule.major))
    if rule.minor is not None:
        conditions.append((_MINOR, rule.minor))
    code = verdict
    for register, value in reversed(conditions):
        # Each test jumps over what is already there: the rest of the rule.
        code = _instruction(_JUMP_NOT_EQUAL_K, register, offset=len(code) // 8, immediate=value) + code
    return code
