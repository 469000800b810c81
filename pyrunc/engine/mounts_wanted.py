"""Whether a container mounts anything of its own; apart, so that one that does not imports nothing about mounts."""

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def wanted(config: "Mapping[str, Any]", host_config: "Mapping[str, Any]") -> bool:
    """Whether a container with these documents has any mount of its own, so that nothing is asked if it has not."""
    return bool(config.get("Volumes")) or any(
        host_config.get(key) for key in ("Binds", "Mounts", "VolumesFrom", "Tmpfs")
    )
