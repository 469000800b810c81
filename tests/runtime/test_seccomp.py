"""Profiles become programs that do what the profile says: in a simulator, and under the real kernel."""

import errno
import os
import platform
import re
import signal
import struct
from pathlib import Path
from typing import Any

import pytest

from pyrunc._native import seccomp as libseccomp
from pyrunc.runtime.seccomp import compile_profile
from pyrunc.runtime.seccomp_compiler import _NEW_SYSCALLS, _OWN_SYSCALLS
from pyrunc.spec.seccomp import InvalidProfile, docker_profile
from tests import bpf_sim, confined
from tests.confined import ENOSYS, EPERM

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers and headers of x86_64")

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
DENY = ERRNO | errno.EPERM
FUTURE = ERRNO | errno.ENOSYS
KILL_THREAD = 0

X86_64, I386 = 0xC000003E, 0x40000003
X32_BIT = 0x40000000
HEADERS = Path("/usr/include/x86_64-linux-gnu/asm")

GETPPID, DUP, DUP3 = 110, 32, 292
DOCKER_CAPABILITIES = ("CAP_CHOWN", "CAP_SYS_CHROOT", "CAP_SETUID", "CAP_NET_RAW")

# What no header of today's distributions has; written down here a second time on purpose.
NEWEST = {
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
}


def default(*capabilities: str) -> dict[str, Any]:
    return docker_profile(capabilities or DOCKER_CAPABILITIES, "x86_64", (6, 1))


def numbers(header: str) -> dict[str, int]:
    """Return name and number of each syscall in one of the kernel's headers, newer ones from libseccomp."""
    token, offset = {
        "unistd_64.h": (X86_64, 0),
        "unistd_32.h": (I386, 0),
        "unistd_x32.h": (X32_BIT | 62, X32_BIT),
    }[header]
    if not (HEADERS / header).exists():
        pytest.skip(f"needs {header} of linux-libc-dev")
    found = {
        name: int(number) + offset
        for name, number in re.findall(
            r"#define __NR_(\w+) (?:\(__X32_SYSCALL_BIT \+ )?(\d+)", (HEADERS / header).read_text()
        )
    }
    for name in ("cachestat", "fchmodat2", "map_shadow_stack", "futex_wake", "futex_wait", "futex_requeue"):
        known = libseccomp.resolve_syscall(token, name.encode())
        if known is not None and known > 0:
            found[name] = known
    return (
        found
        | {name: number + offset for name, number in NEWEST.items()}
        | ({"uretprobe": 335} if header == "unistd_64.h" else {})
    )


def holds(argument: dict[str, Any], args: tuple[int, ...]) -> bool:
    value = args[argument["index"]]
    wanted: int = argument["value"]
    results: dict[str, bool] = {
        "SCMP_CMP_NE": value != wanted,
        "SCMP_CMP_LT": value < wanted,
        "SCMP_CMP_LE": value <= wanted,
        "SCMP_CMP_EQ": value == wanted,
        "SCMP_CMP_GE": value >= wanted,
        "SCMP_CMP_GT": value > wanted,
        "SCMP_CMP_MASKED_EQ": value & wanted == argument.get("valueTwo", 0),
    }
    return results[argument["op"]]


def verdict(profile: dict[str, Any], name: str | None, args: tuple[int, ...]) -> int:
    """Return what *profile*, which allows or gives an errno, does with one syscall."""
    for rule in profile["syscalls"]:
        if name in rule["names"] and all(holds(argument, args) for argument in rule.get("args", ())):
            return ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else ERRNO | rule["errnoRet"]
    return DENY


def interesting(profile: dict[str, Any], name: str | None) -> list[tuple[int, ...]]:
    """Return argument lists around every value that rules for *name* compare with."""
    lists = [(0,) * 6, (2**64 - 1,) * 6]
    for rule in profile["syscalls"]:
        if name in rule["names"]:
            for argument in rule.get("args", ()):
                for value in (argument["value"] + delta for delta in (-1, 0, 1, 2**32)):
                    lists += [(value,) * 6, (0, value, 0, 0, 0, 0), (value, 0, 0, 0, 0, 0)]
                lists += [(1 << bit, 0, 0, 0, 0, 0) for bit in range(64)]
    return [tuple(value % 2**64 for value in args) for args in lists]


