"""What `features` says is as its schema has it, nothing of runc's is missing, and what it says is so."""

import json
import shutil
import subprocess
from typing import Any

import pytest

from pyrunc.errors import PyruncError
from pyrunc.oci.features import document
from pyrunc.runtime import cgroup_systemd, mount_options
from pyrunc.spec.document import check
from tests.oci.schema import load, violations

# runc drops what a file system is told with these; here it is told.
_NOT_OURS = {"acl", "noacl"}


def test_the_document_is_as_its_schema_has_it() -> None:
    schema = load("features-schema.json")
    assert violations(document(), schema, "features-schema.json") == []
    broken: dict[str, Any] = {**document(), "hooks": "prestart"}
    broken["linux"] = {**broken["linux"], "seccomp": {"actions": ["SCMP_ACT_FISH"]}}
    assert violations(broken, schema, "features-schema.json") == [
        ".hooks: is no array", f".linux.seccomp.actions[0]: 'SCMP_ACT_FISH' is none of {_actions()}",
    ]  # fmt: skip
    assert violations({}, schema, "features-schema.json") == [
        ".ociVersionMin: is missing",
        ".ociVersionMax: is missing",
    ]


def _actions() -> Any:
    return load("defs-linux.json")["definitions"]["SeccompAction"]["enum"]


def test_nothing_that_runc_lists_is_missing() -> None:
    runc = shutil.which("runc")
    if runc is None:
        pytest.skip("needs runc")
    theirs = json.loads(subprocess.run([runc, "features"], capture_output=True, check=True).stdout)
    ours = document()
    assert ours["hooks"] == theirs["hooks"]
    assert set(theirs["mountOptions"]) - set(ours["mountOptions"]) <= _NOT_OURS
    for key in ("namespaces", "capabilities"):
        assert set(theirs["linux"][key]) <= set(ours["linux"][key])
    for key in ("actions", "operators", "archs"):
        assert set(theirs["linux"]["seccomp"][key]) <= set(ours["linux"]["seccomp"][key])


def test_every_mount_option_is_one() -> None:
    for option in document()["mountOptions"]:
        mount_options.parse([option])


def test_what_an_annotation_or_a_new_field_does_is_told() -> None:
    """Who lets others write annotations strikes these out; netDevices and memoryPolicy came with version 1.3.0."""
    features = document()
    told = features["potentiallyUnsafeConfigAnnotations"]
    unit = cgroup_systemd.parse("", "box", {"org.systemd.property.TimeoutStopUSec": "uint64 5"})
    assert unit.annotations and "org.systemd.property.TimeoutStopUSec".startswith(tuple(told))
    assert all(each.endswith(".") for each in told)
    assert features["linux"]["netDevices"]["enabled"] and features["ociVersionMax"] >= "1.3.0"


def test_every_namespace_and_hook_passes_the_check_of_documents() -> None:
    features = document()
    check({
        "ociVersion": features["ociVersionMax"],
        "linux": {"namespaces": [{"type": kind} for kind in features["linux"]["namespaces"]]},
    })  # fmt: skip
    with pytest.raises(PyruncError):
        check({"ociVersion": 1})
