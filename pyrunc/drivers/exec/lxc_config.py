"""A container's config.json as LXC's configuration: what it says in its words, or a refusal by name.

What is left to `pyrunc-init lxc-init`, the first program inside (`process_plan`): the arguments, which are no words of
a line there, the environment, to which LXC adds one, the umask, the working directory, and the terminal.

Source: lxc.container.conf(5) of LXC 5; OCI runtime-spec config.md and config-linux.md.
"""

from __future__ import annotations

import os

from pyrunc._native import plan as native
from pyrunc.drivers.exec import lxc_seccomp, monitor_place
from pyrunc.drivers.exec.lxc_root import Owner, Places, Stage, make_devices, make_null
from pyrunc.errors import Unsupported
from pyrunc.runtime import cgroup_layout, mount_options
from pyrunc.runtime.cgroup_devices import DEFAULT_DEVICE_RULES, parse_device_rules, v1_device_writes
from pyrunc.runtime.cgroup_resources import resource_writes
from pyrunc.runtime.cgroup_writes import NEXT, SKIP, Write
from pyrunc.runtime.compile_host import CLONE_NEW
from pyrunc.runtime.plan import INIT, PlanTemplate

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from pyrunc.runtime.cgroup_layout import Hierarchy
    from pyrunc.runtime.mount_options import MountOptions

_NAMESPACES = {
    "mount": "mnt", "pid": "pid", "uts": "uts", "ipc": "ipc", "cgroup": "cgroup", "network": "net", "user": "user",
}  # fmt: skip
_TERMINALS = 1024
_CGROUP_FLAGS = {
    "ro": mount_options.RDONLY, "nosuid": mount_options.NOSUID, "nodev": mount_options.NODEV,
    "noexec": mount_options.NOEXEC,
}  # fmt: skip
_LINE_MAX = 4000  # LXC reads an entry of its table of mounts into 4096 bytes
# As getmntent(3) undoes it: not "#", which makes a comment of a line that begins with it.
_ESCAPED = str.maketrans({" ": "\\040", "\t": "\\011", "\n": "\\012", "\\": "\\134"})
_UNLIMITED = (1 << 64) - 1


