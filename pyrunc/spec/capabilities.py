"""Capabilities by name (capabilities(7)); their position is their number."""

from __future__ import annotations

from pyrunc.errors import InvalidSpec

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
NUMBER = {f"CAP_{name}": number for number, name in enumerate(NAMES)}
ALL = tuple(NUMBER)
SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def known(names: Iterable[str], unknown: list[str]) -> int:
    """As `mask`, but for names that no kernel knows, which are added to *unknown*.

    Source: OCI runtime-spec config.md "Linux Process": what cannot be mapped is for a warning, and no failure.
    """
    bits = 0
    for name in names:
        number = NUMBER.get(name)
        if number is not None:
            bits |= 1 << number
        elif name not in unknown:
            unknown.append(name)
    return bits


def mask(names: Iterable[str], field: str) -> int:
    """The set of *names* (``CAP_*``) as bits; *field* is what an error names.

    Raises InvalidSpec for a name that no kernel knows.
    """
    bits = 0
    for name in names:
        number = NUMBER.get(name)
        if number is None:
            raise InvalidSpec(f"{field}: unknown capability {name!r}")
        bits |= 1 << number
    return bits
