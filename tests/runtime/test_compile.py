"""What the compiler makes of a document, without root: order, refusals by field, and numbers that fit."""

import copy
import os
from types import SimpleNamespace
from typing import Any

import pytest

from pyrunc._native import plan as native
from pyrunc.errors import InvalidSpec, PyruncError, Unsupported
from pyrunc.runtime import cgroup_layout
from pyrunc.runtime.cgroup_layout import Hierarchy, Layout
from pyrunc.runtime.compile import Rootfs, candidates, compile_spec

SPEC: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "root": {"path": "/", "readonly": True},
    "process": {
        "cwd": "/work", "args": ["true"], "user": {"uid": 5, "gid": 6, "additionalGids": [7, 8]},
        "capabilities": {"bounding": ["CAP_KILL"]}, "noNewPrivileges": True,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}],
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        {"destination": "/data", "type": "bind", "source": "/tmp", "options": ["rbind", "ro"]},
    ],
    "linux": {"namespaces": [{"type": kind} for kind in ("mount", "pid", "uts", "ipc", "network")]},
}  # fmt: skip


def steps(spec: dict[str, Any], **rootfs: Any) -> list[Any]:
    return compile_spec(spec, Rootfs(("/",), **rootfs)).steps


def changed(path: str, value: object) -> dict[str, Any]:
    spec = copy.deepcopy(SPEC)
    *way, last = path.split(".")
    place: Any = spec
    for key in way:
        place = place[int(key)] if key.isdigit() else place.setdefault(key, {})
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return spec


def test_the_order_of_privileges() -> None:
    """Limits before the user, the bounding set before it too, seccomp and execve last."""
    names = [step.op for step in steps(SPEC)]
    order = [
        "pivot_root",
        "rlimit",
        "chdir",
        "no_new_privs",
        "bounding",
        "user",
        "capabilities",
        "umask",
        "execve",
    ]
    assert [name for name in names if name in order] == order


def test_the_root_is_read_only_after_everything_was_made_in_it() -> None:
    found = steps(SPEC)
    last = max(number for number, step in enumerate(found) if step.op in ("attach", "mkdir", "mknod"))
    root = next(step.a for step in found if step.op == "pivot_root")
    (sealed,) = [
        number
        for number, step in enumerate(found)
        if step.op == "mount_attr" and step.a == root and step.n0 == 1
    ]
    assert last < sealed


