"""Whatever is passed as an option, only errors of pyrunc come out, and nothing is left on the host."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pyrunc import IdMap, Mount, Sandbox
from pyrunc.errors import InvalidArgument, PyruncError
from pyrunc.runtime.options import _CHECKS, SandboxOptions

pytestmark = pytest.mark.usefixtures("host_unchanged")

_TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from((
        "", "/", "/x", "/proc", "/dev", "/dev/null", "/etc/passwd", "/..", "a:b", "root", "0", "-1",
        "4294967295", "ALL",
        "SYS_ADMIN", "host", "private", "none", "scratch", "no", "direct", "ro", "bind", "tmpfs",
        "size=1m", "tmpcopyup",
        "net.core.somaxconn", "kernel.shmmax", "c 1:3 rwm", "1.2.3.4", "nofile", "0-1", "x" * 5000, "\0", "\ud800",
    )),
)  # fmt: skip
_NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.sampled_from((0, 1, -1, 1 << 31, 1 << 32, 1 << 63, 1 << 64, -(1 << 63), 1 << 70)),
)
_SCALARS = st.one_of(st.none(), _TEXTS, _NUMBERS, st.binary(max_size=5))
_MOUNTS = st.builds(Mount, _SCALARS, _SCALARS, _SCALARS, st.one_of(_SCALARS, st.lists(_SCALARS, max_size=3)))
_MAPS = st.builds(IdMap, _SCALARS, _SCALARS, _SCALARS)
_VALUES = st.recursive(
    st.one_of(_SCALARS, _MOUNTS, _MAPS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(_TEXTS | st.integers(), inner, max_size=3),
    ),
    max_leaves=5,
)


# Values of the right shape too, so that the checks behind the first one are reached.
_LIKELY = st.one_of(
    _VALUES,
    _TEXTS,
    _NUMBERS,
    st.lists(_TEXTS, max_size=3),
    st.lists(_MOUNTS, max_size=2),
    st.lists(_MAPS, max_size=2),
    st.dictionaries(_TEXTS, _TEXTS, max_size=2),
    st.dictionaries(_TEXTS, st.integers() | st.tuples(st.integers(), st.integers()), max_size=2),
)


def test_every_option_is_checked() -> None:
    assert set(_CHECKS) == set(SandboxOptions.__annotations__)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(sorted(_CHECKS), _LIKELY)))
@example({"rlimits": {"nofile": (1, 1 << 64)}})
@example({"devices": ["/dev/null:/x" + "y" * 5000]})
@example({"tmpfs": {"/x": "size=\0,,"}})
@example({"mounts": [Mount("/x", "/etc", "tmpfs", ["a=b\0c=d"])]})
@example({"uid_maps": [IdMap(0, 1, 1 << 40)]})
@example({"hostname": "\ud800"})
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_only_errors_of_pyrunc_come_out_of_a_sandbox(rootfs: Path, options: dict[str, Any]) -> None:
    try:
        Sandbox(rootfs, **options).close()
    except PyruncError as exc:
        text = str(exc)
        assert text
        assert "\n" not in text or "\n" in repr(options)


@given(st.sampled_from(sorted(_CHECKS)), st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_accepted_starts_or_says_why_not(rootfs: Path, option: str, data: st.DataObject) -> None:
    if option == "writable":
        return  # "direct" would change the root that all tests share
    try:
        with Sandbox(rootfs, **{option: data.draw(_LIKELY)}) as box:
            assert box.run(["/bin/true"], timeout_s=20).exit_code in (0, 137, 139)
    except PyruncError as exc:
        assert str(exc)


def test_the_error_names_the_option(rootfs: Path) -> None:
    for option in _CHECKS:
        for wrong in (object(), b"x", {"\0": object()}, [object()], -(1 << 70)):
            with pytest.raises(InvalidArgument, match=f"^{option}"):
                Sandbox(rootfs, **{option: wrong})  # type: ignore[arg-type]


def test_an_option_that_does_not_exist(rootfs: Path) -> None:
    with pytest.raises(TypeError, match=r"^Sandbox\(\) got an unexpected keyword argument 'memory'$"):
        Sandbox(rootfs, memory=5)  # type: ignore[call-arg]


def test_none_is_an_option_left_out(rootfs: Path) -> None:
    with Sandbox(rootfs, **dict.fromkeys(_CHECKS)) as box:  # type: ignore[arg-type]
        assert box.run(["/bin/true"]).exit_code == 0
