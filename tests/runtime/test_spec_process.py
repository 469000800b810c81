"""The process of an OCI document as a program inside sees it, and what is refused, by field."""

import ctypes
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Sandbox
from pyrunc.errors import InvalidSpec, LimitRefused, StartError, Unsupported
from pyrunc.runtime import process_labels
from pyrunc.runtime import process_settings as settings
from pyrunc.runtime.compile import Rootfs, compile_spec
from pyrunc.spec import capabilities
from tests.spec_run import bundle_spec, run_spec

pytestmark = pytest.mark.usefixtures("host_unchanged")

LIBC = ctypes.CDLL(None, use_errno=True)
NUMA = os.path.exists("/proc/self/numa_maps")


def process(**changes: Any) -> dict[str, Any]:
    """A document whose process has *changes*."""
    spec = bundle_spec()
    spec["process"].update(changes)
    return spec


def held(name: str) -> bool:
    """Whether this process has the capability *name*."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    return bool(effective >> capabilities.NUMBER[name] & 1)


# --- scheduler, I/O priority, personality, memory policy


@pytest.mark.parametrize(("scheduler", "policy", "nice"), [
    ({"policy": "SCHED_BATCH", "nice": 5}, 3, 5), ({"policy": "SCHED_IDLE"}, 5, None),
    ({"policy": "SCHED_OTHER", "nice": -5}, 0, -5),
])  # fmt: skip
def test_the_program_is_scheduled_as_the_document_says(
    rootfs: Path, scheduler: dict[str, Any], policy: int, nice: int | None
) -> None:
    spec = process(scheduler=scheduler)
    # Fields 19 and 41 of stat are nice and policy.
    fields = run_spec(rootfs, spec, "cat /proc/self/stat").rpartition(")")[2].split()
    kept = os.getpriority(os.PRIO_PROCESS, 0)  # which the idle do without
    assert (int(fields[38]), int(fields[16])) == (policy, kept if nice is None else nice)


def _attributes_of(rootfs: Path, scheduler: dict[str, Any]) -> tuple[int, ...]:
    """What sched_getattr(2) says of a container's first process."""
    spec = process(scheduler=scheduler)
    spec["linux"]["resources"] = {"cpu": {"realtimePeriod": 1_000_000, "realtimeRuntime": 10_000}}
    spec["linux"]["cgroupsPath"] = "/pyrunc-test-realtime"
    spec["root"]["path"] = str(rootfs)
    with Sandbox.from_spec(spec, rootfs.parent) as box, box.start(["/bin/sleep", "100"]) as running:
        attr = ctypes.create_string_buffer(48)
        number = {"x86_64": 315, "aarch64": 275}[os.uname().machine]
        assert LIBC.syscall(number, running.pid, attr, 48, 0) == 0, os.strerror(ctypes.get_errno())
        return struct.unpack("=IIQiIQQQ", attr.raw)


@pytest.mark.skipif(
    not os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"), reason="needs real-time groups of cgroup v1"
)
def test_real_time_policies_within_the_budget_of_their_cgroup(rootfs: Path) -> None:
    _, policy, flags, _, priority, *_ = _attributes_of(rootfs, {"policy": "SCHED_FIFO", "priority": 10})
    assert (policy, flags, priority) == (1, 0, 10)
    round_robin = {"policy": "SCHED_RR", "priority": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}
    _, policy, flags, _, priority, *_ = _attributes_of(rootfs, round_robin)
    assert (policy, flags, priority) == (2, 1, 7)


