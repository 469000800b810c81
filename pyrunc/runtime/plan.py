"""The plan as Python writes and prints it; `_native/plan.pxd` draws the layout, and `plan_rules.pxd` judges it."""

from __future__ import annotations

import struct

from pyrunc._native import plan as native
from pyrunc.errors import Unsupported
from pyrunc.records import NamedTuple

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

HOST = native.HOST
INIT = native.INIT
SYNC = native.SYNC
STAGE = native.STAGE

# Placeholders of the final length: an id has 64 digits, a host name by default 12.
ID = "\x02" * 64
SHORT_ID = "\x03" * 12

_OPS = {name: number for number, name in enumerate(native.STEP_NAMES)}
_HEADER = struct.Struct("=16IQ14I")  # shim_off, oci_off and the reserved ones are 0 here
_STEP = struct.Struct("=HH7I4Q")
_MARK = struct.Struct("=II")
_ABSENT = native.ABSENT

# When a stage began: the supervisor and init stamp some, the plan's steps name the others.
STAGES = {
    0: "host", 1: "clone", 3: "init", 4: "namespaces", 5: "root", 6: "mounts", 7: "devices", 8: "masks",
    9: "pivot", 10: "process", 13: "program", 14: "clean", 15: "reply",
}  # fmt: skip
STAGE_NUMBER = {name: number for number, name in STAGES.items()}


SHIM_FLAGS = {
    "listen": native.FLAG_LISTEN, "client": native.FLAG_CLIENT, "stdin": native.FLAG_STDIN,
    "stdin_once": native.FLAG_STDIN_ONCE, "terminal": native.FLAG_TERMINAL, "hold": native.FLAG_HOLD,
}  # fmt: skip


OCI_FLAGS = {
    "run": native.FLAG_RUN, "exec": native.FLAG_OCI_EXEC, "detach": native.FLAG_DETACH, "keep": native.FLAG_KEEP,
    "terminal": native.FLAG_OCI_TERMINAL, "no_subreaper": native.FLAG_NO_SUBREAPER,
    "no_new_keyring": native.FLAG_NO_NEW_KEYRING, "no_pivot": native.FLAG_NO_PIVOT, "debug": native.FLAG_DEBUG,
    "notify": native.FLAG_NOTIFY,
}  # fmt: skip
# A hook's kind is its place here; the names are the document's.
HOOK_KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


class Step(NamedTuple):
    """One step as it can be read: operation, section, stage, and its operands."""

    op: str
    section: int
    stage: int
    flags: int = 0
    s0: str | None = None
    s1: str | None = None
    s2: str | None = None
    a: int = _ABSENT
    b: int = _ABSENT
    n0: int = 0
    n1: int = 0
    n2: int = 0

    def describe(self) -> str:
        """One line of a printed plan."""
        parts = [f"{_section(self.section):5} {STAGES.get(self.stage, '?'):10} {self.op:13}"]
        names = [name for name, bit in native.FLAGS.items() if self.flags & bit]
        if self.a != _ABSENT:
            parts.append(f"slot={self.a}")
        if self.b != _ABSENT:
            parts.append(f"slot2={self.b}")
        parts += [repr(text.replace("\0", " ")) for text in (self.s0, self.s1, self.s2) if text is not None]
        parts += [f"{label}={number:#x}" for label, number in zip("xyz", self[9:12], strict=True) if number]
        return " ".join(parts + names)


class Shim(NamedTuple):
    """What makes a container's supervisor its shim; as `_native/plan.pxd` has it.

    *flags* are those of SHIM_FLAGS; *log* is the file's path, or "" for none; *log_bytes* how large it grows before
    the next of *log_files* is begun (0: without end). *exit_argv* with *exit_env* takes note of the end where no owner
    does. The shim itself moves to *cgroup*, unless that is "", in each of *hierarchies*. *uid* and *gid*, by the
    host's numbers, own its pipes; *rows* and *columns* are the terminal's.
    """

    state_dir: str
    flags: int = 0
    log: str = ""
    log_bytes: int = 0
    log_files: int = 1
    exit_argv: tuple[str, ...] = ()
    exit_env: tuple[str, ...] = ()
    cgroup: str = ""
    hierarchies: tuple[str, ...] = ()
    uid: int = 0
    gid: int = 0
    rows: int = 0
    columns: int = 0

    def describe(self) -> str:
        """As lines of a printed plan."""
        streams = " ".join(name for name, bit in SHIM_FLAGS.items() if self.flags & bit)
        log = f"{self.log} max_bytes={self.log_bytes} max_files={self.log_files}" if self.log else "none"
        lines = [
            f"shim  state {self.state_dir}",
            f"shim  streams {streams or 'pipes'} owner={self.uid}:{self.gid} window={self.rows}x{self.columns}",
            f"shim  log {log}",
            f"shim  exit {list(self.exit_argv)} env={list(self.exit_env)}",
            f"shim  cgroup {self.cgroup or 'its own'} in {' '.join(self.hierarchies) or 'none'}",
        ]
        return "\n".join(lines)