class Config:
    """Lines of a configuration file."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def set(self, key: str, value: object) -> None:
        """Append a line. Raises Unsupported for a value that a line cannot hold."""
        text = str(value)
        if "\n" in text or text != text.strip() or (text[:1] in "\"'" and text[:1] == text[-1:] and text):
            raise Unsupported(f"LXC's configuration cannot hold the value {text!r} of {key}")
        self.lines.append(f"{key} = {text}")

    def mount(self, source: str, target: str, kind: str, options: Iterable[str]) -> None:
        """Append an entry of the table of mounts; *target* is relative to the root. Raises Unsupported."""
        fields = (source, target, kind, ",".join(options) or "defaults", "0", "0")
        line = " ".join(field.translate(_ESCAPED) for field in fields)
        if line.startswith("#"):
            raise Unsupported(f"mounts: /{target}: LXC takes a source that begins with # for a comment")
        if len(os.fsencode(line)) > _LINE_MAX:
            raise Unsupported(f"mounts: /{target}: LXC reads {_LINE_MAX} bytes about a mount, and no more")
        self.lines.append(f"lxc.mount.entry = {line}")


def check(spec: Mapping[str, Any]) -> None:
    """Refuse, by its name, what LXC cannot honour in *spec*. Raises Unsupported."""
    linux, process = spec["linux"], spec["process"]
    for namespace in linux["namespaces"]:
        if namespace["type"] not in _NAMESPACES:
            raise Unsupported(
                f"linux.namespaces: {namespace['type']} namespaces are not made by LXC for pyrunc yet"
            )
    for key in ("scheduler", "ioPriority", "execCPUAffinity", "selinuxLabel"):
        if process.get(key):
            raise Unsupported(f"process.{key}: LXC has nothing like it")
    if process["capabilities"].get("ambient") or process["capabilities"].get("inheritable"):
        raise Unsupported(
            "process.capabilities: LXC gives a bounding set, and no ambient or inheritable ones"
        )
    if linux.get("uidMappings"):
        _check_mapped(linux["namespaces"], process["user"])
    for mount in spec["mounts"]:
        _checked(mount)
    if linux.get("seccomp"):
        lxc_seccomp.profile(linux["seccomp"])


def _check_mapped(rows: Iterable[Mapping[str, Any]], user: Mapping[str, Any]) -> None:
    """What LXC does not do in a user namespace."""
    own = {row["type"] for row in rows if not row.get("path")}
    for kind, name in (("network", "sysfs"), ("pid", "procfs")):
        if kind not in own:
            raise Unsupported(
                f"{kind}: in a user namespace LXC mounts no {name} of a {kind} namespace of others"
            )
    if set(user.get("additionalGids") or ()) - {user["gid"]}:
        raise Unsupported("groups: in a user namespace LXC drops all further ones")


def config(spec: Mapping[str, Any], container_id: str, place: str, owner: Owner, host_network: str) -> Config:
    """The configuration of a container, whose root is mounted at rootfs in *place*; what it mounts is made there.

    *host_network* is the path of the network namespace that it means by "host". Raises Unsupported, StartError,
    OSError, and the errors of `runtime.cgroup_resources`.
    """
    found = Config()
    linux: Mapping[str, Any] = spec["linux"]
    if spec.get("hostname"):
        found.set("lxc.uts.name", spec["hostname"])
    found.set("lxc.rootfs.path", f"dir:{place}/rootfs")
    os.mkdir(f"{place}/lxc-root")
    found.set("lxc.rootfs.mount", f"{place}/lxc-root")
    if spec["root"].get("readonly"):
        found.set("lxc.rootfs.options", "ro")
    # Its own /dev, terminals and mounts of /proc and /sys would be beside what is asked for.
    for key, value in (("autodev", 0), ("tty.max", 0), ("pty.max", _TERMINALS), ("console.path", "none")):
        found.set(f"lxc.{key}", value)
    _namespaces(found, linux["namespaces"], host_network)
    for letter, key in (("u", "uidMappings"), ("g", "gidMappings")):
        for row in linux.get(key) or ():
            found.set("lxc.idmap", f"{letter} {row['containerID']} {row['hostID']} {row['size']}")
    _mounts(found, spec, place, owner)
    _process(found, spec["process"], mapped=owner.maps)
    if linux.get("seccomp"):
        profile = f"{place}/lxc-seccomp"
        with open(profile, "w", encoding="ascii") as file:
            file.write(lxc_seccomp.profile(linux["seccomp"]))
        found.set("lxc.seccomp.profile", profile)
        # Without it LXC leaves the profile out, silently, where this process has a filter itself.
        found.set("lxc.seccomp.allow_nesting", 1)
    _cgroups(found, linux, container_id)
    return found


def _namespaces(found: Config, rows: Iterable[Mapping[str, Any]], host_network: str) -> None:
    own = []
    network = ""
    for row in rows:
        name = _NAMESPACES[row["type"]]
        if row.get("path"):
            found.set(f"lxc.namespace.share.{name}", row["path"])
        else:
            own.append(name)
        if name == "net":
            network = row.get("path") or "own"
    found.set("lxc.namespace.clone", " ".join(own))
    if network == "own":
        found.set("lxc.net.0.type", "empty")
        found.set("lxc.net.0.flags", "up")
    else:
        found.set("lxc.net.0.type", "none")
    if not network:
        # Its monitor has a network namespace of its own: what listens there for commands is no socket of the host's,
        # which the container's root could reach.
        found.set("lxc.namespace.share.net", host_network)


def _process(found: Config, process: Mapping[str, Any], *, mapped: bool) -> None:
    user = process["user"]
    found.set("lxc.init.uid", user["uid"])
    found.set("lxc.init.gid", user["gid"])
    groups = user.get("additionalGids")
    if groups and not mapped:
        found.set("lxc.init.groups", ",".join(map(str, groups)))
    names = [name.removeprefix("CAP_").lower() for name in process["capabilities"]["bounding"]]
    for name in names or ["none"]:
        found.set("lxc.cap.keep", name)
    found.set("lxc.no_new_privs", int(bool(process.get("noNewPrivileges"))))
    for limit in process.get("rlimits") or ():
        soft, hard = ("unlimited" if limit[key] == _UNLIMITED else limit[key] for key in ("soft", "hard"))
        found.set(f"lxc.prlimit.{limit['type'].removeprefix('RLIMIT_').lower()}", f"{soft}:{hard}")
    if process.get("oomScoreAdj") is not None:
        found.set("lxc.proc.oom_score_adj", process["oomScoreAdj"])
    found.set("lxc.apparmor.profile", process.get("apparmorProfile") or "unconfined")


def _checked(mount: Mapping[str, Any]) -> MountOptions:
    """Its options. Raises Unsupported for what is not done for LXC, naming it, and what `mount_options.parse` does."""
    target = mount["destination"]
    options = mount_options.parse(mount.get("options") or (), f"mounts: {target}")
    refused = {
        "tmpcopyup": options.copy_up, options.idmap: options.idmap, "remount": options.remount,
        "shared, slave or unbindable": options.propagation not in (0, mount_options.MS_PRIVATE),
        "X-mount": options.owned or options.mapped or options.subdir or options.mkdir != 0o755,
    }  # fmt: skip
    for name, there in refused.items():
        if there:
            raise Unsupported(f"mounts: {target}: the option {name} is not done for LXC")
    return options


def _mounts(found: Config, spec: Mapping[str, Any], place: str, owner: Owner) -> None:
    places, stage = Places(f"{place}/rootfs", owner), Stage(f"{place}/lxc-mounts", owner)
    try:
        for mount in spec["mounts"]:
            _mount(found, spec, mount, places, stage, owner)
        _cover(found, spec["linux"], f"{place}/rootfs", places, stage)
        places.make_directory(spec["process"]["cwd"])  # as with Docker
        stage.finish()
    finally:
        places.close()


def _mount(
    found: Config, spec: Mapping[str, Any], mount: Mapping[str, Any], places: Places, stage: Stage, owner: Owner
) -> None:  # fmt: skip
    options, target, source = _checked(mount), os.path.normpath(mount["destination"]), mount["source"]
    if mount["type"] == "devpts" and target == "/dev/pts":
        return  # LXC makes one of its own there, and takes away any other
    if mount["type"] == "cgroup":
        _show_cgroups(found, spec["linux"]["cgroupsPath"], options, target, places, stage)
    elif options.bind:
        if options.no_fail and not os.path.lexists(source):
            return
        found.mount(stage.bind(source, options), places.of(target, source), "none", ("rbind",))
    elif mount["type"] == "tmpfs":
        source = stage.tmpfs([("source", source), *options.data], options.attr_set)
        if target == "/dev":
            make_devices(source, spec["linux"].get("devices") or (), owner)
        found.mount(source, places.of(target, source), "none", ("rbind",))
    else:
        # What is not a flag is the file system's; LXC sees to that itself.
        found.mount(source, places.of(target, ""), mount["type"], mount.get("options") or ())


def _cover(found: Config, linux: Mapping[str, Any], rootfs: str, places: Places, stage: Stage) -> None:
    """What the container must not see, or not write to, comes last."""
    for path in linux.get("readonlyPaths") or ():
        if (place := _covered(path, places)) is not None:
            found.mount(place, place, "none", ("rbind", "ro", "relative"))
    masked = linux.get("maskedPaths") or ()
    if not masked:
        return
    flags = mount_options.RDONLY | mount_options.NOSUID
    empty = stage.tmpfs([("mode", "755"), ("size", "4k")], flags | mount_options.NODEV | mount_options.NOEXEC)
    null = f"{stage.tmpfs([('mode', '755'), ('size', '4k')], flags)}/null"
    make_null(null)
    for path in masked:
        if (place := _covered(path, places)) is None:
            continue
        own = path if path.startswith(("/proc/", "/sys/")) else f"{rootfs}/{place}"
        found.mount(empty if os.path.isdir(own) else null, place, "none", ("bind",))


def _covered(path: str, places: Places) -> str | None:
    """Its place; None if there is no such thing to be covered. Those of the kernel are the host's too."""
    path = os.path.normpath(path)
    if path.startswith(("/proc/", "/sys/")):
        return path.lstrip("/") if os.path.exists(path) else None
    return places.inside(path)


