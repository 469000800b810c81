"""A command that talks to a program in a container: `python -m tests.cli.conversation ROOTFS REPORT SCRIPT [KEYS]`.

It writes to REPORT why it is over and how the program has ended.
"""

import errno
import os
import select
import sys
from collections.abc import Iterable
from pathlib import Path

from pyrunc import Sandbox
from pyrunc.cli.interactive import converse, own_size
from pyrunc.runtime.pumping import STDOUT, Outcome
from pyrunc.runtime.sandbox import ExecProcess


class TerminalStream:
    """A pyrunc.runtime.pumping.Stream: a program on a terminal that this process has started."""

    def __init__(self, program: ExecProcess) -> None:
        self._program = program
        self.closed = False
        os.set_blocking(program.terminal, False)

    def watched(self, sending: bool) -> Iterable[tuple[int, int]]:
        events = select.POLLIN | (select.POLLOUT if sending else 0)
        return ((self._program.terminal, events), (self._program.fileno(), select.POLLIN))

    def receive(self, ready: set[int]) -> list[tuple[int, bytes]]:
        ended = self._program.fileno() in ready and self._program.exit_code is not None
        found = []
        while True:
            try:
                data = os.read(self._program.terminal, 65536)
            except OSError as exc:
                if exc.errno not in (errno.EIO, errno.EAGAIN):
                    raise
                # A terminal's last words are only there when it is asked for them.
                if (
                    ended
                    and exc.errno == errno.EAGAIN
                    and select.select([self._program.terminal], [], [], 0)[0]
                ):
                    continue
                break
            found.append((STDOUT, data))
        self.closed = ended
        return found

    def send(self, data: bytes) -> int:
        try:
            return os.write(self._program.terminal, data)
        except BlockingIOError:
            return 0

    def close_stdin(self) -> None:
        pass

    def resize(self, rows: int, columns: int) -> None:
        self._program.resize(rows, columns)

    def detach(self) -> None:
        pass


def main(rootfs: str, report: str, script: str, keys: str = "") -> int:
    with (
        Sandbox(rootfs) as box,
        box.start(["sleep", "600"]) as container,
        container.exec_start(["sh", "-c", script], tty=True, size=own_size()) as program,
    ):
        outcome = converse(TerminalStream(program), stdin=True, tty=True, keys=keys)
        code = program.wait() if outcome is Outcome.ENDED else None
        Path(report).write_text(f"{outcome.value} {code} {container.exit_code}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
