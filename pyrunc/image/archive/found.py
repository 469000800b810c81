"""An image that was found in an archive, before it is one of the store's."""

from typing import NamedTuple

from pyrunc.errors import Unsupported
from pyrunc.image.reference import Reference
from pyrunc.spec.image import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Found(NamedTuple):
    """The arguments of `ImageStore.add`; *size* is what the layers are when uncompressed, in bytes."""

    config: bytes
    layers: tuple[Descriptor, ...]
    manifest: bytes | None
    references: tuple[Reference, ...]
    size: int


def check_os(config: "Mapping[str, Any]") -> None:
    """Refuse an image for another system, in Docker's words. Raises Unsupported."""
    name = config.get("os")
    if name not in (None, "", "linux"):
        raise Unsupported(f"cannot load {name} image on linux")
