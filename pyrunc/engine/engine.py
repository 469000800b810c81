"""The engine: images and containers of them, in this process."""

import os

from pyrunc.api import CommitRequest, ContainerResult
from pyrunc.engine import request, throwaway
from pyrunc.engine.images import Images
from pyrunc.engine.parts import Parts
from pyrunc.errors import InvalidArgument, NotFound
from pyrunc.image import reference as references

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import IO, Any, Literal, Self, Unpack

    from pyrunc.api import Container
    from pyrunc.engine.copy import PathStat
    from pyrunc.engine.kept import Kept
    from pyrunc.engine.process import ContainerProcess, Starting
    from pyrunc.engine.top import Processes
    from pyrunc.engine.volumes import Volumes
    from pyrunc.runtime.options import SandboxOptions
    from pyrunc.store.check import Problem
    from pyrunc.store.metadata import ImageRow

HOST = "host"  # the pseudo-image


class Engine:
    """Images, and containers of them, on one root directory that several processes may share.

    *root* is the durable state (/var/lib/pyrunc, or PYRUNC_ROOT), *graph* the snapshot driver ("overlay2", "vfs"; None
    is the best that works). Safe to use from several threads, and after a fork. Nothing is opened before it is used.
    """

    def __init__(self, root: "str | os.PathLike[str] | None" = None, *, graph: str | None = None) -> None:
        self._parts = Parts(None if root is None else os.fspath(root), graph)
        self._throwaway = throwaway.Throwaway(self._parts)
        self._parts.forget = self._throwaway.forget
        self._kept: Kept | None = None
        self._canonical: dict[str, str] = {}
        self.images = Images(self._parts)

    @property
    def volumes(self) -> "Volumes":
        """Data that outlives containers."""
        return self._parts.volumes

    def run(
        self, image: str, argv: "Sequence[str] | None" = None, *, name: str | None = None, remove: bool = True,
        entrypoint: "Sequence[str] | None" = None, stdin: bytes = b"", timeout_s: float | None = None,
        allow_host: bool = False, scratch: "Literal['memory', 'disk'] | None" = None,
        **options: "Unpack[SandboxOptions]",
    ) -> ContainerResult:  # fmt: skip
        """Run a program in a container of *image* to its end.

        *argv* takes the place of the image's command, *entrypoint* that of its entrypoint. The rest of the image's
        config holds unless an option says otherwise: *env* is added to its environment, *cwd* and *user* take the
        place of its. With a *name*, or ``remove=False``, a container has a row and a snapshot on disk, and can be
        committed.

        Any other keeps nothing, and *scratch* is where it writes. "memory" (None is the same) leaves no trace, not
        even a row while it runs. What is written **counts as memory**: *scratch_bytes* bounds it (0: half of the
        host's memory), beyond which the program gets ENOSPC; and with *memory_bytes* files and processes together
        have that much, beyond which the kernel kills (``result.oom_killed``). "disk" is a snapshot that goes with
        the container's end, as with `docker run --rm`: slower by some milliseconds, and as large as the disk.

        *stdin* is what the program can read; after *timeout_s* seconds it is killed and TimedOut raised.
        *allow_host* lets "host" be an image: the host's own root, read-only. The options are those of a Sandbox.

        Raises NotFound for an image that is not there, InvalidArgument, AlreadyExists for the name, StartError.
        """
        keeps = name is not None or not remove
        host = allow_host and image == HOST
        if scratch is not None:
            _check_scratch(scratch, keeps, host)
        if keeps or host or scratch == "disk":
            starting = self._create(image, argv, name, remove, entrypoint, None, options, allow_host)
            done = starting.run(stdin, timeout_s)
            return done._replace(container_id="", name="") if remove else done
        env = options.pop("env", None)
        ready = self._make_ready(image, entrypoint, options)
        try:
            if ready.sandbox is None:
                if env:
                    options["env"] = env
                done = self._create(image, argv, None, True, entrypoint, None, options, False).run(
                    stdin, timeout_s
                )
                return done._replace(container_id="", name="")
            command = (*ready.entrypoint, *argv) if argv else ready.argv
            if not command:
                raise InvalidArgument("No command specified")
            return ContainerResult(*ready.sandbox.run(command, env=env, stdin=stdin, timeout_s=timeout_s))
        finally:
            self._throwaway.leave(ready.held)

    def start(
        self, image: str, argv: "Sequence[str] | None" = None, *, name: str | None = None, remove: bool = False,
        entrypoint: "Sequence[str] | None" = None, stdin: int | None = None, stdout: int | None = None,
        stderr: int | None = None, config: "Mapping[str, Any] | None" = None, allow_host: bool = False,
        **options: "Unpack[SandboxOptions]",
    ) -> "ContainerProcess":  # fmt: skip
        """Start a program in a container that has a row, and return as soon as it runs; it ends with this process.

        *stdin*, *stdout* and *stderr* are descriptors of the caller's, who keeps them; None is /dev/null. *config* is
        added to the image's, such as Labels. The rest is as with `run`.
        """
        from pyrunc.runtime.stdio import Stdio

        with Stdio(stdin, stdout, stderr) as stdio:
            return self._create(image, argv, name, remove, entrypoint, config, options, allow_host).start(
                stdio
            )

    def containers(self) -> "list[Container]":
        """The containers that have a row, the latest first."""
        self._keeper().tidy()
        return self._parts.containers.all()

    def inspect(self, container: str) -> "Container":
        """The container of that id, name, or beginning of an id. Raises NotFound."""
        return self._parts.containers.get(container)

    def remove(self, container: str, *, force: bool = False) -> None:
        """Remove a container; *force* kills it first. Raises NotFound, FailedPrecondition for a running one."""
        self._keeper().remove(container, force=force)

    def stat_path(self, container: str, path: str) -> "PathStat":
        """What is at *path* in a container, running or not. Raises NotFound in Docker's words."""
        from pyrunc.engine import copy

        return copy.stat_path(self._parts, container, path)

    def get_archive(self, container: str, path: str, sink: "Callable[[bytes], object]") -> "PathStat":
        """Write what is at *path* in a container as a tar; see `pyrunc.engine.copy.get_archive`."""
        from pyrunc.engine import copy

        return copy.get_archive(self._parts, container, path, sink)

    def put_archive(
        self, container: str, path: str, source: "IO[bytes]", *, overwrite: bool = False, copy_owner: bool = False,
        rename: "Callable[[str], str] | None" = None,
    ) -> None:  # fmt: skip
        """Extract a tar to a directory of a container; see `pyrunc.engine.copy.put_archive`."""
        from pyrunc.engine import copy

        copy.put_archive(
            self._parts, container, path, source, overwrite=overwrite, copy_owner=copy_owner, rename=rename
        )

    def top(self, container: str, arguments: "Sequence[str]" = ()) -> "Processes":
        """What the host's ps says of a running container's processes; see `pyrunc.engine.top.top`."""
        from pyrunc.engine import top

        return top.top(self._parts, container, arguments)

    def commit(
        self, container: str, reference: str = "", *, changes: "Sequence[str]" = (), author: str = "",
        message: str = "", pause: bool = True,
    ) -> str:  # fmt: skip
        """Make an image of what a container changed; its id.

        *changes* are instructions of a Dockerfile; *pause* stops a running container meanwhile.
        Raises NotFound, InvalidArgument, FailedPrecondition, StorageFull.
        """
        from pyrunc.engine import commit

        request = CommitRequest(container, reference, changes, author, message, pause)
        return commit.commit(self._parts, self.images, request)

    def diff(self, container: str) -> "list[tuple[str, str]]":
        """What a container changed: ("A", "C" or "D", path), sorted. Raises NotFound."""
        from pyrunc.engine import commit

        return commit.changes_of(self._parts, container)

    def export(self, container: str, sink: "Callable[[memoryview], object]") -> None:
        """Write the whole tree of a container as a tar to *sink*, which takes bytes. Raises NotFound."""
        from pyrunc.engine import commit

        commit.export(self._parts, container, sink)

    def check(self, progress: "Callable[[int], None] | None" = None) -> "list[Problem]":
        """Read all that is stored, and tell what is damaged or missing, and which images and containers it concerns.

        Nothing is changed. *progress* gets the size of each blob once it has been read. An image whose content is
        damaged is whole again when it is loaded again.
        """
        from pyrunc.engine import checking

        return checking.check(self._parts, progress)

    def close(self) -> None:
        """Let go of what was opened; containers that still run go on until their processes are closed."""
        self._throwaway.close()
        self._parts.close()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.close()

    # --- the way to a start

    def _resolve(self, image: str) -> str:
        """The id of *image*; what ships with pyrunc is loaded when it is first asked for. Raises NotFound."""
        canonical = self._canonical.get(image)
        if canonical is not None:
            found = self._parts.metadata.resolve(canonical)
            if found is not None:
                return found
        try:
            row = self._parts.images.get(image)
        except NotFound:
            row = self._ship(image)
        try:
            self._canonical[image] = references.parse(image).tagged().canonical
        except InvalidArgument:
            pass  # an id
        return row.id

    def _ship(self, image: str) -> "ImageRow":
        try:
            return self.images.shipped(image)
        except NotFound:
            name = references.parse(image).tagged().familiar
            words = (
                f"Unable to find image '{name}' locally, and there are no registries yet: load or import it"
            )
            if image == HOST:
                words += "; the host's own root is one only for who allows it (--allow-host-image, allow_host=True)"
            raise NotFound(words) from None

    def _make_ready(
        self, image: str, entrypoint: "Sequence[str] | None", options: "SandboxOptions"
    ) -> throwaway.Ready:
        """What runs *image*, entered; prepared if it is the first time, or the image was removed meanwhile."""
        while True:
            image_id = self._resolve(image)
            key = throwaway.key_of(image_id, entrypoint, options)
            ready = self._throwaway.get(key) or self._prepare(key, image_id, entrypoint, options)
            if self._throwaway.enter(ready.held):
                return ready

    def _prepare(
        self,
        key: "tuple[object, ...]",
        image_id: str,
        entrypoint: "Sequence[str] | None",
        options: "SandboxOptions",
    ) -> throwaway.Ready:
        """Compile what runs an image with these options, and keep it for the next run."""
        from pyrunc.runtime.sandbox import Sandbox

        row = self._parts.images.get(image_id)
        config = self._parts.images.config(row).get("config") or {}
        # What stands in for a command that is given with each run; whether there is one is seen then.
        process = request.merge(config, None, entrypoint, options, need_command=False)
        with self._parts.metadata.lease() as lease:
            held = self._throwaway.hold(row.id, self.images.unpack(row, lease))
        begin = tuple(process.config["Entrypoint"] or ())
        sandbox = None
        # Volumes are a part of the scratch like all else, but where only they can be written.
        if not process.volumes or options.get("writable") != "no":
            sandbox = Sandbox.of_launcher(throwaway.launcher(held.rootfs, process.options))
        ready = throwaway.Ready(held, sandbox, begin, process.argv)
        self._throwaway.put(key, ready)
        return ready

    def _create(
        self, image: str, argv: "Sequence[str] | None", name: str | None, remove: bool,
        entrypoint: "Sequence[str] | None", config: "Mapping[str, Any] | None", options: "SandboxOptions",
        allow_host: bool,
    ) -> "Starting":  # fmt: skip
        if allow_host and image == HOST:
            from pyrunc.engine import host

            return host.create(
                self._parts.root, argv, entrypoint, options, keep=not remove or name is not None
            )
        if options.get("writable") == "direct":
            raise InvalidArgument(
                "writable: an image is never written directly; it must be 'scratch' or 'no'"
            )
        if options.get("scratch_bytes"):
            raise InvalidArgument("scratch_bytes bounds a scratch in memory, and this container is on disk")
        from pyrunc.engine import mount_points

        keeper = self._keeper()
        keeper.tidy()
        row = self._parts.images.get(self._resolve(image))
        from_image = self._parts.images.config(row).get("config") or {}
        process = request.merge(from_image, argv, entrypoint, options, config)
        with self._parts.metadata.lease() as lease:
            top = mount_points.ensure(self._parts, self.images.unpack(row, lease), lease)
            return keeper.create(image, row, top, process, name, remove)

    def _keeper(self) -> "Kept":
        if self._kept is None:
            from pyrunc.engine.kept import Kept

            self._kept = Kept(self._parts)
        return self._kept


def _check_scratch(scratch: str, keeps: bool, host: bool) -> None:
    if scratch not in ("memory", "disk"):
        raise InvalidArgument(f"scratch must be 'memory' or 'disk', not {scratch!r}")
    if scratch == "memory" and keeps:
        raise InvalidArgument("scratch: a container with a name, or remove=False, is on disk")
    if scratch == "disk" and host:
        raise InvalidArgument("scratch: what is written over the host's root is in memory")
