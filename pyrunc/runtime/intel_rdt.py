"""`linux.intelRdt`: judged, and refused, since nothing here makes groups of cache and memory bandwidth.

Source: OCI runtime-spec config-linux.md, "IntelRdt"; kernel Documentation/filesystems/resctrl.rst.
"""

from __future__ import annotations

from pyrunc.errors import InvalidSpec, Unsupported

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_FIELD = "linux.intelRdt"


def refuse(values: Mapping[str, Any]) -> None:
    """Raise InvalidSpec for a field that cannot be meant, else Unsupported for the first that asks for something."""
    group = values.get("closID") or ""
    if group in (".", "..") or "/" in group or "\n" in group:
        raise InvalidSpec(f"{_FIELD}.closID: {group!r} cannot be the name of a directory")
    bandwidth = values.get("memBwSchema") or ""
    if bandwidth and (not bandwidth.startswith("MB:") or "\n" in bandwidth):
        raise InvalidSpec(f"{_FIELD}.memBwSchema: must be one line that begins with 'MB:', not {bandwidth!r}")
    for line in (values.get("l3CacheSchema") or "").splitlines():
        if line.startswith("MB:"):
            raise InvalidSpec(f"{_FIELD}.l3CacheSchema: must not have a line that begins with 'MB:'")
    for index, line in enumerate(values.get("schemata") or ()):
        if "\n" in line or ":" not in line:
            raise InvalidSpec(f"{_FIELD}.schemata[{index}]: must be one line such as 'L3:0=f', not {line!r}")
    for key in ("closID", "schemata", "l3CacheSchema", "memBwSchema", "enableMonitoring"):
        if values.get(key):
            raise Unsupported(f"{_FIELD}.{key} is specified in config, but Intel RDT is not supported")