@pytest.mark.skipif(
    not os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"), reason="needs real-time groups of cgroup v1"
)
def test_a_deadline_with_its_three_times(rootfs: Path) -> None:
    if len(os.sched_getaffinity(0)) < (os.cpu_count() or 1):
        pytest.skip("the kernel gives deadlines to those alone that may use all processors")
    wanted = {"policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 50_000_000, "period": 100_000_000}
    _, policy, _, _, _, *times = _attributes_of(rootfs, wanted)
    assert (policy, times) == (6, [1_000_000, 50_000_000, 100_000_000])


@pytest.mark.parametrize(("priority", "shown"), [
    ({"class": "IOPRIO_CLASS_IDLE"}, "idle"), ({"class": "IOPRIO_CLASS_BE", "priority": 6}, "best-effort: prio 6"),
    ({"class": "IOPRIO_CLASS_RT", "priority": 1}, "realtime: prio 1"),
])  # fmt: skip
def test_the_io_priority(rootfs: Path, priority: dict[str, Any], shown: str) -> None:
    assert run_spec(rootfs, process(ioPriority=priority), "ionice -p $$").strip() == shown


def test_the_personality_is_what_uname_tells(rootfs: Path) -> None:
    narrow = {"x86_64": "i686", "aarch64": "armv8l"}.get(os.uname().machine)
    if narrow is None:
        pytest.skip("no other personality is known here")
    assert run_spec(rootfs, bundle_spec(personality={"domain": "LINUX32"}), "uname -m").strip() == narrow
    assert (
        run_spec(rootfs, bundle_spec(personality={"domain": "LINUX"}), "uname -m").strip()
        == os.uname().machine
    )


@pytest.mark.skipif(not NUMA, reason="needs a kernel with NUMA")
@pytest.mark.parametrize(("policy", "shown"), [
    ({"mode": "MPOL_BIND", "nodes": "0"}, "bind:0"), ({"mode": "MPOL_INTERLEAVE", "nodes": "0"}, "interleave:0"),
    ({"mode": "MPOL_PREFERRED", "nodes": "0"}, "prefer:0"), ({"mode": "MPOL_LOCAL"}, "local"),
    ({"mode": "MPOL_PREFERRED_MANY", "nodes": "0"}, "prefer (many):0"), ({"mode": "MPOL_DEFAULT"}, "default"),
    ({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}, "bind=static:0"),
    ({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]}, "interleave=relative:0"),
])  # fmt: skip
def test_the_memory_policy(rootfs: Path, policy: dict[str, Any], shown: str) -> None:
    maps = run_spec(rootfs, bundle_spec(memoryPolicy=policy), "grep stack /proc/self/numa_maps")
    assert maps.split(" ", 1)[1].startswith(f"{shown} ")


def test_a_node_that_there_is_not_is_named(rootfs: Path) -> None:
    spec = bundle_spec(memoryPolicy={"mode": "MPOL_BIND", "nodes": "900"})
    with pytest.raises(StartError, match="cannot set the memory policy of the process: invalid argument"):
        run_spec(rootfs, spec, "true")


