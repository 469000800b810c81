"""A command that talks to a program in a container: `python -m tests.cli.conversation ROOTFS REPORT SCRIPT [KEYS]`.

It writes to REPORT why it is over and how the program has ended.
"""

import sys
from pathlib import Path

from pyrunc import Sandbox
from pyrunc.cli.interactive import converse, own_size
from pyrunc.runtime.pumping import ExecStream, Outcome


def main(rootfs: str, report: str, script: str, keys: str = "") -> int:
    with (
        Sandbox(rootfs) as box,
        box.start(["sleep", "600"]) as container,
        container.exec_start(["sh", "-c", script], tty=True, size=own_size()) as program,
    ):
        outcome = converse(ExecStream(program), stdin=True, tty=True, keys=keys)
        code = program.wait() if outcome is Outcome.ENDED else None
        Path(report).write_text(f"{outcome.value} {code} {container.exit_code}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
