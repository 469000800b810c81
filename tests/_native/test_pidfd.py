"""Descriptors taken from another process."""

import errno
import os

from pyrunc._native import pidfd
from tests.child import refused


def test_a_descriptor_of_a_child_is_taken() -> None:
    ready_r, ready_w = os.pipe()
    hold_r, hold_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        reading, writing = os.pipe()
        os.write(writing, b"from the child")
        os.write(ready_w, bytes([reading]))
        os.close(hold_w)
        os.read(hold_r, 1)
        os._exit(0)
    os.close(hold_r)
    process = os.pidfd_open(pid)
    (theirs,) = os.read(ready_r, 1)
    try:
        ours = pidfd.pidfd_getfd(process, theirs)
        assert os.read(ours, 100) == b"from the child"
        assert not os.get_inheritable(ours)
        with refused(errno.EBADF, "pidfd_getfd"):
            pidfd.pidfd_getfd(process, 1000)
        os.close(hold_w)
        os.waitpid(pid, 0)
        with refused(errno.ESRCH, "pidfd_getfd"):
            pidfd.pidfd_getfd(process, theirs)
        with refused(errno.EBADF, "pidfd_getfd"):
            pidfd.pidfd_getfd(-1, 0)
    finally:
        for fd in (ours, process, ready_r, ready_w):
            os.close(fd)