@pytest.mark.parametrize(("values", "words"), [
    ({}, "process.scheduler.policy: is required"),
    ({"policy": "SCHED_FISH"}, "process.scheduler.policy: unknown value 'SCHED_FISH'"),
    ({"policy": "SCHED_OTHER", "nice": 20}, r"process.scheduler.nice: must be an integer from -20 to 19, not 20"),
    ({"policy": "SCHED_OTHER", "priority": 1}, "process.scheduler.priority: can only be specified for SCHED_FIFO or"),
    ({"policy": "SCHED_RR", "priority": -1}, "process.scheduler.priority: must be positive"),
    ({"policy": "SCHED_RR", "period": 1}, "can only be specified for SCHED_DEADLINE"),
    ({"policy": "SCHED_OTHER", "flags": ["X"]}, r"process.scheduler.flags\[0\]: unknown flag 'X'"),
])  # fmt: skip
def test_what_a_scheduler_cannot_be(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        settings.scheduler(values)


@pytest.mark.parametrize(("values", "words"), [
    ({"policy": "SCHED_ISO"}, "SCHED_ISO is a reserved name"),
    ({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_UTIL_CLAMP_MIN"]}, "SCHED_FLAG_UTIL_CLAMP_MIN needs a value"),
])  # fmt: skip
def test_what_of_a_scheduler_no_kernel_can_do(values: dict[str, Any], words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        settings.scheduler(values)


@pytest.mark.parametrize(("call", "values", "words"), [
    (settings.io_priority, {}, "process.ioPriority.class: is required"),
    (settings.io_priority, {"class": "IOPRIO_CLASS_X"}, "process.ioPriority.class: unknown value"),
    (settings.io_priority, {"class": "IOPRIO_CLASS_BE", "priority": 8}, "process.ioPriority.priority: .* 0 to 7"),
    (settings.personality, {"domain": "LINUX64"}, "linux.personality.domain: unknown value 'LINUX64'"),
    (settings.memory_policy, {"mode": "MPOL_X"}, "linux.memoryPolicy.mode: unknown value"),
    (settings.memory_policy, {"mode": "MPOL_BIND"}, "linux.memoryPolicy.nodes: MPOL_BIND needs at least one node"),
    (settings.memory_policy, {"mode": "MPOL_LOCAL", "nodes": "0"}, "linux.memoryPolicy.nodes: must be empty for"),
    (settings.memory_policy, {"mode": "MPOL_BIND", "nodes": "1-"}, "linux.memoryPolicy.nodes: must be a list as"),
    (settings.memory_policy, {"mode": "MPOL_BIND", "nodes": "5-2"}, "linux.memoryPolicy.nodes: '5-2' is a range"),
    (settings.memory_policy, {"mode": "MPOL_BIND", "nodes": "999999"}, "linux.memoryPolicy.nodes: 999999 is more"),
    (settings.memory_policy, {"mode": "MPOL_BIND", "nodes": "0", "flags": ["X"]}, r"memoryPolicy.flags\[0\]: unknown"),
    (settings.exec_affinity, {"initial": "0", "final": "a"}, "process.execCPUAffinity.final: must be a list"),
])  # fmt: skip
def test_what_other_settings_cannot_be(call: Any, values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        call(values)


@pytest.mark.parametrize(("path", "words"), [
    ("process.scheduler", "process.scheduler.policy: is required"),
    ("process.ioPriority", "process.ioPriority.class: is required"),
    ("linux.personality", "linux.personality.domain: is required"),
    ("linux.memoryPolicy", "linux.memoryPolicy.mode: is required"),
])  # fmt: skip
def test_an_object_without_what_it_must_have_is_not_passed_over(path: str, words: str) -> None:
    part, _, key = path.partition(".")
    spec = bundle_spec()
    spec[part][key] = {}
    with pytest.raises(InvalidSpec, match=words):
        compile_spec(spec, Rootfs(("/",)))


def test_personality_flags_are_refused() -> None:
    with pytest.raises(Unsupported, match=r"linux.personality.flags: no flag is defined"):
        settings.personality({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]})


def test_cpus_and_nodes_as_masks() -> None:
    assert settings.exec_affinity({"initial": "0, 2-3", "final": "64"}) == (
        (0b1101).to_bytes(8, "little"), (1 << 64).to_bytes(16, "little"),
    )  # fmt: skip
    assert settings.exec_affinity({}) == (b"", b"")


def test_the_first_program_does_not_get_the_affinity_of_those_that_join(rootfs: Path) -> None:
    spec = process(execCPUAffinity={"initial": "0", "final": "0"})
    allowed = run_spec(rootfs, spec, "grep Cpus_allowed_list /proc/self/status").split()[1]
    assert allowed == Path("/proc/self/status").read_text().partition("Cpus_allowed_list:")[2].split()[0]


# --- limits, OOM score, groups, umask


def test_a_limit_that_is_listed_twice_is_refused(rootfs: Path) -> None:
    limit = {"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024}
    with pytest.raises(InvalidSpec, match=r"process.rlimits\[1\].type: RLIMIT_NOFILE is listed twice"):
        run_spec(rootfs, process(rlimits=[limit, limit]), "true")


def test_the_oom_score_without_a_procfs_of_its_own(rootfs: Path) -> None:
    spec = process(oomScoreAdj=321)
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/proc"]
    for key in ("maskedPaths", "readonlyPaths"):
        del spec["linux"][key]
    spec["root"]["path"] = str(rootfs)
    with Sandbox.from_spec(spec, rootfs.parent) as box, box.start(["/bin/sleep", "100"]) as running:
        assert Path(f"/proc/{running.pid}/oom_score_adj").read_text().strip() == "321"


def test_the_oom_score_in_a_user_namespace_is_set_for_it_by_the_host(rootfs: Path) -> None:
    spec = process(oomScoreAdj=123)
    spec["linux"]["namespaces"].append({"type": "user"})
    row = {"containerID": 0, "hostID": 100000, "size": 65536}
    spec["linux"].update(uidMappings=[row], gidMappings=[row])
    assert run_spec(rootfs, spec, "cat /proc/self/oom_score_adj").strip() == "123"


@pytest.mark.parametrize("userns", [False, True])
def test_an_oom_score_that_may_not_be_lowered_is_named(rootfs: Path, userns: bool) -> None:
    if held("CAP_SYS_RESOURCE"):
        pytest.skip("this process may lower it")
    spec = process(oomScoreAdj=-500)
    if userns:
        spec["linux"]["namespaces"].append({"type": "user"})
        row = {"containerID": 0, "hostID": 100000, "size": 65536}
        spec["linux"].update(uidMappings=[row], gidMappings=[row])
    with pytest.raises(LimitRefused, match="cannot set oom_score_adj to -500: permission denied"):
        run_spec(rootfs, spec, "true")


def test_as_many_groups_as_the_kernel_takes(rootfs: Path) -> None:
    """Also for who joins the container."""
    spec = process(user={"uid": 0, "gid": 0, "additionalGids": [*range(1000, 1999)]})
    spec["root"]["path"] = str(rootfs)
    count = ["/bin/sh", "-c", "id -G | wc -w"]
    with Sandbox.from_spec(spec, rootfs.parent) as box, box.start(["/bin/sleep", "100"]) as running:
        assert box.run(count).stdout.split() == [b"1000"]
        assert running.exec(count).stdout.split() == [b"1000"]


def test_null_stands_for_what_is_left_out(rootfs: Path) -> None:
    nothing = dict.fromkeys(
        ("scheduler", "ioPriority", "execCPUAffinity", "oomScoreAdj", "rlimits", "apparmorProfile")
    )
    user = {"uid": 0, "gid": 0, "umask": None, "additionalGids": None}
    spec = process(**nothing, user=user, noNewPrivileges=None, capabilities=None)
    spec["linux"] |= dict.fromkeys(
        ("personality", "memoryPolicy", "intelRdt", "seccomp", "resources", "mountLabel")
    )
    assert run_spec(rootfs, spec, "umask").split() == ["0022"]


@pytest.mark.skipif(not NUMA, reason="needs a kernel with NUMA")
def test_who_joins_has_what_the_first_program_has(rootfs: Path) -> None:
    spec = process(scheduler={"policy": "SCHED_BATCH", "nice": 7}, ioPriority={"class": "IOPRIO_CLASS_IDLE"})
    spec["linux"] |= {
        "personality": {"domain": "LINUX32"},
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"},
    }
    spec["root"]["path"] = str(rootfs)
    show = (
        "cut -d ' ' -f 19,41 /proc/self/stat; ionice -p $$; uname -m; grep -c ' bind:0 ' /proc/self/numa_maps"
    )
    command = ["/bin/sh", "-c", show]
    with Sandbox.from_spec(spec, rootfs.parent) as box, box.start(["/bin/sleep", "100"]) as running:
        first, joined = box.run(command).stdout.split(), running.exec(command).stdout.split()
    assert first[:3] == [b"7", b"3", b"idle"]
    assert joined[:4] == first[:4]
    assert int(joined[4]) > 0


def test_umask_and_groups(rootfs: Path) -> None:
    spec = process(user={"uid": 7, "gid": 8, "umask": 0o27, "additionalGids": [9, 10]})
    assert run_spec(rootfs, spec, "umask; id -u; id -G").split() == ["0027", "7", "8", "9", "10"]


# --- capabilities

SETS = ("Inh", "Prm", "Eff", "Bnd", "Amb")


def sets(rootfs: Path, **caps: list[str]) -> dict[str, int]:
    """The five sets that a program has, as its status shows them."""
    status = run_spec(rootfs, process(capabilities=caps, noNewPrivileges=True), "cat /proc/self/status")
    return {name: int(status.partition(f"Cap{name}:")[2].split()[0], 16) for name in SETS}


@pytest.mark.parametrize(("caps", "shown"), [
    ({}, (0, 0, 0, 0, 0)), ({"bounding": ["CAP_KILL"]}, (0, 0, 0, 32, 0)),
    ({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]}, (0, 32, 32, 32, 0)),
    ({"ambient": ["CAP_KILL"]}, (0, 0, 0, 0, 0)),
    ({key: ["CAP_KILL", "CAP_FLY", "cap_chown"] for key in capabilities.SETS}, (32, 32, 32, 32, 32)),
])  # fmt: skip
def test_the_five_sets(rootfs: Path, caps: dict[str, list[str]], shown: tuple[int, ...]) -> None:
    """With no_new_privs, so that execve(2) adds nothing for root; these are runc's."""
    assert tuple(sets(rootfs, **caps).values()) == shown


def test_unknown_capabilities_are_for_a_warning() -> None:
    spec = process(capabilities={"bounding": ["CAP_KILL", "CAP_Z"], "ambient": ["CAP_FLY", "CAP_Z"]})
    found = compile_spec(spec, Rootfs(("/",))).warnings
    assert found == ["ignoring unknown or unavailable capabilities: [CAP_FLY CAP_Z]"]


def test_a_resource_that_is_ignored_is_for_a_warning() -> None:
    spec = bundle_spec(resources={"memory": {"kernel": 1 << 20}})
    assert compile_spec(spec, Rootfs(("/",))).warnings == [
        "linux.resources.memory.kernel: is ignored, as no kernel has it any more"
    ]


# --- labels


@pytest.mark.skipif(process_labels.apparmor_enabled(), reason="this kernel has AppArmor")
def test_a_profile_without_apparmor_is_refused(rootfs: Path) -> None:
    with pytest.raises(Unsupported, match=r"process.apparmorProfile: apparmor failed to apply profile 'x'"):
        run_spec(rootfs, process(apparmorProfile="x"), "true")


@pytest.mark.skipif(process_labels.selinux_enabled(), reason="this kernel has SELinux")
def test_labels_without_selinux_are_refused(rootfs: Path) -> None:
    words = "label is specified in config, but selinux is disabled or not supported"
    with pytest.raises(Unsupported, match=f"process.selinuxLabel: selinux {words}"):
        run_spec(rootfs, process(selinuxLabel="a:b:c:d"), "true")
    with pytest.raises(Unsupported, match=f"linux.mountLabel: mount {words}"):
        run_spec(rootfs, bundle_spec(mountLabel="a:b:c:d"), "true")


def test_a_label_of_two_lines_is_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"process.selinuxLabel: must be one line"):
        process_labels.exec_writes({"selinuxLabel": "a\nb"})


# --- Intel RDT


@pytest.mark.parametrize(("values", "words"), [
    ({"closID": "a"}, "linux.intelRdt.closID is specified in config, but Intel RDT is not supported"),
    ({"l3CacheSchema": "L3:0=f"}, "linux.intelRdt.l3CacheSchema is specified in config, but"),
    ({"memBwSchema": "MB:0=20"}, "linux.intelRdt.memBwSchema is specified in config, but"),
    ({"schemata": ["L3:0=f"]}, "linux.intelRdt.schemata is specified in config, but"),
    ({"enableMonitoring": True}, "linux.intelRdt.enableMonitoring is specified in config, but"),
])  # fmt: skip
def test_resource_director_technology_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        compile_spec(bundle_spec(intelRdt=values), Rootfs(("/",)))


@pytest.mark.parametrize(("values", "words"), [
    ({"closID": "../x"}, "linux.intelRdt.closID: '../x' cannot be the name of a directory"),
    ({"memBwSchema": "L3:0=f"}, "linux.intelRdt.memBwSchema: must be one line that begins with 'MB:'"),
    ({"l3CacheSchema": "L3:0=f\nMB:0=20"}, "linux.intelRdt.l3CacheSchema: must not have a line"),
    ({"schemata": ["L3:0=f", "x"]}, r"linux.intelRdt.schemata\[1\]: must be one line"),
    ({"schemata": "L3"}, "linux.intelRdt.schemata: must be a list"), ({"closID": 5}, "linux.intelRdt.closID"),
])  # fmt: skip
def test_what_of_it_cannot_be_meant_is_named(rootfs: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        run_spec(rootfs, bundle_spec(intelRdt=values), "true")


def test_a_document_that_asks_for_nothing_of_it_is_compiled() -> None:
    assert compile_spec(bundle_spec(intelRdt={}), Rootfs(("/",))).steps
    assert compile_spec(bundle_spec(intelRdt={"enableMonitoring": False}), Rootfs(("/",))).steps


# --- the session keyring


# In a session with a keyring that nobody but its possessors can see: what /proc/keys shows in a container.
KEYS = """
import ctypes, os, sys
libc, keyctl = ctypes.CDLL(None), {"x86_64": 250, "aarch64": 219}[os.uname().machine]
own = libc.syscall(keyctl, 1, b"pyrunc-test-own")
assert own > 0 and libc.syscall(keyctl, 5, own, 0x3F000000) == 0
from pathlib import Path
from pyrunc.runtime import launcher
from pyrunc.runtime.compile import compile_spec
from tests.spec_run import bundle_spec, run_spec
name = {"none": None, "same": ""}.get(sys.argv[2], sys.argv[2])
launcher.compile_spec = lambda spec, root, files: compile_spec(spec, root, files, keyring=name)
spec = bundle_spec()
spec["linux"]["maskedPaths"].remove("/proc/keys")
print(run_spec(Path(sys.argv[1]), spec, "cat /proc/keys"))
"""


def keys(rootfs: Path, name: str) -> str:
    """What a program sees in /proc/keys, where the plan's keyring is *name*, "none" or the "same"."""
    command = [sys.executable, "-c", KEYS, str(rootfs), name]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_session_keyring_has_the_name_and_the_rights_that_runc_gives(rootfs: Path) -> None:
    """And its starter's is no longer there, unless it is the one that is to be kept."""
    named = keys(rootfs, "_ses.pyrunc-test")
    assert re.search(r" 3f1b0000 +0 +0 keyring +_ses.pyrunc-test: empty", named)
    nameless = keys(rootfs, "none")
    assert re.search(r" 3f030000 +0 +0 keyring +_ses: empty", nameless)
    assert "pyrunc-test-own" not in named + nameless
    assert "pyrunc-test-own" in keys(rootfs, "same")
