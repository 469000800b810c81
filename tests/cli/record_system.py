"""Record what docker says of logs, events and itself: `python -m tests.cli.record_system [SCENARIO...]`, as root.

Lines of tests/fixtures/docker/system that begin with `+` set the scene and are not compared; `+ sleep SECONDS` waits.
The logs and the events of docker's containers are recorded too, so that pyrunc can be asked about the very same ones.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests import dockerd
from tests.cli import record

FIXTURES = record.FIXTURES / "system"
SCENARIOS = ("about", "events", "logs")


def lines(scenario: str) -> list[str]:
    """What a user types, with what sets the scene."""
    return (FIXTURES / f"{scenario}.txt").read_text().splitlines()


def _record(name: str) -> dict[str, Any]:
    steps = []
    with tempfile.TemporaryDirectory(dir="/tmp") as top:
        work = Path(top) / "work"
        work.mkdir()
        record.prepare(work, Path("/bin/busybox"))
        with dockerd.daemon(Path(top) / "d") as environment:
            for line in lines(name):
                if line.startswith("+ sleep "):
                    time.sleep(float(line.split()[2]))
                    continue
                step = record._step(line.removeprefix("+ "), {}, environment, work, Path(top) / "d/data")
                print(name, line, step["code"], flush=True)
                if not line.startswith("+"):
                    steps.append(step)
            found: dict[str, Any] = {"steps": steps}
            if name == "logs":
                found["logs"] = _logs(Path(top) / "d/data/containers", environment)
            if name == "events":
                everything = ["docker", "events", "--since", "1", "--until", "0s", "--format", "{{json .}}"]
                done = subprocess.run(everything, env=environment, capture_output=True, check=True, text=True)
                found["events"] = [json.loads(line) for line in done.stdout.splitlines()]
            subprocess.run(
                "docker rm -f $(docker ps -aq)", shell=True, env=environment, capture_output=True, check=False
            )
    return found


def _logs(containers: Path, environment: dict[str, str]) -> dict[str, dict[str, str]]:
    """Each container's files by the end of their names."""
    found: dict[str, dict[str, str]] = {}
    for directory in containers.iterdir():
        shown = ["docker", "inspect", "-f", "{{.Name}}", directory.name]
        done = subprocess.run(shown, env=environment, capture_output=True, check=True, text=True)
        found[done.stdout.strip()[1:]] = {
            path.name.removeprefix(directory.name): path.read_text() for path in directory.glob("*-json.log*")
        }
    return found


if __name__ == "__main__":
    for chosen in sys.argv[1:] or SCENARIOS:
        text = json.dumps(_record(chosen), indent=1, ensure_ascii=False)
        (FIXTURES / f"{chosen}.json").write_text(text + "\n")