@pytest.mark.parametrize(("path", "value", "words"), [
    ("process.cwd", "relative", "process.cwd: must be absolute"), ("process.cwd", 5, "process.cwd"),
    ("process.user.uid", -1, "process.user.uid"), ("process.user.uid", 1 << 32, "process.user.uid"),
    ("process.user.gid", "5", "process.user.gid"), ("process.user.umask", -1, "process.user.umask"),
    ("process.user.additionalGids", [1 << 33], "process.user.additionalGids"),
    ("process.user.additionalGids", list(range(65537)), "process.user.additionalGids: a process is in at most 65536"),
    ("process.rlimits.0.soft", -1, r"process.rlimits\[0\].soft"),
    ("process.rlimits.0.hard", 1 << 64, r"process.rlimits\[0\].hard"),
    ("process.rlimits.0.type", "RLIMIT_FISH", r"process.rlimits\[0\].type: unknown limit 'RLIMIT_FISH'"),
    ("process.oomScoreAdj", 5000, "process.oomScoreAdj"),
    ("mounts.0.options", ["X-mount.owner=none"],
     r"mounts\[0\].options: X-mount.owner: unable to find user none: .* \(mount at /proc\)"),
    ("mounts.0.options", ["remount", "size=1"], r"mounts\[0\].options: a remount changes 'size' only where"),
    ("mounts.0.options", ["remount", "X-mount.mode=7"], r"mounts\[0\].options: a remount takes no X-mount.owner, "),
    ("mounts.0.type", "auto", r"mounts\[0\].type: 'auto' is not guessed"),
    ("mounts.0.source", "x" * 256, r"mounts\[0\].source: 'x{64}' cannot be the source"),
    ("mounts.0.destination", "", r"mounts\[0\].destination"), ("mounts.0.destination", "/", r"mounts\[0\].destination"),
    ("mounts.0.type", "", r"mounts\[0\].type"),
    ("mounts.2.source", "/no/such", r"mounts\[2\].source: /no/such: no such file"),
    ("mounts.2.source", "", r"mounts\[2\].source"),
    ("mounts.2.options", ["bind", "size=1"], r"mounts\[2\].options: .* 'size'"),
    ("linux.devices", [{"type": "x", "path": "/dev/x"}], r"linux.devices\[0\].type"),
    ("linux.devices", [{"type": "c", "path": "x"}], r"linux.devices\[0\].path"),
    ("linux.devices", [{"type": "c", "path": "/dev/x", "major": 1 << 40}], r"linux.devices\[0\].major"),
    ("linux.devices", [{"type": "c", "path": "/dev/x", "uid": -5}], r"linux.devices\[0\].uid"),
    ("linux.devices", [{"type": "c", "path": "/dev/x", "fileMode": "rw"}], r"linux.devices\[0\].fileMode"),
    ("linux.sysctl", {"vm.swappiness": "1"}, r'linux\.sysctl: sysctl "vm\.swappiness" is not in a separate kernel'),
    ("linux.seccomp", {"defaultAction": "x"}, "linux.seccomp.defaultAction"), ("linux.seccomp", {}, "linux.seccomp"),
    ("linux.namespaces", [{"type": "pid"}], "linux.namespaces: a container needs a mount namespace"),
    ("linux.namespaces", [{"type": "x"}], r"linux.namespaces\[0\].type: unknown"),
])  # fmt: skip
def test_a_field_that_is_wrong_is_named(path: str, value: object, words: str) -> None:
    with pytest.raises((InvalidSpec, Unsupported), match=words):
        compile_spec(changed(path, value), Rootfs(("/",)))


def test_what_no_option_asks_for_costs_no_step() -> None:
    """Nor does an option that is a comment, or that says what is the case anyway."""
    plain = [{"destination": "/m", "type": "tmpfs"}, {"destination": "/b", "type": "bind", "source": "/tmp"}]
    said = [{**mount, "options": [
        "x-note", "comment=y", "auto", "X-mount.mkdir", "X-mount.noloop", "X-mount.nocanonicalize", "silent",
    ]} for mount in plain]  # fmt: skip
    assert steps({**SPEC, "mounts": said}) == steps({**SPEC, "mounts": plain})
    assert not {"remount", "reconfigure", "owner"} & {step.op for step in steps(SPEC)}
    assert [step.s0 for step in steps(SPEC) if step.op == "open_tree" and step.s1] == []


def attached(*destinations: str, **bind: str) -> list[str]:
    """The mounts of a container that are attached by name to its /dev, and not by a walk from the root."""
    kinds = {"/proc": "proc", "/sys": "sysfs", "/dev/pts": "devpts", "/dev/mqueue": "mqueue"}
    mounts: list[dict[str, Any]] = []
    for destination in destinations:
        source = bind.get(destination.rpartition("/")[2])
        kind = "bind" if source else kinds.get(destination, "tmpfs")
        mounts.append({"destination": destination, "type": kind, "source": source or kind})
    return [
        step.s0
        for step in steps({**SPEC, "mounts": mounts})
        if step.op == "attach" and step.b != native.ABSENT
    ]


