"""The seed plans: real ones, compiled from specs, and one that has a step of every kind.

`python -m tests.fuzz.seeds` writes them anew to tests/fuzz/seeds/, which is due whenever the plan's layout
or its list of steps changes.
"""

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyrunc._native import plan as native
from pyrunc.runtime.compile import Rootfs, compile_spec
from pyrunc.runtime.joining import Join, compile_join
from pyrunc.runtime.plan import HOST, INIT, STAGE, SYNC, Oci, OciHook, PlanTemplate, Shim
from pyrunc.spec import defaults

DIRECTORY = Path(__file__).parent / "seeds"
CONTAINER_ID = "0123456789abcdef" * 4
ENV = ("PATH=/usr/bin:/bin", "HOME=/root", "EMPTY=")
CAPABILITY_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
ALL_NAMESPACES = [{"type": kind} for kind in defaults.NAMESPACES]

# One step of each kind: the section in which it may stand, and what it takes.
EVERY_STEP: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("cgroup_mkdir", HOST, {"a": 4, "s0": "/sys/fs/cgroup", "s1": "/pyrunc/x", "s2": "+memory +pids"}),
    ("write_at", HOST, {"a": 4, "s0": "memory.max", "s1": "1048576", "flags": native.FLAGS["alternative"]}),
    ("open_at", HOST, {"a": 4, "b": 5, "s0": "cgroup.procs", "n0": 1}),
    ("open", HOST, {"a": 6, "s0": "/proc/self/ns/net"}),
    ("process", HOST, {"a": 13, "n0": 4194304, "n1": 1 << 40}),
    ("device_bpf", HOST, {"a": 4, "n0": 0, "n1": 3}),
    ("userns", HOST, {"a": 7, "s0": "0 100000 65536\n", "s1": "0 100000 65536\n"}),
    ("unit", HOST, {"s0": "/run/systemd/private", "s1": "x.scope", "s2": "Delegate", "n0": 96, "n1": 8}),
    ("overlay", HOST, {"a": 10, "b": 8, "n0": 1, "n1": 1, "s0": "/sys", "s1": "fs", "s2": "work"}),
    ("open_tree", HOST, {"a": 8, "s0": "/srv", "flags": native.FLAGS["recursive"]}),
    ("new_mount", HOST, {"a": 9, "s0": "tmpfs", "s1": "mode\x000755\0size\x0064k\0ro\0\0", "n0": 3, "n1": 14}),
    ("mount_attr", HOST, {"a": 8, "b": 7, "n0": 0x100000, "n1": 1, "n2": 1 << 18}),
    ("setns", HOST, {"a": 6, "n0": 0x20000000}),
    ("sync", INIT, {"n0": 0}),
    ("join_tasks", INIT, {"a": 5}),
    ("unshare", INIT, {"n0": 0x02000000}),
    ("propagation", INIT, {"s0": "/", "n0": 1 << 18 | 16384}),
    ("root_attach", INIT, {"a": 8, "s0": "/srv"}),
    ("root_overlay", INIT, {"a": 10, "s0": "/srv/1", "s1": "lowerdir=2:1,upperdir=/sys/u", "s2": "/srv"}),
    ("copy_up", INIT, {"a": 9, "s0": "/tmp", "n0": 1, "flags": native.FLAGS["recursive"]}),
    ("attach", INIT, {"a": 9, "s0": "/tmp", "flags": native.FLAGS["create"]}),
    ("attach", INIT, {"a": 9, "b": 8, "s0": "/dev/pts", "s1": "pts"}),
    ("remount", INIT, {"s0": "/tmp", "n0": 1, "n1": 2, "n2": 1 << 18, "flags": native.FLAGS["recursive"]}),
    ("reconfigure", INIT, {"a": 9, "s0": "/tmp", "s1": "size\x0064k\0ro\0\0", "n0": 2}),
    ("owner", INIT, {"a": 9, "s0": "/tmp", "n0": 1000, "n1": 0xFFFFFFFF, "n2": 0o4755}),
    ("open_tree", INIT, {"a": 9, "b": 9, "s0": "tmpfs", "s1": "/sub/directory"}),
    ("mkdir", INIT, {"s0": "/var/lib", "n0": 0o755, "flags": native.FLAGS["create"]}),
    ("mknod", INIT, {"s0": "/dev/null", "n0": 0o020666, "n1": 0x103, "n2": 5 << 32 | 7}),
    ("symlink", INIT, {"a": 9, "s0": "fd", "s1": "/proc/self/fd"}),
    ("file", INIT, {"s0": "/etc/hostname", "s1": "name\n", "n0": 0o644}),
    ("mask", INIT, {"a": 11, "s0": "/proc/kcore"}),
    ("readonly", INIT, {"s0": "/proc/sys"}),
    ("pivot_root", INIT, {"a": 8}),
    ("write_procfs", INIT, {"a": 12, "s0": "self/oom_score_adj", "s1": "100"}),
    ("hostname", INIT, {"s0": "name"}),
    ("domainname", INIT, {"s0": "domain"}),
    ("loopback_up", INIT, {}),
    ("rlimit", INIT, {"n0": 7, "n1": 1024, "n2": 4096}),
    ("terminal", INIT, {"a": 9, "b": 12, "s0": "/dev/pts", "n0": 1000, "n1": 24, "n2": 80}),
    ("stdio", INIT, {"a": 1, "n0": 1}),
    ("session", INIT, {"flags": native.FLAGS["tty"]}),
    ("no_new_privs", INIT, {}),
    ("bounding", INIT, {"n0": 0xA80425FB}),
    ("user", INIT, {"n0": 1000, "n1": 1000, "s0": "4,24,4294967294"}),
    ("user", INIT, {"n0": 1000, "n1": 1000, "s0": "", "n2": 4 << 32 | 24}),
    ("capabilities", INIT, {"n0": 1, "n1": 3, "n2": 1}),
    ("ambient", INIT, {"n0": 1}),
    ("umask", INIT, {"n0": 0o22}),
    ("scheduler", INIT, {"n0": 40, "n1": 6}),
    ("io_priority", INIT, {"n0": 3 << 13}),
    ("personality", INIT, {"n0": 8}),
    ("memory_policy", INIT, {"n0": 2, "n1": 88, "n2": 1}),
    ("affinity", INIT, {"n0": 88, "n1": 1}),
    ("chdir", INIT, {"s0": "/"}),
    ("seccomp", INIT, {"n0": 24, "n1": 2, "n2": 0}),
    ("lookup", INIT, {"s0": "", "s1": "4,24", "n0": 1000 << 32 | 1000}),
    ("wait_start", INIT, {"a": 3}),
    ("hook", INIT, {"n0": 1}),
    ("execve", INIT, {"s0": ""}),
    ("write_proc", SYNC, {"s0": "uid_map", "s1": "0 0 1"}),
    ("net_device", SYNC, {"s0": "eth1", "s1": "net0"}),
    ("setns", STAGE, {"a": 6, "n0": 0x10000000}),
    ("unshare", STAGE, {"n0": 0x80}),
    ("write_proc", STAGE, {"s0": "timens_offsets", "s1": "boottime 1 0"}),
)  # fmt: skip


