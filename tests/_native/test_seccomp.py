"""The bindings of libseccomp: what they export is what the kernel takes and obeys."""

import errno
import platform
import subprocess
import sys

import pytest

from pyrunc._native import seccomp
from tests import bpf_sim, confined

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
GETPPID = {"x86_64": 110, "aarch64": 173}[platform.machine()]


def returned(filter_: seccomp.Filter, number: int, *args: int) -> int:
    return bpf_sim.run(filter_.export_bpf(), seccomp.native_arch(), number, args)


def test_library_and_architecture_are_known() -> None:
    assert seccomp.version() >= (2, 5, 0)
    assert seccomp.api_level() >= 1
    assert seccomp.native_arch() == seccomp.resolve_arch(platform.machine().encode())
    assert seccomp.resolve_arch(b"vax") == 0


def test_names_resolve_per_architecture() -> None:
    x86_64, x86, x32, aarch64 = (
        seccomp.resolve_arch(name) for name in (b"x86_64", b"x86", b"x32", b"aarch64")
    )
    assert [seccomp.resolve_syscall(arch, b"write") for arch in (x86_64, x86, aarch64)] == [1, 4, 64]
    assert seccomp.resolve_syscall(x32, b"write") == 0x40000001
    assert seccomp.resolve_syscall(x86_64, b"no_such_syscall") is None
    absent = seccomp.resolve_syscall(aarch64, b"open")
    assert absent is not None and absent < 0


@pytest.mark.parametrize(
    ("operator", "matching", "other"),
    [
        (seccomp.CMP_NE, (0x1_0000_0006, 4), (0x1_0000_0005,)),
        (seccomp.CMP_LT, (5, 0x1_0000_0004), (0x1_0000_0005, 0x1_0000_0006, 0x2_0000_0000)),
        (seccomp.CMP_LE, (5, 0x1_0000_0005), (0x1_0000_0006, 0x2_0000_0000)),
        (seccomp.CMP_EQ, (0x1_0000_0005,), (5, 0x1_0000_0006, 0x2_0000_0005)),
        (seccomp.CMP_GE, (0x1_0000_0005, 0x2_0000_0000), (5, 0x1_0000_0004)),
        (seccomp.CMP_GT, (0x1_0000_0006, 0x2_0000_0000), (6, 0x1_0000_0005)),
    ],
)
@pytest.mark.parametrize("argument", range(6))
def test_comparisons_see_all_64_bits_of_every_argument(
    argument: int, operator: int, matching: tuple[int, ...], other: tuple[int, ...]
) -> None:
    filter_ = seccomp.Filter(ERRNO | 1)
    filter_.add_rule(ALLOW, GETPPID, [(argument, operator, 0x1_0000_0005, 0)])
    before = (0,) * argument
    assert {returned(filter_, GETPPID, *before, value) for value in matching} == {ALLOW}
    assert {returned(filter_, GETPPID, *before, value) for value in other} == {ERRNO | 1}


def test_masked_comparison_takes_the_mask_first() -> None:
    filter_ = seccomp.Filter(ERRNO | 1)
    filter_.add_rule(ALLOW, GETPPID, [(0, seccomp.CMP_MASKED_EQ, 0xF0, 0x50)])
    assert returned(filter_, GETPPID, 0x1_0000_0F5A) == ALLOW
    assert returned(filter_, GETPPID, 0x45) == ERRNO | 1


def test_all_conditions_of_a_rule_must_hold() -> None:
    filter_ = seccomp.Filter(ERRNO | 1)
    filter_.add_rule(ALLOW, GETPPID, [(0, seccomp.CMP_EQ, 1, 0), (5, seccomp.CMP_EQ, 2, 0)])
    assert returned(filter_, GETPPID, 1, 0, 0, 0, 0, 2) == ALLOW
    assert returned(filter_, GETPPID, 1) == returned(filter_, GETPPID, 0, 0, 0, 0, 0, 2) == ERRNO | 1


def test_the_kernel_obeys_an_exported_filter() -> None:
    filter_ = seccomp.Filter(ALLOW)
    filter_.add_rule(ERRNO | errno.EXDEV, GETPPID, [(0, seccomp.CMP_EQ, 7, 0)])
    refused, allowed = confined.attempt(filter_.export_bpf(), 0, [(GETPPID, 7), (GETPPID, 8)])
    assert refused == -errno.EXDEV
    assert allowed > 0


def test_an_architecture_twice_is_no_error() -> None:
    filter_ = seccomp.Filter(ALLOW)
    filter_.add_arch(seccomp.native_arch())
    assert bpf_sim.run(filter_.export_bpf(), seccomp.native_arch(), GETPPID) == ALLOW


@pytest.mark.parametrize(
    ("action", "conditions", "number"),
    [
        (ALLOW, [], errno.EACCES),  # the default action
        (ERRNO | 1, [(0, seccomp.CMP_EQ, 1, 0), (0, seccomp.CMP_EQ, 2, 0)], errno.EINVAL),
        (ERRNO | 1, [(6, seccomp.CMP_EQ, 1, 0)], errno.EINVAL),
        (ERRNO | 1, [(0, 99, 1, 0)], errno.EINVAL),
        (ERRNO | 1, [(i % 6, seccomp.CMP_EQ, 1, 0) for i in range(7)], errno.EINVAL),
    ],
)
def test_refusals_of_libseccomp_are_os_errors(
    action: int, conditions: list[tuple[int, int, int, int]], number: int
) -> None:
    filter_ = seccomp.Filter(ALLOW)
    with pytest.raises(OSError) as refusal:
        filter_.add_rule(action, GETPPID, conditions)
    assert refusal.value.errno == number


def test_an_unknown_default_action_is_refused() -> None:
    with pytest.raises(OSError) as refusal:
        seccomp.Filter(0x12345678)
    assert refusal.value.errno == errno.EINVAL


def test_values_out_of_range_do_not_wrap() -> None:
    filter_ = seccomp.Filter(ALLOW)
    for bad in (-1, 2**64):
        with pytest.raises(OverflowError):
            filter_.add_rule(ERRNO | 1, GETPPID, [(0, seccomp.CMP_EQ, bad, 0)])


def test_filters_free_their_memory_and_descriptors() -> None:
    code = """
import os, resource
from pyrunc._native import seccomp
def once():
    filter_ = seccomp.Filter(0x7fff0000)
    for number in range(100):
        filter_.add_rule(0x50001, number, [])
    filter_.export_bpf()
for _ in range(50): once()
before, fds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, os.listdir("/proc/self/fd")
for _ in range(500): once()
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024, "leaks memory"
assert os.listdir("/proc/self/fd") == fds
"""
    subprocess.run([sys.executable, "-c", code], check=True)
