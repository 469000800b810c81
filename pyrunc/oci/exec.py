"""`pyrunc-oci exec`: a further program in a running container, from a command line to a plan.

The front door does what the plan says, and waits for the program where that was asked for.
Source: OCI runtime-spec config.md "Process"; runc's man page runc-exec(8); texts recorded from runc 1.1.5.
"""

from __future__ import annotations

import os

from pyrunc._native import plan as native
from pyrunc.errors import PyruncError
from pyrunc.oci import seccomp_agent, state, state_text
from pyrunc.oci.exec_words import STOPPED
from pyrunc.oci.flags import NAME, absolute, parse, preserved, quote
from pyrunc.oci.log import Failure, reason
from pyrunc.oci.process_words import START
from pyrunc.oci.reading import contents, parsed
from pyrunc.runtime import caller, users
from pyrunc.runtime.compile import candidates
from pyrunc.runtime.compile_exec import Running, Terminal, compile_exec
from pyrunc.runtime.plan import OCI_FLAGS, Oci

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyrunc.oci.flags import Command
    from pyrunc.oci.log import Log
    from pyrunc.oci.state import Container

_MOST_ID = (1 << 31) - 1
# What a document of --process may leave to the container's own.
_INHERITED = ("capabilities", "apparmorProfile", "selinuxLabel", "scheduler", "ioPriority")
_ALWAYS = ("oomScoreAdj", "execCPUAffinity")


def run(command: Command, log: Log) -> int:
    """Become the front door with the plan of *command*; returns only by raising Failure."""
    from pyrunc.oci.hand_over import hand_over

    try:
        plan, warnings = _plan(command)
    except PyruncError as error:
        raise _at_start(error) from None
    for warning in warnings:
        log.write("warning", warning)
    return hand_over(command.front_door, plan)


def prepare(arguments: Sequence[str], cwd_fd: int, bundle_fd: int, env: Mapping[str, str]) -> bytes:
    """The plan of a whole command line, for the planner; whatever is not plain raises, and is told by `run`.

    *cwd_fd* is this process's working directory; the others are not looked at.
    """
    del cwd_fd, bundle_fd, env
    plan, warnings = _plan(parse(arguments))
    if warnings:
        raise Failure(warnings[0])
    return plan


def _at_start(error: PyruncError) -> Failure:
    """What is wrong with the document in the words that runc has for a start that fails."""
    field, colon, words = str(error).partition(": ")
    words = words if colon and field.startswith("process.") else str(error)
    return Failure(f"{'' if words.startswith('selinux') else START}{words}")


def _plan(command: Command) -> tuple[bytes, list[str]]:
    container = state.load(state.root_of(command.options), command.arguments[0])
    status = container.status()
    if status == "stopped":
        raise Failure(STOPPED)
    if status == "creating":
        raise Failure("cannot exec in a container that is being created")
    if status == "paused" and not command.flag("ignore-paused"):
        raise Failure("cannot exec in a paused container (use --ignore-paused to override)")
    if not command.text("process") and len(command.arguments) == 1:
        raise Failure("process args cannot be empty")
    process = _process(command, container)
    detach = command.flag("detach")
    wants_terminal = bool(process.get("terminal"))
    socket = command.text("console-socket")
    if detach and wants_terminal and not socket:
        raise Failure(f"cannot allocate tty if {NAME} will detach without setting console socket")
    if socket and not (detach and wants_terminal):
        raise Failure(f"cannot use console socket if {NAME} will not detach or allocate tty")
    cgroups, freezer = _cgroups(container, command.texts("cgroup"))
    argv: list[str] = process["args"]
    spec = {**container.spec, "process": process}
    kept = preserved(command.number("preserve-fds"))
    variables = _variables(container, process)
    size = process.get("consoleSize") or {}
    template = compile_exec(
        spec,
        Running(container.pid, container.own["start_time"], cgroups, freezer),
        Terminal(size.get("height") or 0, size.get("width") or 0, not detach) if wants_terminal else None,
        container.own.get("keyring"),
    )
    flags = OCI_FLAGS["exec"]
    for name, wanted in (("detach", detach), ("terminal", wants_terminal), ("debug", command.options.debug)):
        flags |= OCI_FLAGS[name] if wanted else 0
    listener, listener_head = seccomp_agent.listener(container.spec)
    oci = Oci(
        container.directory, container.id, flags, command.path("pid-file"),
        command.path("pidfd-socket"), command.path("console-socket"), absolute(command.options.log),
        command.options.log_format, preserve_fds=kept, seccomp_listener=listener, seccomp_metadata=listener_head,
        hook_state=state_text.hook_state_of(container),
    )  # fmt: skip
    plan = template.finish(
        "0" * 64, argv, [f"{name}={value}" for name, value in variables.items()], _paths(argv[0], variables),
        native.FLAG_EXEC | native.FLAG_KEEP_RUNNING, oci=oci,
    )  # fmt: skip
    return plan, template.warnings


