"""User-mode Linux: Debian's package `user-mode-linux`, a kernel that is an ordinary program.

It sees the host's tree by hostfs. Source: kernel Documentation/virt/uml/user_mode_linux_howto_v2.rst.
"""

import shutil

from .confine import DISK, SHARED
from .machine import Channels, MachineError, Program

_MODULES = "/usr/lib/uml/modules"


def program(channels: Channels, memory_mib: int, append: list[str]) -> Program:
    """Say how to start UML with its three terminals on *channels*, and *append* on the kernel's command line.

    Raises MachineError where it is not installed.
    """
    kernel = shutil.which("linux.uml")
    if kernel is None:
        raise MachineError("linux.uml not found: apt-get install user-mode-linux")
    argv = [
        kernel,
        f"mem={memory_mib}M",
        f"uml_dir={SHARED}/uml",
        "umid=vm",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        f"ubd0={DISK}",
        "con=null",
        f"con0=null,fd:{channels.console}",
        f"con1=null,fd:{channels.output}",
        f"con2=null,fd:{channels.status}",
        "console=tty0",
        "quiet",
        "panic=-1",
        "cgroup_no_v1=all",
        # SELinux without a policy only slows down; AppArmor confines nobody who has not asked for a profile.
        "selinux=0",
        "apparmor=1",
        "lsm=landlock,yama,apparmor",
        *append,
        f"init={SHARED}/init",
    ]
    return Program(
        helpers=[], main=argv, modules=_MODULES, output="/dev/tty1", status="/dev/tty2", disk="/dev/ubda"
    )
