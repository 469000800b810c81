CLONE_NEWTIME: int
CLONE_NEWNS: int
CLONE_NEWCGROUP: int
CLONE_NEWUTS: int
CLONE_NEWIPC: int
CLONE_NEWUSER: int
CLONE_NEWPID: int
CLONE_NEWNET: int
CLONE_PARENT: int

def clone3(flags: int = 0, *, cgroup_fd: int = -1, exit_signal: int = ...) -> tuple[int, int]: ...
def setns(fd: int, nstype: int = 0) -> None: ...
def unshare(flags: int) -> None: ...
def id_maps(fd: int) -> tuple[str, str]: ...