def _process(command: Command, container: Container) -> dict[str, Any]:
    """The document of the program: the container's, changed by the flags, or that of --process."""
    path = command.text("process")
    own: dict[str, Any] = dict(container.spec.get("process") or {})
    process = _of_file(path, own) if path else _of_flags(command, own)
    cwd, args = process.get("cwd"), process.get("args")
    if not cwd:
        raise Failure("Cwd property must not be empty")
    if not os.path.isabs(cwd):
        raise Failure("Cwd must be an absolute path")
    if not args:
        raise Failure("args must not be empty")
    user = process.get("user") or {}
    for number in (user.get("uid") or 0, user.get("gid") or 0, *(user.get("additionalGids") or ())):
        if not 0 <= number <= _MOST_ID:
            raise Failure(f"{START}unable to setup user: uids and gids must be in range 0-{_MOST_ID}")
    return process


def _of_file(path: str, own: dict[str, Any]) -> dict[str, Any]:
    from pyrunc.spec import document

    try:
        process = parsed(contents(path, piped=not caller.is_another()), path)  # a pipe is read once
    except OSError as error:
        raise Failure(f"open {path}: {reason(error)}") from None
    document.check({"process": process})
    if not isinstance(process, dict):
        raise Failure("process property must not be empty")
    for name in _INHERITED:
        if not process.get(name) and name in own:
            process[name] = own[name]
    for name in _ALWAYS:
        process.pop(name, None)
        if name in own:
            process[name] = own[name]
    user = process.get("user") or {}
    if "umask" in (own.get("user") or {}):
        user = {**user, "umask": own["user"]["umask"]}
    process["user"] = user
    return process


def _of_flags(command: Command, own: dict[str, Any]) -> dict[str, Any]:
    process = {**own, "args": command.arguments[1:], "terminal": command.flag("tty")}
    for flag, name in (("cwd", "cwd"), ("apparmor", "apparmorProfile"), ("process-label", "selinuxLabel")):
        if command.text(flag):
            process[name] = command.text(flag)
    if "no-new-privs" in command.given:
        process["noNewPrivileges"] = command.flag("no-new-privs")
    added = command.texts("cap")
    if added:
        process["capabilities"] = _with_capabilities(own.get("capabilities") or {}, added)
    process["env"] = [*(own.get("env") or ()), *command.texts("env")]
    process["user"] = _user(command, own.get("user") or {})
    return process


def _with_capabilities(own: Mapping[str, Sequence[str]], added: Sequence[str]) -> dict[str, list[str]]:
    """Those of the container, and *added*: never inheritable (CVE-2022-29162), and so ambient only where they were."""
    found = {name: list(held or ()) for name, held in own.items()}
    for name in ("bounding", "effective", "permitted", "ambient"):
        found[name] = [*found.get(name, ()), *(cap for cap in added if cap not in found.get(name, ()))]
    return found


def _user(command: Command, own: Mapping[str, Any]) -> dict[str, Any]:
    user = dict(own)
    uid, colon, gid = command.text("user").partition(":")
    if command.text("user"):
        if colon:
            user["gid"] = _number(gid, "gid")
        user["uid"] = _number(uid, "uid")
    groups = list(user.get("additionalGids") or ())
    for text in command.texts("additional-gids"):
        number = _number(text, "additional gid")
        if number < 0:
            raise Failure(f"additional-gids must be a positive number {number}")
        groups.append(number)
    if groups:
        user["additionalGids"] = groups
    return user


