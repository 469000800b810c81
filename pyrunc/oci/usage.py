"""The help of pyrunc-oci, laid out as runc's is."""

from __future__ import annotations

from pyrunc.oci.flags import NAME
from pyrunc.oci.grammar import BOOL, DURATION, GLOBAL, INT, STRING, VERBS, Flag

_ID = "the id of the container, which is unique on this host"

_ABOUT = """
A container is made from a bundle: a directory with a file config.json, which the OCI runtime
specification describes, and the root file system that this file names. For example, with a bundle
in the current directory:

    # pyrunc-oci run my-container

Engines (containerd, podman, dockerd, cri-o) use it as they use runc, by their runtime option."""

_SUMMARIES = {
    "checkpoint": "save the state of a running container with criu",
    "create": "create a container",
    "delete": "delete what a container holds",
    "events": "show statistics and out-of-memory notifications of a container",
    "exec": "run a further process in a container",
    "features": "show what this runtime supports",
    "kill": "send a signal (SIGTERM by default) to the first process of a container",
    "list": "list the containers below the root directory",
    "pause": "suspend all processes of a container",
    "plan": "show the plan that a bundle is compiled to",
    "ps": "show the processes of a container",
    "restore": "restore a container that checkpoint has saved",
    "resume": "let the processes of a paused container go on",
    "run": "create a container and start it",
    "spec": "write a config.json to start from",
    "start": "execute the program of a created container",
    "state": "show the state of a container",
    "update": "change the resource limits of a container",
}

_ARGUMENTS = {
    "exec": f"<container-id> <command> [argument...] || -p process.json <container-id>\n\n"
    f"Where <container-id> is {_ID}.",
    "features": "",
    "kill": f"<container-id> [signal]\n\nWhere <container-id> is {_ID}, and [signal] a number or a name.",
    "list": "",
    "plan": "<bundle>",
    "ps": "<container-id> [ps options]",
    "spec": "",
    "update": "<container-id>",
}

_DESCRIPTIONS = {
    "checkpoint": "The images that criu writes go to a directory, from which restore makes the container again.",
    "create": "The container is made from its bundle, and its first process waits: start executes the program.",
    "delete": "Only a stopped container is deleted, unless --force is given, which kills it first.",
    "events": "Statistics are shown at every interval, notifications as they come, each as one line of JSON.",
    "features": "The document is that of the OCI runtime specification, features.md.",
    "list": "The directory is that of the global option --root.",
    "pause": "The processes are frozen by their cgroup.",
    "resume": "The processes are thawed by their cgroup.",
    "run": "The exit code is that of the program, unless --detach is given.",
    "spec": "The file is to be edited: its program is a shell, its root file system the directory rootfs.",
    "start": "The program is the process.args of the container's config.json.",
    "state": "The document is that of the OCI runtime specification, runtime.md.",
}

_RESOURCES = """path of a file with the resources, or '-' for the standard input

It is a document with any of these members; the other options are ignored then:

{
  "memory": {"limit": 0, "reservation": 0, "swap": 0},
  "cpu": {
    "shares": 0, "quota": 0, "burst": 0, "period": 0, "idle": 0,
    "realtimeRuntime": 0, "realtimePeriod": 0, "cpus": "", "mems": ""
  },
  "blockIO": {"weight": 0},
  "pids": {"limit": 0}
}
"""

_FLAGS = {
    "additional-gids": "further groups of the process",
    "all": "send the signal to every process of the container",
    "apparmor": "AppArmor profile of the process",
    "auto-dedup": "drop memory images that are no longer needed",
    "blkio-weight": "weight of block I/O, from 10 to 1000",
    "bundle": "directory of the bundle, the current one by default",
    "cap": "capability that is added to the process",
    "cgroup": "cgroup below the container's, as [<controller>:]<cgroup>, in which the process runs",
    "console-socket": "UNIX socket that receives the descriptor of the terminal",
    "cpu-burst": "CPU time that may be saved up for a burst, in microseconds",
    "cpu-idle": "1 to run when the CPU is idle only, 0 to run as usual",
    "cpu-period": "period of the CPU quota in microseconds, 0 for the system's",
    "cpu-quota": "CPU time of a period in microseconds",
    "cpu-rt-period": "realtime period in microseconds, 0 for the system's",
    "cpu-rt-runtime": "realtime CPU time of a period in microseconds",
    "cpu-share": "CPU shares, relative to other containers",
    "cpuset-cpus": "CPUs to use, such as 0-2,7",
    "cpuset-mems": "memory nodes to use",
    "criu": "path of the criu that checkpoint and restore use",
    "cwd": "working directory in the container",
    "debug": "log for debugging",
    "detach": "do not wait for the process",
    "empty-ns": "namespace that is created, but not restored",
    "env": "environment variable, as name=value",
    "ext-unix-sk": "allow UNIX sockets that lead outside",
    "file-locks": "handle file locks",
    "force": "kill the container first where it runs",
    "format": "table or json",
    "help": "show help",
    "ignore-paused": "do so in a paused container too",
    "image-path": "directory of criu's images",
    "interval": "time between statistics",
    "keep": "do not delete the container when it has exited",
    "l3-cache-schema": "schema of the L3 cache of Intel RDT/CAT",
    "lazy-pages": "restore memory when it is used, by userfaultfd",
    "leave-running": "let the container go on afterwards",
    "link-remap": "remap files that were deleted while open",
    "log": "file that log lines are appended to (default is '/dev/stderr')",
    "log-format": "text or json",
    "lsm-mount-context": "LSM mount context of the restored container",
    "lsm-profile": "LSM profile of the restored container, as TYPE:NAME",
    "manage-cgroups-mode": "cgroups mode of criu: soft (default), full, strict or ignore",
    "mem-bw-schema": "schema of the memory bandwidth of Intel RDT/MBA",
    "memory": "memory limit in bytes",
    "memory-reservation": "soft memory limit in bytes",
    "memory-swap": "limit of memory and swap together in bytes, '-1' for none",
    "no-new-keyring": "keep the caller's session keyring",
    "no-new-privs": "let the process gain no privileges",
    "no-pivot": "use chroot and a moved mount in place of pivot_root, for a root file system in an initramfs",
    "no-subreaper": "do not adopt orphans of the container",
    "page-server": "ADDRESS:PORT of a page server",
    "parent-path": "directory of the images of an earlier pre-dump",
    "pid-file": "file that the process id is written to",
    "pidfd-socket": "UNIX socket that receives a pidfd of the first process",
    "pids-limit": "limit of the number of processes",
    "pre-dump": "save memory only, and let the container go on",
    "preserve-fds": "number of descriptors from 3 upwards that the process keeps, beside those of $LISTEN_FDS",
    "process": "file with a process of the OCI runtime specification",
    "process-label": "SELinux label of the process",
    "quiet": "show ids only",
    "resources": _RESOURCES,
    "root": "directory of the state of all containers, which should be on a tmpfs",
    "rootless": "ignore that cgroups are not permitted: true, false or auto",
    "shell-job": "allow jobs of a shell",
    "stats": "show statistics once",
    "status-fd": "descriptor that criu writes a zero byte to when lazy pages are ready",
    "systemd-cgroup": "make cgroups by systemd; cgroupsPath is slice:prefix:name then",
    "tcp-established": "allow open TCP connections",
    "tcp-skip-in-flight": "skip TCP connections that are being opened",
    "tty": "give the process a terminal",
    "user": "user of the process, as uid[:gid]",
    "version": "show the version",
    "work-path": "directory of criu's working files and logs",
}

