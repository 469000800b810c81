from collections.abc import Callable, Sequence

def write_tree(
    root_fd: int, sink: Callable[[memoryview], object], *, clamp_mtime_ns: int | None = None
) -> tuple[int, int]: ...
def write_overlay_diff(
    upper_fd: int,
    sink: Callable[[memoryview], object],
    *,
    userxattr: bool = False,
    clamp_mtime_ns: int | None = None,
) -> tuple[int, int]: ...
def write_tree_diff(
    lower_fd: int, upper_fd: int, sink: Callable[[memoryview], object], *, clamp_mtime_ns: int | None = None
) -> tuple[int, int]: ...
def overlay_changes(
    upper_fd: int, lower_fds: Sequence[int], *, userxattr: bool = False
) -> list[tuple[str, str]]: ...
def tree_changes(lower_fd: int, upper_fd: int) -> list[tuple[str, str]]: ...
