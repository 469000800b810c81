"""`create` and `run`: from a command line to a plan, which the front door then does.

`prepare` is all of it, and reads only: the planner calls it too. `run` hands the plan to the front
door, which this process becomes again.
"""

from __future__ import annotations

import os

from pyrunc._native import plan as native
from pyrunc._native.plan import FLAG_DETACH, FLAG_KEEP, FLAG_KEEP_RUNNING, FLAG_RUN
from pyrunc.errors import InvalidSpec
from pyrunc.oci import bundle as bundles
from pyrunc.oci import flags, hooks, rootless, seccomp_agent, state, state_text
from pyrunc.oci.log import Failure
from pyrunc.records import NamedTuple
from pyrunc.runtime import caller, users
from pyrunc.runtime.compile import candidates, compile_spec
from pyrunc.runtime.compile_host import Rootfs
from pyrunc.runtime.front_door import FrontDoor
from pyrunc.runtime.plan import Oci, OciHook, PlanTemplate

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyrunc.oci.flags import Command
    from pyrunc.oci.log import Log
    from pyrunc.runtime.cgroup_systemd import Unit
    from pyrunc.runtime.compile_rootless import Rights

# What a plan is filed under where nothing in it is named by the container's id.
_NO_ID = "0" * 64


class Prepared(NamedTuple):
    """A plan and what was compiled into it."""

    plan: bytes
    template: PlanTemplate
    oci: Oci
    argv: tuple[str, ...]


def prepare(
    arguments: Sequence[str],
    cwd_fd: int = -1,
    bundle_fd: int = -1,
    env: Mapping[str, str] | None = None,
) -> bytes:
    """The plan of a command line `create` or `run`, given without the program's name.

    *cwd_fd* is the working directory, which is this process's too; *bundle_fd* the bundle, or -1; *env* what matters
    of the caller's environment. Raises Failure in runc's words, or PyruncError; also where a word of warning is due.
    """
    del cwd_fd
    found = compile_command(flags.parse(arguments), bundle_fd, env or {})
    if found.template.warnings:
        raise Failure("there are warnings, which only a command itself can log")
    return found.plan


def run(command: Command, log: Log) -> int:
    """Compile the plan and become the front door with it. Raises Failure, PyruncError."""
    prepared = compile_command(command, -1, os.environ)
    for warning in prepared.template.warnings:
        log.write("warning", warning)
    from pyrunc.oci.hand_over import hand_over

    return hand_over(command.front_door, prepared.plan)


def compile_command(
    command: Command, bundle_fd: int, env: Mapping[str, str], terminal_ok: bool = False
) -> Prepared:
    """Make everything of a command line that the front door needs; with *terminal_ok* a terminal needs no taker."""
    container_id = command.arguments[0]
    state.check_id(container_id)
    root = state.root_of(command.options)
    if not command.options.root and root != state.ROOT:
        rootless.make_sticky(root)
    bundle = bundles.read(command.text("bundle"), bundle_fd)
    if not terminal_ok:
        _check_terminal(command, bool(bundle.spec["process"].get("terminal")))
    return compile_bundle(command, f"{root}/{container_id}", container_id, bundle, env)


def _check_terminal(command: Command, terminal: bool) -> None:
    console = command.text("console-socket")
    detached = command.verb == "create" or command.flag("detach")
    if detached and terminal and not console:
        raise Failure(f"cannot allocate tty if {flags.NAME} will detach without setting console socket")
    if (not detached or not terminal) and console:
        raise Failure(f"cannot use console socket if {flags.NAME} will not detach or allocate tty")


def compile_bundle(
    command: Command, directory: str, container_id: str, bundle: bundles.Bundle, env: Mapping[str, str]
) -> Prepared:
    """The plan of a container with the state in *directory*; *env* is the caller's environment."""
    named = bool((bundle.spec.get("linux") or {}).get("cgroupsPath"))
    rights = rootless.rights(command.options, named_cgroup=named)
    unit = None
    if command.options.systemd_cgroup:
        from pyrunc.oci import systemd

        unit = systemd.unit_of(bundle.spec, container_id, rights, env.get("XDG_RUNTIME_DIR") or "")
    spec = _completed(bundle, container_id, rights, unit)
    if caller.is_another() and any(_is_ones_own(mount) for mount in spec["mounts"]):
        raise Failure("the planner cannot see what the source of a mount is to its caller")
    process = spec["process"]
    table = hooks.parse(spec)
    notify = f"{directory}/notify" if env.get("NOTIFY_SOCKET") else ""
    door = FrontDoor(
        command.verb == "create",
        tuple(hook.kind for hook in table),
        command.flag("no-pivot"),
        notify,
        not command.text("console-socket"),
        rights,
        unit,
    )
    keyring = "" if command.flag("no-new-keyring") else keyring_name(container_id)
    template = compile_spec(spec, Rootfs((bundle.rootfs,)), keyring=keyring, front_door=door)
    listening = _listening(env)
    added = {"LISTEN_FDS": str(listening), "LISTEN_PID": "1"} if listening else {}
    if notify:
        added["NOTIFY_SOCKET"] = "/run/notify/notify.sock"
    variables = _environment(process, bundle.rootfs, added)
    argv = tuple(process["args"])
    path = next((entry[5:] for entry in variables if entry.startswith("PATH=")), None)
    oci = _block(command, directory, container_id, bundle, table)
    oci = oci._replace(
        preserve_fds=flags.preserved(oci.preserve_fds + listening),
        flags=oci.flags | (native.FLAG_NOTIFY if notify else 0),
        state=state_text.state(container_id, bundle, template, keyring, not notify, unit),
    )  # fmt: skip
    plan = template.finish(_NO_ID, argv, variables, candidates(argv[0], path), FLAG_KEEP_RUNNING, oci=oci)
    return Prepared(plan, template, oci, argv)


