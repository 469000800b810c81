"""What this runtime can do with a document, on whatever host: the content of `features`.

Source: OCI runtime-spec features.md, features-linux.md. Only `supportedFlags` of seccomp are about this kernel.
"""

from __future__ import annotations

from pyrunc._native import seccomp as libseccomp
from pyrunc.oci.usage import SPEC_VERSION
from pyrunc.runtime import cgroup_systemd, mount_options
from pyrunc.runtime.compile_host import CLONE_NEW
from pyrunc.runtime.plan import HOOK_KINDS
from pyrunc.spec import capabilities, seccomp_profile

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Any

FIRST_VERSION = "1.0.0"


def document() -> dict[str, Any]:
    """The features document, in the order of its schema."""
    return {
        "ociVersionMin": FIRST_VERSION,
        "ociVersionMax": SPEC_VERSION,
        "hooks": list(HOOK_KINDS),
        "mountOptions": sorted(mount_options.names()),
        "linux": {
            "namespaces": sorted(CLONE_NEW),
            "capabilities": list(capabilities.ALL),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": _seccomp(),
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {
            "io.github.seccomp.libseccomp.version": ".".join(map(str, libseccomp.version())),
            "org.opencontainers.runc.checkpoint.enabled": "true",
        },
        # What ends in a dot is the beginning of a name.
        "potentiallyUnsafeConfigAnnotations": [cgroup_systemd.ANNOTATION],
    }


def _seccomp() -> dict[str, Any]:
    return {
        "enabled": True,
        "actions": sorted(seccomp_profile.ACTIONS),
        "operators": sorted(seccomp_profile.OPERATORS),
        "archs": sorted(filter(_known, seccomp_profile.ARCHITECTURES)),
        "knownFlags": sorted(seccomp_profile.FLAGS),
        "supportedFlags": sorted(filter(seccomp_profile.kernel_knows, seccomp_profile.FLAGS)),
    }


def _known(architecture: str) -> bool:
    """Whether libseccomp can make a filter for it."""
    return libseccomp.resolve_arch(architecture.removeprefix("SCMP_ARCH_").lower().encode()) != 0
