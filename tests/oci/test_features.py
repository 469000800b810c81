"""The document that `features` prints."""

import json
from pathlib import Path

from tests.oci.play import python_player
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
