"""Whether an OCI runtime document has the shape that it must have, before anything is made of it.

Only what this runtime reads is looked at: OCI demands that unknown fields are ignored. `null` stands, as in
the document's own language, for a field that is left out. What values mean is judged where they are used.
Source: OCI runtime-spec config.md, config-linux.md and its JSON schema.
"""

from pyrunc.spec.shape import flag as _flag
from pyrunc.spec.shape import integer as _integer
from pyrunc.spec.shape import list_of as _list
from pyrunc.spec.shape import map_of as _map
from pyrunc.spec.shape import record as _object
from pyrunc.spec.shape import text as _text


def check(spec: object) -> None:
    """Check the whole document; raises InvalidSpec, which begins with the path of the field."""
    _document(spec, "")


_ID = _integer(0, 0xFFFFFFFF)
_INT32 = _integer(-(1 << 31), (1 << 31) - 1)
_INT64 = _integer(-(1 << 63), (1 << 63) - 1)
_UINT64 = _integer(0, (1 << 64) - 1)
_TEXTS = _list(_text)
_OFFSET = _object(secs=_INT64, nanosecs=_ID)
_MAPS = _list(_object(containerID=_ID, hostID=_ID, size=_ID))

_PROCESS = _object(
    terminal=_flag, args=_TEXTS, env=_TEXTS, cwd=_text, noNewPrivileges=_flag, oomScoreAdj=_INT64,
    consoleSize=_object(height=_ID, width=_ID),
    user=_object(uid=_ID, gid=_ID, umask=_ID, additionalGids=_list(_ID)),
    capabilities=_object(bounding=_TEXTS, effective=_TEXTS, permitted=_TEXTS, inheritable=_TEXTS, ambient=_TEXTS),
    rlimits=_list(_object(type=_text, soft=_UINT64, hard=_UINT64)),
    scheduler=_object(
        policy=_text, nice=_INT32, priority=_INT32, flags=_TEXTS, runtime=_UINT64, deadline=_UINT64, period=_UINT64,
    ),
    ioPriority=_object(**{"class": _text}, priority=_INT32), execCPUAffinity=_object(initial=_text, final=_text),
    apparmorProfile=_text, selinuxLabel=_text,
)  # fmt: skip
_LINUX = _object(
    namespaces=_list(_object(type=_text, path=_text)), uidMappings=_MAPS, gidMappings=_MAPS, sysctl=_map(_text),
    devices=_list(_object(type=_text, path=_text, major=_INT64, minor=_INT64, fileMode=_ID, uid=_ID, gid=_ID)),
    cgroupsPath=_text, resources=_object(), seccomp=_object(), rootfsPropagation=_text, maskedPaths=_TEXTS,
    readonlyPaths=_TEXTS, personality=_object(domain=_text, flags=_TEXTS), mountLabel=_text,
    memoryPolicy=_object(mode=_text, nodes=_text, flags=_TEXTS),
    intelRdt=_object(
        closID=_text, schemata=_TEXTS, l3CacheSchema=_text, memBwSchema=_text, enableMonitoring=_flag,
    ),
    timeOffsets=_object(monotonic=_OFFSET, boottime=_OFFSET),
    netDevices=_map(_object(name=_text)),
)  # fmt: skip
_document = _object(
    ociVersion=_text, root=_object(path=_text, readonly=_flag), hostname=_text, domainname=_text, process=_PROCESS,
    mounts=_list(_object(
        destination=_text, type=_text, source=_text, options=_TEXTS, uidMappings=_MAPS, gidMappings=_MAPS,
    )),
    annotations=_map(_text), linux=_LINUX,
)  # fmt: skip
