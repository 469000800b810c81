"""pyrunc.records: the same behaviour as typing's and functools', and the way to a start without their import."""

import inspect
import os
import pickle
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc import records
from tests import rootfs

SLOW = (
    "typing",
    "functools",
    "collections",
    "re",
    "enum",
    "socket",
    "contextlib",
    "inspect",
    "dataclasses",
    "asyncio",
)


class Light(records.NamedTuple):
    first: int
    second: str = "two"
    third: tuple[int, ...] = ()

    @property
    def double(self) -> int:
        return self.first * 2

    @classmethod
    def of(cls, number: int) -> "Light":
        return cls(number)


class Real(typing.NamedTuple):
    first: int
    second: str = "two"
    third: tuple[int, ...] = ()


CALLS: list[Callable[[Any], object]] = [
    lambda kind: kind(1),
    lambda kind: kind(1, "x"),
    lambda kind: kind(1, third=(3,)),
    lambda kind: kind(third=(1,), first=0),
    lambda kind: kind._fields,
    lambda kind: kind._field_defaults,
    lambda kind: kind.__match_args__,
    lambda kind: kind(1)._replace(second="y"),
    lambda kind: kind(1)._asdict(),
    lambda kind: kind._make([1, "x", ()]),
    lambda kind: [*kind(1)],
    lambda kind: kind(1) == (1, "two", ()),
    lambda kind: hash(kind(1)) == hash((1, "two", ())),
    lambda kind: kind(1) < kind(2),
    lambda kind: repr(kind(1, "x", (1,))).replace(kind.__name__, ""),
    lambda kind: kind(1).second.upper(),
    lambda kind: {kind(1): 1}[kind(1)],
]
MISTAKES: list[Callable[[Any], object]] = [
    lambda kind: kind(),
    lambda kind: kind(1, "x", (), 4),
    lambda kind: kind(1, fourth=4),
    lambda kind: kind(1, first=1),
    lambda kind: kind(1)._replace(fourth=4),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_record_does_what_a_named_tuple_does(call: Callable[[Any], object]) -> None:
    assert call(Light) == call(Real)


@pytest.mark.parametrize("call", MISTAKES)
def test_a_record_refuses_what_a_named_tuple_refuses(call: Callable[[Any], object]) -> None:
    for kind in (Light, Real):
        with pytest.raises((TypeError, ValueError)):
            call(kind)


def test_a_record_is_a_small_immutable_tuple() -> None:
    assert issubclass(Light, tuple)
    value: Any = Light(1)
    with pytest.raises(AttributeError):
        value.first = 2
    with pytest.raises(AttributeError):
        value.other = 2
    match value:
        case Light(first, second):
            assert (first, second) == (1, "two")


def test_a_record_keeps_its_methods_and_its_pickles() -> None:
    assert Light(2).double == 4
    twin = pickle.loads(pickle.dumps(Light.of(3)))
    assert (type(twin), twin) == (Light, Light(3))


def test_the_light_lru_cache_forgets() -> None:
    calls = []

    @records.lru_cache(maxsize=2)
    def double(number: int) -> int:
        calls.append(number)
        return number * 2

    assert [double(number) for number in (1, 1, 2, 3, 1)] == [2, 2, 4, 6, 2]
    assert calls == [1, 2, 3, 1]
    double.cache_clear()
    assert double(1) == 2
    assert calls[-1] == 1
    assert len(calls) == 5
    assert inspect.unwrap(double) is not double


@pytest.mark.parametrize(
    "text", ["{", '{"a": ', '{"a": 1,}', "[1, 2", '"open', "", "nonsense", '{"a": "\n"}']
)
def test_broken_json_is_a_value_error_where_json_was_never_imported(text: str) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pyrunc.records import loads
assert "json" not in sys.modules
try:
    loads(sys.argv[1])
except ValueError:
    sys.exit(7)
"""
    ended = subprocess.run([sys.executable, "-I", "-S", "-c", program, text], check=False, timeout=60)
    assert ended.returncode == 7


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start a container")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there the modules of Python itself are used")
def test_the_first_container_ends_before_anything_slow_is_imported(tmp_path: Path) -> None:
    root = rootfs.make(tmp_path / "root")
    code = f"""
import sys
sys.path.insert(0, {str(Path(records.__file__).parents[1])!r})
import pyrunc
with pyrunc.Sandbox({str(root)!r}, memory_bytes=64 << 20, mounts=[pyrunc.Mount("/mnt", "/tmp")]) as box:
    assert box.run(["true"], timeout_s=60).exit_code == 0
print([name for name in {SLOW} if name in sys.modules])
"""
    # Without site, which in some installations imports much by itself.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
