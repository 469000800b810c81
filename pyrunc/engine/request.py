"""From an image's config and what the caller wants to what is run: Docker's rules of which of the two wins."""

import os

from pyrunc.errors import InvalidArgument
from pyrunc.records import NamedTuple

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyrunc.runtime.options import SandboxOptions


class Process(NamedTuple):
    """What is run: *argv*; *env*, *cwd* and *user* in *options*; *volumes* as paths; *config* as Docker keeps it."""

    argv: tuple[str, ...]
    options: "SandboxOptions"
    volumes: tuple[str, ...]
    config: "Mapping[str, Any]"


def merge(
    image_config: "Mapping[str, Any]", argv: "Sequence[str] | None", entrypoint: "Sequence[str] | None",
    options: "SandboxOptions", added: "Mapping[str, Any] | None" = None,
    *, need_command: bool = True,
) -> Process:  # fmt: skip
    """The process that *argv* means for an image.

    *argv* takes the place of the image's Cmd. *entrypoint* takes the place of its Entrypoint, and then of its Cmd too;
    empty, it is none. The *options* env, cwd and user are merged with the image's, *added* to its config.
    Raises InvalidArgument in Docker's words.
    Source: Docker, "docker run"; OCI image-spec, config.md and conversion.md.
    """
    config: dict[str, Any] = {
        key: value for key, value in image_config.items() if value not in (None, [], {}, "")
    }
    for key, value in (added or {}).items():
        config[key] = {**(config.get(key) or {}), **value} if isinstance(value, dict) else value
    command = list(argv) if argv else None
    if entrypoint is not None:
        begin, command = list(entrypoint), command or []
    else:
        begin = list(config.get("Entrypoint") or ())
        command = list(config.get("Cmd") or ()) if command is None else command
    if need_command and not begin + command:
        raise InvalidArgument("No command specified")
    merged: SandboxOptions = {**options}
    variables = dict(entry.partition("=")[::2] for entry in config.get("Env") or ())
    given = options.get("env", {})
    merged["env"] = {**given, **{key: value for key, value in variables.items() if key not in given}}
    cwd = options.get("cwd") or config.get("WorkingDir") or "/"
    if not cwd.startswith("/"):
        raise InvalidArgument(f"the working directory '{cwd}' is invalid, it needs to be an absolute path")
    merged["cwd"] = os.path.normpath(cwd)
    user = options.get("user") or config.get("User") or ""
    if user:
        merged["user"] = user
    config.update({"Entrypoint": begin or None, "Cmd": command or None})
    config.update(
        {"Env": [f"{key}={value}" for key, value in merged["env"].items()], "User": user,
         "WorkingDir": options.get("cwd") or config.get("WorkingDir") or ""}
    )  # fmt: skip
    if options.get("hostname"):
        config["Hostname"] = options["hostname"]
    taken = {canonical(mount.target) for mount in options.get("mounts", ())}
    taken |= {canonical(path) for path in options.get("tmpfs", {})}
    volumes = [path for path in map(_volume, config.get("Volumes") or ()) if path not in taken]
    return Process(tuple(begin + command), merged, tuple(dict.fromkeys(volumes)), config)


def configured(
    image_config: "Mapping[str, Any]", argv: "Sequence[str] | None", entrypoint: "Sequence[str] | None",
    given: "Mapping[str, Any]", covered: "Sequence[str]" = (),
) -> "dict[str, Any]":  # fmt: skip
    """The Config of a container of an image: *given* is added to the image's, as `merge` has it.

    An entry of Env without ``=`` takes a variable away, and of several for one the last counts; what is mounted at
    the paths *covered* is no volume. Raises InvalidArgument in Docker's words.
    """
    added = {key: value for key, value in given.items() if value not in (None, "", [], {})}
    variables: list[str] = added.pop("Env", [])
    named = {
        name: value if equals else None for name, equals, value in (each.partition("=") for each in variables)
    }
    options: SandboxOptions = {"env": {name: value for name, value in named.items() if value is not None}}
    for key, option in (("User", "user"), ("WorkingDir", "cwd")):
        if key in added:
            options[option] = added.pop(key)  # type: ignore[literal-required]
    options["tmpfs"] = dict.fromkeys(covered, "")
    command, begin = added.pop("Cmd", None), added.pop("Entrypoint", None)
    if entrypoint is None and given.get("Entrypoint") is not None:
        entrypoint = begin or []
    process = merge(image_config, argv or command, entrypoint, options, added)
    config = dict(process.config)
    config["Env"] = [each for each in config["Env"] if named.get(each.partition("=")[0], "") is not None]
    if config.get("Volumes"):
        config["Volumes"] = {path: {} for path in process.volumes}
    return config


def canonical(path: str) -> str:
    """*path* without "." and ".."; two slashes at its begin, which POSIX lets mean another root, are one."""
    clean = os.path.normpath(path)
    return clean[1:] if clean.startswith("//") else clean


def _volume(path: str) -> str:
    """Where an image wants a volume. Raises InvalidArgument, as Docker and runc do where there is none."""
    clean = canonical(path)
    if not clean.startswith("/"):
        words = "must be absolute"
    elif clean == "/":
        words = "destination can't be '/'"
    elif clean == "/proc" or clean.startswith("/proc/"):
        words = "it is inside /proc"  # the image would decide what its programs take for the kernel's word
    else:
        return clean
    raise InvalidArgument(f"invalid volume specification: '{path}': invalid mount path: {words}")
