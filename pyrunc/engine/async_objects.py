"""The images, volumes and containers of an AsyncEngine: the Engine's, each verb on a thread.

Callbacks, such as *progress*, are called on that thread.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from pyrunc.engine.async_calls import Face, verb
from pyrunc.engine.async_container import AsyncContainer
from pyrunc.engine.containers import Containers
from pyrunc.engine.images import Images
from pyrunc.engine.volumes import Volumes

__all__ = ["AsyncContainers", "AsyncImages", "AsyncVolumes"]


class AsyncImages(Face[Images]):
    """As Images; callbacks, such as *progress*, are called on another thread."""

    load = verb(Images.load)
    save = verb(Images.save)
    import_ = verb(Images.import_)
    bootstrap = verb(Images.bootstrap)
    tag = verb(Images.tag)
    remove = verb(Images.remove)
    prune = verb(Images.prune)
    get = verb(Images.get)
    list = verb(Images.list)
    inspect = verb(Images.inspect)
    history = verb(Images.history)


class AsyncVolumes(Face[Volumes]):
    """As Volumes."""

    create = verb(Volumes.create)
    get = verb(Volumes.get)
    list = verb(Volumes.list)
    remove = verb(Volumes.remove)
    prune = verb(Volumes.prune)


class AsyncContainers(Face[Containers]):
    """As Containers."""

    list = verb(Containers.list)
    prune = verb(Containers.prune)

    async def create(self, image: str, argv: Sequence[str] | None = None, **wanted: Any) -> AsyncContainer:
        """Make a container and do not start it; the arguments are those of Containers.create.

        Raises what that does. If the task is cancelled, no container is left.
        """
        made = await self._threads.call(
            partial(self._target.create, image, argv, **wanted), lambda made: made.__exit__(None, None, None)
        )
        return AsyncContainer(self._threads, made)

    async def get(self, text: str) -> AsyncContainer:
        """The container of that id, name, or beginning of an id. Raises NotFound, InvalidArgument for several."""
        return AsyncContainer(self._threads, await self._threads.call(partial(self._target.get, text)))