def _number(text: str, what: str) -> int:
    """A decimal number as Go's strconv.Atoi reads it."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not digits.isascii() or not digits.isdigit():
        raise Failure(
            f"parsing {text} as int for {what} failed: strconv.Atoi: parsing {quote(text)}: invalid syntax"
        )
    return int(text)


def _variables(container: Container, process: Mapping[str, Any]) -> dict[str, str]:
    """The program's environment; of a name that comes twice the last value, at the place of the first."""
    found: dict[str, str] = {}
    for entry in process.get("env") or ():
        name, equals, value = entry.partition("=")
        if not equals:
            raise Failure(f"{START}invalid environment variable: {quote(entry)}")
        if not name:
            raise Failure(f"{START}environment variable name can't be empty: {quote(entry)}")
        found[name] = value
    if not found.get("HOME"):
        found.pop("HOME", None)
        found["HOME"] = _home(container, int((process.get("user") or {}).get("uid") or 0))
    return found


def _home(container: Container, uid: int) -> str:
    """The home directory that the container's own /etc/passwd gives *uid*, else "/"."""
    try:
        root = os.open(f"/proc/{container.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return "/"
    try:
        if not container.alive():  # else the number was its own when the root was opened
            raise Failure(STOPPED)
        return users.resolve(f"{uid}:0", (), [f"/proc/self/fd/{root}"]).home or "/"
    except PyruncError:
        return "/"
    finally:
        os.close(root)


def _paths(name: str, variables: Mapping[str, str]) -> list[str]:
    """Where the program is looked for; its own PATH is all that counts."""
    if not name or ("/" not in name and not variables.get("PATH")):
        raise Failure(f"{START}exec: {quote(name)}: executable file not found in $PATH")
    return candidates(name, variables.get("PATH"))


def _cgroups(container: Container, wanted: Sequence[str]) -> tuple[list[tuple[str, int]], str]:
    """The cgroups that the program joins, each with its version, and the freezer of v1 among them, or "".

    *wanted* are those of --cgroup, each below the container's own.
    """
    below = _sub_cgroups(wanted)
    known = {name for entry in container.own["cgroups"] for name in entry.get("controllers") or ()}
    for name in below:
        if name and name not in known:
            raise Failure(f"unable to create new parent process: unknown controller {name} in SubCgroupPaths")
    found = []
    freezer = ""
    for entry in container.own["cgroups"]:
        path, version, controllers = entry["path"], entry["version"], entry.get("controllers") or ()
        sub = next((below[name] for name in controllers if name in below), below.get(""))
        if "freezer" in controllers and version == 1:
            freezer = path
        if sub is not None:
            joined = os.path.normpath(f"{path}/{sub}")
            if joined != path and not joined.startswith(f"{path}/"):
                raise Failure(f"unable to create new parent process: {sub} is not a sub cgroup path")
            path = joined
        elif version == 2:
            path = _unified(path, container.pid)
        found.append((path, version))
    return found, freezer


def _unified(path: str, pid: int) -> str:
    """The container's cgroup in v2, or that of its first process where the former only holds others by now.

    Source: kernel Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint".
    """
    try:
        with open(f"{path}/cgroup.subtree_control", encoding="ascii") as file:
            if not file.read().strip():
                return path
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            own = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), "")
    except OSError:
        return path
    # It is below the container's, by what path ever that is reached here.
    name = f"/{os.path.basename(path)}/"
    return f"{path}/{own.rpartition(name)[2]}" if name in own else path


def _sub_cgroups(wanted: Sequence[str]) -> dict[str, str]:
    """The values of --cgroup by controller, "" for all of them."""
    found: dict[str, str] = {}
    for text in wanted:
        parts = text.split(":", 2)
        if len(parts) > 2:
            raise Failure(f"invalid --cgroup argument: {text}")
        if len(parts) == 1:
            if len(wanted) != 1:
                raise Failure(f"invalid --cgroup argument: {text} (missing <controller>: prefix)")
            return {"": text}
        found.update(dict.fromkeys(parts[0].split(","), parts[1]))
    return found
