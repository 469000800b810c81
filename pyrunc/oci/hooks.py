"""Hooks of an OCI runtime document: read, run, and how their failures are worded.

The front door runs those of a start, through the same native code, from what `parse` returns.
Source: OCI runtime-spec config.md, "POSIX-platform Hooks"; texts and environment as runc has them.
"""

import errno
import os

from pyrunc._native import hook_run as native
from pyrunc.errors import InvalidSpec
from pyrunc.oci.log import reason_of
from pyrunc.records import NamedTuple
from pyrunc.runtime.plan import HOOK_KINDS
from pyrunc.spec import shape

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

_MAX_TIMEOUT_S = (1 << 32) - 1
_SIGNALS = (
    "hangup", "interrupt", "quit", "illegal instruction", "trace/breakpoint trap", "aborted", "bus error",
    "floating point exception", "killed", "user defined signal 1", "segmentation fault", "user defined signal 2",
    "broken pipe", "alarm clock", "terminated",
)  # fmt: skip

_check = shape.list_of(
    shape.record(
        path=shape.text, args=shape.list_of(shape.text), env=shape.list_of(shape.text),
        timeout=shape.integer(1, _MAX_TIMEOUT_S),
    )
)  # fmt: skip


class Hook(NamedTuple):
    """One hook. An *env* of None is what the runtime itself has; *timeout_s* is 0 for none."""

    kind: int
    path: str
    argv: tuple[str, ...]
    env: tuple[str, ...] | None
    timeout_s: int


def parse(spec: "Mapping[str, Any]") -> list[Hook]:
    """All hooks of a runtime document, in the order in which they run.

    Raises InvalidSpec, which names the field.
    """
    found: list[Hook] = []
    table = spec.get("hooks")
    if table is None:
        return found
    shape.record(**dict.fromkeys(HOOK_KINDS, _check))(table, "hooks")
    for kind, name in enumerate(HOOK_KINDS):
        for index, hook in enumerate(table.get(name) or ()):
            path, env = hook.get("path"), hook.get("env")
            if not path or not path.startswith("/"):
                raise InvalidSpec(f"hooks.{name}[{index}].path: must be an absolute path, not {path!r}")
            argv = tuple(hook.get("args") or (path,))
            found.append(
                Hook(kind, path, argv, None if env is None else tuple(env), hook.get("timeout") or 0)
            )
    return found


def run(hooks: "Iterable[Hook]", kind: str, state: bytes, *, until_failure: bool = False) -> "list[str]":
    """Run those of *kind*, one after another; the words for each that failed.

    None of them keeps the others from running, as the document's standard wants it of poststop, but *until_failure*.
    """
    failures = []
    for index, hook in enumerate(hook for hook in hooks if HOOK_KINDS[hook.kind] == kind):
        failed, error, status, timed_out, output, errors = native.run(
            os.fsencode(hook.path), _bytes(hook.argv), None if hook.env is None else _bytes(hook.env),
            hook.timeout_s, state,
        )  # fmt: skip
        if failed:
            failures.append(words(index, hook, error, status, timed_out, output, errors))
            if until_failure:
                break
    return failures


def words(
    index: int, hook: Hook, error: int, status: int, timed_out: bool, output: bytes, errors: bytes
) -> str:
    """How runc says that a hook failed, the *index*-th of its kind.

    *error* is the errno of a failed start, *status* as of wait(2); *output* and *errors* are what it wrote last.
    """
    if timed_out:
        what = f"hook ran past specified timeout of {hook.timeout_s}.0s"
    elif error == errno.EINTR:
        what = "error running hook: interrupted by a signal"
    elif error:
        what = f"fork/exec {hook.path}: {reason_of(error)}"
    else:
        texts = [text.decode("utf-8", "replace") for text in (output, errors)]
        what = f"error running hook: {_ended(status)}, stdout: {texts[0]}, stderr: {texts[1]}"
    return f"error running hook #{index}: {what}"


def _ended(status: int) -> str:
    if not os.WIFSIGNALED(status):
        return f"exit status {os.waitstatus_to_exitcode(status)}"
    number = os.WTERMSIG(status)
    name = _SIGNALS[number - 1] if number <= len(_SIGNALS) else f"signal {number}"
    return f"signal: {name}{' (core dumped)' if os.WCOREDUMP(status) else ''}"


def _bytes(texts: "Sequence[str]") -> list[bytes]:
    return [text.encode("utf-8", "surrogateescape") for text in texts]
