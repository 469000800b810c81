"""A config.json that is wrong gets one message that names the field, and leaves nothing behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyrunc.errors import PyruncError
from pyrunc.oci import create
from pyrunc.oci.log import Failure
from tests.oci import shapes
from tests.oci.observe import places
from tests.oci.runtime import Result, Runtime, unique_id
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root
FAULTS = list(shapes.faults())


def examples(number: int) -> settings:
    """So many, the same each time; each starts a runtime."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        deadline=None, derandomize=True, database=None, max_examples=number, suppress_health_check=checks
    )


PLACES = sorted({path for path, _ in FAULTS}, key=str)
# What would be executed, joined or made on the host, and what decides where that is.
HOSTS = (
    "hooks",
    "cgroupsPath",
    "listenerPath",
    "root",
    "uidMappings",
    "gidMappings",
    "path",
    "process",
    "netDevices",
)


@pytest.fixture
def place(bundle: Callable[..., Path]) -> tuple[Path, dict[str, Any]]:
    """A bundle, and its document."""
    path = bundle("bundle", "/bin/true")
    return path, json.loads((path / "config.json").read_text())


def words_about(path: Path) -> str:
    """What compiling the bundle says; nothing if it is accepted."""
    try:
        create.prepare(["create", "--bundle", str(path), "name"])
    except (PyruncError, Failure) as error:
        return str(getattr(error, "message", error))
    return ""


def test_each_single_fault_is_named(place: tuple[Path, dict[str, Any]]) -> None:
    path, document = place
    assert words_about(path) == ""
    unnamed = []
    for where, value in FAULTS:
        (path / "config.json").write_text(json.dumps(shapes.damaged(document, where, value)))
        words = words_about(path)
        if shapes.name_of(where) not in words or "\n" in words:
            unnamed.append((".".join(map(str, where)), value, words))
    assert not unnamed, "\n".join(map(str, unnamed))


def refused(runtime: Runtime, path: Path, verb: str) -> Result:
    """Create or run a container, which must fail with one line and leave nothing."""
    name = unique_id()
    runtime.made.append(name)
    result = runtime(verb, "--bundle", str(path), name, code=1)
    assert result.out == "" and result.err.count("\n") == 1 and "level=error" in result.err, result
    assert not (runtime.root / name).exists() and places(name) == []
    return result


@examples(60)
@given(fault=st.sampled_from(FAULTS), verb=st.sampled_from(["create", "run"]))
def test_a_fault_by_command_line(
    runtime: Runtime, place: tuple[Path, dict[str, Any]], fault: tuple[shapes.Path, Any], verb: str
) -> None:
    path, document = place
    where, value = fault
    (path / "config.json").write_text(json.dumps(shapes.damaged(document, where, value)))
    assert shapes.name_of(where) in refused(runtime, path, verb).err


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["process", "root", "path", "args", "linux", "mounts", "hooks", "x"]
    ), inner, max_size=4),
)  # fmt: skip


@examples(40)
@given(text=JSON.map(json.dumps) | st.binary(max_size=40).map(lambda data: data.decode("latin-1")))
def test_a_document_that_is_none(runtime: Runtime, place: tuple[Path, dict[str, Any]], text: str) -> None:
    path, _ = place
    (path / "config.json").write_text(text, encoding="latin-1")
    refused(runtime, path, "create")


@examples(20)
@given(share=st.floats(0, 0.999))
def test_a_document_that_ends_early(
    runtime: Runtime, place: tuple[Path, dict[str, Any]], share: float
) -> None:
    path, document = place
    text = json.dumps(document)
    (path / "config.json").write_text(text[: int(len(text) * share)])
    refused(runtime, path, "create")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"process":{"args":["' + "x" * (17 << 20)]
)
def test_a_document_that_is_deep_or_long(
    runtime: Runtime, place: tuple[Path, dict[str, Any]], text: str
) -> None:
    path, _ = place
    (path / "config.json").write_text(text)
    refused(runtime, path, "create")


def right(shape: Any) -> st.SearchStrategy[Any]:
    """Values of a shape, whatever they mean."""
    match shape:
        case shapes.Text(sample, words):
            return st.just(sample) if words else st.text(max_size=30)
        case shapes.Number(least, most, _):
            return st.integers(least, most) | st.sampled_from([least, most, 0, 1])
        case shapes.Flag():
            return st.booleans()
        case shapes.Many(item):
            return st.lists(right(item), max_size=3)
        case shapes.Named(item):
            return st.dictionaries(st.text(min_size=1, max_size=20), right(item), max_size=2)
        case shapes.Record(members, required):
            return st.fixed_dictionaries({name: right(members[name]) for name in required})
    raise TypeError(shape)


def shape_at(path: shapes.Path) -> Any:
    shape: Any = shapes.DOCUMENT
    for step in path:
        shape = shape.members[str(step)] if isinstance(shape, shapes.Record) else shape.item
    return shape


@examples(80)
@given(
    data=st.data(),
    where=st.sampled_from([path for path in PLACES if not {*HOSTS} & {*path} and path != ("linux",)]),
)
def test_values_of_the_right_shape(
    runtime: Runtime, place: tuple[Path, dict[str, Any]], data: st.DataObject, where: shapes.Path
) -> None:
    """Whatever they mean: a container that can be deleted, or one message and nothing."""
    path, document = place
    name = unique_id()
    document["linux"]["cgroupsPath"] = f"/{name}"
    value = data.draw(right(shape_at(where)))
    (path / "config.json").write_text(json.dumps(shapes.damaged(document, where, value)))
    runtime.made.append(name)
    result = runtime("create", "--bundle", str(path), name, code=None)
    if result.code == 0:
        runtime("delete", "--force", name)
    else:
        assert result.code == 1 and result.err.count("\n") == 1 and "level=error" in result.err, result
    assert not (runtime.root / name).exists() and places(name) == []