def every_step() -> PlanTemplate:
    """A plan with a step of every kind, which nobody should walk."""
    template = PlanTemplate()
    for _ in range(3):
        template.descriptor()
    while template.slots < 13:
        template.slot()
    template.blob(bytes(range(24)))
    template.blob(struct.pack("=HBBIHBBI", 0x06, 0, 0, 0x7FFF0000, 0x06, 0, 0, 0))
    template.blob(struct.pack("=IIQiIQQQ", 48, 3, 0, 5, 0, 0, 0, 0))
    template.blob(bytes([1, *bytes(7)]))
    template.blob(struct.pack("=4I16s16s16s", 16, 4, 16, 16, bytes(16), bytes(16), bytes(16)))
    for op, section, operands in EVERY_STEP:
        template.add(op, section, "process", **operands)
    template.clone_flags = 0x20020000
    template.cgroup_slot = template.memory_slot = 4
    return template


def least() -> PlanTemplate:
    """The shortest plan that there can be."""
    template = PlanTemplate()
    template.clone_flags = 0x00020000  # CLONE_NEWNS, without which there is no plan
    template.add("execve", INIT, "program", s0="")
    return template


def specs() -> Iterator[tuple[str, dict[str, Any], Rootfs, dict[str, str]]]:
    """OCI documents that differ in what they ask for: (name, spec, root, files)."""
    one = Rootfs(("/usr",))
    yield "bare", {"process": {"args": ["x"]}, "linux": {"namespaces": [{"type": "mount"}]}}, one, {}
    docker: dict[str, Any] = {
        "process": {
            "cwd": "/tmp", "noNewPrivileges": True, "user": {"uid": 7, "gid": 8, "additionalGids": [9, 10]},
            "capabilities": {name: list(defaults.CAPABILITIES) for name in CAPABILITY_SETS},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}], "oomScoreAdj": 100,
        },
        "hostname": "name", "domainname": "domain", "mounts": [*defaults.mounts(), {
            "destination": "/var/lib", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "size=1m", "tmpcopyup"],
        }],
        "linux": {
            "namespaces": ALL_NAMESPACES, "maskedPaths": list(defaults.MASKED_PATHS),
            "readonlyPaths": list(defaults.READONLY_PATHS), "sysctl": {"net.ipv4.ip_forward": "1"},
            "resources": {"memory": {"limit": 64 << 20}, "cpu": {"shares": 512}, "pids": {"limit": 100}},
            "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600}],
        },
    }  # fmt: skip
    yield "docker", docker, Rootfs(("/usr/bin", "/usr/lib", "/usr/share"), scratch=True, scratch_bytes=1 << 20), {
        "/etc/hosts": "127.0.0.1 localhost\n", "/etc/resolv.conf": "",
    }  # fmt: skip
    rows = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    user = {
        "mounts": [
            *defaults.mounts()[:2],
            {"destination": "/data", "type": "bind", "source": "/etc", "options": ["rbind", "ro", "nosuid"]},
            {"destination": "/file", "type": "bind", "source": "/etc/passwd", "options": ["bind", "rslave"]},
        ],
        "linux": {
            "namespaces": [*ALL_NAMESPACES, {"type": "user"}], "uidMappings": rows, "gidMappings": rows,
            "rootfsPropagation": "rslave",
        },
    }  # fmt: skip
    yield "user", user, Rootfs(("/usr",), idmap=True), {}
    special = {
        "mounts": [
            {"destination": "/data", "type": "bind", "source": "/usr",
             "options": ["bind", "ro", *(f"X-mount.{x}" for x in ("subdir=lib", "owner=7", "idmap=0:1:2", "mkdir=7"))]},
            {"destination": "/tmp", "type": "tmpfs", "options": ["X-mount.mode=755"]},
            {"destination": "/tmp", "options": ["remount", "size=1m", "ro", "rnosuid", "rslave"]},
        ],
        "linux": {"namespaces": ALL_NAMESPACES},
    }  # fmt: skip
    yield "special-mounts", special, one, {}
    layered = Rootfs(
        ("/usr/bin", "/usr/lib"), idmap=True, upper="/srv/7/fs", work="/srv/7/work", volatile=True
    )
    yield "user-layers", user, layered, {"/etc/hosts": "127.0.0.1 localhost\n"}
    yield "layers", docker, layered._replace(idmap=False), {}
    joined = [{"type": "mount"}, *({"type": kind, "path": f"/proc/1/ns/{kind}"} for kind in ("uts", "ipc"))]
    terminal = {"terminal": True, "consoleSize": {"height": 24, "width": 80}, "user": {"uid": 7, "gid": 8}}
    yield "terminal", {**docker, "process": terminal}, one, {}
    yield "joined", {"root": {"readonly": True}, "linux": {"namespaces": joined}}, one, {}


