"""A program laid out anew does what it did before, except where it was told otherwise."""

import errno
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrunc._native import seccomp as libseccomp
from pyrunc.runtime import seccomp_layout as layout
from pyrunc.runtime.seccomp_layout import Instruction, Outcome
from tests import bpf_sim, confined

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
ARCHES = (X86_64, I386, AARCH64)
OPERATORS = (
    libseccomp.CMP_NE,
    libseccomp.CMP_LT,
    libseccomp.CMP_LE,
    libseccomp.CMP_EQ,
    libseccomp.CMP_GE,
    libseccomp.CMP_GT,
    libseccomp.CMP_MASKED_EQ,
)


def again(bpf: bytes) -> bytes:
    program = layout.decode(bpf)
    return layout.encode(
        layout.lay_out(program, {arch: layout.map_numbers(program, arch) for arch in ARCHES})
    )


def assert_same(one: bytes, other: bytes, numbers: list[int], arguments: list[tuple[int, ...]]) -> None:
    for arch in (*ARCHES, 0, 1, 0xFFFFFFFF):
        for number in numbers:
            for args in arguments:
                want = bpf_sim.run(one, arch, number, args)
                assert bpf_sim.run(other, arch, number, args) == want, (hex(arch), number, args)


conditions = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(OPERATORS),
        st.sampled_from((0, 1, 5, 2**32 - 1, 2**32, 2**32 + 5, 2**64 - 1)),
        st.sampled_from((0, 1, 5, 2**32)),
    ),
    max_size=3,
    unique_by=lambda condition: condition[0],
)
rules = st.lists(
    st.tuples(st.integers(1, 400), st.sampled_from((0, ERRNO | 7, ERRNO | 8, 0x7FFC0000)), conditions),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(rules=rules, default=st.sampled_from((ALLOW, ERRNO | 1)))
def test_any_filter_of_libseccomp_keeps_its_meaning(
    rules: list[tuple[int, int, list[tuple[int, int, int, int]]]], default: int
) -> None:
    filter_ = libseccomp.Filter(default)
    for arch in ARCHES:
        filter_.add_arch(arch)
    for number, action, conditions in rules:
        try:
            filter_.add_rule(action, number, conditions)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EFAULT):  # contradicts another, or is no syscall
                raise
    bpf = filter_.export_bpf()
    numbers = [*range(0, 480, 7), *(number for number, _, _ in rules), 0x3FFFFFFF, 0x40000000, 0x40000001]
    values = (0, 1, 4, 5, 6, 2**32, 2**32 + 5, 2**64 - 1)
    assert_same(bpf, again(bpf), [*numbers, 0xFFFFFFFE, 0xFFFFFFFF], [(value,) * 6 for value in values])


@pytest.mark.parametrize("seed", range(3))
def test_jumps_reach_across_long_programs(seed: int) -> None:
    """Hundreds of outcomes, so that neither comparisons nor shared outcomes reach each other directly."""
    rng = random.Random(seed)
    filter_ = libseccomp.Filter(ALLOW)
    for arch in ARCHES:
        filter_.add_arch(arch)
    for number in set(range(2, 330)) - {60, 231}:  # all but what a child needs to report and to end
        condition = (
            [(rng.randrange(6), libseccomp.CMP_EQ, rng.randrange(2**40), 0)] if rng.random() < 0.5 else []
        )
        try:
            filter_.add_rule(ERRNO | rng.randrange(1, 4000), number, condition)
        except OSError as error:
            assert error.errno == errno.EFAULT
    bpf = filter_.export_bpf()
    assert len(bpf) // 8 > 1000
    new = again(bpf)
    assert_same(bpf, new, [*range(500), 0xFFFFFFFF], [(0,) * 6])
    assert confined.attempt(new, 0, [(999,)]) == [-errno.ENOSYS], "the kernel takes it"


def test_one_number_is_found_in_every_range() -> None:
    program = [
        Instruction(layout.LD_ABS, 0, 0, layout.DATA_NR),
        Instruction(layout.JEQ, 4, 0, 5),
        Instruction(layout.JGE, 0, 3, 5),  # 5 has left this range: only bigger ones come here
        Instruction(layout.JGT, 0, 1, 5),
        Instruction(layout.RET, 0, 0, 11),
        Instruction(layout.RET, 0, 0, 22),  # for nobody
        Instruction(layout.RET, 0, 0, 33),
    ]
    spans = layout.map_numbers(program, X86_64)
    assert spans == [(0, Outcome(False, 33)), (6, Outcome(False, 11))]


@pytest.mark.parametrize("code", [0x45, 0x54], ids=["jset", "and"])
def test_what_libseccomp_does_not_use_is_kept_as_it_is(code: int) -> None:
    bpf = layout.encode(
        [
            Instruction(layout.LD_ABS, 0, 0, layout.DATA_NR),
            Instruction(layout.JEQ, 3, 0, 9),
            Instruction(code, 0, 0, 3),
            Instruction(layout.JEQ, 1, 0, 1),
            Instruction(layout.RET, 0, 0, 11),
            Instruction(layout.RET, 0, 0, 22),
        ]
    )
    assert_same(bpf, again(bpf), [*range(12), 0xFFFFFFFF], [()])


def test_an_unknown_look_at_the_architecture_starts_over() -> None:
    bpf = layout.encode(
        [
            Instruction(layout.LD_ABS, 0, 0, layout.DATA_ARCH),
            Instruction(0x45, 0, 1, 0x80000000),
            Instruction(layout.RET, 0, 0, 11),
            Instruction(layout.RET, 0, 0, 22),
        ]
    )
    assert_same(bpf, again(bpf), [0, 5], [()])


@pytest.mark.parametrize(
    ("low", "high", "want"),
    [
        (3, 3, [(0, 1), (3, 9), (4, 1), (10, 2), (20, 1)]),
        (0, 0, [(0, 9), (1, 1), (10, 2), (20, 1)]),
        (10, 19, [(0, 1), (10, 9), (20, 1)]),
        (9, 20, [(0, 1), (9, 9), (21, 1)]),
        (15, 2**32 - 1, [(0, 1), (10, 2), (15, 9)]),
        (0, 2**32 - 1, [(0, 9)]),
        (2**32 - 1, 2**32 - 1, [(0, 1), (10, 2), (20, 1), (2**32 - 1, 9)]),
    ],
)
def test_override_touches_its_numbers_only(low: int, high: int, want: list[tuple[int, int]]) -> None:
    spans = [(start, Outcome(False, value)) for start, value in ((0, 1), (10, 2), (20, 1))]
    layout.override(spans, low, high, Outcome(False, 9))
    assert spans == [(start, Outcome(False, value)) for start, value in want]
