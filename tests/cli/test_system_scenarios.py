"""What docker said of its logs and events, pyrunc says of the very same ones; see record_system.py."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyrunc.engine import times
from tests.cli import record_system
from tests.cli.shell import Shell
from tests.cli.test_scenarios import Ids, _plain, shell

__all__ = ["shell"]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

_WHOLE = "Docker has a line of more than 16 KiB in several pieces, each with a time, and counts them as lines"
_UNKNOWN = "what is not known is refused; Docker's daemon lets it pass"
_TYPED = "an action is a string here, and a type of its own in Go"
_NOW = "the time of the recording is in it"
# line -> the reason why what is said differs; the exit code is compared in any case.
DIFFERENT = {
    "logs -t big": _WHOLE,
    "logs -n 2 big": _WHOLE,
    "events --since 1 --until 0s -f wrong=x": _UNKNOWN,
    "events --since 1 --until 0s --format '{{upper .Action}}' -f type=volume": _TYPED,
    "events --since 2099-01-01 --until 0s": _NOW,
    "events --since 1h --until 2h": _NOW,
    "logs --since 10m one": _NOW,
    "logs --until 10m one": _NOW,
}
_OWN_CODES = {
    "events --since 1 --until 0s -f wrong=x": 1,
    "events --since 1 --until 0s --format '{{upper .Action}}' -f type=volume": 0,
}


def _recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((record_system.FIXTURES / f"{name}.json").read_text())
    asked = [line for line in record_system.lines(name) if not line.startswith("+")]
    assert [step["line"] for step in found["steps"]] == asked
    return found


def _compare(shell: Shell, recorded: dict[str, Any]) -> None:
    problems = []
    for step in recorded["steps"]:
        line = step["line"]
        with pytest.MonkeyPatch.context() as patch:  # "10m" is ten minutes before the recording
            patch.setattr(times, "time", SimpleNamespace(time_ns=lambda now=step["now"]: int(now * 10**9)))
            answer = shell.run(line)
        code = _OWN_CODES.get(line, step["code"])
        found = _plain(answer.stdout, Ids()), _plain(answer.stderr, Ids())
        wanted = _plain(step["stdout"], Ids()), _plain(step["stderr"], Ids())
        if answer.code != code or (found != wanted and line not in DIFFERENT):
            problems.append(
                f"$ {line} -> {answer.code}, docker {code}\n{''.join(found)}--- docker\n{''.join(wanted)}"
            )
    assert not problems, "\n\n".join(problems)


def test_logs_are_shown_as_docker_shows_them(shell: Shell, tmp_path: Path) -> None:
    recorded = _recorded("logs")
    assert shell.run("load -q -i beta.tar").code == 0
    for name, files in recorded["logs"].items():
        assert shell.run(f"create --name {name} beta true").code == 0
        container_id = shell.run(f"inspect -f {{{{.Id}}}} {name}").stdout.strip()
        directory = tmp_path / "root/containers" / container_id
        directory.mkdir(parents=True, exist_ok=True)
        for ending, text in files.items():
            (directory / f"{container_id}{ending}").write_text(text)
    _compare(shell, recorded)


def test_events_are_shown_as_docker_shows_them(shell: Shell, tmp_path: Path) -> None:
    recorded = _recorded("events")
    (tmp_path / "root").mkdir()
    lines = [json.dumps(message) for message in recorded["events"]]
    (tmp_path / "root/events.jsonl").write_text("".join(f"{line}\n" for line in lines))
    _compare(shell, recorded)


def test_the_events_of_images_are_dockers(shell: Shell) -> None:
    recorded = _recorded("events")
    verbs = ("load", "tag", "import", "save", "rmi", "image")
    for line in record_system.lines("events"):
        words = line.split()
        if words[0] == "+" and words[1] in verbs and "made" not in line:
            assert shell.run(line.removeprefix("+ ")).code == 0, line
    answer = shell.run("events --since 1 --until 0s -f type=image --format json")
    ours = [_image_event(json.loads(line)) for line in answer.stdout.splitlines()]
    images = [each for each in recorded["events"] if each["Type"] == "image"]
    made = {each["id"] for each in images if each["Actor"]["Attributes"].get("name") == "made:1"}
    theirs = [_image_event(each) for each in images if each.get("id") not in made]
    pruning = theirs.index(next(each for each in theirs if '"prune"' in each))
    assert ours[: pruning + 1] == theirs[: pruning + 1]
    assert sorted(ours) == sorted(theirs)  # which image goes first is not said anywhere


def _image_event(message: dict[str, Any]) -> str:
    """Without its id and its moment, and how much it was."""
    image_id = message["Actor"]["ID"]
    assert message.pop("time") == message.pop("timeNano") // 10**9
    attributes = message["Actor"]["Attributes"]
    if "reclaimed" in attributes:
        attributes["reclaimed"] = str(attributes["reclaimed"].isdigit())
    text = json.dumps(message, sort_keys=True)
    return text.replace(image_id, "ID") if image_id else text


_NOT_HERE = {  # what Docker says of itself
    "Go version", "Git commit", "Built", "containerd", "runc", "docker-init", "GitCommit", "Version",
    "Supports d_type", "Native Overlay Diff", "userxattr", "Init Binary", "containerd version", "runc version",
    "init version", "ID", "Insecure Registries", "127.0.0.0/8",
}  # fmt: skip
_OURS = {"Python version"}


def _labels(text: str) -> list[str]:
    return [line.split(":")[0].strip() for line in text.splitlines() if line.strip()]


def test_what_pyrunc_says_of_itself_is_laid_out_as_docker_does(shell: Shell) -> None:
    recorded = {step["line"]: step for step in _recorded("about")["steps"]}
    for line in ("version", "info"):
        theirs = [label for label in _labels(recorded[line]["stdout"]) if label not in _NOT_HERE]
        ours = [label for label in _labels(shell.run(line).stdout) if label not in _NOT_HERE | _OURS]
        assert ours == theirs
    for line in ("version --format json", "info --format json"):
        theirs, ours = json.loads(recorded[line]["stdout"]), json.loads(shell.run(line).stdout)
        assert not _missing(theirs, ours)
    answer = shell.run(
        "info -f '{{.Containers}} {{.Images}} {{.OSType}} {{.Driver}} {{.DockerRootDir}} {{.NCPU}}'"
    )
    assert answer.stdout.split()[:4] == ["0", "0", "linux", "overlay2"]


def _missing(theirs: Any, ours: Any, at: str = "") -> list[str]:
    """The keys of Docker's document that ours has not, but for those of maps."""
    if not isinstance(theirs, dict) or at in (
        ".Runtimes",
        ".RegistryConfig",
        ".ContainerdCommit",
        ".RuncCommit",
    ):
        return []
    return [f"{at}.{key}" for key in theirs if key not in ours and key != "KernelMemory"] + [
        each for key in theirs if key in ours for each in _missing(theirs[key], ours[key], f"{at}.{key}")
    ]