def joining(container: PlanTemplate, terminal: tuple[int, int] | None = None) -> PlanTemplate:
    """A program in a container that runs, with what its plan may have beyond that of *container*."""
    template = compile_join(container, Join((1000, 1000, (4, 24)), True, "/tmp", terminal, bool(terminal)))
    template.cgroup_slot = template.slot()
    template.add("open", HOST, "host", a=template.cgroup_slot, s0="/sys/fs/cgroup/x", n0=0x10000)
    return template


def shims() -> dict[str, Shim]:
    """Shims of the plans with these names."""
    hierarchies = ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified")
    full = Shim(
        "/run/pyrunc/x", native.FLAG_LISTEN | native.FLAG_CLIENT | native.FLAG_STDIN | native.FLAG_STDIN_ONCE,
        "/var/log/x.json", 1 << 20, 3, ("/usr/bin/python3", "-I", "exit.py"), ("A=b", "C="), "/pyrunc/shims",
        hierarchies, 1000, 1000,
    )  # fmt: skip
    terminal = Shim("/run/pyrunc/x", native.FLAG_TERMINAL | native.FLAG_STDIN, rows=24, columns=80)
    return {"docker": full, "user": terminal, "exec-docker": full, "exec-user": terminal}


def front_doors() -> dict[str, Oci]:
    """What the front door needs for the plans with these names."""
    hooks = (
        OciHook(0, "/bin/true", ("true",)),
        OciHook(2, "/bin/sh", ("sh", "-c", "exit 0"), ("A=b", "C="), 5),
        OciHook(4, "/bin/true"),
        OciHook(5, "/bin/true", ("true", ""), ()),
    )
    state = ('{"id": "x", "pid": ', ', "status": "', '", "created": "', '", "pyrunc":{"start_time":', "}}")
    full = Oci(
        "/run/pyrunc-oci/x", "x", native.FLAG_RUN | native.FLAG_DETACH | native.FLAG_OCI_TERMINAL, "/tmp/pid",
        "/tmp/pidfd", "/tmp/console", "/tmp/log", "json", "/tmp/seccomp", "metadata", 2, 24, 80, state,
        ('{"status":"', '","pid":', "}"), hooks,
    )  # fmt: skip
    return {"every-step": full, "docker": Oci("/run/pyrunc-oci/y", "y", state=state)}