def keyring_name(container_id: str) -> str:
    """What the session keyring of a new container is called, for those that `exec` it.

    Who knows a name can make a keyring of that name first, any user of the host, and let all search it: the container
    would join that, and its owner could read keys and place some in it. Source: keyctl_join_session_keyring(3).
    """
    return f"_ses.{container_id}.{os.urandom(8).hex()}"


def _block(
    command: Command,
    directory: str,
    container_id: str,
    bundle: bundles.Bundle,
    table: Sequence[hooks.Hook],
) -> Oci:
    process = bundle.spec["process"]
    terminal = bool(process.get("terminal"))
    size = process.get("consoleSize") or {}
    number = 0
    for wanted, bit in (
        (terminal, native.FLAG_OCI_TERMINAL),
        (command.options.debug, native.FLAG_DEBUG),
        (command.flag("no-pivot"), native.FLAG_NO_PIVOT),
        (command.flag("no-new-keyring"), native.FLAG_NO_NEW_KEYRING),
    ):
        number |= bit if wanted else 0
    if command.verb == "run":
        number |= FLAG_RUN
        number |= FLAG_DETACH if command.flag("detach") else 0
        number |= FLAG_KEEP if command.flag("keep") else 0
        number |= native.FLAG_NO_SUBREAPER if command.flag("no-subreaper") else 0
    listener, listener_head = seccomp_agent.listener(bundle.spec)
    return Oci(
        directory, container_id, number, command.path("pid-file"),
        command.path("pidfd-socket"), command.path("console-socket"),
        flags.absolute(command.options.log), command.options.log_format, preserve_fds=command.number("preserve-fds"),
        seccomp_listener=listener, seccomp_metadata=listener_head,
        rows=size.get("height") or 0, columns=size.get("width") or 0,
        hook_state=state_text.hook_state(
            str(bundle.spec.get("ociVersion") or state_text.VERSION), container_id, bundle.path,
            bundle.spec.get("annotations") or {},
        ),
        hooks=tuple(OciHook(*hook) for hook in table), bundle=bundle.path if table else "",
    )  # fmt: skip


def _completed(
    bundle: bundles.Bundle, container_id: str, rights: Rights, unit: Unit | None
) -> dict[str, Any]:
    """The document with what the runtime has to choose where it says nothing."""
    spec = dict(bundle.spec)
    linux = dict(spec.get("linux") or {})
    if unit is not None:
        linux["cgroupsPath"] = unit.path
    else:
        linux["cgroupsPath"] = rootless.cgroups_path(linux.get("cgroupsPath") or container_id, rights)
    spec["linux"] = linux
    spec["mounts"] = [_below(bundle.path, mount) for mount in spec.get("mounts") or ()]
    return spec


def _is_ones_own(mount: Mapping[str, Any]) -> bool:
    """Whether the source of a mount is another thing in another process."""
    return str(mount.get("source") or "").startswith(("/proc/self/", "/proc/thread-self/", "/dev/fd/"))


def _below(bundle: str, mount: Mapping[str, Any]) -> Mapping[str, Any]:
    """*mount*, its source absolute: that of a bind mount may be relative to the bundle."""
    source = mount.get("source")
    bound = mount.get("type") == "bind" or {"bind", "rbind"} & set(mount.get("options") or ())
    if not bound or not source or source.startswith("/"):
        return mount
    return {**mount, "source": os.path.normpath(os.path.join(bundle, source))}


def _listening(env: Mapping[str, str]) -> int:
    """How many sockets systemd has passed to the caller, which are the program's then; see sd_listen_fds(3)."""
    if env.get("LISTEN_PID") != str(caller.pid()):
        return 0
    number = env.get("LISTEN_FDS", "")
    return int(number[:12]) if number.isdecimal() else 0


def _environment(process: Mapping[str, Any], rootfs: str, added: Mapping[str, str]) -> list[str]:
    """The program's environment: of a name that is there twice the last; with HOME, as runc has it."""
    found: dict[str, str] = {}
    for entry in process.get("env") or ():
        name, equals, value = entry.partition("=")
        if not name or not equals:
            raise InvalidSpec(f"process.env: invalid environment variable {entry!r}")
        found[name] = value
    found |= added
    if "HOME" not in found:
        uid = str((process.get("user") or {}).get("uid") or 0)
        found["HOME"] = users.resolve(uid, (), [rootfs]).home or "/"
    return [f"{name}={value}" for name, value in found.items()]
