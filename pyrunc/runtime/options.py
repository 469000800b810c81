"""What a Sandbox can be told, and the OCI spec that it means."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

from pyrunc.errors import InvalidArgument
from pyrunc.runtime.compile import Rootfs
from pyrunc.spec import capabilities, defaults

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
    scratch_bytes: int  # the most that a scratch may hold; 0 is half of the memory
    mounts: Sequence[Mount]
    tmpfs: Mapping[str, str]  # path -> options such as "size=64m,mode=1777"
    shm_bytes: int
    # the process
    env: Mapping[str, str]
    cwd: str
    user: str  # "name", "uid", each with ":group" if wanted
    groups: Sequence[str]
    umask: int
    rlimits: Mapping[str, int | tuple[int, int]]  # "nofile": soft and hard, or both
    oom_score_adj: int
    # names
    hostname: str
    domainname: str
    hosts: Mapping[str, str]  # name -> address, added to /etc/hosts
    dns: Sequence[str]  # addresses for /etc/resolv.conf instead of the host's
    etc_files: bool  # False: leave /etc/hostname, hosts and resolv.conf as rootfs has them
    # isolation
    network: str  # "none", "host", or the path of a network namespace
    pid: Literal["private", "host"]
    ipc: Literal["private", "host"]
    uts: Literal["private", "host"]
    cgroupns: Literal["private", "host"]
    uid_maps: Sequence[IdMap]  # a user namespace of its own
    gid_maps: Sequence[IdMap]  # as uid_maps unless given
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
    cpus: float
    cpu_shares: int
    cpu_quota_us: int
    cpu_period_us: int
    cpuset_cpus: str
    cpuset_mems: str
    pids_limit: int
    blkio_weight: int
    read_bps: Mapping[str, int]  # host device -> bytes a second
    write_bps: Mapping[str, int]
    read_iops: Mapping[str, int]
    write_iops: Mapping[str, int]
    cgroup_parent: str


class Request(NamedTuple):
    """A sandbox, decided: its OCI spec, where its root comes from, and files made in memory."""

    spec: dict[str, Any]
    rootfs: Rootfs
    files: dict[str, str]


def to_request(layers: Sequence[str], options: SandboxOptions) -> Request:
    """The OCI spec for a root made of *layers* (directories, the lowest first) and *options*.

    Raises InvalidArgument, NotFound or InvalidSpec and names the option.
    """
    unknown = set(options) - SandboxOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"Sandbox() got an unexpected keyword argument {min(unknown)!r}")
    writable = options.get("writable", "scratch")
    if writable not in ("scratch", "direct", "no"):
        raise InvalidArgument(f"writable must be 'scratch', 'direct' or 'no', not {writable!r}")
    if len(layers) > 1 and writable == "direct":
        raise InvalidArgument("several layers cannot be written directly; writable must be 'scratch' or 'no'")
    for layer in layers:
        if not os.path.isdir(layer):
            raise InvalidArgument(f"rootfs {layer}: not a directory")
    scratch = writable == "scratch" or len(layers) > 1
    spec: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "root": {"path": layers[-1], "readonly": writable == "no"},
        "process": _process(layers, options),
        "mounts": _mounts(options),
        "linux": _linux(options),
    }
    for key in ("hostname", "domainname"):
        if options.get(key):
            spec[key] = options[key]  # type: ignore[literal-required]
    files = _etc_files(options) if options.get("etc_files", True) else {}
    rootfs = Rootfs(tuple(layers), scratch, options.get("scratch_bytes", 0), idmap=True)
    return Request(spec, rootfs, files)


def _process(layers: Sequence[str], options: SandboxOptions) -> dict[str, Any]:
    user: dict[str, Any] = {"uid": 0, "gid": 0, "umask": options.get("umask", 0o022)}
    wanted, groups = options.get("user", ""), options.get("groups", ())
    if wanted or groups:
        from pyrunc.runtime import users

        found = users.resolve(wanted or "0", groups, layers)
        user.update(uid=found.uid, gid=found.gid, additionalGids=list(found.groups))
    caps = _capabilities(options)
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
    return process


def _capabilities(options: SandboxOptions) -> list[str]:
    """Docker's set with --cap-add and --cap-drop applied: ALL first, then single names."""
    add = [_capability(name) for name in options.get("cap_add", ())]
    drop = [_capability(name) for name in options.get("cap_drop", ())]
    held = set(capabilities.ALL) if "CAP_ALL" in add else set(defaults.CAPABILITIES)
    if "CAP_ALL" in drop:
        held = set()
    held = (held | set(add)) - set(drop) - {"CAP_ALL"}
    return [name for name in capabilities.ALL if name in held]


