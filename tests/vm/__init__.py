"""The second kernel: run a command, usually pytest, under a kernel that has what the host's lacks.

`python -m tests.vm` boots User-mode Linux or QEMU on the host's own file tree, which the guest sees whole but
cannot change, runs the command in the checkout and hands back its output and its exit code.

    __main__   the command line
    machine    the host's side: start, stream, time-out, verdict
    confine    between both: the namespaces in which the kernel runs, and which take everything with them
    uml, qemu  how to start each kernel
    guest      the guest's pid 1
    linux      the few system calls that Python has no function for
    needs      pytest marks that skip a test where the kernel lacks its need
"""