class OciHook(NamedTuple):
    """A hook: its kind (a place in HOOK_KINDS) and its program; *timeout_s* 0: none.

    Without *argv* its path is its name, with None for *env* it inherits one.
    """

    kind: int
    path: str
    argv: tuple[str, ...] = ()
    env: tuple[str, ...] | None = None
    timeout_s: int = 0


class Oci(NamedTuple):
    """What makes the front door of pyrunc-oci a container's supervisor; as `_native/plan_oci.pxd` has it.

    *flags* are those of OCI_FLAGS; paths are absolute, or "" for none. *state* and *hook_state* are the texts between
    which pid, status and times go; *hooks* stand in the order of their kinds. *preserve_fds* descriptors from 3 on
    become the program's; *rows* and *columns* are its terminal's. Hooks run in the directory *bundle*.
    """

    state_dir: str
    container_id: str
    flags: int = 0
    pid_file: str = ""
    pidfd_socket: str = ""
    console_socket: str = ""
    log: str = ""
    log_format: str = "text"
    seccomp_listener: str = ""
    seccomp_metadata: str = ""
    preserve_fds: int = 0
    rows: int = 0
    columns: int = 0
    state: tuple[str, str, str, str, str] = ("", "", "", "", "")
    hook_state: tuple[str, str, str] = ("", "", "")
    hooks: tuple[OciHook, ...] = ()
    bundle: str = ""

    def describe(self) -> str:
        """As lines of a printed plan."""
        names = " ".join(name for name, bit in OCI_FLAGS.items() if self.flags & bit)
        lines = [
            f"oci   state {self.state_dir} {names or 'create'}",
            f"oci   descriptors {self.preserve_fds} window={self.rows}x{self.columns}",
        ]
        paths = ("pid_file", "pidfd_socket", "console_socket", "seccomp_listener", "log", "bundle")
        lines += [f"oci   {name} {getattr(self, name)}" for name in paths if getattr(self, name)]
        lines += [
            f"oci   hook {HOOK_KINDS[hook.kind]} {hook.path} {list(hook.argv)} env={hook.env} "
            f"timeout={hook.timeout_s}"
            for hook in self.hooks
        ]
        return "\n".join(lines)


def _section(number: int) -> str:
    return {HOST: "host", INIT: "init", STAGE: "stage"}.get(number) or f"sync{number - SYNC}"


