from collections.abc import Iterable

AT_EMPTY_PATH: int
AT_RECURSIVE: int
AT_SYMLINK_NOFOLLOW: int
OPEN_TREE_CLONE: int
MNT_DETACH: int
MS_REC: int
MS_UNBINDABLE: int
MS_PRIVATE: int
MS_SLAVE: int
MS_SHARED: int
MOUNT_ATTR_RDONLY: int
MOUNT_ATTR_NOSUID: int
MOUNT_ATTR_NODEV: int
MOUNT_ATTR_NOEXEC: int
MOUNT_ATTR_IDMAP: int

def open_tree(dirfd: int, path: bytes, flags: int = ...) -> int: ...
def move_mount(mount_fd: int, target_fd: int) -> None: ...
def new_mount(fstype: bytes, options: Iterable[tuple[bytes, bytes]] = (), attributes: int = 0) -> int: ...
def mount_setattr(
    mount_fd: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = -1,
    recursive: bool = False,
) -> None: ...
def mount(
    source: bytes | None,
    target: bytes,
    fstype: bytes | None = None,
    flags: int = 0,
    data: bytes | None = None,
) -> None: ...
def umount2(target: bytes, flags: int = 0) -> None: ...
def pivot_root(new_root: bytes, put_old: bytes) -> None: ...
