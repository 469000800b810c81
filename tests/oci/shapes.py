"""The shape of config.json, to make documents of it that are wrong in one place.

Source: OCI runtime-spec, its JSON schema. What only some other system than Linux has is left out, and members that
runc does not ask for are not called required.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

Path = tuple[str | int, ...]


class Text(NamedTuple):
    """A string; one of *words*, if there are any."""

    sample: str = "text"
    words: bool = False


class Number(NamedTuple):
    """An integer from *least* to *most*."""

    least: int
    most: int
    sample: int = 1


class Flag(NamedTuple):
    """True or false."""

    sample: bool = True


class Many(NamedTuple):
    """A list."""

    item: Any


class Named(NamedTuple):
    """An object whose members have names of the user's choice."""

    item: Any


class Record(NamedTuple):
    """An object with known members."""

    members: dict[str, Any]
    required: tuple[str, ...] = ()


def record(*required: str, **members: Any) -> Record:
    return Record(members, required)


def word(sample: str) -> Text:
    """One of a few words."""
    return Text(sample, True)


ID = Number(0, 2**32 - 1)
INT32, INT64 = Number(-(2**31), 2**31 - 1), Number(-(2**63), 2**63 - 1)
UINT16, UINT64 = Number(0, 2**16 - 1, 100), Number(0, 2**64 - 1)
TEXTS = Many(Text())
MAPPINGS = Many(record("containerID", "hostID", "size", containerID=ID, hostID=ID, size=ID))
CAPABILITIES = Many(Text("CAP_KILL"))
OFFSETS = record(secs=INT64, nanosecs=Number(0, 2**32 - 1))
THROTTLES = Many(record("major", "minor", "rate", major=INT64, minor=INT64, rate=UINT64))
HOOKS = Many(record("path", path=Text("/bin/true"), args=TEXTS, env=TEXTS, timeout=Number(1, 2**63 - 1, 5)))

PROCESS = record(
    "cwd", "args",
    terminal=Flag(False), consoleSize=record(height=ID, width=ID),
    user=record(uid=ID, gid=ID, umask=ID, additionalGids=Many(ID)),
    args=Many(Text("/bin/true")), env=TEXTS, cwd=Text("/"), noNewPrivileges=Flag(), oomScoreAdj=Number(-1000, 1000),
    capabilities=Record(
        dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), CAPABILITIES)
    ),
    rlimits=Many(record("type", "soft", "hard", type=word("RLIMIT_CORE"), soft=UINT64, hard=UINT64)),
    scheduler=record(
        "policy", policy=word("SCHED_BATCH"), nice=INT32, priority=INT32, flags=Many(word("SCHED_FLAG_RESET_ON_FORK"))
    ),
    ioPriority=Record({"class": word("IOPRIO_CLASS_BE"), "priority": Number(0, 7)}, ("class",)),
    execCPUAffinity=record(initial=Text("0"), final=Text("0")), apparmorProfile=Text(), selinuxLabel=Text(),
)  # fmt: skip
RESOURCES = record(
    devices=Many(record("allow", allow=Flag(), type=word("c"), major=INT64, minor=INT64, access=word("rwm"))),
    memory=record(
        limit=INT64, reservation=INT64, swap=INT64, kernel=INT64, kernelTCP=INT64, swappiness=Number(0, 100),
        disableOOMKiller=Flag(False), useHierarchy=Flag(), checkBeforeUpdate=Flag(),
    ),
    cpu=record(
        shares=UINT64, quota=INT64, period=UINT64, burst=UINT64, realtimeRuntime=INT64, realtimePeriod=UINT64,
        cpus=Text("0"), mems=Text("0"), idle=INT64,
    ),
    pids=record(limit=INT64),
    blockIO=record(
        weight=UINT16, leafWeight=UINT16,
        weightDevice=Many(record("major", "minor", major=INT64, minor=INT64, weight=UINT16, leafWeight=UINT16)),
        throttleReadBpsDevice=THROTTLES, throttleWriteBpsDevice=THROTTLES, throttleReadIOPSDevice=THROTTLES,
        throttleWriteIOPSDevice=THROTTLES,
    ),
    hugepageLimits=Many(record("pageSize", "limit", pageSize=word("2MB"), limit=UINT64)),
    network=record(classID=ID, priorities=Many(record("name", "priority", name=Text("lo"), priority=ID))),
    rdma=Named(record(hcaHandles=ID, hcaObjects=ID)), unified=Named(Text("1")),
)  # fmt: skip
ACTION = word("SCMP_ACT_ALLOW")
SECCOMP = record(
    "defaultAction",
    defaultAction=ACTION, defaultErrnoRet=ID, architectures=Many(word("SCMP_ARCH_X86_64")),
    flags=Many(word("SECCOMP_FILTER_FLAG_LOG")), listenerPath=Text("/nowhere"), listenerMetadata=Text(),
    syscalls=Many(record(
        "names", "action", names=Many(Text("mkdir")), action=ACTION, errnoRet=ID,
        args=Many(record(
            "index", "value", "op", index=Number(0, 5), value=UINT64, valueTwo=UINT64, op=word("SCMP_CMP_EQ")
        )),
    )),
)  # fmt: skip
LINUX = record(
    namespaces=Many(record("type", type=word("mount"), path=Text("/proc/self/ns/mnt"))),
    uidMappings=MAPPINGS, gidMappings=MAPPINGS,
    sysctl=Named(Text("1")), cgroupsPath=Text("/pyrunc-test"), rootfsPropagation=word("private"), maskedPaths=TEXTS,
    readonlyPaths=TEXTS, mountLabel=Text(), personality=record("domain", domain=word("LINUX"), flags=TEXTS),
    devices=Many(record(
        "type", "path", type=word("c"), path=Text("/dev/x"), major=INT64, minor=INT64, fileMode=ID, uid=ID,
        gid=ID,
    )),
    timeOffsets=record(monotonic=OFFSETS, boottime=OFFSETS), netDevices=Named(record(name=Text("eth9"))),
    intelRdt=record(closID=Text(), schemata=TEXTS, l3CacheSchema=Text(), memBwSchema=Text("MB:0=100")),
    memoryPolicy=record("mode", mode=word("MPOL_DEFAULT"), nodes=Text("0"), flags=Many(word("MPOL_F_STATIC_NODES"))),
    resources=RESOURCES, seccomp=SECCOMP,
)  # fmt: skip
DOCUMENT = record(
    "root", "process",
    ociVersion=Text("1.0.2"), hostname=Text(), domainname=Text(), annotations=Named(Text()), process=PROCESS,
    root=record("path", path=Text("rootfs"), readonly=Flag()),
    mounts=Many(record(
        "destination", destination=Text("/mnt"), type=Text("tmpfs"), source=Text("tmpfs"), options=TEXTS,
        uidMappings=MAPPINGS, gidMappings=MAPPINGS,
    )),
    hooks=Record(dict.fromkeys(
        ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"), HOOKS
    )),
    linux=LINUX,
)  # fmt: skip