def _show_cgroups(
    found: Config, own: str, options: MountOptions, target: str, places: Places, stage: Stage
) -> None:
    """Show the container's own cgroups, which are there before its mounts are made, but not yet now."""
    layout = cgroup_layout.detect()
    # Beside "ro" LXC honours other flags of a bind too.
    flags = ("bind", *(name for name, bit in _CGROUP_FLAGS.items() if options.attr_set & bit))
    if layout.mode == "v2":
        found.mount(f"{layout.hierarchies[0].mountpoint}{own}", places.of(target, ""), "none", flags)
        return
    directory = stage.tmpfs([("source", "cgroup"), ("mode", "755"), ("size", "64k")], options.attr_set)
    place = places.of(target, directory)
    found.mount(directory, place, "none", ("rbind",))
    for hierarchy in layout.hierarchies:
        name = os.path.basename(hierarchy.mountpoint)
        os.mkdir(f"{directory}/{name}", 0o755)
        for controller in hierarchy.controllers if hierarchy.version == 1 else ():
            if controller != name:
                os.symlink(name, f"{directory}/{controller}")
        found.mount(f"{hierarchy.mountpoint}{own}", f"{place}/{name}", "none", flags)


def _cgroups(found: Config, linux: Mapping[str, Any], container_id: str) -> None:
    monitor = monitor_place.cgroup(container_id)
    found.set("lxc.cgroup.dir.container", linux["cgroupsPath"].lstrip("/"))
    found.set("lxc.cgroup.dir.monitor", f"{monitor}/lxc".lstrip("/"))
    found.set("lxc.cgroup.dir.monitor.pivot", monitor.lstrip("/"))
    resources: Mapping[str, Any] = linux.get("resources") or {}
    layout = cgroup_layout.detect()
    writes = resource_writes(layout, resources)
    for hierarchy, rows in writes.by_hierarchy.items():
        for row in _existing(hierarchy, rows, monitor):
            found.set(f"{_prefix(hierarchy)}.{row.file}", row.value)
    cpuset = layout.of("cpuset")
    if cpuset is not None and cpuset.version == 1:
        _seed(found, cpuset, monitor, {row.file for row in writes.by_hierarchy.get(cpuset, ())})
    devices = layout.of("devices") or layout.v2
    if devices is not None:
        rules = parse_device_rules(resources.get("devices")) + DEFAULT_DEVICE_RULES
        for file, value in v1_device_writes(rules):
            found.set(f"{_prefix(devices)}.{file}", value)


