"""The engine: images and containers of them, in this process."""

import os
import time

from pyrunc.engine.argument_checks import check_argv, check_document, check_text
from pyrunc.engine.containers import Containers
from pyrunc.engine.deadlines import NEVER, Deadline, check_timeout
from pyrunc.engine.owners import Owners
from pyrunc.engine.parts import Parts, lock
from pyrunc.errors import InvalidArgument, NotFound

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Literal, Self, Unpack

    from pyrunc.api import ContainerRecord, ContainerResult
    from pyrunc.engine.afterwards import Afterwards
    from pyrunc.engine.bases import Base, Bases
    from pyrunc.engine.container import Container
    from pyrunc.engine.events import Event
    from pyrunc.engine.foreground import Foreground
    from pyrunc.engine.images import Images
    from pyrunc.engine.recipes import Fresh
    from pyrunc.engine.throwaway import Ready, Throwaway
    from pyrunc.engine.volumes import Volumes
    from pyrunc.runtime.launcher import Launcher
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
        if root is not None and not isinstance(root, str | os.PathLike):
            raise InvalidArgument(f"root must be a path, not {root!r}")
        self._parts = Parts(None if root is None else os.fspath(root), graph)
        self._parts.forget = self._forget
        self._brief = False  # see pyrunc.engine.one_command
        self._canonical: dict[str, str] = {}
        self._owners = Owners(self._parts)
        self._made_throwaway: Throwaway | None = None
        self._made_images: Images | None = None
        self._made_bases: Bases | None = None
        self._made_afterwards: Afterwards | None = None
        self.containers = Containers(self)

    # Each is imported by who uses it: `ps` needs none of them.

    @property
    def images(self) -> "Images":
        """Its images."""
        if self._made_images is None:
            from pyrunc.engine.images import Images

            self._made_images = Images(self._parts)
        return self._made_images

    @property
    def _throwaway(self) -> "Throwaway":
        if self._made_throwaway is None:
            from pyrunc.engine.throwaway import Throwaway

            with lock:
                if self._made_throwaway is None:
                    self._made_throwaway = Throwaway(self._parts)
        return self._made_throwaway

    @property
    def _bases(self) -> "Bases":
        if self._made_bases is None:
            from pyrunc.engine.bases import Bases

            with lock:
                if self._made_bases is None:
                    self._made_bases = Bases(self._parts, lambda: self.images)
        return self._made_bases

    @property
    def _afterwards(self) -> "Afterwards":
        if self._made_afterwards is None:
            from pyrunc.engine.afterwards import Afterwards

            with lock:
                if self._made_afterwards is None:
                    self._made_afterwards = Afterwards(self._parts)
                    self._parts.come_to_rest = self._made_afterwards.wait
        return self._made_afterwards

    @property
    def volumes(self) -> "Volumes":
        """Data that outlives containers."""
        return self._parts.volumes

    def run(
        self, image: str, argv: "Sequence[str] | None" = None, *, name: str | None = None, remove: bool = True,
        entrypoint: "Sequence[str] | None" = None, stdin: bytes = b"", timeout_s: float | None = None,
        create_timeout_s: float | None = None, allow_host: bool = False,
        scratch: "Literal['memory', 'disk'] | None" = None, **options: "Unpack[SandboxOptions]",
    ) -> "ContainerResult":  # fmt: skip
        """Run a program in a container of *image* to its end.

        *argv* takes the place of the image's command, *entrypoint* that of its entrypoint. The rest of the image's
        config holds unless an option says otherwise: *env* is added to its environment, *cwd* and *user* take the
        place of its. With a *name*, or ``remove=False``, a container has a row and a snapshot on disk, and can be
        committed.

        Any other keeps nothing, and *scratch* is where it writes. "memory" (None is the same) leaves no trace, not
        even a row while it runs. What is written **counts as memory**: *scratch_bytes* bounds it (0: half of the
        host's memory), beyond which the program gets ENOSPC; and with *memory_bytes* files and processes together
        have that much, beyond which the kernel kills (``result.oom_killed``). "disk" is a snapshot that goes with
        the container's end, as with `docker run --rm`: slower by a millisecond or two, and as large as the disk. It
        goes while the result is given back; what this engine is asked next waits for that, as does `close`.

        *stdin* is what the program can read. After *timeout_s* seconds it is killed and TimedOut raised, whose
        ``.stage`` is "run"; *create_timeout_s* bounds what comes before it runs, unpacking the image too, and then
        nothing is left and the stage is "create". ``.timings_ns`` of the result says how long each stage took.
        *allow_host* lets "host" be an image: the host's own root, read-only. The options are those of a Sandbox.

        Raises NotFound for an image that is not there, InvalidArgument, AlreadyExists for the name, StartError.
        """
        check_text("image", image)
        check_argv("argv", argv)
        check_argv("entrypoint", entrypoint)
        keeps = name is not None or not remove
        host = allow_host and image == HOST
        deadline = NEVER if create_timeout_s is None else Deadline(create_timeout_s)
        if scratch is not None:
            check_scratch(scratch, keeps, host)
        if host:
            return self._run_host(argv, keeps, entrypoint, stdin, timeout_s, options, deadline)
        if keeps or scratch == "disk":
            return self._run_kept(image, argv, name, remove, entrypoint, stdin, timeout_s, options, deadline)
        with deadline:
            return self._run_thrown_away(image, argv, entrypoint, stdin, timeout_s, options, deadline)

    def start(
        self, image: str, argv: "Sequence[str] | None" = None, *, name: str | None = None, exist_ok: bool = False,
        remove: bool = False, entrypoint: "Sequence[str] | None" = None, config: "Mapping[str, Any] | None" = None,
        host_config: "Mapping[str, Any] | None" = None, allow_host: bool = False, client: int | None = None,
        keep_running: bool = True, stdin_open: bool = False, create_timeout_s: float | None = None,
        **options: "Unpack[SandboxOptions]",
    ) -> "Container":  # fmt: skip
        """Make a container and start it; it goes on when this process ends.

        With *remove* it goes with its end. With *exist_ok* any number of processes may ask for the same: one makes it,
        and all have it. The container of that *name* is started if it does not run, and found if it does; one of
        another image, command or options is refused by AlreadyExists, which names what differs, and so is one whose
        limits `update` has changed since; a paused one by FailedPrecondition. One that was found is not removed by
        leaving the ``with`` block.

        *client* is the shim's end of an AttachClient.pair; without *keep_running* it ends with this process. After
        *create_timeout_s* seconds TimedOut is raised, and nothing is left. The rest is as with `containers.create`; of
        a container that cannot start the row stays.
        Raises what that raises, and StartError or one of its kind.
        """
        from pyrunc.engine.creating import Wanted

        check_document(host_config)
        if remove:
            host_config = {**(host_config or {}), "AutoRemove": True}
        wanted = Wanted(image, argv, name, entrypoint, config or {}, host_config or {}, options)
        from pyrunc.engine import making

        return making.start(
            self, wanted.opened(stdin_open), exist_ok=exist_ok, allow_host=allow_host, client=client,
            keep_running=keep_running, deadline=Deadline(create_timeout_s),
        )  # fmt: skip

    def check(self, progress: "Callable[[int], None] | None" = None) -> "list[Problem]":
        """Read all that is stored, and tell what is damaged or missing, and which images and containers it concerns.

        Nothing is changed. *progress* gets the size of each blob once it has been read. An image whose content is
        damaged is whole again when it is loaded again.
        """
        from pyrunc.engine import checking

        self._parts.come_to_rest()
        return checking.check(self._parts, progress)

    def events(
        self, *, since_ns: int | None = 0, until_ns: int | None = None, follow: bool = False,
        filters: "Iterable[tuple[str, str]]" = (),
    ) -> "Iterator[Event]":  # fmt: skip
        """What happened to containers, images and volumes; see pyrunc.engine.events.read. Raises InvalidArgument."""
        from pyrunc.engine import events

        self._parts.come_to_rest()
        return events.read(
            self._parts.root, since_ns=since_ns, until_ns=until_ns, follow=follow, filters=filters
        )

    def info(self) -> "dict[str, Any]":
        """What this engine and its host are and can: Docker's document (Engine API v1.51, SystemInfo)."""
        from pyrunc.engine import info

        return info.info(self._parts, [each.state for each in self.containers.list(all=True)])

    def version(self) -> "dict[str, Any]":
        """The versions of pyrunc and what it stands on: Docker's document (Engine API v1.51, SystemVersion)."""
        from pyrunc.engine import info

        return info.version()

    def close(self) -> None:
        """Let go of what was opened; containers that run go on."""
        if self._made_afterwards is not None:
            self._made_afterwards.wait()
        self._owners.close()
        if self._made_throwaway is not None:
            self._made_throwaway.close()
        if self._made_bases is not None:
            self._made_bases.close()
        self._parts.close()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.close()

    # --- the way to a start

    def _forget(self, image_id: str) -> None:
        """Keep nothing of an image that is removed."""
        if self._made_throwaway is not None:
            self._made_throwaway.forget(image_id)
        if self._made_bases is not None:
            self._made_bases.forget(image_id)

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
        from pyrunc.image import reference as references

        try:
            self._canonical[image] = references.parse(image).tagged().canonical
        except InvalidArgument:
            pass  # an id
        return row.id

    def _ship(self, image: str) -> "ImageRow":
        try:
            return self.images.shipped(image)
        except NotFound:
            from pyrunc.image import reference as references

            name = references.parse(image).tagged().familiar
            words = (
                f"Unable to find image '{name}' locally, and there are no registries yet: load or import it"
            )
            if image == HOST:
                words += "; the host's own root is one only for who allows it (--allow-host-image, allow_host=True)"
            raise NotFound(words) from None

    def _make_ready(
        self, image: str, entrypoint: "Sequence[str] | None", options: "SandboxOptions", deadline: Deadline
    ) -> "Ready":
        """What runs *image*, entered; prepared if it is the first time, or the image was removed meanwhile."""
        from pyrunc.engine import throwaway

        while True:
            image_id = self._resolve(image)
            key = throwaway.key_of(image_id, entrypoint, options)
            ready = self._throwaway.get(key) or self._prepare(key, image_id, entrypoint, options, deadline)
            if self._throwaway.enter(ready.held):
                return ready

    def _prepare(
        self,
        key: "tuple[object, ...]",
        image_id: str,
        entrypoint: "Sequence[str] | None",
        options: "SandboxOptions",
        deadline: Deadline,
    ) -> "Ready":
        """Compile what runs an image with these options, and keep it for the next run."""
        from pyrunc.engine import request, throwaway
        from pyrunc.runtime.sandbox import Sandbox

        row = self._parts.images.get(image_id)
        config = self._parts.images.config(row).get("config") or {}
        # What stands in for a command that is given with each run; whether there is one is seen then.
        process = request.merge(config, None, entrypoint, options, need_command=False)
        with self._parts.metadata.lease() as lease:
            held = self._throwaway.hold(row.id, self.images.unpack(row, lease, deadline))
        begin = tuple(process.config["Entrypoint"] or ())
        sandbox = None
        # Volumes are a part of the scratch like all else, but where only they can be written.
        if not process.volumes or options.get("writable") != "no":
            sandbox = Sandbox.of_launcher(throwaway.launcher(held.rootfs, process.options))
        ready = throwaway.Ready(held, sandbox, begin, process.argv)
        self._throwaway.put(key, ready)
        return ready

    def _base(self, image: str, allow_host: bool, deadline: Deadline = NEVER) -> "Base":
        """What containers of *image* begin with. Raises NotFound, InvalidArgument."""
        check_text("image", image)
        if allow_host and image == HOST:
            from pyrunc.engine.bases import OF_HOST

            return OF_HOST
        return self._bases.get(self._resolve(image), deadline, hold=not self._brief)

    def _run_thrown_away(
        self, image: str, argv: "Sequence[str] | None", entrypoint: "Sequence[str] | None", stdin: bytes,
        timeout_s: float | None, options: "SandboxOptions", deadline: Deadline,
    ) -> "ContainerResult":  # fmt: skip
        """Run a program in a container that keeps nothing to its end."""
        from pyrunc.engine import throwaway

        begun = time.monotonic_ns()
        env = options.pop("env", None)
        ready = self._make_ready(image, entrypoint, options, deadline)
        try:
            if ready.sandbox is None:
                if env:
                    options["env"] = env
                return self._run_kept(
                    image, argv, None, True, entrypoint, stdin, timeout_s, options, deadline
                )
            command = ready.command(argv)
            asked = time.monotonic_ns()
            done = ready.sandbox.run_by(command, env, stdin, timeout_s, deadline.at)
            return throwaway.result(done, asked - begun)
        finally:
            self._throwaway.leave(ready.held)

    def _run_kept(
        self, image: str, argv: "Sequence[str] | None", name: str | None, remove: bool,
        entrypoint: "Sequence[str] | None", stdin: bytes, timeout_s: float | None, options: "SandboxOptions",
        deadline: Deadline,
    ) -> "ContainerResult":  # fmt: skip
        """Run a container that has a row and a snapshot to its end."""
        from pyrunc.engine import foreground

        if timeout_s is not None:
            check_timeout(timeout_s, "timeout_s")
        with deadline:
            running = self._begin(image, argv, name, remove, entrypoint, stdin, options, deadline)
        done = foreground.run(running, timeout_s, self._afterwards if remove and name is None else None)
        return done._replace(container_id="", name="") if remove else done

    def _begin(
        self, image: str, argv: "Sequence[str] | None", name: str | None, remove: bool,
        entrypoint: "Sequence[str] | None", stdin: bytes, options: "SandboxOptions", deadline: Deadline,
    ) -> "Foreground":  # fmt: skip
        """Start such a container, which ends with this process."""
        from pyrunc.engine import creating, foreground

        begun = time.monotonic_ns()
        host_config: dict[str, Any] = {"AutoRemove": remove}
        if remove and name is None:
            host_config["LogConfig"] = {"Type": "none"}  # nobody knows of it who could ask for its log
        config = {"OpenStdin": True, "StdinOnce": True} if stdin else {}
        base = self._base(image, False, deadline)
        container_id = creating.new_id()
        wanted = creating.Wanted(image, argv, name, entrypoint, config, host_config, options)

        def make() -> "tuple[ContainerRecord, Fresh]":
            return creating.create(self._parts, base, container_id, wanted, starts=True, deadline=deadline)

        return foreground.begin(self._parts, make, container_id, stdin, begun=begun, until=deadline.at)

    def _run_host(
        self, argv: "Sequence[str] | None", keeps: bool, entrypoint: "Sequence[str] | None", stdin: bytes,
        timeout_s: float | None, options: "SandboxOptions", deadline: Deadline,
    ) -> "ContainerResult":  # fmt: skip
        """Run a program on the host's own root to its end."""
        from pyrunc.api import ContainerResult
        from pyrunc.runtime.sandbox import Sandbox

        launcher, command = self._host(argv, keeps, entrypoint, options)
        with deadline, Sandbox.of_launcher(launcher) as box:
            return ContainerResult(*box.run_by(command, None, stdin, timeout_s, deadline.at))

    def _host(
        self, argv: "Sequence[str] | None", keeps: bool, entrypoint: "Sequence[str] | None", options: "SandboxOptions"
    ) -> "tuple[Launcher, Sequence[str]]":  # fmt: skip
        """What runs on the host's own root, and the command."""
        from pyrunc.engine import host, throwaway

        if keeps:
            raise InvalidArgument(
                "a container of the host's root is always thrown away: it takes no name, and needs --rm"
            )
        command = [*(entrypoint or ()), *(argv or ())]
        if not command:
            raise InvalidArgument("No command specified")
        root = self._parts.root
        mounts = [*host.mounts(root), *options.get("mounts", ())]
        return throwaway.launcher(host.rootfs(root), {**options, "mounts": mounts}), command


def check_scratch(scratch: str, keeps: bool, host: bool) -> None:
    """Refuse a *scratch* that a run cannot have: one that *keeps* something, or has the *host*'s root."""
    if scratch not in ("memory", "disk"):
        raise InvalidArgument(f"scratch must be 'memory' or 'disk', not {scratch!r}")
    if scratch == "memory" and keeps:
        raise InvalidArgument("scratch: a container with a name, or remove=False, is on disk")
    if scratch == "disk" and host:
        raise InvalidArgument("scratch: what is written over the host's root is in memory")
