from collections.abc import Sequence

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
HOST: int
INIT: int
SYNC: int
HEADER_SIZE: int
STEP_SIZE: int

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
) -> bytes: ...
