"""The standard streams of a command and a container without a terminal, as long as it runs."""

import os
import select

from pyrunc.runtime.attach import AttachClient
from pyrunc.store.files import write_all

_STDOUT, _STDERR = 1, 2


class Streams:
    """Descriptors of this process that a container's streams go to; None is nowhere."""

    def __init__(self, stdin: int | None, stdout: int | None, stderr: int | None) -> None:
        self._stdin = stdin
        self._to = {_STDOUT: stdout, _STDERR: stderr}
        self._client, self.theirs = AttachClient.pair(
            stdin=stdin is not None, stdout=stdout is not None, stderr=stderr is not None
        )

    def pump(self) -> None:
        """Copy until the container has ended. A stream that nobody reads any more is read to its end."""
        poller = select.poll()
        poller.register(self._client.fileno(), select.POLLIN)
        if self._stdin is not None:
            poller.register(self._stdin, select.POLLIN)
        waiting = memoryview(b"")
        while not self._client.closed:
            for fd, _ in poller.poll():
                if fd == self._stdin and not waiting:
                    data = os.read(fd, 65536)
                    waiting = memoryview(data)
                    poller.unregister(fd)
                    if data:
                        poller.modify(self._client.fileno(), select.POLLIN | select.POLLOUT)
                    else:
                        self._client.close_stdin()
                elif fd == self._client.fileno():
                    for kind, part in self._client.receive():
                        self._write(kind, part)
                    if waiting:
                        waiting = waiting[self._client.send(bytes(waiting)) :]
                        if not waiting and self._stdin is not None:
                            poller.register(self._stdin, select.POLLIN)
                            poller.modify(self._client.fileno(), select.POLLIN)

    def _write(self, kind: int, part: bytes) -> None:
        to = self._to.get(kind)
        if to is None:
            return
        try:
            write_all(to, part)
        except OSError:
            self._to[kind] = None

    def __enter__(self) -> "Streams":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
