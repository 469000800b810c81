"""Docker's policy becomes the OCI object that Docker itself would give a runtime."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyrunc.spec.seccomp
from pyrunc.spec.seccomp import InvalidProfile, docker_profile, resolve_policy
from pyrunc.spec.seccomp_profile import ARCHITECTURES, Condition, Profile, Rule, parse_profile

POLICY: dict[str, Any] = json.loads(
    (Path(pyrunc.spec.seccomp.__file__).parent / "data" / "seccomp-default.json").read_text()
)
DOCKER_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_NET_RAW",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
KERNEL = (6, 1)


def allowed(profile: dict[str, Any]) -> set[str]:
    """Return the names that are allowed whatever their arguments."""
    rules = profile["syscalls"]
    return {
        name
        for rule in rules
        if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args")
        for name in rule["names"]
    }


def test_architectures_are_the_hosts_and_its_relatives() -> None:
    assert docker_profile((), "x86_64", KERNEL)["architectures"] == [
        "SCMP_ARCH_X86_64",
        "SCMP_ARCH_X86",
        "SCMP_ARCH_X32",
    ]
    assert docker_profile((), "aarch64", KERNEL)["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert docker_profile((), "riscv64", KERNEL)["architectures"] == ["SCMP_ARCH_RISCV64"]
    assert "architectures" not in docker_profile((), "ppc64le", KERNEL)


def test_docker_names_of_architectures_are_understood() -> None:
    assert docker_profile((), "amd64", KERNEL) == docker_profile((), "x86_64", KERNEL)
    assert docker_profile((), "arm64", KERNEL) == docker_profile((), "aarch64", KERNEL)


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(InvalidProfile, match="architecture: unknown machine 'vax'"):
        docker_profile((), "vax", KERNEL)


def test_the_default_container_gets_what_docker_gives_it() -> None:
    profile = docker_profile(DOCKER_CAPABILITIES, "x86_64", KERNEL)
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    names = allowed(profile)
    assert {"read", "execve", "chroot", "ptrace", "arch_prctl", "modify_ldt"} <= names
    for refused in ("mount", "bpf", "unshare", "setns", "keyctl", "add_key", "io_uring_setup", "reboot"):
        assert refused not in names
    assert {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38} in profile["syscalls"]
    clone = [rule for rule in profile["syscalls"] if rule["names"] == ["clone"]]
    assert clone == [
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 0x7E020000, "op": "SCMP_CMP_MASKED_EQ"}],
        }
    ]


@pytest.mark.parametrize(
    ("capability", "names"),
    [
        ("CAP_SYS_ADMIN", {"mount", "clone", "clone3", "unshare", "setns", "bpf"}),
        ("CAP_DAC_READ_SEARCH", {"open_by_handle_at"}),
        ("CAP_SYS_BOOT", {"reboot"}),
        ("CAP_SYS_CHROOT", {"chroot"}),
        ("CAP_SYS_MODULE", {"init_module", "delete_module", "finit_module"}),
        ("CAP_SYS_TIME", {"settimeofday", "clock_settime"}),
        ("CAP_SYS_NICE", {"mbind", "set_mempolicy"}),
        ("CAP_SYSLOG", {"syslog"}),
        ("CAP_BPF", {"bpf"}),
        ("CAP_PERFMON", {"perf_event_open"}),
    ],
)
def test_capabilities_open_their_syscalls(capability: str, names: set[str]) -> None:
    assert not names & allowed(docker_profile((), "x86_64", KERNEL))
    assert names <= allowed(docker_profile({capability}, "x86_64", KERNEL))


def test_sys_admin_removes_the_limits_of_clone() -> None:
    names = [rule["names"] for rule in docker_profile({"CAP_SYS_ADMIN"}, "x86_64", KERNEL)["syscalls"]]
    assert ["clone"] not in names
    assert ["clone3"] not in names


def test_architectures_choose_their_rules() -> None:
    s390 = docker_profile((), "s390x", KERNEL)
    (clone,) = [rule for rule in s390["syscalls"] if rule["names"] == ["clone"]]
    assert clone["args"][0]["index"] == 1
    assert "s390_runtime_instr" in allowed(s390)
    assert "arch_prctl" not in allowed(s390)
    assert "cacheflush" in allowed(docker_profile((), "aarch64", KERNEL))
    assert "riscv_flush_icache" in allowed(docker_profile((), "riscv64", KERNEL))


def test_old_kernels_do_not_get_ptrace() -> None:
    assert "ptrace" not in allowed(docker_profile((), "x86_64", (4, 7)))
    assert "ptrace" in allowed(docker_profile((), "x86_64", (4, 8)))
    assert "ptrace" in allowed(docker_profile((), "x86_64", (5, 0)))
    assert "ptrace" in allowed(docker_profile({"CAP_SYS_PTRACE"}, "x86_64", (4, 7)))


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64", "ppc64le", "s390x", "riscv64"])
@pytest.mark.parametrize("capabilities", [(), DOCKER_CAPABILITIES, ("CAP_SYS_ADMIN", "CAP_BPF")])
def test_every_result_is_a_valid_oci_object(architecture: str, capabilities: tuple[str, ...]) -> None:
    profile = docker_profile(capabilities, architecture, KERNEL)
    assert set(profile) <= {"defaultAction", "defaultErrnoRet", "architectures", "syscalls"}
    assert all(set(rule) <= {"names", "action", "errnoRet", "args"} for rule in profile["syscalls"])
    assert len(parse_profile(profile).rules) == len(profile["syscalls"])
    json.dumps(profile)


def test_a_caller_may_change_what_it_gets() -> None:
    fresh = docker_profile((), "x86_64", KERNEL)
    changed = docker_profile((), "x86_64", KERNEL)
    changed["syscalls"][0]["names"].append("mount")
    changed["syscalls"][2]["args"][0]["value"] = 99
    changed["architectures"].clear()
    assert docker_profile((), "x86_64", KERNEL) == fresh


def test_other_policies_keep_what_oci_knows() -> None:
    policy = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [
            {"name": "read", "action": "SCMP_ACT_LOG", "includes": {}, "excludes": None, "comment": "why"},
            {"names": ["a"], "action": "SCMP_ACT_LOG", "excludes": {"minKernel": "5.4"}},
            {"names": ["b"], "action": "SCMP_ACT_LOG", "excludes": {"arches": ["amd64"]}},
            {"names": ["c"], "action": "SCMP_ACT_LOG", "includes": {"caps": ["CAP_A", "CAP_B"]}},
            {"names": ["d"], "action": "SCMP_ACT_LOG", "excludes": {"caps": ["CAP_X", "CAP_A"]}},
        ],
    }
    assert resolve_policy(policy, ["CAP_A"], "x86_64", (5, 4)) == {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG"}],
    }


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"architectures": ["SCMP_ARCH_X86"], "archMap": [{}]}, "architectures: excluded by archMap"),
        (
            {"syscalls": [{"name": "a", "names": ["b"], "action": "x"}]},
            r"syscalls\[0\].name: excluded by names",
        ),
        (
            {"syscalls": [{"names": ["b"], "action": "x", "includes": {"minKernel": "new"}}]},
            r"syscalls\[0\].includes.minKernel: 'new' is not a kernel version",
        ),
        ({"syscalls": [{"action": "x"}]}, r"syscalls\[0\].names: missing"),
        ({"syscalls": [{"names": ["a"]}]}, r"syscalls\[0\].action: missing"),
        ({"syscalls": ["read"]}, r"syscalls\[0\]: not an object"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(policy: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidProfile, match=message):
        resolve_policy(policy, (), "x86_64", KERNEL)


def test_the_default_needs_neither_json_nor_typing() -> None:
    code = (
        "import sys\n"
        "from pyrunc.spec.seccomp import docker_profile\n"
        "profile = docker_profile((), 'x86_64', (6, 1))\n"
        "slow = {'json', 're', 'typing'} & set(sys.modules)\n"
        "assert not slow, slow\n"
        "import json\n"
        "print(json.dumps(profile))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": sys.path[0]},
    )
    assert json.loads(done.stdout) == resolve_policy(POLICY, (), "x86_64", KERNEL)


def test_a_profile_in_the_kernels_terms() -> None:
    document = {
        "defaultAction": "SCMP_ACT_KILL",
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"],
        "syscalls": [
            {"names": ["read", "open"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["dup"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
            {
                "names": ["ioctl"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 5, "value": 2**64 - 1, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}],
            },
        ],
    }
    assert parse_profile(document) == Profile(
        default_action=0,
        architectures=("SCMP_ARCH_X86_64",),
        flags=2,
        rules=(
            Rule("linux.seccomp.syscalls[0]", ("read", "open"), 0x00050001, ()),
            Rule("linux.seccomp.syscalls[1]", ("dup",), 0x7FF00007, ()),
            Rule(
                "linux.seccomp.syscalls[2]",
                ("ioctl",),
                0x7FFF0000,
                (Condition(5, "SCMP_CMP_MASKED_EQ", 2**64 - 1, 3),),
            ),
        ),
        listener_path=None,
        listener_metadata=None,
    )


def test_flags_default_to_speed_and_follow_the_listener() -> None:
    allow: dict[str, Any] = {"defaultAction": "SCMP_ACT_ALLOW"}
    notify = {"syscalls": [{"names": ["dup"], "action": "SCMP_ACT_NOTIFY"}], "listenerPath": "/run/agent"}
    killable = {"flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}
    assert parse_profile(allow).flags == 4
    assert parse_profile(allow | {"flags": []}).flags == 0
    assert parse_profile(allow | notify).flags == 4 | 8
    assert parse_profile(allow | notify | killable).flags == 8 | 32
    assert parse_profile(allow | killable).flags == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"defaultAction": None}, "linux.seccomp.defaultAction: missing"),
        ({"defaultAction": "SCMP_ACT_FOO"}, 'linux.seccomp.defaultAction: unknown action "SCMP_ACT_FOO"'),
        ({"defaultAction": 5}, "linux.seccomp.defaultAction: unknown action 5"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "listenerPath: missing, but an action is SCMP_ACT_NOTIFY"),
        ({"defaultErrnoRet": 1}, "linux.seccomp.defaultErrnoRet: SCMP_ACT_ALLOW has no errno"),
        (
            {"architectures": ["SCMP_ARCH_VAX"]},
            r'linux.seccomp.architectures\[0\]: unknown architecture "SCMP_ARCH_VAX"',
        ),
        ({"architectures": [["x"]]}, r"linux.seccomp.architectures\[0\]: unknown architecture \['x'\]"),
        ({"architectures": "SCMP_ARCH_X86"}, "linux.seccomp.architectures: not a list"),
        ({"flags": ["FAST"]}, r'linux.seccomp.flags\[0\]: unknown flag "FAST"'),
        ({"listenerPath": 1}, "linux.seccomp.listenerPath: not a string"),
        ({"listenerMetadata": "x"}, "linux.seccomp.listenerMetadata: only goes with listenerPath"),
        ({"syscalls": {}}, "linux.seccomp.syscalls: not a list"),
        ({"syscalls": [1]}, r"linux.seccomp.syscalls\[0\]: not an object"),
    ],
)
def test_faults_of_a_profile_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidProfile, match=message):
        parse_profile({"defaultAction": "SCMP_ACT_ALLOW"} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": None}, r"syscalls\[1\].names: missing"),
        ({"names": [""]}, r'syscalls\[1\].names\[0\]: "" is not the name of a syscall'),
        ({"names": ["a\0b"]}, r"syscalls\[1\].names\[0\]: .* is not the name of a syscall"),
        ({"names": ["read", 3]}, r"syscalls\[1\].names\[1\]: 3 is not the name of a syscall"),
        ({"action": "SCMP_ACT_FOO"}, r'linux.seccomp.syscalls\[1\].action: unknown action "SCMP_ACT_FOO"'),
        ({"action": "SCMP_ACT_NOTIFY"}, "listenerPath: missing, but an action is SCMP_ACT_NOTIFY"),
        ({"errnoRet": 70000}, r"syscalls\[1\].errnoRet: 70000 is not a number from 0 to 65535"),
        ({"errnoRet": 1, "action": "SCMP_ACT_KILL"}, r"syscalls\[1\].errnoRet: SCMP_ACT_KILL has no errno"),
        ({"args": {}}, r"syscalls\[1\].args: not a list"),
        ({"args": [1]}, r"syscalls\[1\].args\[0\]: not an object"),
        ({"args": [{"value": 1, "op": "SCMP_CMP_EQ"}]}, r"syscalls\[1\].args\[0\].index: missing"),
        (
            {"args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]},
            r"args\[0\].index: 6 is not a number from 0 to 5",
        ),
        (
            {"args": [{"index": True, "value": 1, "op": "SCMP_CMP_EQ"}]},
            r"args\[0\].index: True is not a number",
        ),
        (
            {"args": [{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}]},
            r"args\[0\].value: -1 is not a number from 0",
        ),
        (
            {"args": [{"index": 0, "value": 2**64, "op": "SCMP_CMP_EQ"}]},
            r"args\[0\].value: 18446744073709551616 is",
        ),
        (
            {"args": [{"index": 0, "value": 1.0, "op": "SCMP_CMP_EQ"}]},
            r"args\[0\].value: 1.0 is not a number",
        ),
        ({"args": [{"index": 0, "value": 1}]}, r"args\[0\].op: missing"),
        ({"args": [{"index": 0, "value": 1, "op": "=="}]}, r'args\[0\].op: unknown operator "=="'),
        (
            {"args": [{"index": 0, "value": 1, "valueTwo": "2", "op": "SCMP_CMP_EQ"}]},
            r'args\[0\].valueTwo: "2" is not a number',
        ),
    ],
)
def test_faults_of_a_rule_are_named(change: dict[str, Any], message: str) -> None:
    good = {"names": ["read"], "action": "SCMP_ACT_ERRNO"}
    with pytest.raises(InvalidProfile, match=message):
        parse_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [good, good | change]})


def test_all_architectures_of_oci_are_known() -> None:
    assert len(ARCHITECTURES) == 23
    assert parse_profile({"defaultAction": "SCMP_ACT_ALLOW", "architectures": sorted(ARCHITECTURES)})
