"""Sphinx's settings; `./dev docs` builds build/docs. A page for each public object is written first, below docs/api."""

import inspect
import shutil
import sys
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE.parent))

import pyrunc  # noqa: E402
from docs import objects  # noqa: E402
from pyrunc import errors  # noqa: E402
from pyrunc.runtime.version import own_version  # noqa: E402

project = "pyrunc"
version = release = own_version()
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["api/README.md"]
html_theme = "alabaster"
html_theme_options = {"description": pyrunc.__doc__.partition("\n")[0], "page_width": "70em"}
html_show_copyright = False
smartquotes = False  # --rm is two hyphens
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": "tuple, dict, object"}
myst_heading_anchors = 3
# Links of the hand-written pages to files of the checkout.
suppress_warnings = ["myst.xref_missing"]

_GROUPS = (
    ("Engine", "pyrunc.engine", "Images, and containers of them"),
    ("Sandbox", "pyrunc.runtime", "Isolated processes, with neither image nor store"),
    ("Values", "pyrunc", "What is asked for and answered"),
)


def _pages() -> None:
    """Write docs/api: a page for each object, one for all errors, and their list."""
    directory = _HERE / "api"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    found = {name: cls for name, cls in objects.public().items() if not issubclass(cls, errors.PyruncError)}
    for name, cls in found.items():
        (directory / f"{name}.md").write_text(_page(name, cls))
    (directory / "errors.md").write_text(
        "# Errors\n\n```{eval-rst}\n"
        ".. automodule:: pyrunc.errors\n   :show-inheritance:\n   :no-inherited-members:\n```\n"
    )
    lines = ["# Objects", ""]
    left = dict(found)
    for title, package, text in _GROUPS:
        mine = [
            name
            for name, cls in left.items()
            if cls.__module__.startswith(package) and (package == "pyrunc" or not _is_value(cls))
        ]
        lines += [f"## {title}", "", f"{text}.", "", "```{toctree}", ":maxdepth: 1", "", *mine]
        lines += [*(["errors"] if package == "pyrunc" else []), "```", ""]
        left = {name: cls for name, cls in left.items() if name not in mine}
    (directory / "index.md").write_text("\n".join(lines))


def _is_value(cls: type) -> bool:
    return hasattr(cls, "_fields") or issubclass(cls, dict)


def _page(name: str, cls: type) -> str:
    place = f"pyrunc.{name}" if name in pyrunc.__all__ else f"{cls.__module__}.{name}"
    lines = [f"# {name}", "", "```{eval-rst}", f".. autoclass:: {place}"]
    if name not in pyrunc.__all__:
        lines.append("   :no-index-entry:")
    lines += ["```", ""]
    fields = vars(cls).get("__annotations__", {})
    if hasattr(cls, "_fields"):
        lines += ["| field | type |", "|---|---|"]
        lines += [
            f"| `{field}` | `{str(kind).replace('|', chr(92) + '|')}` |" for field, kind in fields.items()
        ]
    elif fields:  # options, whose meanings are comments
        source = Path(inspect.getsourcefile(cls) or "").relative_to(_HERE.parent)
        lines += [f"```{{literalinclude}} ../../{source}", f":pyobject: {name}", "```"]
    others = sorted({each.__name__ for each in objects.related(cls)} - {name})
    if others:
        lines += ["", "See also: " + ", ".join(f"[{each}]({_place(each)})" for each in others) + "."]
    return "\n".join(lines) + "\n"


def _place(name: str) -> str:
    found = objects.public()[name]
    return f"errors.md#pyrunc.errors.{name}" if issubclass(found, errors.PyruncError) else f"{name}.md"


def _skip(_app: object, _what: str, _name: str, value: Any, _skip: bool, _options: object) -> bool | None:
    """Leave out what is between modules, and the fields of tuples, which the table has."""
    if type(value).__name__ == "_tuplegetter" or getattr(value, "__qualname__", "") in objects.INTERNAL:
        return True
    return None


def _draw(_app: object, what: str, _name: str, _value: object, _options: object, lines: list[str]) -> None:
    """Show as it is what a module's docstring draws below its first line."""
    if what == "module" and len(lines) > 2 and lines[2].startswith(" "):
        lines[0] = lines[0].removesuffix(".") + "::"


def setup(app: Any) -> None:
    """Write the pages before Sphinx looks for them."""
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _draw)
    _pages()
