from typing_extensions import Buffer

REMOVE: int
OVERLAY: int

class LayerApplier:
    def __init__(
        self,
        root_fd: int,
        whiteouts: int,
        *,
        max_bytes: int,
        max_members: int,
        max_path_bytes: int,
        userxattr: bool = False,
        set_owner: bool = True,
        set_root: bool = False,
    ) -> None: ...
    @property
    def members(self) -> int: ...
    @property
    def content_bytes(self) -> int: ...
    @property
    def skipped_xattrs(self) -> int: ...
    def feed(self, data: Buffer) -> None: ...
    def finish(self) -> tuple[int, int]: ...
    def close(self) -> None: ...
