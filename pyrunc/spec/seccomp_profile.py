"""The OCI object linux.seccomp, checked and in the kernel's terms.

Source: OCI runtime specification, config-linux, "Seccomp"; linux/seccomp.h; seccomp(2).
"""

from typing import Any, NamedTuple

from pyrunc._native import seccomp as libseccomp
from pyrunc.spec.seccomp import InvalidProfile

RET_ERRNO = 0x00050000
RET_TRACE = 0x7FF00000
RET_USER_NOTIF = 0x7FC00000
RET_LOG = 0x7FFC0000
RET_ALLOW = 0x7FFF0000

FILTER_FLAG_LOG = 1 << 1
FILTER_FLAG_SPEC_ALLOW = 1 << 2
FILTER_FLAG_NEW_LISTENER = 1 << 3
FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 5

_EPERM = 1
_MAX_ARGS = 6

ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": RET_ERRNO,
    "SCMP_ACT_TRACE": RET_TRACE,
    "SCMP_ACT_ALLOW": RET_ALLOW,
    "SCMP_ACT_LOG": RET_LOG,
    "SCMP_ACT_NOTIFY": RET_USER_NOTIF,
}
FLAGS = {
    # Init has one thread, and the kernel refuses this flag together with a listener.
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": FILTER_FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": FILTER_FLAG_WAIT_KILLABLE_RECV,
}
OPERATORS = frozenset(
    (
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_MASKED_EQ",
    )
)
ARCHITECTURES = frozenset(
    (
        *("SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"),
        *(
            "SCMP_ARCH_LOONGARCH64",
            "SCMP_ARCH_M68K",
            "SCMP_ARCH_MIPS",
            "SCMP_ARCH_MIPS64",
            "SCMP_ARCH_MIPS64N32",
        ),
        *(
            "SCMP_ARCH_MIPSEL",
            "SCMP_ARCH_MIPSEL64",
            "SCMP_ARCH_MIPSEL64N32",
            "SCMP_ARCH_PPC",
            "SCMP_ARCH_PPC64",
        ),
        *("SCMP_ARCH_PPC64LE", "SCMP_ARCH_S390", "SCMP_ARCH_S390X", "SCMP_ARCH_SH", "SCMP_ARCH_SHEB"),
        *("SCMP_ARCH_PARISC", "SCMP_ARCH_PARISC64", "SCMP_ARCH_RISCV64"),
    )
)


class Condition(NamedTuple):
    """A comparison of *argument* (0 to 5).

    For SCMP_CMP_MASKED_EQ `value` is the mask, and `value_two` what must be left.
    """

    argument: int
    operator: str
    value: int
    value_two: int


class Rule(NamedTuple):
    """The *action* for the syscalls *names* where all *conditions* hold; *where* names it in messages."""

    where: str
    names: tuple[str, ...]
    action: int
    conditions: tuple[Condition, ...]


class Profile(NamedTuple):
    """A whole linux.seccomp; actions are SECCOMP_RET_* with their data, flags SECCOMP_FILTER_FLAG_*."""

    default_action: int
    architectures: tuple[str, ...]
    flags: int
    rules: tuple[Rule, ...]
    listener_path: str | None
    listener_metadata: str | None


def kernel_knows(flag: str) -> bool:
    """Whether this kernel takes the filter flag that is called *flag*."""
    bit = FLAGS[flag]
    together = FILTER_FLAG_NEW_LISTENER if bit == FILTER_FLAG_WAIT_KILLABLE_RECV else 0
    return libseccomp.flag_supported(bit | together)


def parse_profile(document: dict[str, Any]) -> Profile:
    """Check the OCI object *document* and return it in the kernel's terms.

    Without `flags` the filter gets SECCOMP_FILTER_FLAG_SPEC_ALLOW, as runc does it: otherwise kernels before
    5.16 slow the whole container down. Any syscall may be notified, also `write` and
    whatever there is, which runc refuses: the agent has the listener before init makes another call.
    Raises InvalidProfile with the name of the field.
    """
    where = "linux.seccomp"
    if not isinstance(document, dict):
        raise InvalidProfile(f"{where}: not an object")
    default = _action(document, "defaultAction", "defaultErrnoRet", where)
    rules = tuple(
        _rule(rule, f"{where}.syscalls[{number}]")
        for number, rule in enumerate(_list(document, "syscalls", where))
    )
    architectures = tuple(_list(document, "architectures", where))
    for number, name in enumerate(architectures):
        if not isinstance(name, str) or name not in ARCHITECTURES:
            raise InvalidProfile(f"{where}.architectures[{number}]: unknown architecture {_quote(name)}")
    notifies = RET_USER_NOTIF in (default, *(rule.action for rule in rules))
    listener_path = _text(document, "listenerPath", where)
    listener_metadata = _text(document, "listenerMetadata", where)
    if notifies and not listener_path:
        raise InvalidProfile(f"{where}.listenerPath: missing, but an action is SCMP_ACT_NOTIFY")
    if listener_metadata and not listener_path:
        raise InvalidProfile(f"{where}.listenerMetadata: only goes with listenerPath")
    return Profile(
        default, architectures, _flags(document, where, notifies), rules, listener_path, listener_metadata
    )