def _seed(found: Config, cpuset: Hierarchy, monitor: str, asked: set[str]) -> None:
    """Give LXC's cgroups the processors and memory of what is above, without which nobody can enter them."""
    above = f"{cpuset.mountpoint}{monitor}"
    with open(f"{above}/cgroup.clone_children", "w", encoding="ascii") as file:
        file.write("1")
    for name in ("cpuset.cpus", "cpuset.mems"):
        if name not in asked:
            with open(f"{above}/{name}", encoding="ascii") as file:
                found.set(f"lxc.cgroup.{name}", file.read().strip())


def _prefix(hierarchy: Hierarchy) -> str:
    return "lxc.cgroup" if hierarchy.version == 1 else "lxc.cgroup2"


def _existing(hierarchy: Hierarchy, rows: Iterable[Write], monitor: str) -> list[Write]:
    """Those of *rows* whose file there is, or which must fail without; LXC knows no alternatives.

    Which files there are is seen in the cgroup of the *monitor*.
    """
    found = []
    skip = False
    for row in rows:
        if skip:
            skip = False
            continue
        there = os.path.exists(f"{hierarchy.mountpoint}{monitor}/{row.file}")
        if row.on_missing == NEXT:
            skip = there
        if there or row.on_missing not in (SKIP, NEXT):
            found.append(row)
    return found


def sysctls(spec: Mapping[str, Any]) -> dict[str, str]:
    """What is to be written below /proc/sys. LXC would do that when it has made it read-only already."""
    found = {key: str(value) for key, value in (spec["linux"].get("sysctl") or {}).items()}
    if spec.get("domainname"):
        found["kernel.domainname"] = spec["domainname"]
    return found


def process_plan(process: Mapping[str, Any], container_id: str) -> bytes:
    """What `pyrunc-init lxc-init` does inside, to become the program of *process* (OCI's). Raises ValueError."""
    from pyrunc.runtime.compile import candidates

    plan = PlanTemplate()
    plan.clone_flags = CLONE_NEW["mount"]  # it is in one that LXC has made
    user: Mapping[str, Any] = process["user"]
    streams = [plan.descriptor() for _ in range(3)]
    # LXC has made the session, and its keyring.
    if process.get("terminal"):
        peer = plan.slot()
        size: Mapping[str, Any] = process.get("consoleSize") or {}
        plan.add(
            "terminal", INIT, "process", b=peer, s0="/dev/pts", n0=user["uid"], n1=size.get("height", 0),
            n2=size.get("width", 0),
        )  # fmt: skip
        for number in range(3):
            plan.add("stdio", INIT, "process", a=peer, n0=number)
        plan.add("session", INIT, "process", flags=native.FLAGS["tty"], n0=1)
    else:
        for number, slot in enumerate(streams):
            plan.add("stdio", INIT, "process", a=slot, n0=number)
    plan.add("chdir", INIT, "process", s0=process["cwd"])
    plan.add("umask", INIT, "process", n0=user.get("umask", 0o022))
    plan.add("execve", INIT, "program", s0="")
    environment = dict(text.split("=", 1) for text in process["env"])
    argv = process["args"]
    return plan.finish(container_id, argv, process["env"], candidates(argv[0], environment.get("PATH")))