class PlanTemplate:
    """All of a plan but what changes from start to start: arguments, environment, and the container's id.

    `ID` and `SHORT_ID` stand for the container's id and its first 12 digits; `finish` overwrites
    them and appends the rest. So a second start of the same container costs a few dozen microseconds.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.slots = 0
        self.fd_count = 0
        self.clone_flags = 0
        self.cgroup_slot = _ABSENT
        self.memory_slot = _ABSENT
        self.cgroup_path = ""
        self.warnings: list[str] = []  # what of a document was passed over, as it should be, with a word
        self._blobs = bytearray()
        self._base: bytes | None = None
        self._marks = b""
        self._execve_off = 0
        self._strings_off = 0
        self._renamed = ("", "")

    def slot(self) -> int:
        """A place for a descriptor that a step makes."""
        if self.slots >= native.MAX_SLOTS:
            raise Unsupported(
                f"the container needs more than {native.MAX_SLOTS} descriptors: too many mounts, volumes or layers"
            )
        self.slots += 1
        return self.slots - 1

    def descriptor(self) -> int:
        """A place for a descriptor that comes with the request; all of them before any `slot`."""
        if self.slots != self.fd_count:
            raise RuntimeError("descriptors of the request come before slots")
        self.fd_count += 1
        return self.slot()

    def blob(self, data: bytes) -> int:
        """Keep bytes such as a BPF program; returns their offset."""
        offset = len(self._blobs)
        self._blobs += data + bytes(-len(data) % 8)
        return offset

    def blob_of(self, step: Step) -> bytes:
        """The program that a step such as ``seccomp`` names."""
        return bytes(self._blobs[step.n0 : step.n0 + 8 * step.n1])

    def add(
        self, op: str, section: int, stage: str, *,
        flags: int = 0, s0: str | None = None, s1: str | None = None, s2: str | None = None,
        a: int = _ABSENT, b: int = _ABSENT, n0: int = 0, n1: int = 0, n2: int = 0,
    ) -> None:  # fmt: skip
        """Append a step; strings may hold NULs where a list is meant."""
        self.steps.append(Step(op, section, STAGE_NUMBER[stage], flags, s0, s1, s2, a, b, n0, n1, n2))
        self._base = None

    def freeze(self) -> bytes:
        """Lay out header, steps, blobs and the strings known so far; before several threads call `finish`."""
        self.steps.sort(key=lambda step: step.section)
        strings = bytearray(b"\0")
        offsets: dict[str, int] = {"": 0}
        records: list[bytes] = []

        def intern(text: str | None) -> int:
            if text is None:
                return _ABSENT
            if text not in offsets:
                offsets[text] = len(strings)
                strings.extend(text.encode("utf-8", "surrogateescape") + b"\0")
            return offsets[text]

        for step in self.steps:
            if step.op == "execve":
                self._execve_off = _HEADER.size + len(records) * _STEP.size
            records.append(
                _STEP.pack(
                    _OPS[step.op], step.stage, step.flags, intern(step.s0), intern(step.s1), intern(step.s2),
                    step.section, step.a, step.b, step.n0, step.n1, step.n2, 0,
                )
            )  # fmt: skip
        table = b"".join(records)
        blob_off = _HEADER.size + len(table)
        strings_off = blob_off + len(self._blobs)
        # What `finish` fills in is 0 here: size, flags, arguments and environment, the length of the strings.
        header = _HEADER.pack(
            native.MAGIC, native.VERSION, 0, 0, len(records), _HEADER.size, 0, 0, 0, 0, blob_off,
            len(self._blobs), strings_off, 0, self.fd_count, self.cgroup_slot, self.clone_flags,
            self.memory_slot, *bytes(13),
        )  # fmt: skip
        base = b"".join((header, table, self._blobs, strings))
        self._marks = b"".join(
            _MARK.pack(at, len(mark))
            for mark in (ID, SHORT_ID)
            for at in _find_all(base, mark.encode(), strings_off)
        )
        self._base = base
        self._strings_off = strings_off
        return base

    def renamed(self, mark: str, name: str) -> Self:
        """The same plan with *name* in the place of *mark*, a text of as many bytes that is nothing else's."""
        base = self._base or self.freeze()
        found = object.__new__(type(self))
        found.__dict__.update(self.__dict__)
        strings = base[self._strings_off :].replace(mark.encode(), name.encode())
        found._base = base[: self._strings_off] + strings
        found._renamed = (mark, name)
        if len(found._base) != len(base):
            raise ValueError(f"{name!r} has another length than what it takes the place of")
        return found

    def step(self, index: int) -> Step:
        """A step, by the number that the supervisor gives it."""
        found = self.steps[index]
        mark, name = self._renamed
        if not mark:
            return found
        s0, s1, s2 = (None if text is None else text.replace(mark, name) for text in found[4:7])
        return found._replace(s0=s0, s1=s1, s2=s2)

    def finish(
        self,
        container_id: str,
        argv: Sequence[str],
        env: Sequence[str],
        candidates: Sequence[str],
        flags: int = 0,
        shim: Shim | None = None,
        oci: Oci | None = None,
    ) -> bytes:
        """The whole plan of one start.

        *candidates* are the paths that execve tries in turn; *flags* are the header's. With *shim* the request's
        further descriptors are those that its flags say, after the template's; with *oci* the front door walks it.
        Raises ValueError for text with a NUL or a plan beyond its bounds.
        """
        base = self._base or self.freeze()
        return native.finish(
            base, self._marks, self._execve_off, container_id, argv, env, candidates, flags, shim, oci
        )

    def describe(self) -> str:
        """The plan as text, one step a line, in the order in which it happens."""
        return "\n".join(step.describe() for step in sorted(self.steps, key=lambda step: step.section))


def _find_all(data: bytes, needle: bytes, start: int) -> Iterator[int]:
    at = data.find(needle, start) if needle else -1
    while at >= 0:
        yield at
        at = data.find(needle, at + len(needle))