@pytest.mark.parametrize(
    "capabilities", [(), ("CAP_SYS_ADMIN",), ("CAP_SYS_PTRACE", "CAP_BPF", "CAP_SYSLOG")]
)
@pytest.mark.parametrize(
    ("header", "arch"), [("unistd_64.h", X86_64), ("unistd_32.h", I386), ("unistd_x32.h", X86_64)]
)
def test_docker_default_decides_every_syscall_as_written(
    header: str, arch: int, capabilities: tuple[str, ...]
) -> None:
    profile = default(*capabilities)
    bpf = compile_profile(profile).bpf
    known = numbers(header)
    names = {number: name for name, number in known.items()}
    base = X32_BIT if header == "unistd_x32.h" else 0
    largest = max(known.get(name, 0) for rule in profile["syscalls"] for name in rule["names"])
    wrong = []
    for number in (*range(base, base + 700), 0x3FFFFFFF | base):
        for args in interesting(profile, names.get(number)):
            # libseccomp compares what a process with 32 bits can pass.
            seen = args if header == "unistd_64.h" else tuple(value % 2**32 for value in args)
            want = verdict(profile, names.get(number), seen) if number <= largest else FUTURE
            got = bpf_sim.run(bpf, arch, number, args)
            if got != want:
                wrong.append((number, names.get(number), args, hex(got), hex(want)))
    assert not wrong


def test_other_architectures_are_killed() -> None:
    bpf = compile_profile(default()).bpf
    for arch in (0, 1, 0xC00000B7, 0xFFFFFFFF):
        assert {bpf_sim.run(bpf, arch, number) for number in (0, 1, 39, 500)} == {KILL_THREAD}


def test_without_x32_its_numbers_are_killed() -> None:
    profile = default() | {"architectures": ["SCMP_ARCH_X86_64"]}
    bpf = compile_profile(profile).bpf
    assert bpf_sim.run(bpf, X86_64, 1) == ALLOW
    assert bpf_sim.run(bpf, X86_64, X32_BIT | 1) == KILL_THREAD
    assert bpf_sim.run(bpf, I386, 4) == KILL_THREAD


def test_the_native_architecture_needs_no_mention() -> None:
    profile = default() | {"architectures": ["SCMP_ARCH_AARCH64"]}
    bpf = compile_profile(profile).bpf
    assert bpf_sim.run(bpf, X86_64, 1) == ALLOW
    assert bpf_sim.run(bpf, 0xC00000B7, 64) == ALLOW
    assert bpf_sim.run(bpf, 0xC00000B7, 1000) == FUTURE


def test_docker_default_under_the_real_kernel() -> None:
    program = compile_profile(default())
    clone_newuser, clone_newnet = 0x10000000, 0x40000000
    calls: dict[tuple[int, ...], int] = {
        (GETPPID,): os.getpid(),
        (250, 0): EPERM,  # keyctl
        (248, 0, 0, 0, 0, 0): EPERM,  # add_key
        (56, clone_newuser | signal.SIGCHLD, 0, 0, 0, 0): EPERM,  # clone
        (56, clone_newnet | signal.SIGCHLD, 0, 0, 0, 0): EPERM,
        (435, 0, 0): ENOSYS,  # clone3
        (272, clone_newuser): EPERM,  # unshare
        (135, 0xFFFFFFFF): 0,  # personality: query
        (135, 0x0040000): EPERM,  # ADDR_NO_RANDOMIZE
        (135, 8): 0,  # PER_LINUX32
        (101, 0x4200, 0): -errno.ESRCH,  # ptrace is allowed since Linux 4.8
        (165, 0, 0, 0, 0, 0): EPERM,  # mount
        (41, 38, 5, 0): EPERM,  # socket(AF_ALG)
        (41, 40, 1, 0): EPERM,  # socket(AF_VSOCK)
        (321, 0, 0, 0): EPERM,  # bpf
        (298, 0, 0, 0, 0, 0): EPERM,  # perf_event_open
        (425, 0, 0): EPERM,  # io_uring_setup
        (466, -1, 0, 0, 0): -errno.EFAULT,  # removexattrat: known by number alone, and comes through
        (467, -1, 0, 0, 0, 0): ENOSYS,  # open_tree_attr: newer than the policy
        (999,): ENOSYS,
        (400,): EPERM,  # a hole in the table
    }
    if confined.syscall(466, -1, 0, 0, 0) == ENOSYS:
        del calls[(466, -1, 0, 0, 0)]  # a kernel before 6.13
    assert dict(zip(calls, confined.attempt(program.bpf, program.flags, list(calls)), strict=True)) == calls


