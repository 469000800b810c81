"""The whole document of `image inspect` beside the one that dockerd 20.10 answered, but for what newer ones drop."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pyrunc.cli.main import main
from tests.cli import record, samples

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
# Not in API v1.45 and later; ContainerConfig was that of a build's last container.
_GONE = {"Container", "ContainerConfig", "VirtualSize"}
# Of one's own disk and hour; a size is of all files, and Docker's overlay2 counts the lengths of links too.
_OWN = {"GraphDriver", "Metadata", "Size"}
_STEPS: list[dict[str, Any]] = json.loads((record.FIXTURES / "inspect.json").read_text())["steps"]
_WHOLE = [
    "image inspect alpha:1",
    "image inspect -f json alpha:1",
    "inspect alpha:1",
    "inspect --type image beta",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, busybox: Path) -> Path:
    place = tmp_path_factory.mktemp("inspect")
    samples.write(place, busybox)
    for name in ("alpha.tar", "beta.tar"):
        assert main(["--root", str(place / "root"), "load", "-q", "-i", str(place / name)]) == 0
    return place / "root"


@pytest.mark.parametrize("line", _WHOLE)
def test_the_document_is_dockers(root: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    capsys.readouterr()
    assert main(["--root", str(root), *line.split()]) == 0
    told = capsys.readouterr().out
    (answer,) = [step["stdout"] for step in _STEPS if step["line"] == line]
    (ours,), (theirs,) = json.loads(told), json.loads(answer)
    assert [*ours] == [key for key in theirs if key not in _GONE]
    # indented alike, or not at all
    assert (told == json.dumps([ours], indent=4) + "\n") == (answer == json.dumps([theirs], indent=4) + "\n")
    for key in ours.keys() - _OWN - {"Config"}:
        assert ours[key] == theirs[key], key
    # What is not set is not there, as in API v1.50 and later.
    assert ours["Config"] == {key: value for key, value in theirs["Config"].items() if value}
    assert ours["GraphDriver"]["Name"] in ("overlay2", "vfs")
    assert 0 <= theirs["Size"] - ours["Size"] < 100
