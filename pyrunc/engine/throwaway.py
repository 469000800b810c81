"""Runs that leave nothing: no row, no snapshot of their own; their writes are in memory and die with them.

What does not change from run to run is made once: for each image a view of its snapshot, held by a lease as long as
this process may run it; for each image and set of options a compiled plan.
"""

import os

from pyrunc.api import ContainerResult
from pyrunc.engine.parts import lock
from pyrunc.errors import FailedPrecondition, InvalidArgument, PyruncError
from pyrunc.runtime.launcher import Launcher
from pyrunc.runtime.options import in_terms_of_options, to_request

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyrunc.engine.parts import Parts
    from pyrunc.runtime.compile import Rootfs
    from pyrunc.runtime.options import SandboxOptions
    from pyrunc.runtime.sandbox import RunResult, Sandbox
    from pyrunc.store.leases import Lease

_MOST = 256  # compiled plans that are kept; each is some 10 KB


class Held:
    """An image that this process may run: *rootfs*, the view *key*, and the *lease* that protects it.

    *runs* are those that go on; *doomed* says that it goes with the last of them.
    """

    __slots__ = ("doomed", "key", "lease", "rootfs", "runs")

    def __init__(self, key: str, lease: "Lease", rootfs: "Rootfs") -> None:
        self.key = key
        self.lease = lease
        self.rootfs = rootfs
        self.runs = 0
        self.doomed = False


class Ready:
    """A compiled plan for an image: *sandbox* runs *argv*, or others after *entrypoint*; None if it needs a row."""

    __slots__ = ("argv", "entrypoint", "held", "sandbox")

    def __init__(
        self, held: Held, sandbox: "Sandbox | None", entrypoint: tuple[str, ...], argv: tuple[str, ...]
    ) -> None:
        self.held = held
        self.sandbox = sandbox
        self.entrypoint = entrypoint
        self.argv = argv

    def command(self, argv: "Sequence[str] | None") -> "Sequence[str]":
        """What is run, *argv* in the place of the image's command. Raises InvalidArgument if that is nothing."""
        found = (*self.entrypoint, *argv) if argv else self.argv
        if not found:
            raise InvalidArgument("No command specified")
        return found


class Throwaway:
    """What this process keeps ready on *parts*."""

    def __init__(self, parts: "Parts") -> None:
        self._parts = parts
        self._pid = 0
        self._held: dict[str, Held] = {}
        self._ready: dict[Any, Ready] = {}

    def get(self, key: "Any") -> Ready | None:
        """What is ready for *key*, in this process."""
        return self._ready.get(key) if self._pid == os.getpid() else None

    def put(self, key: "Any", ready: Ready) -> None:
        """Keep *ready* for the next run; the oldest goes when there are too many."""
        with lock:
            if len(self._ready) >= _MOST:
                self._ready.pop(next(iter(self._ready)))
            self._ready[key] = ready

    def hold(self, image_id: str, top: str | None) -> Held:
        """The root of an image below a scratch; a lease of ours protects it when this returns."""
        with lock:
            if self._pid != os.getpid():
                # A lease is not inherited by a forked process, nor is what it protects.
                self._pid, self._held, self._ready = os.getpid(), {}, {}
            found = self._held.get(image_id)
            if found is None:
                key = f"view-{os.urandom(16).hex()}"
                lease = self._parts.metadata.lease()
                lease.protect_snapshot(key, *([top] if top else ()))
                found = self._held[image_id] = Held(key, lease, _rootfs(self._parts, key, top))
        return found

    def enter(self, held: Held) -> bool:
        """A run begins; False if the image was removed since it was made ready."""
        with lock:
            held.runs += 1
            if not held.doomed:
                return True
        self.leave(held)
        return False

    def leave(self, held: Held) -> None:
        """A run has ended."""
        with lock:
            held.runs -= 1
            last = held.doomed and not held.runs
        if last:
            self._let_go(held)

    def forget(self, image_id: str) -> None:
        """Keep nothing of an image that is removed, once the runs that go on have ended."""
        with lock:
            self._ready = {key: ready for key, ready in self._ready.items() if key[0] != image_id}
            held = self._held.pop(image_id, None) if self._pid == os.getpid() else None
            if held is None:
                return
            held.doomed = True
            last = not held.runs
        if last:
            self._let_go(held)

    def close(self) -> None:
        """Let go of all."""
        for image_id in list(self._held):
            self.forget(image_id)

    def _let_go(self, held: Held) -> None:
        try:
            self._parts.snapshotter.remove(held.key)
        except PyruncError:
            pass  # collected, or the engine is closed: then a collection takes it
        try:
            held.lease.release()
        except FailedPrecondition:
            pass  # closed meanwhile: it ends with this process


def _rootfs(parts: "Parts", key: str, top: str | None) -> "Rootfs":
    # An image without layers is an empty directory. A scratch is above it in any case, since all runs share it.
    found = parts.snapshotter.prepare(key, None) if top is None else parts.snapshotter.view(key, top)
    return found._replace(scratch=True, upper="", work="")


def launcher(rootfs: "Rootfs", options: "SandboxOptions", said: "Rootfs | None" = None) -> Launcher:
    """The compiled plan of *options* on *rootfs*, which the plan calls *said*.

    Raises InvalidArgument, NotFound, Unsupported, naming the option.
    """
    layers = [*rootfs.layers, rootfs.upper] if rootfs.upper else rootfs.layers
    request = to_request(layers, options)
    root = (said or rootfs)._replace(
        scratch_bytes=options.get("scratch_bytes", 0), idmap=request.rootfs.idmap
    )
    try:
        return Launcher(request._replace(rootfs=root))
    except PyruncError as exc:
        raise in_terms_of_options(exc) from exc


def result(done: "RunResult", image_ns: int) -> ContainerResult:
    """What a run of an image left, which took *image_ns* to be there."""
    return ContainerResult(*done._replace(timings_ns={"image": image_ns, **done.timings_ns}))


def key_of(
    image_id: str, entrypoint: "Sequence[str] | None", options: "Mapping[str, object]"
) -> "tuple[object, ...]":
    """What stands for an image and options in a dict."""
    listed = None if entrypoint is None else tuple(entrypoint)
    if not options:
        return image_id, listed
    try:
        key = (image_id, listed, *sorted(options.items()))
        hash(key)
    except TypeError:
        key = (image_id, listed, repr(sorted(options.items(), key=lambda item: item[0])))
    return key
