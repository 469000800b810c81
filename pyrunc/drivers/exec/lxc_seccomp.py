"""OCI's `linux.seccomp` in LXC's words: a profile of version 2, or a refusal by the name of what it cannot say.

What is written is compiled by the same library as elsewhere, once for each architecture, so that it decides every call
as the native filter does, but for the calls of an architecture that the profile does not name: LXC adds those that
the processor has, with the profile's default, where the native filter kills. So a default that allows is taken only
with all of them.

Source: OCI runtime-spec config-linux.md, "Seccomp"; lxc.container.conf(5), "SECCOMP CONFIGURATION".
"""

from __future__ import annotations

import os

from pyrunc.errors import Unsupported

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_ERRNO_MOST = 4095
_ALLOW = "allow"
_OPERATORS = (
    "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ",
)  # fmt: skip
# Those of a processor's calls that LXC compiles for "[all]".
_ALL = {
    "x86_64": {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"},
    "aarch64": {"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"},
}
_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_SECTION = {"x86_64": "x86_64", "aarch64": "arm64"}


def profile(seccomp: Mapping[str, Any]) -> str:
    """The text of a profile. Raises Unsupported, naming the field, for what LXC cannot do."""
    default = _action(seccomp.get("defaultAction"), seccomp.get("defaultErrnoRet"), "defaultAction")
    for field in ("flags", "listenerPath", "listenerMetadata"):
        if seccomp.get(field):
            raise _refused(field, "it has nothing like it")
    style = "denylist" if default == _ALLOW else f"allowlist {default}"
    lines = ["2", style, _section(set(seccomp.get("architectures") or ()), default)]
    for number, rule in enumerate(seccomp.get("syscalls") or ()):
        field = f"syscalls[{number}]"
        action = _action(rule.get("action"), rule.get("errnoRet"), field)
        if action == default:
            continue  # says what holds anyway; the library refuses it
        conditions = _conditions(rule.get("args") or (), field)
        lines += [f"{name} {action}{conditions}" for name in rule["names"]]
    return "\n".join(lines) + "\n"


def _section(architectures: set[str], default: str) -> str:
    machine = os.uname().machine
    everything = _ALL.get(machine)
    if everything is None:
        raise Unsupported(f"seccomp: no profile for LXC on {machine}")
    if architectures == everything:
        return "[all]"
    if architectures | {_NATIVE[machine]} == {_NATIVE[machine]} and default != _ALLOW:
        return f"[{_SECTION[machine]}]"
    raise _refused("architectures", f"it takes the processor's own alone, or {', '.join(sorted(everything))}")


def _action(action: object, number: object, field: str) -> str:
    if action == "SCMP_ACT_ALLOW":
        return _ALLOW
    if action == "SCMP_ACT_ERRNO":
        value = 1 if number is None else number
        # It takes 0 for a success that has done nothing, as the kernel does.
        if isinstance(value, int) and 0 <= value <= _ERRNO_MOST:
            return f"errno {value}"
        raise _refused(field, f"it has no error {value}")
    if action in ("SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD"):
        return "kill"
    if action == "SCMP_ACT_TRAP":
        return "trap"
    raise _refused(field, f"it has no {action}")


def _conditions(rows: Any, field: str) -> str:
    """All of them must hold, as in OCI."""
    text = ""
    for row in rows:
        operator = row.get("op")
        if operator not in _OPERATORS:
            raise _refused(field, f"it has no {operator}")
        first, second = row.get("value", 0), row.get("valueTwo", 0)
        for value in (first, second):
            if not 0 <= value < 1 << 63:
                raise _refused(field, f"it reads numbers of 63 bits, and not {value}")
        # OCI has the mask first; LXC the value.
        values = f"{second},{operator},{first}" if operator == "SCMP_CMP_MASKED_EQ" else f"{first},{operator}"
        text += f" [{row['index']},{values}]"
    return text


def _refused(field: str, reason: str) -> Unsupported:
    return Unsupported(f"seccomp: {field}: LXC cannot honour it: {reason}")
