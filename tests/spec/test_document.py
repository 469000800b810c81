"""The shape of a document: what is wrong is named, and what passes never surprises the compiler."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrunc.errors import InvalidSpec, PyruncError
from pyrunc.runtime.compile import Rootfs, compile_spec
from pyrunc.runtime.plan import PlanTemplate
from pyrunc.spec import defaults, document

SPEC: dict[str, Any] = {
    "ociVersion": "1.2.0", "root": {"path": "rootfs", "readonly": True}, "hostname": "h", "domainname": "d",
    "process": {
        "terminal": False, "args": ["true"], "env": ["A=b"], "cwd": "/", "noNewPrivileges": True, "oomScoreAdj": 5,
        "user": {"uid": 0, "gid": 0, "umask": 18, "additionalGids": [1]}, "capabilities": {"bounding": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 1}],
    },
    "mounts": [*defaults.mounts(), {"destination": "/x", "type": "bind", "source": "/etc",
                                     "options": ["rbind", "rro"]}],
    "annotations": {"a": "b"},
    "linux": {
        "namespaces": [{"type": kind} for kind in defaults.NAMESPACES], "sysctl": {"net.core.somaxconn": "5"},
        "devices": [{"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0}],
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}], "memory": {"limit": 1 << 26}, "cpu": {"shares": 5},
            "pids": {"limit": 5},
        },
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}, "maskedPaths": ["/proc/keys"], "readonlyPaths": ["/proc/sys"],
        "rootfsPropagation": "rslave", "cgroupsPath": "/a/b",
    },
}  # fmt: skip


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every field of the document, as the keys that lead to it."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [
        *([way] if way else []),
        *(found for key, member in below for found in places(member, (*way, key))),
    ]


def changed(way: tuple[Any, ...], value: object) -> dict[str, Any]:
    spec = copy.deepcopy(SPEC)
    place: Any = spec
    for key in way[:-1]:
        place = place[key]
    place[way[-1]] = value
    return spec


def checked_and_compiled(spec: Any) -> PlanTemplate:
    document.check(spec)
    return compile_spec(spec, Rootfs(("/",)))


def test_a_good_document_passes_and_compiles() -> None:
    assert checked_and_compiled(SPEC).steps


@pytest.mark.parametrize(("way", "value", "words"), [
    (("process", "user", "uid"), "0", "process.user.uid: must be an integer from 0"),
    (("process", "args", 0), 5, r"process.args\[0\]: must be a string"),
    (("mounts", 1, "options"), "ro", r"mounts\[1\].options: must be a list"),
    (("linux", "sysctl", "net.core.somaxconn"), 5, r"linux.sysctl\['net.core.somaxconn'\]: must be a string"),
    (("root", "readonly"), "yes", "root.readonly: must be true or false"),
    (("process",), [], "process: must be an object"),
    (("hostname",), "a\0b", "hostname: must be text without NUL"),
    (("linux", "rootfsPropagation"), "sideways", "linux.rootfsPropagation: rootfsPropagation=sideways is not"),
])  # fmt: skip
def test_what_is_wrong_is_named(way: tuple[Any, ...], value: object, words: str) -> None:
    spec = changed(way, value)
    with pytest.raises(InvalidSpec, match=f"^{words}"):
        checked_and_compiled(spec)


def test_null_is_a_field_left_out() -> None:
    for way in places(SPEC):
        if isinstance(way[-1], str) and way[-2:-1] not in (("annotations",), ("sysctl",)):
            spec = changed(way, None)
            document.check(spec)
            try:
                checked_and_compiled(spec)
            except PyruncError:
                pass


_VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
        st.sampled_from(("", "/", "..", "\0", 1 << 32, 1 << 64, -1, "bind", "c", "SCMP_ACT_KILL", "mount", "pid")),
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(places(SPEC)), _VALUES), min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_only_errors_of_pyrunc_come_out(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    spec: Any = copy.deepcopy(SPEC)
    for way, value in changes:
        place = spec
        try:
            for key in way[:-1]:
                place = place[key]
            place[way[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue  # an earlier change has taken the place away
    try:
        checked_and_compiled(spec).finish("a" * 64, ["true"], [], ["/bin/true"])
    except PyruncError as exc:
        assert str(exc)
