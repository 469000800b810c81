from collections.abc import Sequence

def run(
    path: bytes, argv: Sequence[bytes], env: Sequence[bytes] | None, timeout_s: int, state: bytes
) -> tuple[bool, int, int, bool, bytes, bytes]: ...
