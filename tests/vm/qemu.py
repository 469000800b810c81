"""QEMU without KVM on Debian's cloud kernel: slower than UML, but with every v2 controller and nf_tables.

It sees the host's tree by virtiofs, which needs root. Debian: `qemu-system-x86`, `busybox-static`.
"""

import os
import shutil

from . import debian
from .confine import DISK, SOCKET, SOCKET_FD
from .machine import Channels, MachineError, Program

_VIRTIOFSD = "/usr/lib/qemu/virtiofsd"


def program(channels: Channels, memory_mib: int, append: list[str]) -> Program:
    """Say how to start QEMU with three serial ports on *channels*, and *append* on the kernel's command line.

    Raises MachineError where something is not installed.
    """
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None or not os.path.exists(_VIRTIOFSD):
        raise MachineError(
            "qemu-system-x86_64 not found: apt-get install --no-install-recommends qemu-system-x86"
        )
    if os.geteuid() != 0:
        raise MachineError("virtiofsd needs root")
    image = debian.image()
    kernel_command_line = [
        "console=ttyS0",
        "quiet",
        "panic=-1",
        "cgroup_no_v1=all",
        # Which the other kernel does not have either, and which cost time here.
        "mitigations=off",
        "audit=0",
        *append,
    ]
    serial_ports = []
    for number, fd in enumerate(channels):
        serial_ports += [
            "-chardev",
            f"file,id=port{number},path=/dev/fd/{fd}",
            "-serial",
            f"chardev:port{number}",
        ]
    argv = [
        qemu,
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(min(os.cpu_count() or 1, 4))),
        *("-machine", "pc,memory-backend=ram", "-m", f"{memory_mib}M"),
        *("-object", f"memory-backend-memfd,id=ram,size={memory_mib}M,share=on"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-kernel", image.vmlinuz, "-initrd", image.initrd, "-append", " ".join(kernel_command_line)),
        *("-chardev", f"socket,id=tree,path={SOCKET}"),
        *("-device", f"vhost-user-fs-pci,chardev=tree,tag={debian.TAG}"),
        *("-drive", f"file={DISK},format=raw,if=virtio"),
        *serial_ports,
    ]
    virtiofsd = [_VIRTIOFSD, f"--fd={SOCKET_FD}", "-o", "source=/,sandbox=chroot,cache=always"]
    return Program(
        helpers=[[*virtiofsd, "-o", "log_level=err"]],
        main=argv,
        modules=image.modules,
        output="/dev/ttyS1",
        status="/dev/ttyS2",
        disk="/dev/vda",
    )
