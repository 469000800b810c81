"""Plans that are in bounds but mean what no plan may mean are refused before anything acts on them."""

import struct
from pathlib import Path
from typing import Any

import pytest

from pyrunc._native import plan as native
from pyrunc.runtime.plan import HOST, INIT, STAGE, SYNC, Oci, OciHook, PlanTemplate

NATIVE = Path(native.__file__).parent
CLONE_NEWNS, CLONE_NEWPID = 0x00020000, 0x20000000
Given = tuple[str, int, dict[str, Any]]
RESERVED = 124  # the header's last number


def judge(
    *steps: Given,
    clone_flags: int = CLONE_NEWNS | CLONE_NEWPID,
    changed: tuple[int, int] | None = None,
    flags: int = 0,
) -> int:
    """The validator's answer to a plan of *steps*, with the 32-bit number *changed* = (offset, value) in it."""
    template = PlanTemplate()
    for _ in range(4):
        template.slot()
    template.clone_flags = clone_flags
    for op, section, operands in steps:
        template.add(op, section, "process", **operands)
    template.add("execve", INIT, "program", s0="")
    plan = bytearray(template.finish("0" * 64, ["x"], [], ["/x"], flags))
    if changed:
        struct.pack_into("=I", plan, *changed)
    return native.validate(bytes(plan), 0)


def test_a_sound_plan_is_accepted() -> None:
    assert judge(("pivot_root", INIT, {"a": 0}), ("write_proc", SYNC, {"s0": "uid_map", "s1": ""})) == 0


OUT_OF_PLACE: dict[str, tuple[Given, ...]] = {
    "a step of init on the host": (("hostname", HOST, {"s0": "x"}),),
    "a step of the host in init": (("open", INIT, {"a": 0, "s0": "/"}),),
    "a relative path": (("mkdir", INIT, {"s0": "x"}),),
    "a path that climbs": (("mask", INIT, {"a": 0, "s0": "/a/../../b"}),),
    "a name with a slash in a fresh mount": (("mknod", INIT, {"a": 0, "s0": "/x"}),),
    "a path of several names in a fresh mount": (("attach", INIT, {"a": 0, "b": 1, "s0": "/x/y", "s1": "x/y"}),),
    "the fresh mount's parent": (("attach", INIT, {"a": 0, "b": 1, "s0": "/x", "s1": ".."}),),
    "a fresh mount without a name": (("attach", INIT, {"a": 0, "b": 1, "s0": "/x"}),),
    "a cgroup that climbs": (("cgroup_mkdir", HOST, {"s0": "/sys/fs/cgroup", "s1": "/../x"}),),
    "a slot that there is not": (("pivot_root", INIT, {"a": native.MAX_SLOTS}),),
    "groups that are no numbers": (("user", INIT, {"s0": "1,,2"}),),
    "a group that is -1": (("user", INIT, {"s0": "4294967295"}),),
    "a uid that is -1": (("user", INIT, {"n0": 0xFFFFFFFF, "s0": ""}),),
    "more options than there are": (("new_mount", INIT, {"a": 0, "s0": "tmpfs", "s1": "a\0b\0", "n0": 4096}),),
    "a program beyond the blobs": (("seccomp", INIT, {"n0": 0, "n1": 1}),),
}  # fmt: skip


@pytest.mark.parametrize("what", OUT_OF_PLACE)
def test_what_is_out_of_place_is_refused(what: str) -> None:
    assert judge(*OUT_OF_PLACE[what]) < 0


def test_a_flag_that_shares_memory_or_descriptors_is_refused() -> None:
    for flag in (0x100, 0x200, 0x400, 0x800, 0x8000, 0x10000, 1 << 33):
        assert judge(clone_flags=CLONE_NEWNS | flag) < 0, hex(flag)


HARMFUL: dict[str, tuple[Given, ...]] = {
    "a file by absolute path in a fresh mount": (("file", INIT, {"a": 0, "s0": "/etc/x", "s1": ""}),),
    "a write to the host's own procfs": (("write_proc", HOST, {"s0": "sysrq-trigger", "s1": "x"}),),
    "a process's file that is a path": (("write_proc", SYNC, {"s0": "../1/oom_score_adj", "s1": "x"}),),
    "a cgroup's file that is a path": (("write_at", HOST, {"a": 0, "s0": "/proc/sys/vm/swappiness", "s1": "1"}),),
    "a cgroup's file that climbs": (("open_at", HOST, {"a": 0, "b": 1, "s0": "../tasks"}),),
    "a sync point that nobody serves": (("sync", INIT, {"n0": 0}),),
    "a flag that means nothing": (("hostname", INIT, {"s0": "x", "flags": 1 << 31}),),
}  # fmt: skip


