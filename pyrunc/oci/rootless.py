"""Who calls, if not the host's root: what they lack, where their state is, where their cgroups go."""

from __future__ import annotations

import os

from pyrunc.oci.log import Failure
from pyrunc.runtime.cgroup_layout import detect
from pyrunc.runtime.compile_rootless import Rights, own_cgroup

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.oci.flags import Options

_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


def rights(options: Options, *, named_cgroup: bool) -> Rights:
    """What the caller lacks; *named_cgroup* says whether the document has a cgroupsPath.

    Raises Failure for a --rootless that is no word for it.
    """
    unprivileged = os.geteuid() != 0
    nested = in_user_namespace()
    wanted = options.rootless
    if wanted in _TRUE:
        loose = True
    elif wanted in _FALSE:
        loose = False
    elif not wanted or wanted.lower() == "auto":
        loose = unprivileged or nested
    else:
        raise Failure(f'strconv.ParseBool: parsing "{wanted}": invalid syntax')
    return Rights(unprivileged, nested, loose, named_cgroup)


def in_user_namespace() -> bool:
    """Whether this process is in another user namespace than the host's; see user_namespaces(7)."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return file.read().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def cgroups_path(path: str, found: Rights) -> str:
    """*path*, but a relative one of v2 beside the caller's own cgroup, which is where they may have been given room."""
    if not found.loose_cgroups or path.startswith("/") or detect().mode != "v2":
        return path
    return f"{os.path.dirname(own_cgroup()).rstrip('/')}/{path}"


def make_sticky(root: str) -> None:
    """Make the root of an unprivileged user's own, with the bit that keeps it from being cleaned away.

    Source: XDG Base Directory Specification, "XDG_RUNTIME_DIR". What cannot be made is told by who needs it.
    """
    try:
        os.makedirs(root, 0o700, exist_ok=True)
        os.chmod(root, 0o1700)
    except OSError:
        return
