"""What pyrunc-oci answers, beside what Debian's runc 1.1.5 answered to the same command lines."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pyrunc.runtime.cgroup_layout import detect
from tests.oci.differences import DIFFERENCES, NEWER
from tests.oci.live import remove_cgroups
from tests.oci.planning import await_end, forget_cgroups
from tests.oci.play import FIXTURES, SCENARIOS, Answer, Player, lines, python_player
from tests.oci.runtime import OURS
from tests.oci.starting import start_planner
from tests.runtime.cgroup_support import needs_root

_MARKS = {
    "force": pytest.mark.vm,
    "run": pytest.mark.vm,
    "update": pytest.mark.skipif(detect().mode == "v2", reason="its files are those of cgroup v1"),
}
# Those that need no container, so that Python alone can answer.
_WITHOUT_CONTAINER = ("usage", "help", "missing", "spec")


def expected(scenario: str, line: str, recorded: dict[str, Any]) -> dict[str, Any]:
    """What runc answered, with what is meant to differ."""
    wanted: dict[str, Any] = {
        key: recorded[key] for key in ("code", "stdout", "stderr", "files") if key in recorded
    }
    if "NAME:\n" in wanted.get("stdout", ""):
        wanted["stdout"] = with_newer(wanted["stdout"])
    wanted.update(DIFFERENCES.get((scenario, line), {}))
    return wanted


def with_newer(help_text: str) -> str:
    """An outline of runc 1.1's help with what is newer in it."""
    head, *sections = help_text.split("OPTIONS:\n")
    found = head
    for section in sections:
        rows = section.splitlines()
        for present, added in NEWER:
            if present in rows:
                rows = sorted({*rows, *added})
        found += "OPTIONS:\n" + "".join(f"{row}\n" for row in rows)
    return found.replace("pause\nps\n", "pause\nplan\nps\n")


@pytest.mark.parametrize("scenario", _WITHOUT_CONTAINER)
def test_python_answers_as_runc_did(scenario: str, tmp_path: Path) -> None:
    assert unlike(scenario, python_player(tmp_path)) == []


@needs_root
@pytest.mark.parametrize("scenario", [pytest.param(name, marks=_MARKS.get(name, ())) for name in SCENARIOS])
def test_the_program_answers_as_runc_did(scenario: str, tmp_path: Path) -> None:
    played(scenario, tmp_path)


@needs_root
@pytest.mark.parametrize("scenario", ["life", "force", "run", "exec"])
def test_with_a_planner_it_answers_alike(scenario: str, tmp_path: Path) -> None:
    directory = tmp_path / "planner"
    if not OURS.exists():
        pytest.skip("needs bin/pyrunc-oci, which build_ext --inplace makes")
    pid = start_planner(OURS, directory)
    try:
        played(scenario, tmp_path, str(directory))
    finally:
        os.kill(pid, signal.SIGKILL)
        await_end(pid)
        forget_cgroups()


def played(scenario: str, work: Path, planner: str = "0") -> None:
    """Play a scenario through the program; it answers as recorded, and leaves nothing."""
    if not OURS.exists():
        pytest.skip("needs bin/pyrunc-oci, which build_ext --inplace makes")
    player = Player([str(OURS)], "pyrunc-oci", work, f"pyrunc-test-{os.getpid()}-{work.name}")
    player.planner = planner
    try:
        assert unlike(scenario, player) == []
    finally:
        for container in sorted(player.root.glob("*")):
            player.run("delete", "--force", container.name)
        remove_cgroups(player.cgroup)


def unlike(scenario: str, player: Player) -> list[tuple[str, Answer, Answer]]:
    """The lines of *scenario* that *player* answers otherwise than recorded, both answers with them."""
    recorded = iter(json.loads((FIXTURES / f"{scenario}.json").read_text()))
    wrong = []
    for line in lines(scenario):
        answer = player.play(line)
        if answer is None:
            continue
        wanted = next(recorded)
        assert wanted["line"] == line, "recorded before the scenario was changed"
        if answer != expected(scenario, line, wanted):
            wrong.append((line, answer, expected(scenario, line, wanted)))
    return wrong


def test_every_scenario_is_recorded_and_played() -> None:
    assert {path.stem for path in FIXTURES.glob("*.json")} == {*SCENARIOS, "bundle"}
