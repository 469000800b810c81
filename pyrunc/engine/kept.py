"""Containers with a row and a snapshot on disk: made, started, removed, and what killed processes left of them."""

import os

from pyrunc.engine import mount_specs, names, throwaway
from pyrunc.engine.containers import check_name
from pyrunc.engine.process import Starting
from pyrunc.errors import AlreadyExists, FailedPrecondition, NotFound, PyruncError

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyrunc.api import Container
    from pyrunc.engine.parts import Parts
    from pyrunc.engine.request import Process
    from pyrunc.runtime.options import Mount, SandboxOptions
    from pyrunc.store.metadata import ImageRow

_ATTEMPTS = 20  # to find a name that no container has


class Kept:
    """The containers of *parts*."""

    def __init__(self, parts: "Parts") -> None:
        self._parts = parts

    def create(
        self, image: str, row: "ImageRow", top: str | None, process: "Process", name: str | None, remove: bool
    ) -> Starting:
        """Make a container of the image *row*, whose layers are the snapshot *top*, ready to start.

        *image* is what it was asked for as, *remove* whether it goes with its end. Raises AlreadyExists for the name,
        InvalidArgument, NotFound, Unsupported; then nothing is left.
        """
        container_id = os.urandom(32).hex()
        name = self._add(container_id, image, row, process, name, remove)
        try:
            self._parts.metadata.use_image(container_id, row.id)
            rootfs = self._parts.snapshotter.prepare(container_id, top, volatile=remove)
            options: SandboxOptions = {**process.options}
            mounts = self._volumes(container_id, process)
            if mounts:
                options["mounts"] = [*options.get("mounts", ()), *mounts]
            launcher = throwaway.launcher(rootfs, options)
        except BaseException:
            self._forget(container_id)
            raise

        def started(pid: int) -> None:
            self._parts.containers.started(container_id, pid)

        def ended(code: int, ran: bool) -> None:
            if remove:
                self._forget(container_id)
            else:
                self._parts.containers.ended(container_id, code, started=ran)

        return Starting(container_id, name, process.argv, launcher, started, ended, process.config)

    def remove(self, text: str, *, force: bool = False) -> "Container":
        """Remove a container with its snapshot and volumes; *force* kills it first.

        Raises NotFound, FailedPrecondition for a running one, in Docker's words.
        """
        found = self._parts.containers.get(text)
        if found.state == "running":
            if not force:
                raise FailedPrecondition(
                    f"You cannot remove a running container {found.id}. Stop the container before attempting removal"
                    " or force remove"
                )
            _kill(found.id)
        self._forget(found.id)
        self._parts.collect()
        return found

    def tidy(self) -> None:
        """Remove the containers that were to go with their end, and whose owner was killed before it could do that."""
        for each in self._parts.containers.abandoned():
            self._forget(each.id)

    def _add(
        self,
        container_id: str,
        image: str,
        row: "ImageRow",
        process: "Process",
        name: str | None,
        remove: bool,
    ) -> str:
        wanted = None if name is None else check_name(name)
        for attempt in range(_ATTEMPTS):
            chosen = wanted or names.make()
            try:
                self._parts.containers.add(
                    container_id,
                    chosen,
                    image,
                    row.id,
                    self._parts.snapshotter.name,
                    process.argv,
                    process.config,
                    remove,
                )
            except AlreadyExists:
                if wanted is not None or attempt == _ATTEMPTS - 1:
                    raise
            else:
                return chosen
        raise AssertionError("unreachable")

    def _volumes(self, container_id: str, process: "Process") -> "Sequence[Mount]":
        return mount_specs.resolve(
            self._parts, container_id, {"Volumes": {path: {} for path in process.volumes}}, {}
        )

    def _forget(self, container_id: str) -> None:
        """Remove all that a container has; what is there already gone is no error."""
        mount_specs.release(self._parts, container_id, anonymous=True)
        try:
            self._parts.snapshotter.remove(container_id)
        except NotFound:
            pass
        self._parts.metadata.unuse(container_id)
        self._parts.containers.remove(container_id)


def _kill(container_id: str) -> None:
    """Kill all processes of a running container, whoever started it; its owner sees its end."""
    from pyrunc.runtime import cgroup_control, cgroup_layout

    try:
        cgroup_control.kill(cgroup_layout.detect(), f"/pyrunc/{container_id}")
    except FileNotFoundError:
        pass  # it has just ended
    except TimeoutError as exc:
        raise PyruncError(str(exc)) from exc
