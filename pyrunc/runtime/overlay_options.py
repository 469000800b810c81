"""An overlay's layers as mount options: one text of at most a page for mount(2), or pairs for fsconfig(2)."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence

OPTIONS_MAX = 4095  # bytes; a page with its NUL
# What a module's parameters may have switched on and a layer cannot express: a renamed directory that points to its
# old place, a file with attributes only. index=on keeps a directory from being used by a second overlay in time.
_PLAIN = (("index", "off"), ("redirect_dir", "off"), ("metacopy", "off"))


def option_text(lowers: Sequence[str], upper: str = "", work: str = "", volatile: bool = False) -> str:
    """The options of an overlay of *lowers*, the lowest first, under *upper*; it may be longer than OPTIONS_MAX.

    *volatile* spares flushes. Source: kernel Documentation/filesystems/overlayfs.rst.
    """
    pairs = [("lowerdir", ":".join(_escape(layer) for layer in reversed(lowers)))]
    pairs += [(key, _escape(value)) for key, value in _upper(upper, work, volatile)]
    return ",".join(f"{key}={value}" if value else key for key, value in pairs)


def option_pairs(
    lowers: Sequence[str], upper: str = "", work: str = "", volatile: bool = False
) -> list[tuple[str, str]]:
    """The same as pairs, the layers one by one; at most 255 bytes each, and 500 layers (Linux 6.8)."""
    return [("lowerdir+", layer) for layer in reversed(lowers)] + _upper(upper, work, volatile)


def _upper(upper: str, work: str, volatile: bool) -> list[tuple[str, str]]:
    if not upper:
        return []
    return [("upperdir", upper), ("workdir", work), *_PLAIN, *([("volatile", "")] if volatile else [])]


def relative(paths: Sequence[str]) -> tuple[str, list[str]]:
    """The directory that all of *paths* (absolute) have in common, and the paths relative to it."""
    base = os.path.dirname(paths[0]) if len(paths) == 1 else os.path.commonpath(paths)
    return base, [os.path.relpath(path, base) for path in paths]


def _escape(path: str) -> str:
    """A path for the option text: ``,`` ends an option, ``:`` a layer."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
