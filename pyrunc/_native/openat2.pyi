AT_FDCWD: int
RESOLVE_NO_XDEV: int
RESOLVE_NO_MAGICLINKS: int
RESOLVE_NO_SYMLINKS: int
RESOLVE_BENEATH: int
RESOLVE_IN_ROOT: int

def openat2(dirfd: int, path: bytes, flags: int, *, mode: int = 0, resolve: int = 0) -> int: ...
def open_in_root(root: int, path: bytes, flags: int, *, resolve: int = 0) -> int: ...
def make_in_root(root: int, path: bytes, *, directory: bool = True) -> None: ...
