"""What a Sandbox can be told, and the OCI spec that it means."""

from __future__ import annotations

import os
from _collections_abc import Mapping  # collections.abc would import all of collections

from pyrunc.errors import InvalidArgument, PyruncError, Unsupported
from pyrunc.records import NamedTuple, TypedDict
from pyrunc.runtime import mount_options, option_files, option_privileges, option_resources
from pyrunc.runtime import option_checks as checks
from pyrunc.runtime.compile import Rootfs
from pyrunc.runtime.plan import ID, SHORT_ID
from pyrunc.spec import defaults, rlimits

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Literal

SCMP_UNCONFINED = "unconfined"


class IdMap(NamedTuple):
    """*size* ids from *container* on inside are those from *host* on outside (user_namespaces(7))."""

    container: int
    host: int
    size: int


class Mount(NamedTuple):
    """One mount: a *target* in the container, and mount(8)'s or OCI's *options*.

    *kind* "bind" shows the host's *source*; any other kind is a file system type such as "tmpfs".
    """

    target: str
    source: str = ""
    kind: str = "bind"
    options: Sequence[str] = ()


class SandboxOptions(TypedDict, total=False):
    """The keyword arguments of Sandbox. What is left out is as `docker run --network none` has it."""

    # the root
    writable: Literal["scratch", "direct", "no"]  # where writes go: thrown away, into rootfs itself, refused
    scratch_bytes: (
        int  # the most that a scratch may hold, within memory_bytes; 0 is half of the host's memory
    )
    mounts: Sequence[Mount]
    tmpfs: Mapping[str, str]  # path -> options such as "size=64m,mode=1777"; "tmpcopyup" copies the image's
    shm_bytes: int
    # the process
    env: Mapping[str, str]
    cwd: str
    user: str  # "name", "uid", each with ":group" if wanted
    groups: Sequence[str]
    umask: int
    rlimits: Mapping[str, int | tuple[int, int]]  # "nofile": soft and hard, or both
    oom_score_adj: int
    tty: bool  # a terminal in place of stdin, stdout and stderr
    console_size: tuple[int, int]  # its rows and columns
    # names
    hostname: str
    domainname: str
    hosts: Mapping[str, str | Sequence[str]]  # name -> its address or addresses, added to /etc/hosts
    dns: Sequence[str]  # addresses for /etc/resolv.conf instead of the host's
    dns_search: Sequence[str]  # domains there instead of the host's; "." is none
    dns_options: Sequence[str]  # such as "ndots:2", instead of the host's
    etc_files: bool  # False: leave /etc/hostname, hosts and resolv.conf as rootfs has them
    # isolation
    network: str  # "none", "host", or the path of a network namespace
    pid: str  # "private", "host", or the path of a pid namespace
    ipc: str  # as pid; "none" is private, without a /dev/shm
    uts: Literal["private", "host"]
    cgroupns: Literal["private", "host"]
    uid_maps: Sequence[IdMap]  # a user namespace of its own
    gid_maps: Sequence[IdMap]  # as uid_maps unless given
    idmap_rootfs: bool  # False: rootfs shows its owners unmapped, where its file system cannot be idmapped
    privileged: bool  # all capabilities, devices and kernel parameters; no seccomp, masks or read-only paths
    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    seccomp: str | Mapping[str, Any]  # "default", "unconfined", or an OCI linux.seccomp object
    no_new_privileges: bool
    masked_paths: Sequence[str]
    readonly_paths: Sequence[str]
    devices: Sequence[str]  # "host[:container[:rwm]]"
    device_cgroup_rules: Sequence[str]  # "c 13:* rwm"
    sysctls: Mapping[str, str]
    # limits
    memory_bytes: int
    memory_swap_bytes: int  # memory and swap together; -1 is no limit
    memory_reservation_bytes: int
    memory_swappiness: int  # 0..100; cgroup v1 only
    oom_kill_disable: bool  # who wants more memory than there is waits; cgroup v1 only
    cpus: float
    cpu_shares: int
    cpu_quota_us: int
    cpu_period_us: int
    cpu_rt_runtime_us: int
    cpu_rt_period_us: int
    cpuset_cpus: str
    cpuset_mems: str
    pids_limit: int
    blkio_weight: int
    blkio_weight_devices: Mapping[str, int]  # host device -> weight
    read_bps: Mapping[str, int]  # host device -> bytes a second
    write_bps: Mapping[str, int]
    read_iops: Mapping[str, int]
    write_iops: Mapping[str, int]
    cgroup_parent: str


