"""What the engine asks of an exec driver."""

from __future__ import annotations

from pyrunc.records import NamedTuple

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Protocol

    from pyrunc.runtime.compile import Rootfs
    from pyrunc.runtime.joining import Wanted
    from pyrunc.runtime.launcher import Launcher
    from pyrunc.runtime.options import SandboxOptions
    from pyrunc.runtime.shim import ShimProcess, ShimSettings
    from pyrunc.runtime.shim_state import Running
    from pyrunc.runtime.supervised import Supervised

    class AskedExec(Protocol):
        """A program that shall run in a container, of which nothing has been asked yet."""

        def request(self, stdio: Sequence[int], flags: int, wait: bool = True) -> Supervised:
            """Start it with the three descriptors *stdio*, and wait until it runs; as Launcher.request.

            Raises what `start_exec` does.
            """

        def close(self) -> None:
            """Nothing more will be asked."""

    class ExecDriver(Protocol):
        """One way to run containers: *name* is what HostConfig.Runtime says, *path* the program.

        Whatever the driver, a container has a shim: streams, log, attach, exit status and exit command are its.
        *takes_plans* says that a compiled plan is all that a start needs.
        """

        name: str
        path: str
        takes_plans: bool

        def check(
            self, config: Mapping[str, Any], host_config: Mapping[str, Any], rest: Mapping[str, Any]
        ) -> None:
            """Refuse what it cannot honour in the documents of a container, by its name. Raises Unsupported."""

        def start(self, wanted: Start) -> ShimProcess:
            """Start a container, whose program runs when this returns.

            Raises StartError or one of its kind, InvalidArgument, Unsupported, TimedOut.
            """

        def start_exec(self, wanted: StartExec) -> ShimProcess:
            """Start a further program, with a shim of its own, in a container that runs; not if it *takes_plans*.

            Raises StartError or one of its kind, FailedPrecondition, InvalidArgument, NotFound, Unsupported.
            """

        def attach_exec(self, wanted: StartExec) -> AskedExec:
            """A further program that shall end with this process; not if it *takes_plans*.

            Of its *settings* two count: *state_dir*, which is the program's from now on, and *terminal*.
            Raises FailedPrecondition, InvalidArgument, NotFound, Unsupported.
            """

        def signal(self, place: str, container_id: str, who: Running, number: int) -> None:
            """Send a signal to the init of the container whose state directory is *place*; none to one that has ended.

            Raises FailedPrecondition, PermissionError.
            """


class Start(NamedTuple):
    """A container that is to be started: by a *plan*, where the driver takes plans, else *rootfs* and *options*.

    *settings* are its shim's, *client* is attached from the first byte on; at *until* (monotonic seconds) it is too
    late.
    """

    container_id: str
    argv: Sequence[str]
    settings: ShimSettings
    client: int | None
    until: float | None
    plan: Launcher | None
    rootfs: Rootfs | None
    options: SandboxOptions


class StartExec(NamedTuple):
    """A program that is to be started in the container *container_id*, state directory *place*, init *who*.

    *variables* are the environment that the container's documents give it; *settings* and *client* are as in Start.
    """

    exec_id: str
    container_id: str
    place: str
    who: Running
    wanted: Wanted
    variables: Sequence[str]
    settings: ShimSettings
    client: int | None
