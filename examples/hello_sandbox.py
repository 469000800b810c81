"""The smallest use: one program, isolated, and what it wrote. Usage: hello_sandbox.py [ROOTFS]."""

import busybox

import pyrunc

with busybox.rootfs() as root, pyrunc.Sandbox(root) as box:
    result = box.run(["sh", "-c", "echo hello from $(hostname), process $$ of its own world"])
    print(result.stdout.decode(), end="")
    print(
        f"exit code {result.exit_code}, {result.maxrss_bytes >> 10} KiB, {sum(result.timings_ns.values()) / 1e6:.1f} ms"
    )
