"""What --format makes of rows: a table, a template for each row, or JSON."""

from __future__ import annotations

from pyrunc.cli.table import align
from pyrunc.cli.template import Template, TemplateError
from pyrunc.cli.values import Struct, encode

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

__all__ = ["TemplateError", "rows"]

JSON = "{{json .}}"
# In a table's header a function leaves its text alone, so that {{upper .ID}} still has "IMAGE ID" above it.
_PLAIN: Mapping[str, Callable[..., str]] = {
    name: (lambda text, *_: text) for name in ("json", "title", "lower", "upper", "truncate")
} | {"join": lambda text, *_: text, "split": lambda text, *_: text, "pad": lambda text, *_: text}


class Row(Struct):
    """One line of a list, whose type Docker's errors name; in JSON its keys are sorted and its text safe in HTML."""


def rows(template: str, lines: Sequence[Row], headers: Mapping[str, Any], type_name: str) -> str:
    """All *lines* as *template* wants them: ``table …``, ``json``, or a template for each.

    *headers* are the titles of a table's columns by field. *type_name* is what errors call a line.
    Raises TemplateError, also when there are no lines.
    """
    table = template.startswith("table")
    text = template.removeprefix("table").strip(" ").replace("\\t", "\t").replace("\\n", "\n")
    if text == "json":
        text = JSON
    kind = type("Line", (Row,), {"type_name": type_name})
    compiled = Template(text, {"json": _json})
    out = [compiled.execute(_typed(kind, line)) for line in lines]
    if not table:
        return "".join(f"{line}\n" for line in out)
    header = Template(text, _PLAIN).execute(dict(headers))
    return align("".join(f"{line}\n" for line in [header, *out]))


def _typed(kind: type[Row], line: Row) -> Row:
    found = kind(line)
    found.missing = line.missing
    return found


def _json(value: object) -> str:
    if isinstance(value, Row):
        return encode(dict(value), escape=True)
    return encode(value)


def documents(template: str | None, values: Iterable[Struct]) -> str:
    """Inspected objects: indented JSON, ``json`` for one line, or a template for each. Raises TemplateError."""
    if template in (None, ""):
        listed = list(values)
        return encode(listed, indent=4) + "\n" if listed else "[]\n"
    if template == "json":
        return encode(list(values)) + "\n"
    compiled = Template(str(template))
    return "".join(f"{compiled.execute(value)}\n" for value in values)
