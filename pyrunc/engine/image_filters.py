"""Which images a list has: Docker's filters, as its daemon understands them."""

from pyrunc.engine.argument_checks import pairs
from pyrunc.errors import InvalidArgument
from pyrunc.image import reference as references

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pyrunc.api import Image

    Filters = Iterable[tuple[str, str]]

_TRUE, _FALSE = frozenset(("1", "t", "true")), frozenset(("0", "f", "false"))


def select(
    images: "Sequence[Image]", filters: "Filters", everything: bool, get: "Callable[[str], Image]"
) -> "list[Image]":
    """Those of *images* that pass; *get* finds the image of ("before", …) and ("since", …).

    Raises InvalidArgument for an unknown filter or value, NotFound.
    """
    by = group(filters, ("dangling", "label", "label!", "before", "since", "reference", "until"))
    dangling = flag(by, "dangling")
    before = [get(name).created_ns for name in by.get("before", ())]
    since = [get(name).created_ns for name in by.get("since", ())]
    before += [moment_ns(text) for text in by.get("until", ())]
    parents = {image.parent for image in images}
    found = []
    for image in images:
        if (before and image.created_ns >= min(before)) or (since and image.created_ns <= max(since)):
            continue
        if not labelled(image.labels, by):
            continue
        named = _named(image, by["reference"]) if by.get("reference") else image
        if by.get("reference") and named.dangling:
            continue
        if image.dangling and ((image.id in parents and not everything) or dangling is False):
            continue
        if dangling and not image.dangling:
            continue
        found.append(named)
    return found


def group(filters: "Filters", known: "Sequence[str]") -> "dict[str, list[str]]":
    """The values of each filter. Raises InvalidArgument, in Docker's words, for one that is not *known*."""
    by: dict[str, list[str]] = {}
    for name, value in pairs(filters):
        if name not in known:
            raise InvalidArgument(f"Invalid filter '{name}'")
        by.setdefault(name, []).append(value)
    return by


def flag(by: "Mapping[str, Sequence[str]]", name: str) -> bool | None:
    """The value of a filter that is true or false; None where it is not given. Raises InvalidArgument."""
    values = by.get(name)
    if not values:
        return None
    if values[-1].lower() in _TRUE:
        return True
    if values[-1].lower() in _FALSE:
        return False
    raise InvalidArgument(f"Invalid filter '{name}=[{' '.join(values)}]'")


def labelled(labels: "Mapping[str, str]", by: "Mapping[str, Sequence[str]]") -> bool:
    """Whether *labels* have all of ``label`` and none of ``label!``, each ``key`` or ``key=value``."""

    def has(wanted: str) -> bool:
        key, equals, value = wanted.partition("=")
        return key in labels and (not equals or labels[key] == value)

    return all(has(each) for each in by.get("label", ())) and not any(
        has(each) for each in by.get("label!", ())
    )


def moment_ns(text: str) -> int:
    """A time, or so long ago, in nanoseconds since 1970. Raises InvalidArgument in Docker's words."""
    from pyrunc.engine.times import moment_ns as read

    try:
        return read(text)
    except ValueError as exc:
        raise InvalidArgument(str(exc)) from exc


def _named(image: "Image", patterns: "Sequence[str]") -> "Image":
    """*image* with only those of its names that match one of *patterns*."""

    def matches(name: str) -> bool:
        bare = references.parse(name).familiar_name
        return any(match(pattern, name) or match(pattern, bare) for pattern in patterns)

    return image._replace(
        references=tuple(filter(matches, image.references)), digests=tuple(filter(matches, image.digests))
    )


def match(pattern: str, text: str) -> bool:
    """Go's path.Match: ``*`` and ``?`` stop at a slash, ``[a-c]`` and ``[^x]`` are sets, a backslash quotes.

    Raises InvalidArgument for a pattern that is none.
    """
    import re

    out, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            end = pattern.find("]", at + 1)
            if end < 0:
                raise InvalidArgument(f"invalid reference filter '{pattern}': syntax error in pattern")
            body = pattern[at:end]
            negated = "^" if body.startswith("^") else ""
            inside = "-".join(re.escape(part) for part in body.removeprefix("^").split("-"))
            out.append(f"[{negated}{inside}]")
            at = end + 1
        else:
            if char == "\\":
                if at == len(pattern):
                    raise InvalidArgument(f"invalid reference filter '{pattern}': syntax error in pattern")
                char = pattern[at]
                at += 1
            out.append(re.escape(char))
    try:
        return re.fullmatch("".join(out), text, re.DOTALL) is not None
    except re.error as exc:
        raise InvalidArgument(f"invalid reference filter '{pattern}': syntax error in pattern") from exc
