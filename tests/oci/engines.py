"""What every engine that calls an OCI runtime has to be able to do with it, in podman's words."""

import json
from collections.abc import Sequence
from typing import Any, Protocol

from tests.oci.house import House


class Podman(Protocol):
    """podman, whoever calls it."""

    inside: House

    @property
    def words(self) -> Sequence[str]:
        """A command line, up to podman's own flags."""

    def __call__(self, *words: str, code: int | None = 0, given: str = "") -> str:
        """What it says to a command, which must end with *code*, unless that is None."""

    def run(self, *words: str, code: int | None = 0, given: str = "") -> str:
        """The same of `podman run`, with no network."""


def state(podman: Podman, name: str) -> dict[str, Any]:
    """What podman knows of a container."""
    found: dict[str, Any] = json.loads(podman("inspect", name))[0]["State"]
    return found


def live(podman: Podman, image: str) -> None:
    """See a container from its start to its removal: programs in it, its output, its ends."""
    script = "trap 'echo ended; exit 3' TERM; echo began; while :; do sleep 0.1; done"
    podman.run("-d", "--name", "life", image, "sh", "-c", script)
    podman.inside.until(*podman.words, "logs", "life", holds="began")
    found = state(podman, "life")
    assert (found["Status"], found["Running"]) == ("running", True) and found["Pid"] > 0
    assert podman("exec", "life", "echo", "inside") == "inside"
    assert podman("exec", "-i", "life", "cat", given="piped") == "piped"
    assert podman("exec", "-t", "life", "tty") == "/dev/pts/0"
    flags = ("--user", "web", "--workdir", "/tmp", "--env", "X=y")
    assert podman("exec", *flags, "life", "sh", "-c", "id -un; pwd; echo $X").split() == ["web", "/tmp", "y"]
    podman("exec", "life", "sh", "-c", "exit 9", code=9)
    podman("exec", "life", "/no/such", code=127)
    podman("exec", "life", "/etc/passwd", code=126)
    podman("exec", "-d", "life", "touch", "/tmp/by-exec")
    podman.inside.until(*podman.words, "exec", "life", "ls", "/tmp", holds="by-exec")
    assert "sleep" in podman("top", "life")
    podman("stop", "-t", "60", "life")
    assert state(podman, "life")["ExitCode"] == 3
    assert podman("logs", "life").splitlines() == ["began", "ended"]
    podman("start", "life")
    podman.inside.until(*podman.words, "logs", "life", holds="ended\nbegan")
    podman("kill", "--signal", "KILL", "life")
    podman("wait", "life")
    assert state(podman, "life")["ExitCode"] == 137
    podman("rm", "life")
