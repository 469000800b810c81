"""A program that uses pyrunc and does as it is told on its standard input, to be killed at any time.

``python -m tests.safety.host_program ROOTFS CGROUP_PARENT``; each line of input is answered by one of output:
`cycle` runs, starts and fails to start containers, `check` runs one, `hold` starts two that `release` ends,
`fds` counts its own descriptors.
"""

import os
import sys

import pyrunc
from pyrunc import errors


def cycle(box: pyrunc.Sandbox, first: int) -> str:
    """A run, a start that is killed, and failing starts, the *first* of them first; what the trouble was."""

    def start() -> None:
        with box.start(["/bin/sleep", "60"]) as one, box.start(["/bin/sleep", "60"]):
            one.kill(15)

    def fail() -> None:
        try:
            box.run(["/bin/missing"])
        except errors.CommandNotFound:
            pass

    def time_out() -> None:
        try:
            box.run(["/bin/sleep", "60"], timeout_s=0.02)
        except errors.TimedOut:
            pass

    acts = [lambda: box.run(["/bin/true"]), start, fail, time_out]
    troubles = []
    for act in acts[first:] + acts[:first]:
        try:
            act()
        except errors.Unavailable:
            troubles.append("unavailable")
    return " ".join(troubles) or "fine"


def release(held: list[pyrunc.SandboxProcess]) -> str:
    """End what was held; what the trouble was."""
    trouble = "fine"
    for process in held:
        try:
            process.close()
        except errors.Unavailable:
            trouble = "unavailable"
    return trouble


def main() -> None:
    rootfs, parent = sys.argv[1:3]
    box = pyrunc.Sandbox(rootfs, seccomp="unconfined", cgroup_parent=parent)
    held: list[pyrunc.SandboxProcess] = []
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "cycle":
            answer = cycle(box, int(rest))
        elif word == "hold":
            held = [box.start(["/bin/sleep", "60"]), box.start(["/bin/sleep", "60"])]
            answer = "held"
        elif word == "release":
            answer = release(held)
        elif word == "check":
            answer = box.run(["/bin/echo", "works"]).stdout.decode().strip()
        else:
            answer = str(len(os.listdir("/proc/self/fd")))
        print(answer, flush=True)


if __name__ == "__main__":
    main()
