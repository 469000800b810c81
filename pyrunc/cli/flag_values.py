"""What values of flags must be: one function for each, which returns it as Docker's client sends it.

All raise ValueError with Docker's words, which the flag's name is put in front of.
"""

from __future__ import annotations

import os

from pyrunc.cli import units

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_RULE = r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}"
_DOMAIN = (
    r"(:?(:?[a-zA-Z0-9]|(:?[a-zA-Z0-9][a-zA-Z0-9\-]*[a-zA-Z0-9]))"
    r"(:?\.(:?[a-zA-Z0-9]|(:?[a-zA-Z0-9][a-zA-Z0-9\-]*[a-zA-Z0-9])))*)\.?\s*"
)
_SYSCTLS = frozenset(
    ("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
     "kernel.shmmni", "kernel.shm_rmid_forced")
)  # fmt: skip
_LIMITS = frozenset(
    ("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
     "rttime", "sigpending", "stack")
)  # fmt: skip


def _matches(pattern: str, text: str) -> bool:
    import re  # slow, and few flags need it

    return re.fullmatch(pattern, text) is not None


def stream(text: str) -> str:
    """A stream to attach to."""
    if text.lower() not in ("stdin", "stdout", "stderr"):
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return text.lower()


def host(text: str) -> str:
    """``name:address`` or ``name=address``, as ``name:address``."""
    name, found, address = text.partition("=" if "=" in text else ":")
    if not found or not name:
        raise ValueError(f'bad format for add-host: "{text}"')
    if address != "host-gateway":
        bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
        if not _is_address(bare):
            raise ValueError(f'invalid IP address in add-host: "{address}"')
        address = bare
    return f"{name}:{address}"


def address(text: str) -> str:
    """An IP address."""
    if not _is_address(text.strip()):
        raise ValueError(f"IP address is not correctly formatted: {text}")
    return text.strip()


def _is_address(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def domain(text: str) -> str:
    """A domain to search in; "." is none."""
    bare = text.strip(" ")
    if bare != "." and (len(bare) > 254 or not _matches(_DOMAIN, bare)):
        raise ValueError(f"{bare} is not a valid domain")
    return bare


def variable(text: str) -> str:
    """``NAME=value``; of a NAME alone this process's own value, or the NAME alone if it has none."""
    name, equals, _ = text.partition("=")
    if not name:
        raise ValueError(f"invalid environment variable: {text}")
    return text if equals or name not in os.environ else f"{name}={os.environ[name]}"


def label(text: str) -> str:
    """``name`` or ``name=value``."""
    if not text.partition("=")[0]:
        raise ValueError(f"invalid label '{text}': empty name")
    return text


def rule(text: str) -> str:
    """A rule for the device cgroup."""
    if not _matches(_RULE, text):
        raise ValueError(f"invalid device cgroup format '{text}'")
    return text


def weight(text: str) -> dict[str, Any]:
    """``path:weight``."""
    path, value = _of_device(text)
    if not value.isdigit() or (int(value) and not 10 <= int(value) <= 1000):
        raise ValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(value)}


def bytes_rate(text: str) -> dict[str, Any]:
    """``path:bytes``."""
    path, value = _of_device(text)
    try:
        return {"Path": path, "Rate": units.memory(value)}
    except ValueError:
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. Number must be a"
            " positive integer. Unit is optional and can be kb, mb, or gb"
        ) from None


def operations_rate(text: str) -> dict[str, Any]:
    """``path:number``."""
    path, value = _of_device(text)
    if not (value.isascii() and value.isdigit()):
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must be a positive"
            " integer"
        )
    return {"Path": path, "Rate": int(value)}


def _of_device(text: str) -> tuple[str, str]:
    path, colon, value = text.partition(":")
    if not colon or not path:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    return path, value


def ulimit(text: str) -> dict[str, Any]:
    """``name=soft[:hard]``."""
    name, equals, values = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in _LIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    soft, colon, hard = values.partition(":")
    numbers = []
    for part in (soft, hard if colon else soft):
        try:
            numbers.append(int(part))
        except ValueError:
            raise ValueError(f'strconv.ParseInt: parsing "{part}": invalid syntax') from None
    low, high = numbers
    if high != -1 and (low > high or low == -1):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {low} > {high}")
    return {"Name": name, "Hard": high, "Soft": low}


def sysctl(text: str) -> tuple[str, str]:
    """``name=value`` of what a namespace has itself."""
    name, equals, value = text.partition("=")
    if not equals or not (name in _SYSCTLS or name.startswith(("net.", "fs.mqueue."))):
        raise ValueError(f"sysctl '{text}' is not allowed")
    return name, value


def nano_cpus(text: str) -> int:
    """Processors in billionths."""
    if not _matches(r"\d+(\.\d*)?|\.\d+", text):
        raise ValueError(f"failed to parse {text} as a rational number")
    whole, _, rest = text.partition(".")
    if rest[9:].strip("0"):
        raise ValueError("value is too precise")
    return int(whole or 0) * 10**9 + int(rest[:9].ljust(9, "0"))


def size(text: str) -> int:
    """Bytes, and nothing else."""
    return units.memory(text)


def command_file(path: str, read: Callable[[str], str | None]) -> list[str]:
    """The lines of a file of variables or labels, each as *read* makes it; None is left out."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(_MOST_OF_A_FILE + 1)
    except OSError as exc:
        raise ValueError(f"open {path}: {(exc.strerror or str(exc)).lower()}") from exc
    if len(text) > _MOST_OF_A_FILE:
        raise ValueError(f"{path}: more than {_MOST_OF_A_FILE} characters")
    found = []
    for line in text.removeprefix("\ufeff").splitlines():
        bare = line.lstrip()
        if bare and not bare.startswith("#"):
            name = bare.partition("=")[0]
            if not name:
                raise ValueError(f"no variable name on line '{bare}'")
            if name != name.rstrip() or " " in name or "\t" in name:
                raise ValueError(f"variable '{name}' contains whitespaces")
            found.append(read(bare))
    return [line for line in found if line is not None]


_MOST_OF_A_FILE = 4 << 20


def file_label(line: str) -> str | None:
    """A line of --label-file; a name alone means nothing."""
    return line if "=" in line else None


def file_variable(line: str) -> str | None:
    """A line of --env-file: a name alone takes this process's value, and means nothing without one."""
    found = variable(line)
    return found if "=" in found else None
