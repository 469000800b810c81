"""The /dev/shm of a running container, for another one that joins its IPC namespace.

It is the first one's own tmpfs, as large as that may be, and goes with the last who has it mounted: nothing of it is on
the host. As a script (NAMESPACE SOCKET, both numbers of descriptors) this takes it: whatever joins a container's
namespaces is executed for that alone and shares nothing with the engine (CVE-2019-5736), and loads nothing there.
"""

import os
import sys

_PLACE = b"/dev/shm"
_TIMEOUT_S = 30


def taken(namespace: int) -> int:
    """/dev/shm in the mount namespace that the descriptor *namespace* is of: a detached mount. Raises OSError."""
    import socket
    import subprocess

    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            (sys.executable or "python3", "-I", os.path.abspath(__file__), str(namespace), str(theirs.fileno())),
            pass_fds=(namespace, theirs.fileno()), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, cwd="/", env={}, timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
        theirs.close()
        if done.returncode > 0:
            raise OSError(done.returncode, os.strerror(done.returncode), os.fsdecode(_PLACE))
        descriptors = socket.recv_fds(ours, 1, 1)[1]
    if len(descriptors) != 1:
        raise OSError(f"who was to open {os.fsdecode(_PLACE)} was killed")
    return descriptors[0]


def main(namespace: int, channel: int) -> int:
    """Take it, and pass it on: 0, or the number of an error."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    import array  # noqa: F401 - send_fds would load it in there
    import socket

    from pyrunc._native import mount, namespaces

    try:
        with socket.socket(fileno=channel) as sock:
            namespaces.setns(namespace, namespaces.CLONE_NEWNS)
            socket.send_fds(sock, [b"\0"], [mount.open_tree(-1, _PLACE)])
    except OSError as exc:
        return exc.errno or 255
    return 0


if __name__ == "__main__":
    os._exit(main(*map(int, sys.argv[1:])))
