"""`--change` of import and commit: lines of a Dockerfile, applied to the config of an image.

CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR, with Docker's words for what is
wrong. Lines that end in a backslash go on; variables of the config's environment are replaced where a build would.
Source: Docker's reference of Dockerfiles; compared with what `docker import --change` makes.
"""

import json

from pyrunc.errors import InvalidArgument
from pyrunc.image.words import expand, split
from pyrunc.spec.durations import parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Config = dict[str, Any]

_SHELL = ["/bin/sh", "-c"]
_PROTOCOLS = ("tcp", "udp", "sctp")
_SPACE = " \t\v\f\r\n"
_NOT_IN_ONBUILD = ("FROM", "MAINTAINER")
_MIN_INTERVAL_NS = 10**6


def apply_changes(config: "Mapping[str, Any]", changes: "Sequence[str]") -> "Config":
    """Return *config*, the field of that name of an image's config, as *changes* make it; *config* stays as it is.

    An ENTRYPOINT without a CMD beside it takes the CMD away. Raises InvalidArgument.
    """
    instructions = [each for each in _lines("\n".join(changes)) if each.split()]
    if changes and not instructions:
        raise InvalidArgument("file with no instructions")
    state = _State(
        {key: value.copy() if isinstance(value, dict | list) else value for key, value in config.items()}
    )
    for line in instructions:
        name, rest = _cut(line)
        rule = _RULES.get(name.lower())
        if rule is None:
            raise InvalidArgument(f"{name.lower()} is not a valid change command")
        flags: dict[str, str] = {}
        if name.lower() != "onbuild":
            flags, rest = _flags(rest, _HEALTH_FLAGS if name.lower() == "healthcheck" else ())
        rule(state, name.upper(), rest, flags)
    return state.config


class _State:
    """The config that is being changed, and whether a CMD was among the changes."""

    def __init__(self, config: "Config") -> None:
        self.config = config
        self.has_command = False

    def environment(self) -> dict[str, str]:
        """Return the config's environment."""
        pairs = (entry.partition("=") for entry in self.config.get("Env") or ())
        return {name: value for name, _, value in pairs}

    def expand(self, word: str) -> str:
        """Return *word* without its quotes, with its variables replaced."""
        return expand(word, self.environment())

    def shell(self) -> list[str]:
        """Return what runs a command that is written as text."""
        return list(self.config.get("Shell") or _SHELL)


def _lines(text: str) -> list[str]:
    """Whole instructions: comments and empty lines are gone, continued lines are one."""
    found = []
    current = ""
    for line in text.split("\n"):
        bare = line.strip(_SPACE)
        if not bare or bare.startswith("#"):
            continue
        current += line.rstrip(_SPACE) if current else bare
        if current.endswith("\\"):
            current = current[:-1]
            continue
        found.append(current)
        current = ""
    return [*found, current.strip(_SPACE)]


def _cut(line: str) -> tuple[str, str]:
    """The first word, and what comes after it."""
    words = line.split(None, 1)
    return words[0], words[1].strip(_SPACE) if len(words) > 1 else ""


def _flags(rest: str, known: "Sequence[str]") -> tuple[dict[str, str], str]:
    """The ``--name=value`` at the beginning of *rest*."""
    found = {}
    while rest.startswith("--") and rest != "--":
        word, rest = _cut(rest)
        if word == "--":
            break
        name, equals, value = word[2:].partition("=")
        if name not in known:
            raise InvalidArgument(f"Unknown flag: {name}")
        if not equals:
            raise InvalidArgument(f"Missing a value on flag: {name}")
        if name in found:
            raise InvalidArgument(f"Duplicate flag specified: {name}")
        found[name] = value
    return found, rest


def _json_list(text: str) -> list[str] | None:
    """The strings of a JSON array at the beginning of *text*; None if there is none."""
    if not text.startswith("["):
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(each, str) for each in found):
        raise InvalidArgument("when using JSON array syntax, arrays must be comprised of strings only")
    return list(found)


def _command_line(state: _State, rest: str) -> list[str]:
    found = _json_list(rest)
    if found is not None:
        return found
    return [*state.shell(), rest] if rest else state.shell()


