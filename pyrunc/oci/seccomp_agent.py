"""The document with which an agent gets the listener of a seccomp filter.

It is the container process state of OCI runtime-spec config-linux.md; the front door writes what this does not know.
"""

from __future__ import annotations

import os

from pyrunc.oci.go_json import exact_text
from pyrunc.oci.state_text import VERSION

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FD_NAME = "seccompFd"


def listener(spec: Mapping[str, Any]) -> tuple[str, str]:
    """The path of the agent's socket, and what stands before the pid in the document that it gets; or "", ""."""
    profile: Mapping[str, Any] = (spec.get("linux") or {}).get("seccomp") or {}
    path = profile.get("listenerPath")
    if not path or not isinstance(path, str):
        return "", ""
    version = exact_text(str(spec.get("ociVersion") or VERSION))
    metadata = profile.get("listenerMetadata") or ""
    words = f'"metadata":{exact_text(metadata)},' if metadata else ""
    return os.path.abspath(path), f'{{"ociVersion":{version},"fds":["{FD_NAME}"],{words}"pid":'