class Request(NamedTuple):
    """A sandbox, decided: its OCI spec, where its root comes from, files made in memory, and its environment.

    *home* is what $HOME is unless somebody chose another.
    """

    spec: dict[str, Any]
    rootfs: Rootfs
    files: dict[str, str]
    env: dict[str, str]
    home: str


def _is_mount(value: object, option: str) -> Mount:
    if not isinstance(value, Mount):
        raise checks.refuse(option, "a Mount", value)
    return Mount(
        checks.path(value.target, f"{option}.target"), checks.text(value.source, f"{option}.source"),
        checks.word(value.kind, f"{option}.kind"), checks.listed(checks.text)(value.options, f"{option}.options"),
    )  # fmt: skip


def _is_id_map(value: object, option: str) -> IdMap:
    if not isinstance(value, tuple) or len(value) != 3:
        raise checks.refuse(option, "an IdMap", value)
    number = checks.integer(0, checks.MAX_ID)
    return IdMap(*(number(part, option) for part in value))


def _is_rlimit(value: object, option: str) -> tuple[int, int]:
    number = checks.integer(-1, (1 << 64) - 1)
    if isinstance(value, tuple) and len(value) == 2:
        return number(value[0], option), number(value[1], option)
    return (number(value, option),) * 2


def _is_seccomp(value: object, option: str) -> str | Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, str) or value not in ("default", SCMP_UNCONFINED):
        raise checks.refuse(option, "'default', 'unconfined' or a profile", value)
    return value


def _is_network(value: object, option: str) -> str:
    if isinstance(value, str) and value not in ("none", "host") and not value.startswith("/"):
        raise Unsupported(
            f"{option} must be 'none', 'host' or a path, not {value!r}: networks do not exist yet"
        )
    found: str = _namespace("none", "host")(value, option)
    return found


def _namespace(*choices: str) -> checks.Check:
    """One of a few words, or the path of a namespace that is there."""

    def check(value: object, option: str) -> str:
        if isinstance(value, str) and (value in choices or not value.startswith("/")):
            return str(checks.one_of(*choices)(value, option))
        found: str = checks.path(value, option)
        if not os.path.exists(found):
            raise InvalidArgument(f"{option}: {found}: no such file or directory")
        return found

    return check


def _is_addresses(value: object, option: str) -> list[str]:
    if isinstance(value, str):
        return [checks.address(value, option)]
    found: list[str] = checks.listed(checks.address)(value, option)
    return found


_PRIVATE = checks.one_of("private", "host")
_SIZE = checks.integer(0)
_LIMIT = checks.integer(-1)
_WEIGHT = checks.integer(0, 1000)
_WORDS = checks.listed(checks.word)
_PATHS = checks.listed(checks.path)
_RATES = checks.mapped(checks.path, _SIZE)
_CHECKS: dict[str, checks.Check] = {
    "writable": checks.one_of("scratch", "direct", "no"), "scratch_bytes": _SIZE,
    "mounts": checks.listed(_is_mount), "tmpfs": checks.mapped(checks.path, checks.text),
    "shm_bytes": checks.integer(1),
    "env": checks.environment, "cwd": checks.path, "user": checks.text, "groups": checks.listed(checks.text),
    "umask": checks.integer(0, 0o777), "rlimits": checks.mapped(checks.word, _is_rlimit),
    "oom_score_adj": checks.integer(-1000, 1000), "tty": checks.flag, "console_size": checks.size,
    "hostname": checks.name, "domainname": checks.name, "hosts": checks.mapped(checks.word, _is_addresses),
    "dns": checks.listed(checks.address), "dns_search": _WORDS, "dns_options": _WORDS, "etc_files": checks.flag,
    "network": _is_network, "pid": _namespace("private", "host"), "ipc": _namespace("private", "host", "none"),
    "uts": _PRIVATE, "cgroupns": _PRIVATE, "privileged": checks.flag,
    "uid_maps": checks.listed(_is_id_map), "gid_maps": checks.listed(_is_id_map), "idmap_rootfs": checks.flag,
    "cap_add": _WORDS, "cap_drop": _WORDS, "seccomp": _is_seccomp, "no_new_privileges": checks.flag,
    "masked_paths": _PATHS, "readonly_paths": _PATHS,
    "devices": checks.listed(checks.text), "device_cgroup_rules": checks.listed(checks.text),
    "sysctls": checks.mapped(checks.word, checks.text),
    "memory_bytes": _LIMIT, "memory_swap_bytes": _LIMIT, "memory_reservation_bytes": _LIMIT,
    "memory_swappiness": checks.integer(0, 100), "oom_kill_disable": checks.flag,
    "cpus": checks.number(0.01, 1e6), "cpu_shares": _SIZE, "cpu_quota_us": _LIMIT, "cpu_period_us": _SIZE,
    "cpu_rt_runtime_us": _LIMIT, "cpu_rt_period_us": _SIZE, "blkio_weight_devices": checks.mapped(checks.path, _WEIGHT),
    "cpuset_cpus": checks.word, "cpuset_mems": checks.word, "pids_limit": _LIMIT,
    "blkio_weight": _WEIGHT,
    "read_bps": _RATES, "write_bps": _RATES, "read_iops": _RATES, "write_iops": _RATES,
    "cgroup_parent": checks.path,
}  # fmt: skip