@pytest.mark.parametrize("what", HARMFUL)
def test_what_could_only_do_harm_is_refused(what: str) -> None:
    assert judge(*HARMFUL[what]) < 0


JOIN: Given = ("setns", INIT, {"a": 3, "n0": CLONE_NEWNS | CLONE_NEWPID})
FORK: Given = ("fork", INIT, {})


def judge_exec(*steps: Given, clone_flags: int = 0) -> int:
    return judge(*steps, clone_flags=clone_flags, flags=native.FLAG_EXEC)


def test_a_plan_that_joins_a_container() -> None:
    assert judge_exec(("open", HOST, {"a": 0, "s0": "/x"}), ("join_tasks", INIT, {"a": 0}), JOIN, FORK) == 0
    assert judge_exec(JOIN, ("umask", INIT, {}), FORK, ("rlimit", INIT, {})) == 0


BAD_JOINS: dict[str, tuple[Given, ...]] = {
    "nothing joined": (FORK,),
    "no process of its own": (JOIN,),
    "two processes": (JOIN, FORK, FORK),
    "joined twice": (JOIN, JOIN, FORK),
    "joined after the process was made": (FORK, JOIN),
    "no mount namespace": (("setns", INIT, {"a": 3, "n0": CLONE_NEWPID}), FORK),
    "any namespace": (("setns", INIT, {"a": 3, "n0": 0}), FORK),
    "a flag that is no namespace": (("setns", INIT, {"a": 3, "n0": CLONE_NEWNS | 1}), FORK),
    "the supervisor itself joins": (("setns", HOST, {"a": 3, "n0": CLONE_NEWNS}), JOIN, FORK),
    "a cgroup too late": (JOIN, ("join_tasks", INIT, {"a": 0}), FORK),
    "a change of user too early": (("user", INIT, {"s0": ""}), JOIN, FORK),
    "a cgroup is made": (("cgroup_mkdir", HOST, {"s0": "/sys/fs/cgroup", "s1": "/x"}), JOIN, FORK),
    "a mount": (JOIN, ("attach", INIT, {"a": 0, "s0": "/x"}), FORK),
    "a mask": (JOIN, ("mask", INIT, {"a": 0, "s0": "/x"}), FORK),
    "a file": (JOIN, FORK, ("file", INIT, {"s0": "/x", "s1": ""})),
    "a parameter of the host's kernel": (
        ("write_procfs", INIT, {"a": 0, "s0": "sys/kernel/core_pattern", "s1": "x"}), JOIN, FORK,
    ),
    "the container's procfs": (JOIN, ("write_procfs", INIT, {"a": 0, "s0": "self/oom_score_adj", "s1": "1"}), FORK),
    "another root": (JOIN, ("pivot_root", INIT, {"a": 0}), FORK),
    "a sync point": (JOIN, ("sync", INIT, {}), FORK, ("write_proc", SYNC, {"s0": "uid_map", "s1": ""})),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_JOINS)
def test_a_plan_that_joins_does_nothing_else_and_all_in_order(what: str) -> None:
    assert judge_exec(*BAD_JOINS[what]) < 0


def test_a_plan_that_joins_makes_no_namespace_and_another_does_not_fork() -> None:
    assert judge_exec(JOIN, FORK, clone_flags=CLONE_NEWNS) < 0
    assert judge(FORK) < 0


def test_every_bit_of_a_flag_has_a_name_and_no_other_is_accepted() -> None:
    accepted = [1 << n for n in range(32) if judge(("hostname", INIT, {"s0": "x", "flags": 1 << n})) == 0]
    assert accepted == sorted(native.FLAGS.values())


def test_every_flag_means_something_to_a_walker() -> None:
    plans = ("plan.pxd", "plan_rules.pxd")
    walkers = "".join(path.read_text() for path in NATIVE.glob("*.pxd") if path.name not in plans)
    assert [name for name in native.FLAGS if f"F_{name.upper()}" not in walkers] == []


def test_mounting_without_a_mount_namespace_is_refused() -> None:
    assert judge(("pivot_root", INIT, {"a": 0}), clone_flags=CLONE_NEWPID) < 0


