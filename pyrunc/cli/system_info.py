"""`pyrunc version`, `pyrunc info`."""

from collections.abc import Mapping
from typing import Any

from pyrunc.cli.context import running
from pyrunc.cli.flags import Flag
from pyrunc.cli.session import CommandError, complain, engine, say
from pyrunc.cli.template import Template, TemplateError
from pyrunc.cli.values import Struct, encode
from pyrunc.cli.verb import verb

_FORMAT = Flag("-f --format", "string", "Format output: 'json', or a Go template")
_PARSING = 64
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
# Fields of Go that are maps, by where they are.
_MAPS = ("Runtimes", "Details")


class _Document(Struct):
    aliases = {"APIVersion": "ApiVersion"}  # noqa: RUF012 - as its base has it


@verb("version", "Show the pyrunc version information", _FORMAT)
def version(format: str, arguments: list[str]) -> None:
    """The version of the command and of the engine, which are one."""
    del arguments
    from pyrunc.engine.info import version as describe

    server = describe()
    client = {
        "Version": server["Version"], "ApiVersion": server["ApiVersion"], "DefaultAPIVersion": server["ApiVersion"],
        **{name: server[name] for name in ("GitCommit", "GoVersion", "Os", "Arch", "BuildTime")}, "Context": "default",
        "PythonVersion": server["PythonVersion"],
    }  # fmt: skip
    if not format:
        say(_version_text(client, server))
        return
    both = _named(_struct({"Client": client, "Server": server}), "system.versionInfo")
    both["Server"] = _named(both["Server"], "*types.Version")
    _show(format, both, "version")


def _version_text(client: Mapping[str, Any], server: Mapping[str, Any]) -> str:
    def lines(found: Mapping[str, Any], api: str) -> list[tuple[str, str]]:
        return [
            ("Version:", found["Version"]), ("API version:", api), ("Python version:", found["PythonVersion"]),
            ("OS/Arch:", f"{found['Os']}/{found['Arch']}"),
        ]  # fmt: skip

    out = ["Client:"]
    out += [
        f" {name:<18} {value}"
        for name, value in [*lines(client, client["ApiVersion"]), ("Context:", "default")]
    ]
    out += ["", f"Server: {server['Platform']['Name']}", " Engine:"]
    api = f"{server['ApiVersion']} (minimum version {server['MinAPIVersion']})"
    out += [f"  {name:<17} {value}" for name, value in [*lines(server, api), ("Experimental:", "false")]]
    return "\n".join(out) + "\n"


@verb("info", "Display system-wide information", _FORMAT)
def info(format: str, arguments: list[str]) -> None:
    """What the engine and its host are and can."""
    del arguments
    from pyrunc.engine.info import version as describe

    found, about = engine().info(), describe()
    context = running()
    session = None if context is None else context.session
    client = {
        "Debug": session is not None and session.debug,
        "Version": about["Version"], "DefaultAPIVersion": about["ApiVersion"],
        **{name: about[name] for name in ("GitCommit", "GoVersion", "Os", "Arch", "BuildTime")}, "Context": "default",
        "Plugins": [], "Warnings": None,
    }  # fmt: skip
    if format:
        _show(format, _named(_struct({**found, "ClientInfo": client}), "system.dockerInfo"), "")
        return
    say(_info_text(found, client))
    for warning in found["Warnings"] or ():
        complain(warning)


def _info_text(found: Mapping[str, Any], client: Mapping[str, Any]) -> str:
    out = [
        "Client:", f" Version:    {client['Version']}", " Context:    default",
        f" Debug Mode: {_bool(client['Debug'])}", "",
        "Server:", f" Containers: {found['Containers']}", f"  Running: {found['ContainersRunning']}",
        f"  Paused: {found['ContainersPaused']}", f"  Stopped: {found['ContainersStopped']}",
        f" Images: {found['Images']}", f" Server Version: {found['ServerVersion']}",
        f" Storage Driver: {found['Driver']}",
        *(f"  {name}: {value}" for name, value in found["DriverStatus"]),
        f" Logging Driver: {found['LoggingDriver']}", f" Cgroup Driver: {found['CgroupDriver']}",
        f" Cgroup Version: {found['CgroupVersion']}", " Plugins:",
        *(f"  {name}: {' '.join(found['Plugins'][name])}" for name in ("Volume", "Network", "Log")),
        f" Swarm: {found['Swarm']['LocalNodeState']}", f" Runtimes: {' '.join(sorted(found['Runtimes']))}",
        f" Default Runtime: {found['DefaultRuntime']}", " Security Options:",
    ]  # fmt: skip
    for option in found["SecurityOptions"]:
        first, *more = (part.partition("=")[::2] for part in option.split(","))
        out += [f"  {first[1]}", *(f"   {name.capitalize()}: {value}" for name, value in more)]
    out += [
        f" Kernel Version: {found['KernelVersion']}", f" Operating System: {found['OperatingSystem']}",
        f" OSType: {found['OSType']}", f" Architecture: {found['Architecture']}", f" CPUs: {found['NCPU']}",
        f" Total Memory: {_binary(found['MemTotal'])}", f" Name: {found['Name']}",
        f" Docker Root Dir: {found['DockerRootDir']}", f" Debug Mode: {_bool(found['Debug'])}",
        f" Experimental: {_bool(found['ExperimentalBuild'])}",
        f" Live Restore Enabled: {_bool(found['LiveRestoreEnabled'])}", "",
    ]  # fmt: skip
    return "\n".join(out) + "\n"


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _binary(count: float) -> str:
    power = 0
    while count >= 1024 and power < len(_BINARY) - 1:
        count /= 1024
        power += 1
    return f"{count:.4g}{_BINARY[power]}"


def _struct(found: Mapping[str, Any]) -> Struct:
    """A document as Go has it: structs but for what is a map there."""
    out = _Document()
    for key, value in found.items():
        if isinstance(value, dict):
            out[key] = dict(value) if key in _MAPS else _struct(value)
            if key == "Runtimes":
                out[key] = {name: _struct(each) for name, each in value.items()}
        elif isinstance(value, list):
            out[key] = [_struct(each) if isinstance(each, dict) else each for each in value]
        else:
            out[key] = value
    return out


def _named(found: Struct, type_name: str) -> Struct:
    """The same document, whose type Go's errors call so."""
    return type("_Named", (_Document,), {"type_name": type_name})(found)  # type: ignore[no-any-return]


def _show(template: str, value: Struct, name: str) -> None:
    """Write *value* as *template* wants it; errors call the template *name*."""

    def words(exc: TemplateError) -> str:
        return (
            str(exc)
            .replace("template: :", f"template: {name}:")
            .replace('executing ""', f'executing "{name}"')
        )

    if template == "json":
        say(encode(value, escape=True) + "\n")
        return
    try:
        compiled = Template(template)
    except TemplateError as exc:
        raise CommandError(f"template parsing error: {words(exc)}", _PARSING) from exc
    try:
        say(f"{compiled.execute(value)}\n")
    except TemplateError as exc:
        say("\n")
        raise CommandError(words(exc)) from exc