# What the fields of the OCI document are called here, for the errors of the modules that read it.
_OPTION_OF = {
    "linux.resources.memory.limit": "memory_bytes", "linux.resources.memory.swap": "memory_swap_bytes",
    "linux.resources.memory.reservation": "memory_reservation_bytes",
    "linux.resources.memory.swappiness": "memory_swappiness",
    "linux.resources.memory.disableOOMKiller": "oom_kill_disable", "linux.resources.memory": "memory_bytes",
    "linux.resources.cpu.shares": "cpu_shares", "linux.resources.cpu.quota": "cpu_quota_us",
    "linux.resources.cpu.period": "cpu_period_us", "linux.resources.cpu.cpus": "cpuset_cpus",
    "linux.resources.cpu.realtimeRuntime": "cpu_rt_runtime_us",
    "linux.resources.cpu.realtimePeriod": "cpu_rt_period_us", "linux.resources.cpu.mems": "cpuset_mems",
    "linux.resources.cpu": "cpus", "linux.resources.pids": "pids_limit",
    "linux.resources.blockIO.weightDevice": "blkio_weight_devices",
    "linux.resources.blockIO.weight": "blkio_weight", "linux.resources.blockIO.throttleReadBpsDevice": "read_bps",
    "linux.resources.blockIO.throttleWriteBpsDevice": "write_bps",
    "linux.resources.blockIO.throttleReadIOPSDevice": "read_iops",
    "linux.resources.blockIO.throttleWriteIOPSDevice": "write_iops", "linux.resources.blockIO": "blkio_weight",
    "linux.resources.devices": "device_cgroup_rules", "linux.cgroupsPath": "cgroup_parent",
    "linux.sysctl": "sysctls", "linux.seccomp": "seccomp", "linux.maskedPaths": "masked_paths",
    "linux.readonlyPaths": "readonly_paths", "linux.uidMappings": "uid_maps", "linux.gidMappings": "gid_maps",
    "linux.devices": "devices",
}  # fmt: skip


def in_terms_of_options(error: PyruncError) -> PyruncError:
    """*error* about a field of the OCI document, once more with the name that Sandbox has for it in front."""
    text = str(error)
    for field, option in _OPTION_OF.items():
        if text.startswith(field):
            return type(error)(f"{option}: {text}")
    return error


def checked(options: SandboxOptions) -> SandboxOptions:
    """*options*, each of its type and within its bounds; None stands for an option that is left out.

    Raises InvalidArgument or Unsupported and names the option; TypeError for one that does not exist.
    """
    found: dict[str, Any] = {}
    for option, value in options.items():
        if option not in _CHECKS:
            raise TypeError(f"Sandbox() got an unexpected keyword argument {option!r}")
        if value is not None:
            found[option] = _CHECKS[option](value, option)
    return found  # type: ignore[return-value]


