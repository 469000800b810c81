"""From the flags of `pyrunc run` to the options of a sandbox and to a container's config. Errors are Docker's words."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from pyrunc.cli import units
from pyrunc.cli.flags import Refused
from pyrunc.cli.mount_flags import mounts, tmpfs_of
from pyrunc.errors import InvalidArgument
from pyrunc.runtime.options import SandboxOptions

_MIN_MEMORY = 6 << 20


def sandbox(flags: Mapping[str, Any], used: set[str]) -> SandboxOptions:
    """The options of the sandbox; flags that were not *used* are left out. Raises InvalidArgument, Refused."""
    found: dict[str, Any] = {"env": _environment(flags)}
    found.update({option: flags[name] for name, option in _SAME.items() if name in used})
    for name, option in _RATES.items():
        if flags[name]:
            found[option] = dict(_rate(text, name.endswith("bps")) for text in flags[name])
    if 0 < (flags["memory"] or 0) < _MIN_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if flags["pids_limit"] is not None:
        found["pids_limit"] = flags["pids_limit"] or -1
    if flags["add_host"]:
        found["hosts"] = dict(_host(text) for text in flags["add_host"])
    if flags["sysctl"]:
        found["sysctls"] = dict(flags["sysctl"])
    if flags["ulimit"]:
        found["rlimits"] = dict(_ulimit(text) for text in flags["ulimit"])
    if flags["read_only"]:
        found["writable"] = "no"
    found.update(_namespaces(flags))
    found.update(_security(flags["security_opt"]))
    found["mounts"] = mounts(flags["volume"], flags["mount"])
    tmpfs = tmpfs_of(flags["tmpfs"], flags["mount"])
    if tmpfs:
        found["tmpfs"] = tmpfs
    _check_words(flags)
    return found  # type: ignore[return-value]


def config(flags: Mapping[str, Any]) -> dict[str, Any]:
    """What of the container's config the flags say: labels, stop signal, exposed ports, anonymous volumes."""
    found: dict[str, Any] = {}
    labels = [line for path in flags["label_file"] for line in _lines(path)] + flags["label"]
    if labels:
        found["Labels"] = dict(text.partition("=")[::2] for text in labels)
    if flags["stop_signal"]:
        found["StopSignal"] = flags["stop_signal"]
    if flags["stop_timeout"] is not None:
        found["StopTimeout"] = flags["stop_timeout"]
    if flags["expose"]:
        found["ExposedPorts"] = {text if "/" in text else f"{text}/tcp": {} for text in flags["expose"]}
    if flags["no_healthcheck"]:
        found["Healthcheck"] = {"Test": ["NONE"]}
    anonymous = [text for text in flags["volume"] if ":" not in text]
    if anonymous:
        found["Volumes"] = {path: {} for path in anonymous}
    return found


_SAME = {
    "blkio_weight": "blkio_weight", "cap_add": "cap_add", "cap_drop": "cap_drop", "cgroup_parent": "cgroup_parent",
    "cpu_period": "cpu_period_us", "cpu_quota": "cpu_quota_us", "cpu_shares": "cpu_shares", "cpus": "cpus",
    "cpuset_cpus": "cpuset_cpus", "cpuset_mems": "cpuset_mems", "device": "devices",
    "device_cgroup_rule": "device_cgroup_rules", "dns": "dns", "domainname": "domainname", "group_add": "groups",
    "hostname": "hostname", "memory": "memory_bytes", "memory_reservation": "memory_reservation_bytes",
    "memory_swap": "memory_swap_bytes", "oom_score_adj": "oom_score_adj", "shm_size": "shm_bytes", "user": "user",
    "workdir": "cwd",
}  # fmt: skip
_RATES = {
    "device_read_bps": "read_bps", "device_write_bps": "write_bps", "device_read_iops": "read_iops",
    "device_write_iops": "write_iops",
}  # fmt: skip


_MOST_OF_A_FILE = 4 << 20


