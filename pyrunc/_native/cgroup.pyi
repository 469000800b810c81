def make(
    hierarchy: bytes,
    path: bytes,
    *,
    enable: bytes | None = None,
    seed_cpuset: bool = False,
    existing: bool = False,
) -> tuple[int, bool]: ...
def remove(hierarchy: bytes, path: bytes) -> None: ...