def to_request(layers: Sequence[str], options: SandboxOptions) -> Request:
    """The OCI spec for a root made of *layers* (directories, the lowest first) and *options*.

    Raises InvalidArgument, NotFound, InvalidSpec or Unsupported and names the option.
    """
    options = checked(options)
    writable = options.get("writable", "scratch")
    if len(layers) > 1 and writable == "direct":
        raise InvalidArgument(
            "writable: several layers cannot be written directly; it must be 'scratch' or 'no'"
        )
    for layer in layers:
        checks.text(layer, "rootfs")
        if not os.path.isdir(layer):
            raise InvalidArgument(f"rootfs {layer}: not a directory")
    user, home = _user(layers, options)
    name = _name(options)
    spec: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "root": {"path": layers[-1], "readonly": writable == "no"},
        "process": _process(user, options),
        "mounts": _mounts(options),
        "linux": _linux(options),
    }
    for key in ("hostname", "domainname"):
        if options.get(key):
            spec[key] = options[key]
    if options.get("uts", "private") == "private":
        spec.setdefault("hostname", SHORT_ID)
    files = option_files.etc_files(options, name) if options.get("etc_files", True) else {}
    # Read-only has a scratch too: the mount points that the root lacks are made there, not in the caller's directory.
    rootfs = Rootfs(
        tuple(layers),
        writable != "direct",
        options.get("scratch_bytes", 0),
        idmap=options.get("idmap_rootfs", True),
    )
    env = {"PATH": defaults.PATH, "HOSTNAME": name}
    if options.get("tty"):
        env["TERM"] = defaults.TERM
    env |= options.get("env", {})
    env.setdefault("HOME", home)
    return Request(spec, rootfs, files, env, home)


def _name(options: SandboxOptions) -> str:
    """What /etc/hostname and $HOSTNAME say; the placeholder of the id's first digits unless the name is known."""
    if options.get("uts") == "host":
        for key in ("hostname", "domainname"):
            if options.get(key):
                raise InvalidArgument(f"{key}: cannot be set with uts='host'")
        name = os.uname().nodename
    else:
        name = options.get("hostname", "")
        if not name and options.get("network") == "host":
            # As Docker has it: who shares the host's network answers to its name there.
            name = os.uname().nodename
            if options.get("uts", "private") == "private":
                options["hostname"] = name
    return name or SHORT_ID


def _user(layers: Sequence[str], options: SandboxOptions) -> tuple[dict[str, Any], str]:
    """`process.user`, and the home directory that the image's passwd names, "/" where it names none."""
    from pyrunc.runtime import users

    found = users.resolve(options.get("user") or "0", options.get("groups", ()), layers)
    user: dict[str, Any] = {"uid": found.uid, "gid": found.gid, "umask": options.get("umask", 0o022)}
    if options.get("user") or options.get("groups") or not options.get("uid_maps"):
        # The image's own groups may not be among those of a user namespace; what was asked for must be.
        user["additionalGids"] = list(found.groups)
    return user, found.home or "/"


def _process(user: dict[str, Any], options: SandboxOptions) -> dict[str, Any]:
    caps = option_privileges.capabilities_of(options)
    held = caps if user["uid"] == 0 else []
    process: dict[str, Any] = {
        "user": user,
        "cwd": options.get("cwd", "/"),
        "capabilities": {"bounding": caps, "effective": held, "permitted": held, "inheritable": []},
        "noNewPrivileges": options.get("no_new_privileges", False),
        "rlimits": _rlimits(options.get("rlimits", {})),
    }
    if "oom_score_adj" in options:
        process["oomScoreAdj"] = options["oom_score_adj"]
    if options.get("tty"):
        rows, columns = options.get("console_size", (0, 0))
        process["terminal"] = True
        process["consoleSize"] = {"height": rows, "width": columns}
    return process


def _rlimits(limits: Mapping[str, int | tuple[int, int]]) -> list[dict[str, Any]]:
    rows = []
    for name, value in limits.items():
        soft, hard = value if isinstance(value, tuple) else (value, value)
        infinity = (1 << 64) - 1
        soft, hard = (infinity if number == -1 else number for number in (soft, hard))
        kind = f"RLIMIT_{name.upper()}"
        if kind not in rlimits.NAMES:
            raise InvalidArgument(f"rlimits: unknown limit {name!r}")
        if soft > hard:
            raise InvalidArgument(f"rlimits: {name}: the soft limit {soft} is above the hard limit {hard}")
        rows.append({"type": kind, "soft": soft, "hard": hard})
    return rows


def _targets(options: SandboxOptions) -> list[str]:
    return [mount.target for mount in options.get("mounts", ())] + list(options.get("tmpfs", ()))