def _cmd(state: _State, _name: str, rest: str, _flags: dict[str, str]) -> None:
    state.config["Cmd"] = _command_line(state, rest)
    state.has_command = state.has_command or bool(state.config["Cmd"])


def _entrypoint(state: _State, _name: str, rest: str, _flags: dict[str, str]) -> None:
    line = _command_line(state, rest) if rest else []
    state.config["Entrypoint"] = line or None
    if not state.has_command:
        state.config["Cmd"] = None


def _pairs(state: _State, name: str, rest: str) -> list[tuple[str, str]]:
    """``name=value …`` with quotes and variables, or the old form: a name and all that follows it."""
    words = split(rest)
    if not words:
        raise InvalidArgument(f"{name} requires at least one argument")
    if "=" not in words[0]:
        parts = rest.split(None, 1)
        if len(parts) < 2:
            raise InvalidArgument(f"{name} must have two arguments")
        pairs = [(parts[0], parts[1])]
    else:
        pairs = []
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                raise InvalidArgument(
                    f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value'
                )
            pairs.append((key, value))
    if any(not key for key, _ in pairs):
        raise InvalidArgument(f"{name} names can not be blank")
    return [(state.expand(key), state.expand(value)) for key, value in pairs]


def _env(state: _State, name: str, rest: str, _flags: dict[str, str]) -> None:
    entries = list(state.config.get("Env") or ())
    for key, value in _pairs(state, name, rest):
        places = [i for i, entry in enumerate(entries) if entry.partition("=")[0] == key]
        if places:
            entries[places[0]] = f"{key}={value}"
        else:
            entries.append(f"{key}={value}")
    state.config["Env"] = entries


def _label(state: _State, name: str, rest: str, _flags: dict[str, str]) -> None:
    state.config["Labels"] = {**(state.config.get("Labels") or {}), **dict(_pairs(state, name, rest))}


def _expose(state: _State, name: str, rest: str, _flags: dict[str, str]) -> None:
    if not rest:
        raise InvalidArgument(f"{name} requires at least one argument")
    ports = dict(state.config.get("ExposedPorts") or {})
    for word in rest.split():
        for expanded in state.expand(word).split():
            ports.update(dict.fromkeys(parse_port(expanded)))
    state.config["ExposedPorts"] = {port: {} for port in sorted(ports)}


def parse_port(text: str) -> list[str]:
    """Return the ports of the container that *text* names, such as ``80/tcp``: ``[[ip:]host:]port[-port][/protocol]``.

    Raises InvalidArgument, in Docker's words.
    """
    ports, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    ports = ports.rpartition(":")[2]
    first, dash, last = ports.partition("-")
    numbers = [first, last if dash else first]
    if not all(each.isascii() and each.isdigit() and len(each) <= 5 for each in numbers):
        raise InvalidArgument(f"Invalid containerPort: {ports}")
    low, high = (int(each) for each in numbers)
    if not low <= high < 1 << 16:
        raise InvalidArgument(f"Invalid containerPort: {ports}")
    if protocol not in _PROTOCOLS:
        raise InvalidArgument(f"Invalid proto: {protocol}")
    return [f"{port}/{protocol}" for port in range(low, high + 1)]


