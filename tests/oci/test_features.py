"""The document that `features` prints."""

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.oci.play import python_player
from tests.oci.runtime import OURS
from tests.oci.schema import load, violations


def test_features_prints_a_document_of_the_schema(tmp_path: Path) -> None:
    code, out, err = python_player(tmp_path).run("features")
    assert (
        (code, err) == (0, "")
        and out.startswith('{\n    "ociVersionMin": "1.0.0",\n')
        and out.endswith("}\n")
    )
    document = json.loads(out)
    assert violations(document, load("features-schema.json"), "features-schema.json") == []
    linux = document["linux"]
    assert (
        "time" in linux["namespaces"] and "CAP_CHOWN" in linux["capabilities"] and linux["seccomp"]["enabled"]
    )


@pytest.mark.parametrize("runtime", [OURS, "runc"])
def test_one_version_of_the_specification_is_told_everywhere(runtime: str, tmp_path: Path) -> None:
    if shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    run = partial(subprocess.run, check=True, capture_output=True, text=True, cwd=tmp_path)
    run([runtime, "spec"])
    (told,) = [
        line.partition(": ")[2] for line in run([runtime, "--version"]).stdout.splitlines() if "spec:" in line
    ]
    features = json.loads(run([runtime, "features"]).stdout)
    spec = json.loads((tmp_path / "config.json").read_text())
    assert told == features["ociVersionMax"] == spec["ociVersion"]
    assert features["ociVersionMin"] == "1.0.0"
