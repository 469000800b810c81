"""Record what docker's client makes of its flags: `python -m tests.cli.record_requests`.

Each line of tests/fixtures/docker/client/requests.txt is run by `docker` against a socket that takes what the client
asks for, says no to it, and knows no images; the first body that a line sends, or else what the client says, becomes
its answer.
"""

import json
import os
import shlex
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[1] / "fixtures/docker/client"
_API = "1.51"
_REFUSAL = b'{"message":"recorded"}'
# What lines may name: files in the directory in which they run, and variables.
FILES = {
    "env": "# comment\n\nFILE=1\nHOME_OF\n  INDENTED=2\nEMPTY=\n",
    "labels": "one=1\n# comment\ntwo\n",
    "seccomp.json": '{"defaultAction": "SCMP_ACT_ALLOW"}\n',
}
VARIABLES = {"HOME_OF": "here", "TZ": "UTC"}


def lines() -> list[str]:
    """What a user types."""
    return (FIXTURES / "requests.txt").read_text().splitlines()


def write_files(directory: Path) -> None:
    """Write what lines name."""
    for name, text in FILES.items():
        (directory / name).write_text(text)


class _Listener(threading.Thread):
    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(16)
        self.bodies: list[dict[str, Any]] = []

    def run(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            while line := stream.readline():
                length = 0
                while (header := stream.readline().strip()) != b"":
                    name, _, value = header.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                body = stream.read(length)
                method, target, _ = line.decode().split(" ", 2)
                if body:
                    self.bodies.append({"request": f"{method} {target}", "body": json.loads(body)})
                ping = target.endswith("/_ping")
                answer = b"OK" if ping else _REFUSAL
                status = "200 OK" if ping else "400 Bad Request"
                stream.write(
                    f"HTTP/1.1 {status}\r\nApi-Version: {_API}\r\nOstype: linux\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(answer)}\r\n\r\n".encode()
                    + (b"" if method == "HEAD" else answer)
                )
                stream.flush()


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What *after* has otherwise than *before*; of HostConfig, what that has."""
    found = {key: value for key, value in after.items() if before.get(key, ...) != value}
    if "HostConfig" in found and "HostConfig" in before:
        found["HostConfig"] = changed(before["HostConfig"], found["HostConfig"])
    return found


def bodies() -> list[dict[str, Any]]:
    """The recorded steps, each with its whole body if it sent one."""
    recorded = json.loads((FIXTURES / "requests.json").read_text())
    for step in recorded["steps"]:
        if "changed" in step:
            base, over = recorded["base"], step.pop("changed")
            if "/create" in step["request"]:
                host = {**base["HostConfig"], **over.get("HostConfig", {})}
                step["body"] = {**base, **over, "HostConfig": host}
            else:
                step["body"] = over
    steps: list[dict[str, Any]] = recorded["steps"]
    return steps


def _record(line: str, listener: _Listener, directory: Path, environment: dict[str, str]) -> dict[str, Any]:
    listener.bodies.clear()
    done = subprocess.run(
        ["docker", *shlex.split(line)], env=environment, cwd=directory, capture_output=True, text=True, timeout=60,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if listener.bodies:
        return {"line": line, **listener.bodies[0]}
    return {"line": line, "code": done.returncode, "stderr": done.stderr}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as top:
        listener = _Listener(Path(top) / "sock")
        listener.start()
        work = Path(top) / "work"
        work.mkdir()
        write_files(work)
        environment = {
            **os.environ, **VARIABLES, "DOCKER_HOST": f"unix://{top}/sock", "DOCKER_CONFIG": f"{top}/config",
            "DOCKER_CLI_HINTS": "false",
        }  # fmt: skip
        steps = [_record(line, listener, work, environment) for line in lines()]
        version = subprocess.run(
            ["docker", "--version"], capture_output=True, text=True, check=True, env=environment
        ).stdout
        base = steps[0]["body"]
        for step in steps:
            if "body" in step:
                body = step.pop("body")
                step["changed"] = changed(base, body) if "/create" in step["request"] else body
        rows = ",\n".join(json.dumps(step, ensure_ascii=False) for step in steps)
        client = json.dumps(version.split()[2].rstrip(","))
        text = f'{{"client": {client},\n"base": {json.dumps(base)},\n"steps": [\n{rows}\n]}}\n'
        (FIXTURES / "requests.json").write_text(text.replace(str(work), "{work}"))