def _capability(name: str) -> str:
    full = name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}"
    if full != "CAP_ALL" and full not in capabilities.NUMBER:
        raise InvalidArgument(f"unknown capability {name!r}")
    return full


def _rlimits(limits: Mapping[str, int | tuple[int, int]]) -> list[dict[str, Any]]:
    rows = []
    for name, value in limits.items():
        soft, hard = value if isinstance(value, tuple) else (value, value)
        infinity = (1 << 64) - 1
        soft, hard = (infinity if number == -1 else number for number in (soft, hard))
        if soft > hard:
            raise InvalidArgument(f"rlimit {name}: the soft limit {soft} is above the hard limit {hard}")
        rows.append({"type": f"RLIMIT_{name.upper()}", "soft": soft, "hard": hard})
    return rows


def _mounts(options: SandboxOptions) -> list[dict[str, Any]]:
    rows = defaults.mounts(options.get("shm_bytes", defaults.SHM_BYTES))
    wanted: list[dict[str, Any]] = []
    for mount in options.get("mounts", ()):
        flags = list(mount.options)
        if mount.kind == "bind" and not {"bind", "rbind"} & set(flags):
            flags.insert(0, "rbind")
        wanted.append({"destination": mount.target, "type": mount.kind, "source": mount.source, "options": flags})
    for path, text in options.get("tmpfs", {}).items():
        flags = ["noexec", "nosuid", "nodev", *(part for part in text.split(",") if part)]
        wanted.append({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": flags})
    # As Docker has it: what the user mounts takes the place of a default one at the same path.
    taken = {os.path.normpath(row["destination"]) for row in wanted}
    rows = [row for row in rows if row["destination"] not in taken]
    # A mount below another comes after it, in whatever order they were given.
    return rows + sorted(wanted, key=lambda row: os.path.normpath(row["destination"]).count("/"))


def _linux(options: SandboxOptions) -> dict[str, Any]:
    linux: dict[str, Any] = {
        "namespaces": _namespaces(options),
        "maskedPaths": list(options.get("masked_paths", defaults.MASKED_PATHS)),
        "readonlyPaths": list(options.get("readonly_paths", defaults.READONLY_PATHS)),
        "sysctl": dict(options.get("sysctls", {})),
        "resources": resources(options),
        "devices": [],
    }
    if options.get("uid_maps"):
        uid_maps = options["uid_maps"]
        for key, maps in (("uidMappings", uid_maps), ("gidMappings", options.get("gid_maps") or uid_maps)):
            linux[key] = [{"containerID": m.container, "hostID": m.host, "size": m.size} for m in maps]
    for text in options.get("devices", ()):
        node, rule = _device(text)
        linux["devices"].append(node)
        linux["resources"]["devices"].append(rule)  # after the denial of all
    parent = options.get("cgroup_parent")
    if parent:
        from pyrunc.runtime.plan import ID

        if not parent.startswith("/"):
            raise InvalidArgument(f"cgroup_parent must be absolute, not {parent!r}")
        linux["cgroupsPath"] = f"{parent.rstrip('/')}/{ID}"
    profile = options.get("seccomp", "default")
    if isinstance(profile, Mapping):
        linux["seccomp"] = profile
    elif profile == "default":
        from pyrunc.spec import seccomp

        release = os.uname().release.split(".")
        kernel = (int(release[0]), int(release[1].split("-")[0]))
        linux["seccomp"] = seccomp.docker_profile(_capabilities(options), os.uname().machine, kernel)
    elif profile != SCMP_UNCONFINED:
        raise InvalidArgument(f"seccomp must be 'default', 'unconfined' or a profile, not {profile!r}")
    return linux


def _namespaces(options: SandboxOptions) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"type": "mount"}]
    if options.get("uid_maps"):
        rows.append({"type": "user"})
    for kind, key in (("pid", "pid"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroupns")):
        value = options.get(key, "private")
        if value not in ("private", "host"):
            raise InvalidArgument(f"{key} must be 'private' or 'host', not {value!r}")
        if value == "private":
            rows.append({"type": kind})
    network = options.get("network", "none")
    if network == "none":
        rows.append({"type": "network"})
    elif network.startswith("/"):
        rows.append({"type": "network", "path": network})
    elif network != "host":
        raise InvalidArgument(f"network must be 'none', 'host' or a path, not {network!r}: networks do not exist yet")
    return rows


def resources(options: SandboxOptions) -> dict[str, Any]:
    """`linux.resources` of the limits in *options*.

    Source: OCI config-linux.md "Control groups"; --cpus as Docker converts it.
    """
    memory = _given(options, limit="memory_bytes", swap="memory_swap_bytes", reservation="memory_reservation_bytes")
    cpu = _given(options, shares="cpu_shares", quota="cpu_quota_us", period="cpu_period_us", cpus="cpuset_cpus", mems="cpuset_mems")  # fmt: skip
    if "cpus" in options:
        if "quota" in cpu or "period" in cpu:
            raise InvalidArgument("cpus cannot be combined with cpu_quota_us or cpu_period_us")
        if not options["cpus"] > 0:
            raise InvalidArgument(f"cpus must be above 0, not {options['cpus']}")
        cpu["period"], cpu["quota"] = 100_000, int(options["cpus"] * 100_000)
    found: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    for text in options.get("device_cgroup_rules", ()):
        found["devices"].append(_device_rule(text))
    if memory:
        found["memory"] = memory
    if cpu:
        found["cpu"] = cpu
    if "pids_limit" in options:
        found["pids"] = {"limit": options["pids_limit"]}
    blkio = _given(options, weight="blkio_weight")
    for key, field in (
        ("read_bps", "throttleReadBpsDevice"), ("write_bps", "throttleWriteBpsDevice"),
        ("read_iops", "throttleReadIOPSDevice"), ("write_iops", "throttleWriteIOPSDevice"),
    ):  # fmt: skip
        rates: Mapping[str, int] = options.get(key, {})  # type: ignore[assignment]
        if rates:
            blkio[field] = [{**_numbers(path, key), "rate": rate} for path, rate in rates.items()]
    if blkio:
        found["blockIO"] = blkio
    return found


def _given(options: SandboxOptions, **names: str) -> dict[str, Any]:
    return {field: options[key] for field, key in names.items() if key in options}  # type: ignore[literal-required]


def _numbers(path: str, option: str) -> dict[str, int]:
    try:
        rdev = os.stat(path).st_rdev
    except OSError as exc:
        raise InvalidArgument(f"{option}: {path}: {os.strerror(exc.errno or 0).lower()}") from exc
    return {"major": os.major(rdev), "minor": os.minor(rdev)}


def _device(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """``host[:container[:rwm]]`` as a node and the rule that lets it be used."""
    import stat

    parts = text.split(":")
    host = parts[0]
    access = parts[2] if len(parts) > 2 else "rwm"
    target = parts[1] if len(parts) > 1 and parts[1] else host
    if len(parts) == 2 and set(parts[1]) <= set("rwm"):
        target, access = host, parts[1]
    if len(parts) > 3 or not access or not set(access) <= set("rwm"):
        raise InvalidArgument(f"device {text!r} must be host[:container[:rwm]]")
    try:
        status = os.stat(host)
    except OSError as exc:
        raise InvalidArgument(f"device {host}: {os.strerror(exc.errno or 0).lower()}") from exc
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise InvalidArgument(f"device {host}: not a device node")
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b"
    numbers = {"type": kind, "major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
    node = {**numbers, "path": target, "fileMode": status.st_mode & 0o777, "uid": status.st_uid, "gid": status.st_gid}
    return node, {**numbers, "allow": True, "access": access}


def _device_rule(text: str) -> dict[str, Any]:
    """Docker's ``TYPE MAJOR:MINOR ACCESS``, with ``*`` for any number."""
    kind, _, rest = text.partition(" ")
    numbers, _, access = rest.partition(" ")
    major, _, minor = numbers.partition(":")
    if kind not in ("a", "b", "c") or not access or not set(access) <= set("rwm"):
        raise InvalidArgument(f"device_cgroup_rules: {text!r} must be like 'c 13:* rwm'")
    rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
    for key, value in (("major", major), ("minor", minor)):
        if value != "*":
            if not value.isdigit():
                raise InvalidArgument(f"device_cgroup_rules: {text!r}: {key} must be a number or *")
            rule[key] = int(value)
    return rule


def _etc_files(options: SandboxOptions) -> dict[str, str]:
    """The three files that Docker makes for each container."""
    from pyrunc.runtime.plan import SHORT_ID

    name = options.get("hostname") or SHORT_ID
    hosts = (
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    )
    for host, address in options.get("hosts", {}).items():
        if any(c.isspace() for c in host + address) or not host or not address:
            raise InvalidArgument(f"hosts: {host!r}: {address!r} must be a name and an address")
        hosts += f"{address}\t{host}\n"
    if "dns" in options:
        resolv = "".join(f"nameserver {address}\n" for address in options["dns"])
    else:
        try:
            with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as file:
                resolv = file.read(65536)
        except OSError:
            resolv = ""
    return {"/etc/hostname": name + "\n", "/etc/hosts": hosts, "/etc/resolv.conf": resolv}
