from collections.abc import Sequence
from typing import NoReturn, Protocol

STEP_NAMES: tuple[str, ...]
FLAGS: dict[str, int]
MAGIC: int
VERSION: int
MAX_SIZE: int
MAX_STEPS: int
MAX_SLOTS: int
ABSENT: int
FLAG_QUIET: int
FLAG_KEEP_RUNNING: int
FLAG_EXEC: int
FLAG_LISTEN: int
FLAG_CLIENT: int
FLAG_STDIN: int
FLAG_STDIN_ONCE: int
FLAG_TERMINAL: int
FLAG_HOLD: int
FLAG_RUN: int
FLAG_OCI_EXEC: int
FLAG_DETACH: int
FLAG_KEEP: int
FLAG_OCI_TERMINAL: int
FLAG_NO_SUBREAPER: int
FLAG_NO_NEW_KEYRING: int
FLAG_NO_PIVOT: int
FLAG_DEBUG: int
FLAG_NOTIFY: int
HOST: int
INIT: int
SYNC: int
STAGE: int
HEADER_SIZE: int
STEP_SIZE: int
SHIM_SIZE: int
OCI_SIZE: int
HOOK_SIZE: int
NAMESPACES: int

class _Shim(Protocol):
    @property
    def flags(self) -> int: ...
    @property
    def state_dir(self) -> str: ...
    @property
    def log(self) -> str: ...
    @property
    def log_bytes(self) -> int: ...
    @property
    def log_files(self) -> int: ...
    @property
    def exit_argv(self) -> Sequence[str]: ...
    @property
    def exit_env(self) -> Sequence[str]: ...
    @property
    def cgroup(self) -> str: ...
    @property
    def hierarchies(self) -> Sequence[str]: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...

class _Hook(Protocol):
    @property
    def kind(self) -> int: ...
    @property
    def path(self) -> str: ...
    @property
    def argv(self) -> Sequence[str]: ...
    @property
    def env(self) -> Sequence[str] | None: ...
    @property
    def timeout_s(self) -> int: ...

class _Oci(Protocol):
    @property
    def flags(self) -> int: ...
    @property
    def state_dir(self) -> str: ...
    @property
    def container_id(self) -> str: ...
    @property
    def pid_file(self) -> str: ...
    @property
    def pidfd_socket(self) -> str: ...
    @property
    def console_socket(self) -> str: ...
    @property
    def log(self) -> str: ...
    @property
    def seccomp_listener(self) -> str: ...
    @property
    def seccomp_metadata(self) -> str: ...
    @property
    def log_format(self) -> str: ...
    @property
    def preserve_fds(self) -> int: ...
    @property
    def bundle(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def state(self) -> Sequence[str]: ...
    @property
    def hook_state(self) -> Sequence[str]: ...
    @property
    def hooks(self) -> Sequence[_Hook]: ...

def validate(data: bytes, descriptors: int) -> int: ...
def finish(
    base: bytes,
    marks: bytes,
    execve_off: int,
    container_id: str,
    argv: Sequence[str],
    env: Sequence[str],
    candidates: Sequence[str],
    flags: int,
    shim: _Shim | None = None,
    oci: _Oci | None = None,
) -> bytes: ...
def hand_over(front_door: bytes, plan: bytes) -> NoReturn: ...
