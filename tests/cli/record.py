"""Record what docker answers: `python -m tests.cli.record [SCENARIO...]`, as root.

A scenario is a file of tests/fixtures/docker with lines of `argument... [< file] [> file]`, split as a shell does, to
be run where the archives of samples.py are; `{id:beta}` and `{short:beta}` stand for an image's id. `&` before a line:
run in the background. In the answers `{work}` stands for that directory, and `{root}` for the daemon's. Each scenario
gets a dockerd of its own, which tests/dockerd.py keeps away from the host; the answers become a file of the same name.
"""

import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests import dockerd
from tests.cli import samples

FIXTURES = Path(__file__).parents[1] / "fixtures/docker"
SCENARIOS = tuple(sorted(path.stem for path in FIXTURES.glob("*.txt")))
_INPUTS = {"no": b"n\n", "yes": b"y\n"}


def prepare(directory: Path, busybox: Path) -> dict[str, str]:
    """Everything that a line of a scenario may name; the ids of images without a name."""
    for name, data in _INPUTS.items():
        (directory / name).write_bytes(data)
    return samples.write(directory, busybox)


def split(line: str) -> tuple[list[str], str | None, str | None]:
    """The arguments of a line, the file it reads, and the file it writes."""
    words = shlex.split(line)
    files: dict[str, str | None] = {"<": None, ">": None}
    while len(words) > 1 and words[-2] in files:
        files[words[-2]] = words[-1]
        del words[-2:]
    return words, files["<"], files[">"]


def named(line: str) -> list[str]:
    """The references of {id:…} and {short:…} in a line."""
    return re.findall(r"\{(?:id|short):([^}]*)\}", line)


def filled(line: str, ids: dict[str, str]) -> str:
    """*line* with the ids of its images."""
    for name in named(line):
        line = line.replace(f"{{id:{name}}}", ids[name]).replace(f"{{short:{name}}}", ids[name][7:19])
    return line


def lines(scenario: str) -> list[str]:
    """What a user types."""
    return (FIXTURES / f"{scenario}.txt").read_text().splitlines()


def _record(name: str) -> dict[str, Any]:
    steps = []
    with tempfile.TemporaryDirectory(dir="/tmp") as top:
        work = Path(top) / "work"
        work.mkdir()
        ids = prepare(work, Path("/bin/busybox"))
        with dockerd.daemon(Path(top) / "d") as environment:
            wanted = {reference for line in lines(name) for reference in named(line)}
            for line in lines(name):
                for reference in wanted - ids.keys():
                    found = subprocess.run(
                        ["docker", "image", "inspect", "-f", "{{.Id}}", reference],
                        env=environment, capture_output=True, text=True, check=False,
                    )  # fmt: skip
                    if not found.returncode:
                        ids[reference] = found.stdout.strip()
                steps.append(_step(line, ids, environment, work, Path(top) / "d/data"))
                print(name, line, steps[-1].get("code"), flush=True)
            versions = subprocess.run(
                ["docker", "version", "--format", "{{.Client.Version}} {{.Server.Version}}"],
                env=environment, capture_output=True, text=True, check=True,
            )  # fmt: skip
            subprocess.run(
                "docker rm -f $(docker ps -aq)", shell=True, env=environment, capture_output=True, check=False
            )
    client, server = versions.stdout.split()
    return {"client": client, "server": server, "steps": steps}


def placed(text: str, work: Path, root: Path) -> str:
    """*text* without the directories that this run happens in."""
    return text.replace(str(work), "{work}").replace(str(root), "{root}")


def _step(
    line: str, ids: dict[str, str], environment: dict[str, str], work: Path, root: Path
) -> dict[str, Any]:
    argv, source, target = split(filled(line.removeprefix("&"), ids))
    if line.startswith("&"):  # in the background: docker's way is -d
        argv.insert(1, "-d")
    done = subprocess.run(
        ["docker", *argv], env=environment, cwd=work, capture_output=True, check=False, timeout=120,
        input=(work / source).read_bytes() if source else b"",
    )  # fmt: skip
    stdout = done.stdout
    if target:
        (work / target).write_bytes(stdout)
        stdout = b""
    return {
        "line": line, "now": time.time(), "code": done.returncode,
        "stdout": placed(stdout.decode("utf-8", "backslashreplace"), work, root),
        "stderr": placed(done.stderr.decode(), work, root),
    }  # fmt: skip


if __name__ == "__main__":
    for chosen in sys.argv[1:] or SCENARIOS:
        text = json.dumps(_record(chosen), indent=1, ensure_ascii=False)
        (FIXTURES / f"{chosen}.json").write_text(text + "\n")
