"""Everything that pyrunc raises.

    PyruncError                      exit code 125
    ├── InvalidArgument              (ValueError)   the request itself is wrong
    │   └── InvalidSpec                             a field of an OCI document, named
    ├── NotFound                     (LookupError)  an object does not exist
    │   └── FileNotThere             (FileNotFoundError)  a file of the caller's does not
    ├── AlreadyExists
    ├── FailedPrecondition                          the object is in the wrong state
    ├── Unsupported                                 this kernel, host or build lacks it
    ├── Unavailable                                 a helper process died or cannot start
    ├── PermissionDenied             (PermissionError)  privileges are missing
    ├── TimedOut                     (TimeoutError) a deadline passed
    ├── DataLoss                                    stored bytes are not what they were
    ├── StorageFull                  (OSError)      no space left where something is stored
    └── StartError                                  the container could not start: .step .path .errno
        ├── CommandNotFound          (FileNotFoundError)  exit code 127
        ├── CommandNotExecutable     (PermissionError)    exit code 126
        ├── LimitRefused                            the kernel refused a resource limit
        ├── OutOfMemory                             killed by the memory limit before execve
        └── KilledBySeccomp                         the filter killed init before execve

Messages are lower case, without a full stop, and name the object.
"""

import errno
import os

TYPE_CHECKING = (
    False  # typing costs milliseconds at the start of a program; type checkers take this name for theirs
)
if TYPE_CHECKING:
    from typing import Any


class PyruncError(Exception):
    """The root of the tree; *exit_code* is what a command exits with."""

    exit_code = 125


class InvalidArgument(PyruncError, ValueError):
    """An argument cannot mean what was asked."""


class InvalidSpec(InvalidArgument):
    """A field of an OCI document is wrong; the message begins with its path, such as ``process.args``."""


class NotFound(PyruncError, LookupError):
    """An object that was named does not exist."""


class FileNotThere(NotFound, FileNotFoundError):
    """A file of the caller's that was named does not exist; *filename* says which, *errno* is ENOENT."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.errno = errno.ENOENT
        self.filename = path or None

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> "tuple[Any, ...]":
        return type(self), (self.args[0], self.filename or "")


class AlreadyExists(PyruncError):
    """An object of that name exists."""


class FailedPrecondition(PyruncError):
    """The object is not in a state that allows the operation."""


class Unsupported(PyruncError):
    """The kernel, the host or this build lacks what was asked for."""


class Unavailable(PyruncError):
    """A process that pyrunc depends on died or cannot be started."""


class PermissionDenied(PyruncError, PermissionError):
    """The caller lacks the privilege; *errno* is EPERM."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.EPERM


class TimedOut(PyruncError, TimeoutError):
    """A deadline passed; *stdout* and *stderr* are what was written until then, where that is known.

    *stage* is "create" for that of making and starting a container, "run" for that of its run, after which it was
    killed, else "". *errno* is ETIMEDOUT.
    """

    def __init__(self, message: str, stdout: bytes = b"", stderr: bytes = b"", *, stage: str = "") -> None:
        super().__init__(message)
        self.errno = errno.ETIMEDOUT
        self.stdout = stdout
        self.stderr = stderr
        self.stage = stage


class DataLoss(PyruncError):
    """Bytes are not what their digest says, or a file of the store cannot be read any more."""


class StorageFull(PyruncError, OSError):
    """The disk or the quota is full; *errno* says which. What was begun is undone."""

    def __init__(self, message: str, number: int | None = errno.ENOSPC) -> None:
        super().__init__(message)
        self.errno = number


class StartError(PyruncError):
    """A container did not get as far as its program.

    *step* is the plan step that failed (such as ``attach``), *path* what it acted on,
    *errno* the kernel's answer (0 if it gave none), *strerror* the same in words;
    *filename* is *path*, as in OSError.
    """

    errno: int | None
    strerror: str | None
    filename: "Any"

    def __init__(self, message: str, *, step: str = "", path: str = "", errno: int = 0) -> None:
        super().__init__(message)
        self.step = step
        self.path = path
        self.errno = errno
        self.strerror = os.strerror(errno) if errno else ""
        self.filename = path or None

    def __str__(self) -> str:
        # OSError would print errno, strerror and filename, and not the message.
        return str(self.args[0])

    def __reduce__(self) -> "tuple[Any, ...]":
        # Across processes, as from a pool; OSError keeps errno where pickle does not look.
        return _restore, (type(self), self.args[0], self.step, self.path, self.errno)


def _restore(kind: type[StartError], message: str, step: str, path: str, number: int) -> StartError:
    return kind(message, step=step, path=path, errno=number)


class CommandNotFound(StartError, FileNotFoundError):
    """The program does not exist in the container."""

    exit_code = 127


class CommandNotExecutable(StartError, PermissionError):
    """The program exists but cannot be executed."""

    exit_code = 126


class LimitRefused(StartError):
    """The kernel refused the value of a resource limit."""


class OutOfMemory(StartError):
    """The container's memory limit killed it before its program ran."""


class KilledBySeccomp(StartError):
    """The seccomp filter killed the container before its program ran, in execve(2) at the latest."""