def _onbuild(state: _State, name: str, rest: str, _flags: dict[str, str]) -> None:
    if not rest:
        raise InvalidArgument(f"{name} requires at least one argument")
    trigger = rest.split(None, 1)[0].upper()
    if trigger == "ONBUILD":
        raise InvalidArgument("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in _NOT_IN_ONBUILD:
        raise InvalidArgument(f"{trigger} isn't allowed as an ONBUILD trigger")
    state.config["OnBuild"] = [*(state.config.get("OnBuild") or ()), rest]


def _one(state: _State, name: str, rest: str) -> str:
    if not rest:
        raise InvalidArgument(f"{name} requires exactly one argument")
    return state.expand(rest)


def _stop_signal(state: _State, name: str, rest: str, _flags: dict[str, str]) -> None:
    found = _one(state, name, rest)
    check_signal(found)
    state.config["StopSignal"] = found


def check_signal(text: str) -> int:
    """Return the number of the signal *text*: ``SIGTERM``, ``term``, ``RTMIN+3`` or ``15``. Raises InvalidArgument."""
    import signal

    upper = text.upper().removeprefix("SIG")
    if text.isascii() and text.isdigit() and 0 < int(text) <= signal.SIGRTMAX:
        return int(text)
    for base, sign in (("RTMIN", 1), ("RTMAX", -1)):
        offset = upper.removeprefix(base)[1:]
        if (
            upper.startswith(base)
            and upper[5:6] in ("", "+-"[sign < 0])
            and (offset.isdigit() or len(upper) == 5)
        ):
            number = int(signal.Signals[f"SIG{base}"]) + sign * int(offset or 0)
            if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
                return number
    try:
        return int(signal.Signals[f"SIG{upper}"])
    except KeyError:
        raise InvalidArgument(f"Invalid signal: {text}") from None


def _user(state: _State, name: str, rest: str, _flags: dict[str, str]) -> None:
    state.config["User"] = _one(state, name, rest)


def _volume(state: _State, name: str, rest: str, _flags: dict[str, str]) -> None:
    paths = _json_list(rest)
    if paths is None:
        paths = rest.split()
    if not paths:
        raise InvalidArgument(f"{name} requires at least one argument")
    volumes = dict(state.config.get("Volumes") or {})
    for path in paths:
        expanded = state.expand(path).strip(_SPACE)
        if not expanded:
            raise InvalidArgument(f"{name} specified can not be an empty string")
        volumes[expanded] = {}
    state.config["Volumes"] = dict(sorted(volumes.items()))


def _workdir(state: _State, name: str, rest: str, _flags: dict[str, str]) -> None:
    import posixpath

    path = posixpath.normpath(
        posixpath.join("/", state.config.get("WorkingDir") or "", _one(state, name, rest))
    )
    state.config["WorkingDir"] = "/" + path.lstrip("/")


_HEALTH_FLAGS = ("interval", "timeout", "start-period", "start-interval", "retries")
_HEALTH_FIELDS = {
    "interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod", "start-interval": "StartInterval",
}  # fmt: skip


def _health_check(state: _State, name: str, rest: str, flags: dict[str, str]) -> None:
    if not rest:
        raise InvalidArgument(f"{name} requires at least one argument")
    kind, command = _cut(rest)
    check: dict[str, Any] = {}
    if kind.upper() == "NONE":
        if command:
            raise InvalidArgument(f"{name} NONE takes no arguments")
        check["Test"] = ["NONE"]
        flags = {}
    elif kind.upper() == "CMD":
        words = _json_list(command)
        if not (command if words is None else words):
            raise InvalidArgument(f"Missing command after {name} CMD")
        check["Test"] = ["CMD-SHELL", command] if words is None else ["CMD", *words]
    else:
        raise InvalidArgument(f'Unknown type "{kind.upper()}" in {name} (try CMD)')
    for flag, field in _HEALTH_FIELDS.items():
        if flag in flags:
            check[field] = parse_duration(flags[flag])
            if check[field] < _MIN_INTERVAL_NS:
                raise InvalidArgument(f'Interval "{flag}" cannot be less than 1ms')
    if "retries" in flags:
        text = flags["retries"]
        if not (text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()):
            raise InvalidArgument(f'strconv.ParseInt: parsing "{text}": invalid syntax')
        if int(text) < 1:
            raise InvalidArgument(f"--retries must be at least 1 (not {int(text)})")
        check["Retries"] = int(text)
    state.config["Healthcheck"] = check


_RULES: "dict[str, Callable[[_State, str, str, dict[str, str]], None]]" = {
    "cmd": _cmd,
    "entrypoint": _entrypoint,
    "env": _env,
    "expose": _expose,
    "healthcheck": _health_check,
    "label": _label,
    "onbuild": _onbuild,
    "stopsignal": _stop_signal,
    "user": _user,
    "volume": _volume,
    "workdir": _workdir,
}