def _environment(flags: Mapping[str, Any]) -> dict[str, str]:
    """-e NAME=value, or -e NAME for this process's own value; --env-file has the same a line, -e wins."""
    found: dict[str, str] = {}
    for text in [*(line for path in flags["env_file"] for line in _lines(path)), *flags["env"]]:
        name, equals, value = text.partition("=")
        if not name:
            raise InvalidArgument(f"invalid environment variable: {text}")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _lines(path: str) -> Iterable[str]:
    """The lines of a file that say something."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(_MOST_OF_A_FILE + 1)
    except OSError as exc:
        raise InvalidArgument(f"open {path}: {(exc.strerror or str(exc)).lower()}") from exc
    if len(text) > _MOST_OF_A_FILE:
        raise InvalidArgument(f"{path}: more than {_MOST_OF_A_FILE} characters")
    return [line.lstrip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _rate(text: str, in_bytes: bool) -> tuple[str, int]:
    path, colon, rate = text.rpartition(":")
    try:
        value = units.memory(rate) if in_bytes else int(rate)
    except ValueError:
        value = -1
    if not colon or not path.startswith("/dev/") or value < 0:
        raise InvalidArgument(
            f"bad format for device path: {text}" if not colon else f"invalid rate for device: {text}"
        )
    return path, value


def _host(text: str) -> tuple[str, str]:
    sign = "=" if "=" in text else ":"
    name, found, address = text.partition(sign)
    if not found or not name:
        raise InvalidArgument(f'bad format for add-host: "{text}"')
    if address == "host-gateway":
        raise Refused("--add-host: host-gateway needs a network, and networks do not exist yet")
    return name, address.removeprefix("[").removesuffix("]")


def _ulimit(text: str) -> tuple[str, tuple[int, int]]:
    name, equals, values = text.partition("=")
    soft, colon, hard = values.partition(":")
    try:
        if not equals or not name:
            raise ValueError
        return name, (int(soft), int(hard if colon else soft))
    except ValueError:
        raise InvalidArgument(f"invalid ulimit argument: {text}") from None


def _namespaces(flags: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("ipc", "pid", "uts", "cgroupns"):
        value = flags[name]
        if value == "shareable" and name == "ipc":
            value = "private"
        if value in ("host", "private"):
            found[name] = value
        elif value.startswith("container:") or value == "none":
            raise Refused(f"--{name}: {value}: only host and private exist yet")
        elif value:
            raise InvalidArgument(f"--{name}: invalid mode: {value}")
    if len(flags["network"]) > 1:
        raise Refused("--network: networks do not exist yet; a container is on one at most")
    for value in flags["network"]:
        if value not in ("none", "host"):
            raise Refused(f"--network: {value}: networks do not exist yet; there are none and host")
        found["network"] = value
    if flags["userns"] not in ("", "host"):
        raise Refused(
            f"--userns: {flags['userns']}: containers are in the host's user namespace; there is host"
        )
    return found


def _security(texts: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=") if "=" in text else text.partition(":")
        if name == "no-new-privileges" and value in ("", "true", "false"):
            found["no_new_privileges"] = value != "false"
        elif name == "seccomp" and value == "unconfined":
            found["seccomp"] = value
        elif name == "seccomp" and value not in ("", "builtin"):
            found["seccomp"] = _profile(value)
        elif (name, value) == ("systempaths", "unconfined"):
            found["masked_paths"] = found["readonly_paths"] = ()
        elif (name, value) not in (("apparmor", "unconfined"), ("label", "disable"), ("seccomp", "builtin")):
            if name in ("apparmor", "label"):
                raise Refused(f"--security-opt: {text}: neither AppArmor nor SELinux is supported yet")
            raise InvalidArgument(
                f'invalid --security-opt 2: "{text}"' if not sign else f"invalid --security-opt: {text}"
            )
    return found


def _profile(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as exc:
        raise InvalidArgument(f"opening seccomp profile ({path}) failed: {exc}") from exc


def _check_words(flags: Mapping[str, Any]) -> None:
    """Values of flags that have only one meaning here."""
    if flags["pull"] not in ("missing", "never"):
        if flags["pull"] == "always":
            raise Refused("--pull: always: there are no registries yet to pull from")
        raise InvalidArgument(
            f'invalid pull option: \'{flags["pull"]}\': must be one of "always", "missing" or "never"'
        )
    if flags["restart"] not in ("no", ""):
        raise Refused(f"--restart: {flags['restart']}: a container in the foreground is not restarted")
