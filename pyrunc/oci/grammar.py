"""The verbs and flags of pyrunc-oci: those of runc 1.1, and the ones that 1.2 and 1.3 added.

Only what parsing needs is here; the sentences of the help are in `pyrunc.oci.usage`.
"""

from __future__ import annotations

from pyrunc.records import NamedTuple

BOOL, STRING, INT, SLICE, NUMBERS, DURATION = range(6)
"""Kinds of flags. A duration is kept in nanoseconds; a slice collects a list of strings, numbers one of numbers."""


class Flag(NamedTuple):
    """One flag; *names* are without dashes, the long one first."""

    names: tuple[str, ...]
    kind: int
    default: str | int | None = None
    hidden: bool = False
    """Accepted, but not in the help: runc calls these obsolete and does nothing for them."""


class Verb(NamedTuple):
    """One verb: the module whose function `run` does it, its flags, and how many arguments it takes."""

    module: str
    flags: tuple[Flag, ...] = ()
    least: int = 1
    most: int | None = 1
    reorder: bool = True
    """Flags may follow the arguments; otherwise the first argument ends them."""


GLOBAL = (
    Flag(("debug",), BOOL),
    Flag(("log",), STRING),
    Flag(("log-format",), STRING, "text"),
    Flag(("root",), STRING),
    Flag(("criu",), STRING, "criu"),
    Flag(("systemd-cgroup",), BOOL),
    Flag(("rootless",), STRING, "auto"),
    Flag(("help", "h"), BOOL),
    Flag(("version", "v"), BOOL),
)

_BUNDLE = Flag(("bundle", "b"), STRING)
_CONSOLE = Flag(("console-socket",), STRING)
_PIDFD = Flag(("pidfd-socket",), STRING)
_PID_FILE = Flag(("pid-file",), STRING)
_DETACH = Flag(("detach", "d"), BOOL)
_NO_SUBREAPER = Flag(("no-subreaper",), BOOL)
_NO_PIVOT = Flag(("no-pivot",), BOOL)
_NO_KEYRING = Flag(("no-new-keyring",), BOOL)
_PRESERVE = Flag(("preserve-fds",), INT)
_FORMAT = Flag(("format", "f"), STRING, "table")

_IMAGES = (Flag(("image-path",), STRING), Flag(("work-path",), STRING))
_CRIU = (
    Flag(("tcp-established",), BOOL),
    Flag(("ext-unix-sk",), BOOL),
    Flag(("shell-job",), BOOL),
    Flag(("lazy-pages",), BOOL),
    Flag(("file-locks",), BOOL),
    Flag(("manage-cgroups-mode",), STRING),
    Flag(("empty-ns",), SLICE),
    Flag(("auto-dedup",), BOOL),
)

VERBS = {
    "checkpoint": Verb(
        "pyrunc.oci.checkpoint",
        (
            *_IMAGES,
            Flag(("parent-path",), STRING),
            Flag(("leave-running",), BOOL),
            Flag(("status-fd",), INT, -1),
            Flag(("page-server",), STRING),
            Flag(("pre-dump",), BOOL),
            Flag(("tcp-skip-in-flight",), BOOL),
            Flag(("link-remap",), BOOL),
            *_CRIU,
        ),
    ),
    "create": Verb(
        "pyrunc.oci.create",
        (_BUNDLE, _CONSOLE, _PIDFD, _PID_FILE, _NO_PIVOT, _NO_KEYRING, _PRESERVE),
    ),
    "delete": Verb("pyrunc.oci.delete", (Flag(("force", "f"), BOOL),)),
    "events": Verb(
        "pyrunc.oci.events",
        (Flag(("interval",), DURATION, 5_000_000_000), Flag(("stats",), BOOL)),
    ),
    "exec": Verb(
        "pyrunc.oci.exec",
        (
            _CONSOLE,
            _PIDFD,
            Flag(("cwd",), STRING),
            Flag(("env", "e"), SLICE),
            Flag(("tty", "t"), BOOL),
            Flag(("user", "u"), STRING),
            Flag(("additional-gids", "g"), NUMBERS),
            Flag(("process", "p"), STRING),
            _DETACH,
            _PID_FILE,
            Flag(("process-label",), STRING),
            Flag(("apparmor",), STRING),
            Flag(("no-new-privs",), BOOL),
            Flag(("cap", "c"), SLICE),
            _PRESERVE,
            Flag(("cgroup",), SLICE),
            Flag(("ignore-paused",), BOOL),
            Flag(("no-subreaper",), BOOL, hidden=True),
        ),
        most=None,
        reorder=False,
    ),
    "features": Verb("pyrunc.oci.show_features", least=0, most=0),
    "kill": Verb("pyrunc.oci.kill", (Flag(("all", "a"), BOOL),), most=2),
    "list": Verb("pyrunc.oci.list", (_FORMAT, Flag(("quiet", "q"), BOOL)), least=0, most=0),
    "pause": Verb("pyrunc.oci.pause"),
    "plan": Verb("pyrunc.oci.show_plan"),
    "ps": Verb("pyrunc.oci.ps", (_FORMAT,), most=None, reorder=False),
    "restore": Verb(
        "pyrunc.oci.checkpoint",
        (
            _CONSOLE,
            *_IMAGES,
            _BUNDLE,
            _DETACH,
            _PID_FILE,
            _NO_SUBREAPER,
            _NO_PIVOT,
            Flag(("lsm-profile",), STRING),
            Flag(("lsm-mount-context",), STRING),
            Flag(("link-remap",), BOOL),
            *_CRIU,
        ),
    ),
    "resume": Verb("pyrunc.oci.pause"),
    "run": Verb(
        "pyrunc.oci.create",
        (
            _BUNDLE,
            _CONSOLE,
            _PIDFD,
            _DETACH,
            Flag(("keep",), BOOL),
            _PID_FILE,
            _NO_SUBREAPER,
            _NO_PIVOT,
            _NO_KEYRING,
            _PRESERVE,
        ),
    ),
    "spec": Verb("pyrunc.oci.spec", (_BUNDLE, Flag(("rootless",), BOOL)), least=0, most=0),
    "start": Verb("pyrunc.oci.start"),
    "state": Verb("pyrunc.oci.show_state"),
    "update": Verb(
        "pyrunc.oci.update",
        (
            Flag(("resources", "r"), STRING),
            Flag(("blkio-weight",), INT),
            Flag(("cpu-period",), STRING),
            Flag(("cpu-quota",), STRING),
            Flag(("cpu-burst",), STRING),
            Flag(("cpu-share",), STRING),
            Flag(("cpu-rt-period",), STRING),
            Flag(("cpu-rt-runtime",), STRING),
            Flag(("cpuset-cpus",), STRING),
            Flag(("cpuset-mems",), STRING),
            Flag(("kernel-memory",), STRING, hidden=True),
            Flag(("kernel-memory-tcp",), STRING, hidden=True),
            Flag(("memory",), STRING),
            Flag(("memory-reservation",), STRING),
            Flag(("memory-swap",), STRING),
            Flag(("pids-limit",), INT),
            Flag(("l3-cache-schema",), STRING),
            Flag(("mem-bw-schema",), STRING),
            Flag(("cpu-idle",), STRING),
        ),
    ),
}
"""In the order in which the help lists them."""