def test_mounts_below_a_fresh_dev_are_attached_by_name() -> None:
    below = ["/dev/pts", "/dev/shm", "/dev/mqueue"]
    assert attached("/proc", "/dev", *below) == below
    assert attached("/dev", "/proc", "/sys", *below) == below
    assert attached(*below, "/dev") == []
    # What an image can have made a symlink to /dev covers it: then only the walk knows where the path leads.
    assert attached("/dev", "/x", *below) == []
    assert attached("/dev", "/x", *below, x="/tmp") == []
    assert attached("/dev", "/dev/shm", "/dev/x", "/dev/pts") == ["/dev/shm"]
    assert attached("/dev", *below, dev="/dev") == []
    assert attached("/x", "/dev", "/dev/pts") == ["/dev/pts"]


_NO_MOUNT = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}


@pytest.mark.parametrize(("without", "controllers", "seccomp", "used"), [
    ("", (), _NO_MOUNT, False), ("pid", (), _NO_MOUNT, True), ("", ("cpu",), _NO_MOUNT, True),
    ("freezer", (), _NO_MOUNT, True), ("", (), None, True), ("", (), {"defaultAction": "SCMP_ACT_ALLOW"}, True),
    ("", (), {**_NO_MOUNT, "syscalls": [{"names": ["fsmount"], "action": "SCMP_ACT_ALLOW"}]}, True),
    ("", (), {**_NO_MOUNT, "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_KILL"}]}, False),
])  # fmt: skip
def test_v2_of_a_hybrid_host_is_used_where_it_can_do_something(
    monkeypatch: pytest.MonkeyPatch,
    without: str,
    controllers: tuple[str, ...],
    seccomp: dict[str, Any] | None,
    used: bool,
) -> None:
    v1 = [
        Hierarchy(f"/cg/{name}", "/", 1, (name,))
        for name in ("cpu", "devices", "freezer", "memory")
        if name != without and name not in controllers
    ]
    layout = Layout("hybrid", (*v1, Hierarchy("/cg/unified", "/", 2, controllers)), ())
    monkeypatch.setattr(cgroup_layout, "detect", lambda: layout)
    namespaces = [{"type": kind} for kind in ("mount", "pid") if kind != without]
    spec = changed("linux", {"namespaces": namespaces, **({"seccomp": seccomp} if seccomp else {})})
    plan = compile_spec(spec, Rootfs(("/",)))
    assert ("/cg/unified" in [step.s0 for step in plan.steps if step.op == "cgroup_mkdir"]) == used
    assert (plan.cgroup_slot != native.ABSENT) == used


def test_layers_beyond_a_page_of_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def overlay(count: int, digits: int) -> Any:
        layers = tuple(f"/tmp/{number:0{digits}d}/fs" for number in range(count))
        found = compile_spec(SPEC, Rootfs(layers, scratch=True)).steps
        return next(step for step in found if step.op == "root_overlay")

    few = overlay(5, 9)
    assert few.n0 == 0 and few.s1.startswith("lowerdir=000000004/fs:000000003/fs:")
    many = overlay(500, 9)
    assert many.n0 >= 500 and many.s1.startswith("lowerdir+\x00000000499/fs\0lowerdir+\x00000000498/fs\0")
    with pytest.raises(Unsupported, match="501 layers; 500 are possible"):
        overlay(501, 9)
    with pytest.raises(Unsupported, match=r"60 layers need .* bytes"):
        overlay(60, 255)  # fsconfig(2) takes less
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release="6.1.0-18-amd64", machine="x86_64"))
    with pytest.raises(Unsupported, match=r"500 layers need .* bytes"):
        overlay(500, 9)
    assert overlay(5, 9) == few


def test_a_plan_finishes_with_any_arguments_that_execve_takes() -> None:
    template = compile_spec(SPEC, Rootfs(("/",)))
    plan = template.finish("a" * 64, ["true", "ü", "\udcff"], ["A=b"], candidates("true", "/bin::/usr/bin"))
    assert "true\0ü\0".encode() + b"\xff\0A=b\0/bin/true\0./true\0/usr/bin/true\0" in bytes(plan)
    with pytest.raises((ValueError, PyruncError)):
        template.finish("a" * 64, ["a\0b"], [], ["true"])