def test_an_allowed_clone_still_works() -> None:
    program = compile_profile(default())
    child, parent = sorted(confined.attempt(program.bpf, program.flags, [(56, signal.SIGCHLD, 0, 0, 0, 0)]))
    assert child == 0
    assert parent > 0


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ("SCMP_ACT_KILL", signal.SIGSYS),
        ("SCMP_ACT_KILL_THREAD", signal.SIGSYS),
        ("SCMP_ACT_KILL_PROCESS", signal.SIGSYS),
        ("SCMP_ACT_TRAP", signal.SIGSYS),
        ("SCMP_ACT_LOG", 0),
        ("SCMP_ACT_ERRNO", 0),
    ],
)
def test_actions_under_the_real_kernel(action: str, status: int) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getppid"], "action": action}]}
    program = compile_profile(profile)
    assert confined.fate(program.bpf, program.flags, (GETPPID,)) & 0x7F == status
    assert confined.fate(program.bpf, program.flags, (DUP, -1)) == 0


def test_errno_and_trace_without_a_tracer() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EXDEV},
            {"names": ["dup"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["dup3"], "action": "SCMP_ACT_TRACE", "errnoRet": 5},
        ],
    }
    program = compile_profile(profile)
    results = confined.attempt(program.bpf, program.flags, [(GETPPID,), (DUP, 0), (DUP3, 0, 9, 0)])
    assert results == [-errno.EXDEV, EPERM, ENOSYS]
    assert bpf_sim.run(program.bpf, X86_64, DUP3) == 0x7FF00005


def test_notify_installs_with_a_listener() -> None:
    program = compile_profile(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": "/run/agent.sock",
            "listenerMetadata": "x=y",
            "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"}],
        }
    )
    assert (program.listener_path, program.listener_metadata) == ("/run/agent.sock", "x=y")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(
                writer, os.readlink(f"/proc/self/fd/{confined.install(program.bpf, program.flags)}").encode()
            )
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read() == b"anon_inode:seccomp notify"
    os.waitpid(pid, 0)


@pytest.mark.parametrize(
    "flags", [[], ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"]]
)
def test_the_kernel_takes_all_flags(flags: list[str]) -> None:
    program = compile_profile(default() | {"flags": flags})
    assert confined.attempt(program.bpf, program.flags, [(250, 0)]) == [EPERM]


@pytest.mark.parametrize(
    "action", ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_TRAP", "SCMP_ACT_KILL_PROCESS"]
)
def test_what_is_newer_than_the_profile_does_not_exist(action: str) -> None:
    profile = {
        "defaultAction": action,
        "syscalls": [{"names": ["read", "getppid"], "action": "SCMP_ACT_ALLOW"}],
    }
    bpf = compile_profile(profile).bpf
    refused = bpf_sim.run(bpf, X86_64, GETPPID - 1)
    assert refused != ALLOW
    assert refused != FUTURE
    assert bpf_sim.run(bpf, X86_64, GETPPID) == ALLOW
    assert bpf_sim.run(bpf, X86_64, GETPPID + 1) == FUTURE


def test_names_count_for_the_newest_even_where_they_change_nothing() -> None:
    rules = [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["getppid"], "action": "SCMP_ACT_ERRNO"},  # the default
    ]
    bpf = compile_profile({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}).bpf
    assert [bpf_sim.run(bpf, X86_64, number) for number in (GETPPID, GETPPID + 1)] == [DENY, FUTURE]


@pytest.mark.parametrize("action", ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"])
def test_a_permissive_default_lets_the_future_pass(action: str) -> None:
    profile = {"defaultAction": action, "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO"}]}
    bpf = compile_profile(profile).bpf
    assert bpf_sim.run(bpf, X86_64, 0) == DENY
    assert bpf_sim.run(bpf, X86_64, 1000) == bpf_sim.run(bpf, X86_64, 1) != FUTURE


def test_a_profile_without_rules_is_its_default() -> None:
    bpf = compile_profile({"defaultAction": "SCMP_ACT_KILL_PROCESS"}).bpf
    assert {bpf_sim.run(bpf, X86_64, number) for number in (0, 500, 0xFFFFFFFF)} == {0x80000000}


def test_several_conditions_on_one_argument_are_alternatives() -> None:
    rule = {
        "names": ["dup"],
        "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (3, 5)],
    }
    bpf = compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}).bpf
    assert [bpf_sim.run(bpf, X86_64, DUP, (value,)) for value in (2, 3, 4, 5)] == [ALLOW, DENY, ALLOW, DENY]