def _mounts(options: SandboxOptions) -> list[dict[str, Any]]:
    rows = defaults.mounts(options.get("shm_bytes", defaults.SHM_BYTES))
    if options.get("privileged"):
        for row in rows:
            row["options"] = [option for option in row["options"] if option != "ro"]
    if options.get("ipc") == "host":
        if "shm_bytes" in options:
            raise InvalidArgument(
                "shm_bytes: cannot be set with ipc='host', which shares the host's /dev/shm"
            )
        rows[-1] = {"destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": ["rbind"]}
    elif options.get("ipc") == "none":
        del rows[-1]
    wanted = [_mount(mount, f"mounts[{i}]") for i, mount in enumerate(options.get("mounts", ()))]
    for path, text in options.get("tmpfs", {}).items():
        flags = ["noexec", "nosuid", "nodev", *(part for part in text.split(",") if part)]
        mount_options.parse(flags, f"tmpfs[{path!r}]")
        wanted.append({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": flags})
    # As Docker has it: what the user mounts takes the place of a default one at the same path.
    taken = {os.path.normpath(row["destination"]) for row in wanted if "remount" not in row["options"]}
    rows = [row for row in rows if row["destination"] not in taken]
    # A mount below another comes after it, in whatever order they were given.
    return rows + sorted(wanted, key=lambda row: os.path.normpath(row["destination"]).count("/"))


def _mount(mount: Mount, option: str) -> dict[str, Any]:
    flags = list(mount.options)
    if os.path.normpath(mount.target) == "/":
        raise InvalidArgument(f"{option}.target must be below the root, not {mount.target!r}")
    if not mount.kind:
        raise InvalidArgument(f"{option}.kind must be 'bind' or a file system type")
    if mount.kind == "bind" and not {"bind", "rbind"} & set(flags):
        flags.insert(0, "rbind")
    mount_options.parse(flags, f"{option}.options")
    if mount.kind == "bind" and "remount" not in flags:
        if not mount.source.startswith("/"):
            raise InvalidArgument(f"{option}.source must be an absolute path, not {mount.source!r}")
        if not os.path.lexists(mount.source) and "nofail" not in flags:
            raise InvalidArgument(f"{option}.source: {mount.source}: no such file or directory")
    return {"destination": mount.target, "type": mount.kind, "source": mount.source, "options": flags}


def _linux(options: SandboxOptions) -> dict[str, Any]:
    privileged = options.get("privileged", False)
    linux: dict[str, Any] = {
        "namespaces": _namespaces(options),
        "maskedPaths": list(options.get("masked_paths", () if privileged else defaults.masked_paths())),
        "readonlyPaths": list(options.get("readonly_paths", () if privileged else defaults.READONLY_PATHS)),
        "sysctl": {**_sysctls(options), **options.get("sysctls", {})},
        "resources": option_resources.resources(options),
        "devices": [],
    }
    if options.get("uid_maps"):
        uid_maps = options["uid_maps"]
        for key, maps in (("uidMappings", uid_maps), ("gidMappings", options.get("gid_maps") or uid_maps)):
            linux[key] = [{"containerID": m.container, "hostID": m.host, "size": m.size} for m in maps]
    for text in options.get("devices", ()):
        for node, rule in option_resources.devices(text):
            linux["devices"].append(node)
            linux["resources"]["devices"].append(rule)  # after the denial of all
    if privileged:
        linux["devices"] = option_privileges.host_devices() + linux["devices"]
        linux["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    if "cgroup_parent" in options:
        linux["cgroupsPath"] = f"{options['cgroup_parent'].rstrip('/')}/{ID}"
    profile = options.get("seccomp", SCMP_UNCONFINED if privileged else "default")
    if isinstance(profile, Mapping):
        linux["seccomp"] = profile
    elif profile == "default":
        from pyrunc.spec import seccomp

        release = os.uname().release.split(".")
        kernel = (int(release[0]), int(release[1].split("-")[0]))
        linux["seccomp"] = seccomp.docker_profile(
            option_privileges.capabilities_of(options), os.uname().machine, kernel
        )
    return linux


def _sysctls(options: SandboxOptions) -> dict[str, str]:
    """Docker's two for a network that is made for the container: low ports and ping need no capability there."""
    covered = any(os.path.normpath(path) == "/proc" for path in _targets(options))
    if options.get("network", "none") != "none" or covered:
        return {}
    found = {"net.ipv4.ip_unprivileged_port_start": "0"}
    if not options.get("uid_maps"):
        found["net.ipv4.ping_group_range"] = "0 2147483647"
    return found


def _namespaces(options: SandboxOptions) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"type": "mount"}]
    if options.get("uid_maps"):
        rows.append({"type": "user"})
    for kind, key in (("pid", "pid"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroupns")):
        value = str(options.get(key, "private"))
        if value.startswith("/"):
            rows.append({"type": kind, "path": value})
        elif value != "host":
            rows.append({"type": kind})
    network = options.get("network", "none")
    if network == "none":
        rows.append({"type": "network"})
    elif network.startswith("/"):
        rows.append({"type": "network", "path": network})
    return rows
