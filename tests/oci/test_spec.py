"""The document that `spec` writes."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.oci.play import python_player


@pytest.mark.parametrize("flags", [[], ["--rootless"]])
def test_spec_writes_what_runc_writes(flags: list[str], tmp_path: Path) -> None:
    if shutil.which("runc") is None:
        pytest.skip("needs runc")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for directory in (ours, theirs):
        directory.mkdir()
    subprocess.run(["runc", "spec", "-b", str(theirs), *flags], check=True)
    assert python_player(tmp_path).run("spec", "-b", str(ours), *flags) == (0, "", "")
    texts = [(directory / "config.json").read_text() for directory in (ours, theirs)]
    versions = [json.loads(text)["ociVersion"] for text in texts]
    assert texts[0].replace(versions[0], versions[1]) == texts[1]
