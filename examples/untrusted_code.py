"""Run code that nobody has read: no network, nothing to write to, bounded in every way.

Usage: untrusted_code.py [ROOTFS]; with a root directory that has Python in it, the code may be Python.
"""

import busybox

import pyrunc

ATTEMPTS = {
    "computes": "echo $((6 * 7))",
    "writes to the root": "echo bad > /bin/sh",
    "writes where it may": "echo fine > /tmp/file && cat /tmp/file",
    "calls home": "nc -w 2 192.0.2.1 80",
    "looks for the host": "ls /home /root /var 2>/dev/null | head -3; id -u; cat /proc/1/comm; :",
    "wants to be root": "mount -t tmpfs none /tmp",
    "never ends": "while true; do :; done",
}


def judge(box: pyrunc.Sandbox, code: str) -> str:
    """What became of *code*, in a line."""
    try:
        result = box.run(["sh", "-c", code], timeout_s=3)
    except pyrunc.errors.TimedOut:
        return "killed after three seconds"
    if result.oom_killed:
        return "killed for its memory"
    words = (result.stdout + result.stderr).decode(errors="replace").split("\n")
    return f"exit code {result.exit_code}: {' | '.join(words[:4]).strip(' |')}"


if __name__ == "__main__":
    with busybox.rootfs() as root, pyrunc.Sandbox(
        root, writable="no", tmpfs={"/tmp": "size=1m,mode=1777"}, network="none", user="65534:65534",
        cap_drop=["ALL"], no_new_privileges=True, memory_bytes=64 << 20, pids_limit=32, cpus=1.0,
        rlimits={"fsize": 1 << 20, "nofile": 64}, hostname="box",
    ) as sandbox:  # fmt: skip
        for name, code in ATTEMPTS.items():
            print(f"{name:20} {judge(sandbox, code)}")