def sample(shape: Any) -> Any:
    """A value of a shape, with no more than it needs."""
    match shape:
        case Many(item):
            return [sample(item)]
        case Named(item):
            return {"name": sample(item)}
        case Record(members, required):
            return {name: sample(members[name]) for name in required}
        case _:
            return shape.sample


def wrong(shape: Any) -> list[Any]:
    """Values that a shape does not have."""
    match shape:
        case Text(_, words):
            return [7, True, ["text"], {}, 1.5, *(["no-such-word"] if words else [])]
        case Number(least, most, _):
            return ["7", 1.5, True, [1], {}, least - 1, most + 1, 10**400]
        case Flag():
            return ["true", 1, [], {}]
        case Many():
            return ["text", 7, True, {"a": 1}]
        case _:
            return ["text", 7, True, ["text"]]


def faults(shape: Any = DOCUMENT, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every place of the document, with each value that is wrong there; None is for a member that is missing."""
    if path:
        yield from ((path, value) for value in wrong(shape))
    match shape:
        case Many(item):
            yield from faults(item, (*path, 0))
        case Named(item):
            yield from faults(item, (*path, "name"))
        case Record(members, required):
            for name, member in members.items():
                yield from faults(member, (*path, name))
            yield from (((*path, name), None) for name in required)
        case _:
            pass


def damaged(document: Any, path: Path, value: Any, shape: Any = DOCUMENT) -> Any:
    """*document*, of *shape*, with *value* at *path*; what is missing above it is made."""
    if not path:
        return value
    step, *rest = path
    inner = shape.members[str(step)] if isinstance(shape, Record) else shape.item
    if isinstance(document, list):
        below = document[0] if document else sample(inner)
        return [damaged(below, tuple(rest), value, inner), *document[1:]]
    if not rest and value is None:
        return {name: member for name, member in document.items() if name != step}
    return {**document, step: damaged(document.get(step, sample(inner)), tuple(rest), value, inner)}


def name_of(path: Path) -> str:
    """The member that a message about *path* has to name."""
    return next(str(step) for step in reversed(path) if isinstance(step, str) and step != "name")