def test_conditions_on_different_arguments_hold_together() -> None:
    rule = {
        "names": ["dup3"],
        "action": "SCMP_ACT_ERRNO",
        "args": [{"index": index, "value": 7, "op": "SCMP_CMP_GE"} for index in (0, 2)],
    }
    bpf = compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}).bpf
    assert bpf_sim.run(bpf, X86_64, DUP3, (7, 0, 8)) == DENY
    assert bpf_sim.run(bpf, X86_64, DUP3, (7, 0, 6)) == bpf_sim.run(bpf, X86_64, DUP3, (6, 0, 7)) == ALLOW


def test_names_that_libseccomp_lacks_are_known_by_number() -> None:
    rules = [{"names": ["mseal", "uretprobe", "no_such_syscall"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}]
    program = compile_profile(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"],
            "syscalls": rules,
        }
    )
    for arch, number in (
        (X86_64, 462),
        (I386, 462),
        (X86_64, X32_BIT | 462),
        (0xC00000B7, 462),
        (X86_64, 335),
    ):
        assert bpf_sim.run(program.bpf, arch, number) == ERRNO | 99
    for arch, number in ((X86_64, 461), (X86_64, 463), (I386, 335), (X86_64, X32_BIT | 335)):
        assert bpf_sim.run(program.bpf, arch, number) == ALLOW
    assert program.skipped == ("no_such_syscall",)


def test_a_new_name_with_conditions_is_skipped_and_said_to_be() -> None:
    if libseccomp.resolve_syscall(X86_64, b"mseal") is not None:
        pytest.skip("this libseccomp knows the name")
    rule = {
        "names": ["mseal"],
        "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}],
    }
    program = compile_profile({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]})
    assert bpf_sim.run(program.bpf, X86_64, 462) == DENY
    assert program.skipped == ("mseal",)


def test_the_table_of_new_syscalls_agrees_with_libseccomp() -> None:
    for arch, token in (("SCMP_ARCH_X86_64", X86_64), ("SCMP_ARCH_RISCV64", 0xC00000F3)):
        for name, number in (_NEW_SYSCALLS | _OWN_SYSCALLS[arch]).items():
            known = libseccomp.resolve_syscall(token, name.encode())
            assert known in (None, number) or known < 0, name


def test_docker_default_names_at_most_one_syscall_that_is_unknown_here() -> None:
    assert set(compile_profile(default()).skipped) <= {"riscv_hwprobe"}, "which libseccomp 2.5 does not know"


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"defaultAction": "SCMP_ACT_FOO"}, 'linux.seccomp.defaultAction: unknown action "SCMP_ACT_FOO"'),
        (
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    {
                        "names": ["dup"],
                        "action": action,
                        "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}],
                    }
                    for action in ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL")
                ],
            },
            r"linux.seccomp.syscalls\[1\]: contradicts an earlier rule for dup",
        ),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_M68K"]},
            r"linux.seccomp.architectures\[1\]: libseccomp [0-9.]+ has no SCMP_ARCH_M68K",
        ),
        (
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    {
                        "names": ["dup"],
                        "action": "SCMP_ACT_ERRNO",
                        "args": [{"index": 0, "value": value << 33, "op": "SCMP_CMP_EQ"}],
                    }
                    for value in range(3000)
                ],
            },
            "linux.seccomp.syscalls: [0-9]+ instructions, the kernel takes 4096",
        ),
    ],
)
def test_what_cannot_be_compiled_is_named(profile: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidProfile, match=message):
        compile_profile(profile)


def test_a_profile_is_compiled_once_and_found_by_its_content() -> None:
    assert compile_profile(default()) is compile_profile(default())
    other = default()
    other["syscalls"][0]["names"].append("mount")
    assert bpf_sim.run(compile_profile(other).bpf, X86_64, 165) == ALLOW
    assert bpf_sim.run(compile_profile(default()).bpf, X86_64, 165) == DENY


def test_the_program_is_a_fraction_of_libseccomps() -> None:
    """The kernel spends 0.2 to 0.3 µs an instruction on each start of a container."""
    filter_ = libseccomp.Filter(DENY)
    for name in ("SCMP_ARCH_X86", "SCMP_ARCH_X32"):
        filter_.add_arch(libseccomp.resolve_arch(name.removeprefix("SCMP_ARCH_").lower().encode()))
    for rule in default()["syscalls"]:
        if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args"):
            for syscall in rule["names"]:
                number = libseccomp.resolve_syscall(X86_64, syscall.encode())
                if number is not None:
                    filter_.add_rule(ALLOW, number, ())
    size = struct.calcsize("=HBBI")
    assert len(compile_profile(default()).bpf) / size < len(filter_.export_bpf()) / size * 0.4
