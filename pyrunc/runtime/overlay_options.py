"""An overlay's layers as mount options: one text of at most a page for mount(2), or pairs for fsconfig(2)."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence

OPTIONS_MAX = 4095  # bytes; a page with its NUL
# What a module's parameters may have switched on and a layer cannot express: a renamed directory that points to its
# old place, a file with attributes only. index=on keeps a directory from being used by a second overlay in time.
_LAYER = (("index", "off"), ("redirect_dir", "off"), ("metacopy", "off"))
_VOLATILE = ("volatile", "")


def writable(upper: str, work: str, *, volatile: bool, layer: bool) -> list[tuple[str, str]]:
    """The options of an overlay that can be written to: *volatile* spares flushes, *layer* keeps *upper* expressible.

    The latter is refused to a user namespace. Source: kernel Documentation/filesystems/overlayfs.rst.
    """
    return [
        ("upperdir", upper),
        ("workdir", work),
        *(_LAYER if layer else ()),
        *((_VOLATILE,) if volatile else ()),
    ]


def option_text(lowers: Sequence[str], options: Sequence[tuple[str, str]] = ()) -> str:
    """The options of an overlay of *lowers*, the lowest first, for mount(2); it may be longer than OPTIONS_MAX."""
    pairs = [("lowerdir", ":".join(_escape(layer) for layer in reversed(lowers)))]
    pairs += [(key, _escape(value)) for key, value in options]
    return ",".join(f"{key}={value}" if value else key for key, value in pairs)


def option_pairs(lowers: Sequence[str], options: Sequence[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """The same for fsconfig(2), the layers one by one; at most 255 bytes each, and 500 layers (Linux 6.8)."""
    return [*(("lowerdir+", layer) for layer in reversed(lowers)), *options]


def relative(paths: Sequence[str]) -> tuple[str, list[str]]:
    """The directory that all of *paths* (absolute) have in common, and the paths relative to it."""
    base = os.path.dirname(paths[0]) if len(paths) == 1 else os.path.commonpath(paths)
    return base, [os.path.relpath(path, base) for path in paths]


def _escape(path: str) -> str:
    """A path for the option text: ``,`` ends an option, ``:`` a layer."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
