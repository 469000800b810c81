"""The native driver: pyrunc's own init, by a compiled plan."""

from __future__ import annotations

from pyrunc.runtime import shim, shim_state
from pyrunc.runtime.supervised import ATTEMPTS, NotTaken

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pyrunc.drivers.exec.driver import AskedExec, Start, StartExec


class Native:
    """See ExecDriver."""

    takes_plans = True

    def __init__(self, name: str, path: str = "") -> None:
        self.name = name
        self.path = path

    def check(
        self, config: Mapping[str, Any], host_config: Mapping[str, Any], rest: Mapping[str, Any]
    ) -> None:
        """It honours what the engine does."""

    def start(self, wanted: Start) -> shim.ShimProcess:
        """See ExecDriver."""
        assert wanted.plan is not None
        for attempt in range(ATTEMPTS):
            try:
                return shim.start(
                    wanted.plan, wanted.argv, None, wanted.settings, wanted.container_id, wanted.client, wanted.until
                )  # fmt: skip
            except NotTaken:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def start_exec(self, wanted: StartExec) -> shim.ShimProcess:
        """What joins a container is derived from its plan, by pyrunc.runtime.joining."""
        raise NotImplementedError(wanted.exec_id)

    def attach_exec(self, wanted: StartExec) -> AskedExec:
        """As start_exec."""
        raise NotImplementedError(wanted.exec_id)

    def signal(self, place: str, container_id: str, who: shim_state.Running, number: int) -> None:  # noqa: ARG002
        """See ExecDriver."""
        shim_state.signal(who, number)