@pytest.mark.parametrize("kind", [CLONE_NEWNS, CLONE_NEWNS | CLONE_NEWPID, 0])
@pytest.mark.parametrize("section", [INIT, STAGE])
def test_a_root_is_dropped_in_a_mount_namespace_of_its_own_only(section: int, kind: int) -> None:
    """Where others are too, the root that goes is theirs."""
    joins = ("setns", section, {"a": 1, "n0": kind})
    drops = ("pivot_root", INIT, {"a": 0, "n1": 1})
    assert judge(drops) == 0
    for clone_flags in (CLONE_NEWPID, CLONE_NEWNS | CLONE_NEWPID):
        assert judge(*((joins, drops) if section == INIT else (drops, joins)), clone_flags=clone_flags) < 0


def test_a_reserved_number_is_refused() -> None:
    assert judge(changed=(RESERVED, 1)) < 0


OCI = Oci(
    "/run/pyrunc-oci/x", "x", hooks=(OciHook(0, "/bin/a", ("a",)), OciHook(3, "/bin/b", ("b", "c"), ("D=e",)))
)
WAIT: Given = ("wait_start", INIT, {"a": 3})


def judge_oci(oci: Oci | None, *steps: Given, descriptors: int = 3) -> int:
    """The validator's answer to a plan of *steps* that the front door walks."""
    template = PlanTemplate()
    for _ in range(descriptors):
        template.descriptor()
    while template.slots < 5:
        template.slot()
    template.clone_flags = CLONE_NEWNS
    for op, section, operands in steps:
        template.add(op, section, "process", **operands)
    template.add("execve", INIT, "program", s0="")
    return native.validate(template.finish("0" * 64, ["x"], [], ["/x", "/y"], oci=oci), descriptors)


def test_a_plan_of_the_front_door() -> None:
    lookup: Given = ("lookup", INIT, {"s0": "", "s1": "4,24", "n0": 7 << 32 | 8})
    assert judge_oci(OCI, ("sync", INIT, {"n0": 1}), lookup, WAIT, ("hook", INIT, {"n0": 1})) == 0


def test_only_a_plan_of_the_front_door_waits_for_its_start_once_and_has_hooks() -> None:
    assert judge_oci(None, WAIT) < 0
    assert judge_oci(None, ("hook", INIT, {"n0": 0})) < 0
    assert judge_oci(None, ("sync", INIT, {"n0": 1})) < 0
    assert judge_oci(OCI, WAIT, WAIT) < 0
    assert judge_oci(OCI, ("hook", INIT, {"n0": 2})) < 0
    assert judge_oci(OCI, ("sync", INIT, {"n0": 2})) < 0


BAD_BLOCKS: dict[str, Oci] = {
    "a relative state directory": OCI._replace(state_dir="x"),
    "an id that is a path": OCI._replace(container_id="x/y"),
    "an id that climbs": OCI._replace(container_id=".."),
    "no id": OCI._replace(container_id=""),
    "a flag that means nothing": OCI._replace(flags=1 << 31),
    "a relative pid file": OCI._replace(pid_file="pid"),
    "a relative socket": OCI._replace(console_socket="socket"),
    "more descriptors than there can be": OCI._replace(preserve_fds=1 << 30),
    "a hook of no kind": OCI._replace(hooks=(OciHook(6, "/x", ("x",)),)),
    "hooks out of order": OCI._replace(hooks=OCI.hooks[::-1]),
    "a relative hook": OCI._replace(hooks=(OciHook(0, "x", ("x",)),)),
}


@pytest.mark.parametrize("what", BAD_BLOCKS)
def test_a_front_door_is_not_told_what_makes_no_sense(what: str) -> None:
    assert judge_oci(OCI) == 0
    assert judge_oci(BAD_BLOCKS[what]) < 0


def test_the_front_door_passes_on_its_standard_descriptors_and_no_others() -> None:
    assert judge_oci(OCI, descriptors=4) < 0
    assert judge_oci(OCI, descriptors=0) < 0


def test_a_plan_of_the_front_door_can_be_read() -> None:
    lines = OCI._replace(pid_file="/tmp/pid", preserve_fds=2).describe().splitlines()
    assert lines[0] == "oci   state /run/pyrunc-oci/x create"
    assert "oci   pid_file /tmp/pid" in lines
    assert "oci   hook startContainer /bin/b ['b', 'c'] env=('D=e',) timeout=0" in lines