_BY_VERB = {
    ("", "root"): 'directory of the state of all containers, which should be on a tmpfs (default: "{root}")',
    ("spec", "rootless"): "write it for a container of an unprivileged user",
}


def version() -> str:
    """The lines of --version, whose first is `NAME version NUMBER`, which engines read."""
    from pyrunc.runtime.version import own_version

    return f"{NAME} version {own_version()}\nspec: {SPEC_VERSION}\n"


SPEC_VERSION = "1.3.0"
"""The latest version of the OCI runtime specification that this runtime speaks: --version, features and spec say it."""


def usage(verb: str) -> str:
    """The help of *verb*, or that of the program for ""."""
    return _usage_of(verb) if verb else _usage_of_all()


def _usage_of(verb: str) -> str:
    shown = [flag for flag in VERBS[verb].flags if not flag.hidden]
    options = " [command options]" if shown else ""
    arguments = _ARGUMENTS.get(verb, f"<container-id>\n\nWhere <container-id> is {_ID}.")
    parts = [
        f"NAME:\n   {NAME} {verb} - {_SUMMARIES[verb]}\n\n",
        f"USAGE:\n   {NAME} {verb}{options}{' ' if arguments else ''}{arguments}\n",
    ]
    if verb in _DESCRIPTIONS:
        parts.append(f"\nDESCRIPTION:\n   {_DESCRIPTIONS[verb]}\n")
    if shown:
        parts.append(f"\nOPTIONS:\n{_table([row(flag, verb) for flag in shown])}   \n")
    return "".join(parts)


def _usage_of_all() -> str:
    from pyrunc.oci.state import default_root

    own = version().removeprefix(f"{NAME} version ").rstrip("\n").replace("\n", "\n   ")
    verbs = [(verb, _SUMMARIES[verb]) for verb in VERBS]
    verbs.append(("help, h", "show the verbs, or the help of one"))
    rows = [(names, text.replace("{root}", default_root())) for names, text in (row(f, "") for f in GLOBAL)]
    return (
        f"NAME:\n   {NAME} - a runtime for containers of the Open Container Initiative\n{_ABOUT}\n\n"
        f"USAGE:\n   {NAME} [global options] command [command options] [arguments...]\n\n"
        f"VERSION:\n   {own}\n\n"
        f"COMMANDS:\n{_table(verbs)}\n"
        f"GLOBAL OPTIONS:\n{_table(rows)}"
    )


def summary(verb: str) -> str:
    """What *verb* does, in a few words."""
    return _SUMMARIES[verb]


def row(flag: Flag, verb: str) -> tuple[str, str]:
    """The names of a flag and what it does; *verb* is "" for a global one."""
    value = "" if flag.kind == BOOL else " value"
    names = ", ".join(f"{'--' if len(name) > 1 else '-'}{name}{value}" for name in flag.names)
    text = _BY_VERB.get((verb, flag.names[0]), _FLAGS[flag.names[0]])
    return names, text + _default(flag)


def _default(flag: Flag) -> str:
    if flag.kind == STRING and flag.default:
        return f' (default: "{flag.default}")'
    if flag.kind == INT:
        return f" (default: {flag.default or 0})"
    if flag.kind == DURATION and flag.default is not None:
        return f" (default: {int(flag.default) // 1_000_000_000}s)"
    return ""


def _table(rows: list[tuple[str, str]]) -> str:
    """Two columns; a text of several lines ends a block of rows that are aligned with each other."""
    lines: list[str] = []
    block: list[tuple[str, str]] = []

    def close() -> None:
        width = max((len(names) for names, _ in block), default=0) + 2
        lines.extend(f"   {names.ljust(width)}{text}\n" for names, text in block)
        block.clear()

    for names, text in rows:
        block.append((names, text))
        if "\n" in text:
            close()
    close()
    return "".join(lines)
