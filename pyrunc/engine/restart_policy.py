"""Restart policies: whether a container that has ended is started again, and when.

The pause before it is 100 ms, twice as long each time, at most a minute; who ran for ten seconds begins anew.
Source: Docker, "Start containers automatically"; dockerd's restart manager.
"""

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_FIRST_MS, _MOST_MS = 100, 60_000
_LONG_NS = 10 * 10**9


def is_set(host_config: "Mapping[str, Any]") -> bool:
    """Whether there is a policy other than "no"."""
    return ((host_config.get("RestartPolicy") or {}).get("Name") or "no") != "no"


def pause_ms(
    host_config: "Mapping[str, Any]",
    exit_code: int,
    *,
    stopped: bool,
    ran_ns: int,
    count: int,
    before_ms: int,
) -> int | None:
    """After which pause (milliseconds) a container is started again; None if it is not.

    *stopped* says that a user ended it, *ran_ns* how long it ran, *count* how often it was restarted already, and
    *before_ms* the pause before this run (0 for the first).
    """
    policy = host_config.get("RestartPolicy") or {}
    name, most = policy.get("Name") or "no", policy.get("MaximumRetryCount") or 0
    if stopped or name == "no" or (name == "on-failure" and (not exit_code or (most and count >= most))):
        return None
    return _FIRST_MS if not before_ms or ran_ns >= _LONG_NS else min(before_ms * 2, _MOST_MS)
