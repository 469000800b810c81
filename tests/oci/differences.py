"""Where pyrunc-oci answers otherwise than runc 1.1.5, and why."""

from typing import Any

# A flag that runc 1.1 shows, and those that newer ones show beside it.
NEWER = (
    ("--no-new-keyring", ("--pidfd-socket value",)),
    ("--additional-gids value, -g value", ("--pidfd-socket value",)),
    ("--blkio-weight value", ("--cpu-burst value", "--cpu-idle value")),
    ("--page-server value", ("--tcp-skip-in-flight", "--link-remap")),
    ("--lsm-profile value", ("--link-remap",)),
)

DIFFERENCES: dict[tuple[str, str], dict[str, Any]] = {}
