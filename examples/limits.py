"""Limits that hold: memory, processes, time. Usage: limits.py [ROOTFS]."""

import busybox

import pyrunc

HUNGRY = ["sh", "-c", "x=x; while true; do x=$x$x; done"]
FORKING = ["sh", "-c", "sh -c 'for i in $(seq 50); do sleep 5 & done' 2>/dev/null; echo /proc/[0-9]*"]

with busybox.rootfs() as root:
    with pyrunc.Sandbox(root, memory_bytes=32 << 20, memory_swap_bytes=32 << 20) as box:
        result = box.run(HUNGRY)
        print(f"memory: exit code {result.exit_code}, killed for memory: {result.oom_killed}")

    with pyrunc.Sandbox(root, pids_limit=10) as box:
        result = box.run(FORKING)
        print(f"processes: wanted more than 50, had {len(result.stdout.split())}")

    with pyrunc.Sandbox(root, cpus=0.5) as box:
        try:
            box.run(["sh", "-c", "echo working; while true; do :; done"], timeout_s=2)
        except pyrunc.errors.TimedOut as exc:
            print(f"time: {exc}; until then it wrote {exc.stdout!r}")

    try:
        pyrunc.Sandbox(root, memory_bytes=-5)
    except pyrunc.errors.InvalidArgument as exc:
        print(f"refused: {exc}")
