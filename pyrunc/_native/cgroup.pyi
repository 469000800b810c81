def make(
    hierarchy: bytes,
    path: bytes,
    *,
    enable: bytes | None = None,
    cpuset: bool = False,
    seed: bool = False,
    existing: bool = False,
) -> bool: ...
def remove(hierarchy: bytes, path: bytes) -> None: ...