def test_errors_of_version_and_info_are_dockers(shell: Shell) -> None:
    recorded = _recorded("about")
    recorded["steps"] = [step for step in recorded["steps"] if step["stderr"] and "df" not in step["line"]]
    recorded["steps"] = [
        step for step in recorded["steps"] if step["line"] != "info" and "prune -f" not in step["line"]
    ]
    assert len(recorded["steps"]) == 10
    _compare(shell, recorded)


def test_containers_and_images_are_counted(shell: Shell) -> None:
    assert shell.run("load -q -i beta.tar").code == 0
    assert shell.run("run --name one beta true").code == 0
    shown = (
        "info -f '{{.Containers}} {{.ContainersRunning}} {{.ContainersStopped}} {{.Images}} {{.Plugins.Log}}'"
    )
    assert shell.run(shown).stdout == "1 0 1 1 [json-file none]\n"
    assert (
        shell.run("version -f '{{.Server.APIVersion}} {{(index .Server.Components 0).Name}}'").stdout
        == "1.51 Engine\n"
    )


@pytest.mark.parametrize("line", ["system df", "system df -v", "system prune -f"])
def test_what_is_not_done_is_refused_by_name(line: str, shell: Shell) -> None:
    answer = shell.run(line)
    assert answer.code == 125 and answer.stderr.startswith(" ".join(line.split()[:2]) + ": ")