def _flags(document: dict[str, Any], where: str, notifies: bool) -> int:
    if document.get("flags") is None:
        flags = FILTER_FLAG_SPEC_ALLOW
    else:
        flags = 0
        for number, name in enumerate(_list(document, "flags", where)):
            if not isinstance(name, str) or name not in FLAGS:
                raise InvalidProfile(f"{where}.flags[{number}]: unknown flag {_quote(name)}")
            flags |= FLAGS[name]
    if notifies:
        return flags | FILTER_FLAG_NEW_LISTENER
    return flags & ~FILTER_FLAG_WAIT_KILLABLE_RECV  # the kernel knows it only together with a listener


def _rule(rule: Any, where: str) -> Rule:
    if not isinstance(rule, dict):
        raise InvalidProfile(f"{where}: not an object")
    if rule.get("names") is None:
        raise InvalidProfile(f"{where}.names: missing")
    names = tuple(_list(rule, "names", where))
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name or not name.isascii() or "\0" in name:
            raise InvalidProfile(f"{where}.names[{number}]: {_quote(name)} is not the name of a syscall")
    action = _action(rule, "action", "errnoRet", where)
    conditions = tuple(
        _condition(argument, f"{where}.args[{number}]")
        for number, argument in enumerate(_list(rule, "args", where))
    )
    return Rule(where, names, action, conditions)


def _action(document: dict[str, Any], key: str, errno_key: str, where: str) -> int:
    name = document.get(key)
    if name is None:
        raise InvalidProfile(f"{where}.{key}: missing")
    if not isinstance(name, str) or name not in ACTIONS:
        raise InvalidProfile(f"{where}.{key}: unknown action {_quote(name)}")
    action = ACTIONS[name]
    if document.get(errno_key) is None:
        return action | _EPERM if action in (RET_ERRNO, RET_TRACE) else action
    if action not in (RET_ERRNO, RET_TRACE):
        # "When the action doesn't support an errno, the runtime MUST print and error and fail."
        raise InvalidProfile(f"{where}.{errno_key}: {name} has no errno")
    return action | _number(document, errno_key, where, 0xFFFF)


def _condition(argument: Any, where: str) -> Condition:
    if not isinstance(argument, dict):
        raise InvalidProfile(f"{where}: not an object")
    operator = argument.get("op")
    if operator is None:
        raise InvalidProfile(f"{where}.op: missing")
    if not isinstance(operator, str) or operator not in OPERATORS:
        raise InvalidProfile(f"{where}.op: unknown operator {_quote(operator)}")
    index = _number(argument, "index", where, _MAX_ARGS - 1)
    value = _number(argument, "value", where, 2**64 - 1)
    value_two = 0 if argument.get("valueTwo") is None else _number(argument, "valueTwo", where, 2**64 - 1)
    return Condition(index, operator, value, value_two)


def _number(document: dict[str, Any], key: str, where: str, largest: int) -> int:
    value = document.get(key)
    if value is None:
        raise InvalidProfile(f"{where}.{key}: missing")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise InvalidProfile(f"{where}.{key}: {_quote(value)} is not a number from 0 to {largest}")
    return value


def _list(document: dict[str, Any], key: str, where: str) -> list[Any]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidProfile(f"{where}.{key}: not a list")
    return value


def _text(document: dict[str, Any], key: str, where: str) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidProfile(f"{where}.{key}: not a string")
    return value or None


def _quote(value: Any) -> str:
    """Return *value* as JSON shows it where it is a string, so that messages look like the document."""
    return f'"{value}"' if isinstance(value, str) else repr(value)