def plans() -> dict[str, bytes]:
    """Every seed by its name."""
    templates = {"least": least(), "every-step": every_step()}
    templates |= {name: compile_spec(spec, root, files) for name, spec, root, files in specs()}
    joins = {f"exec-{name}": joining(templates[name]) for name in ("docker", "user")}
    joins["exec-terminal"] = joining(templates["docker"], (24, 80))
    templates |= joins
    argvs = itertools.cycle((["true"], ["sh", "-c", "exit 3"], ["x"] * 40))
    made = {}
    for (name, template), argv in zip(templates.items(), argvs, strict=False):
        kind = native.FLAG_EXEC if name in joins else 0
        paths = ("/bin/true", "/usr/bin/true")
        if oci := front_doors().get(name):
            made[f"oci-{name}"] = bytes(template.finish(CONTAINER_ID, argv, ENV, paths, kind, oci=oci))
        if name == "every-step":
            continue  # some of them are the front door's alone
        made[name] = bytes(template.finish(CONTAINER_ID, argv, ENV, paths, native.FLAG_QUIET | kind))
        if name in shims():
            flags = native.FLAG_KEEP_RUNNING | kind
            made[f"shim-{name}"] = bytes(
                template.finish(CONTAINER_ID, argv, ENV, paths, flags, shims()[name])
            )
    return made


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for old in DIRECTORY.glob("*.plan"):
        old.unlink()
    for name, plan in plans().items():
        (DIRECTORY / f"{name}.plan").write_bytes(plan)
