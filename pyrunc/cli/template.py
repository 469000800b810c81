"""Go templates as Docker's users write them after --format.

Fields, variables, pipelines, if, with, range, break, continue, Go's own functions, and Docker's: json, join, split,
lower, upper, title, pad, truncate. Source: the Go documentation of text/template; Docker, "Format output".
"""

import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pyrunc.cli.printf import printf, spaced
from pyrunc.cli.template_parse import Node, TemplateError, parse
from pyrunc.cli.values import NIL, Method, Struct, encode, shown, truth

__all__ = ["Template", "TemplateError"]

_NO_VALUE = "<no value>"
_MOST_CHARACTERS = (
    64 << 20
)  # of output; a template that makes more is a mistake, and would take the memory of all


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class _CallError(Exception):
    """What a function says; the template says where."""


class _Missing(NamedTuple):
    """An operand that was not given; nil is a value."""


_MISSING = _Missing()


class Template:
    """A template that was parsed, to be executed on many values.

    *overrides* are functions in the place of Docker's, as for the header of a table. Raises TemplateError.
    """

    def __init__(self, text: str, overrides: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self._functions = {**_FUNCTIONS, **(overrides or {})}
        self._text = text
        try:
            self._tree = parse(text, {*self._functions, *_LAZY})
        except RecursionError:
            raise TemplateError("template: :1: nested too deeply") from None

    def execute(self, value: Any) -> str:
        """The text for *value*. A Struct's missing field is an error, another dict's key prints as <no value>.

        Raises TemplateError.
        """
        run = _Run(self._text, self._functions, value)
        try:
            run.walk(self._tree, value)
        except RecursionError:
            raise TemplateError("template: :1: nested too deeply") from None
        return "".join(run.out)


class _Run:
    def __init__(self, text: str, functions: Mapping[str, Callable[..., Any]], root: Any) -> None:
        self.text = text
        self.functions = functions
        self.out: list[str] = []
        self.left = _MOST_CHARACTERS
        self.variables: list[tuple[str, Any]] = [("$", root)]

    def fail(self, node: Node, words: str) -> TemplateError:
        line = self.text.count("\n", 0, node.at) + 1
        column = node.at - (self.text.rfind("\n", 0, node.at) + 1)
        return TemplateError(f'template: :{line}:{column}: executing "" at <{node.text}>: {words}')

    def put(self, node: Node, text: str) -> None:
        self.left -= len(text)
        if self.left < 0:
            raise self.fail(node, f"the output is longer than {_MOST_CHARACTERS} characters")
        self.out.append(text)

    # --- actions

    def walk(self, node: Node, dot: Any) -> None:
        for child in node.nodes:
            if child.kind == "text":
                self.put(child, child.value)
            elif child.kind == "action":
                value = self.pipe(child.nodes[0], dot)
                if not child.nodes[0].names:
                    self.put(child, _NO_VALUE if value is None else shown(value))
            elif child.kind == "break":
                raise _Break
            elif child.kind == "continue":
                raise _Continue
            else:
                known = len(self.variables)
                self.block(child, dot)
                del self.variables[known:]

    def block(self, node: Node, dot: Any) -> None:
        pipe, body, other = node.nodes
        if node.kind == "range":
            self.loop(pipe, body, other, dot)
            return
        value = self.pipe(pipe, dot)
        if truth(value):
            self.walk(body, value if node.kind == "with" else dot)
        else:
            self.walk(other, dot)

    def loop(self, pipe: Node, body: Node, other: Node, dot: Any) -> None:
        value = self.pipe(pipe._replace(names=()), dot)
        if isinstance(value, dict) and not isinstance(value, Struct):
            pairs: Iterable[tuple[Any, Any]] = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, int) and not isinstance(value, bool):
            pairs = zip(range(value), range(value), strict=True)
        elif isinstance(value, list | tuple):
            pairs = list(enumerate(value))
        elif value is None:
            pairs = []
        else:
            raise self.fail(pipe, f"range can't iterate over {shown(value)}")
        known = len(self.variables)
        empty = True
        for key, item in pairs:
            empty = False
            if len(pipe.names) == 2:
                self.variables += [(pipe.names[0], key), (pipe.names[1], item)]
            elif pipe.names:
                self.variables.append((pipe.names[0], item))
            try:
                self.walk(body, item)
            except _Continue:
                pass
            except _Break:
                break
            finally:
                del self.variables[known:]
        if empty:
            self.walk(other, dot)

    # --- values

    def pipe(self, node: Node, dot: Any) -> Any:
        value: Any = _MISSING
        for command in node.nodes:
            value = self.command(command, dot, value)
        for name in node.names:
            if node.declares:
                self.variables.append((name, value))
            else:
                for place in range(len(self.variables) - 1, -1, -1):
                    if self.variables[place][0] == name:
                        self.variables[place] = (name, value)
                        break
        return value

    def command(self, node: Node, dot: Any, final: Any) -> Any:
        first, *rest = node.nodes
        if first.kind == "call":
            return self.call(first, node, rest, dot, final)
        if rest or final is not _MISSING:
            if first.kind in ("field", "var", "chain", "pipe"):
                value = self.value(first, dot)
                if isinstance(value, Method):
                    given = [self.value(node, dot) for node in rest] + ([] if final is _MISSING else [final])
                    return self.method(first, value, given)
                raise self.fail(
                    first, f"{first.text.split('.')[-1]} is not a method but has arguments: {shown(value)}"
                )
            raise self.fail(first, f"can't give argument to non-function {first.text}")
        value = self.value(first, dot)
        return self.method(first, value, []) if isinstance(value, Method) else value

    def method(self, node: Node, method: Method, given: list[Any]) -> str:
        name = node.text.split(".")[-1]
        if len(given) != 1:
            raise self.fail(node, f"wrong number of args for {name}: want 1 got {len(given)}")
        if not isinstance(given[0], str):
            raise self.fail(node, f"expected string; found {shown(given[0])}")
        return method.call(given[0])

    def value(self, node: Node, dot: Any) -> Any:
        if node.kind == "dot":
            return dot
        if node.kind == "nil":
            raise self.fail(node, "nil is not a command")
        if node.kind in ("string", "number", "bool"):
            return node.value
        if node.kind == "field":
            return self.fields(node, node.value, dot)
        if node.kind == "var":
            found = next(value for name, value in reversed(self.variables) if name == node.value[0])
            return self.fields(node, node.value[1:], found)
        if node.kind == "chain":
            return self.fields(node, node.value, self.value(node.nodes[0], dot))
        if node.kind == "call":
            return self.call(node, node, [], dot, _MISSING)
        known = len(self.variables)
        found = self.pipe(node.nodes[0], dot)
        del self.variables[known:]
        return found

    def fields(self, node: Node, names: tuple[str, ...], value: Any) -> Any:
        for name in names:
            value = self.field(node, name, value)
        return value

    def field(self, node: Node, name: str, value: Any) -> Any:
        if isinstance(value, dict):
            if name in value:
                return value[name]
            if isinstance(value, Struct):
                if name in value.aliases:
                    return value[value.aliases[name]]
                if name in value.missing:
                    return value.missing[name]
                if value.type_name:
                    raise self.fail(node, f"can't evaluate field {name} in type {value.type_name}")
                raise self.fail(node, f'map has no entry for key "{name}"')
            return None  # of what Go has as a map: prints as <no value>
        if value is None or value is NIL:
            raise self.fail(node, f"nil pointer evaluating interface {{}}.{name}")
        raise self.fail(node, f"can't evaluate field {name} in type interface {{}}")

    # --- functions

    def call(self, function: Node, node: Node, operands: list[Node], dot: Any, final: Any) -> Any:
        name = function.value
        count = len(operands) + (final is not _MISSING)
        if name in _LAZY:
            if not count:
                raise self.fail(node, f"wrong number of args for {name}: want at least 1 got 0")
            value: Any = None
            for operand in operands:
                value = self.argument(operand, dot)
                if truth(value) == (name == "or"):
                    return value
            return value if final is _MISSING else final
        arguments = [self.argument(operand, dot) for operand in operands]
        if final is not _MISSING:
            arguments.append(final)
        call = self.functions[name]
        low, high = _ARITY.get(name, (0, None))
        if count < low or (high is not None and count > high):
            wanted = f"want {low}" if low == high else f"want at least {low}"
            raise self.fail(node, f"wrong number of args for {name}: {wanted} got {count}")
        try:
            return call(*arguments)
        except (_CallError, ValueError, TypeError, AttributeError) as exc:
            words = str(exc) if isinstance(exc, _CallError) else "wrong type of argument"
            raise self.fail(node, f"error calling {name}: {words}") from exc

    def argument(self, node: Node, dot: Any) -> Any:
        return None if node.kind == "nil" else self.value(node, dot)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _CallError(f"wrong type for value; expected string; got {_type(value)}")
    return value


def _type(value: Any) -> str:
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float64"
    if isinstance(value, str):
        return "string"
    return "[]interface {}" if isinstance(value, list | tuple) else "map[string]interface {}"


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, list | tuple | str):
            if isinstance(key, bool) or not isinstance(key, int):
                raise _CallError(f"cannot index slice/array with type {_type(key)}")
            if not 0 <= key < len(value):
                raise _CallError(f"index out of range: {key}")
            value = ord(value[key]) if isinstance(value, str) else value[key]
        elif isinstance(value, dict) and not (isinstance(value, Struct) and value.type_name):
            if not isinstance(key, str):
                raise _CallError(f"value has type {_type(key)}; should be string")
            value = value.get(key, "" if value and all(isinstance(v, str) for v in value.values()) else None)
        elif value is None:
            raise _CallError("index of untyped nil")
        else:
            raise _CallError(f"can't index item of type {_type(value)}")
    return value


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, list | tuple | str):
        raise _CallError(f"can't slice item of type {_type(value)}")
    for bound in bounds:
        if isinstance(bound, bool) or not isinstance(bound, int):
            raise _CallError(f"cannot index slice/array with type {_type(bound)}")
        if not 0 <= bound <= len(value):
            raise _CallError(f"index out of range: {bound}")
    if len(bounds) == 2 and bounds[0] > bounds[1]:
        raise _CallError(f"invalid slice index: {bounds[0]} > {bounds[1]}")
    return value[slice(*bounds)] if len(bounds) > 1 else value[bounds[0] if bounds else 0 :]


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogateescape"))
    if isinstance(value, list | tuple | dict):
        return len(value)
    raise _CallError(f"len of {'nil pointer' if value is None else 'type ' + _type(value)}")


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise _CallError("missing argument for comparison")
    for other in others:
        if None not in (first, other) and (_kind(first) != _kind(other)):
            raise _CallError("incompatible types for comparison")
        if first == other:
            return True
    return False


def _kind(value: Any) -> str:
    if isinstance(value, list | dict | tuple):
        raise _CallError(f"non-comparable type {shown(value)}: {_type(value)}")
    return _type(value)


def _order(first: Any, second: Any) -> int:
    if _kind(first) != _kind(second):
        raise _CallError("incompatible types for comparison")
    if isinstance(first, bool) or first is None:
        raise _CallError("invalid type for comparison")
    return int(first > second) - int(first < second)


def _join(items: Any, separator: Any) -> str:
    if not isinstance(items, list | tuple):
        raise _CallError(f"wrong type for value; expected []string; got {_type(items)}")
    return _text(separator).join(_text(item) for item in items)


def _title(text: Any) -> str:
    return re.sub(r"[^\W\d_]+(?:['\w]*)", lambda word: word[0][:1].upper() + word[0][1:], _text(text))


def _pad(text: Any, before: Any, after: Any) -> str:
    if before + after > _MOST_CHARACTERS:
        raise _CallError(f"more than {_MOST_CHARACTERS} spaces")
    return " " * before + text + " " * after if _text(text) else ""


def _truncate(text: Any, length: Any) -> str:
    return _text(text)[:length]


def _html(*values: Any) -> str:
    table = str.maketrans(
        {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;", "\0": "\ufffd"}
    )
    return spaced(values).translate(table)


_LAZY = ("and", "or")
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "not": lambda value: not truth(value),
    "len": _length, "index": _index, "slice": _slice,
    "eq": _equal, "ne": lambda first, second: not _equal(first, second),
    "lt": lambda a, b: _order(a, b) < 0, "le": lambda a, b: _order(a, b) <= 0,
    "gt": lambda a, b: _order(a, b) > 0, "ge": lambda a, b: _order(a, b) >= 0,
    "print": lambda *values: spaced(values), "println": lambda *values: " ".join(map(shown, values)) + "\n",
    "printf": printf, "html": _html, "urlquery": lambda *values: urllib.parse.quote_plus(spaced(values)),
    "js": lambda *values: encode(spaced(values), escape=True)[1:-1],
    "json": encode, "join": _join, "split": lambda text, separator: _text(text).split(_text(separator)),
    "lower": lambda text: _text(text).lower(), "upper": lambda text: _text(text).upper(),
    "title": _title, "pad": _pad, "truncate": _truncate,
}  # fmt: skip
_ARITY: dict[str, tuple[int, int | None]] = {
    "not": (1, 1), "len": (1, 1), "index": (1, None), "slice": (1, 4), "eq": (1, None), "ne": (2, 2),
    "lt": (2, 2), "le": (2, 2), "gt": (2, 2), "ge": (2, 2), "printf": (1, None), "json": (1, 1), "join": (2, 2),
    "split": (2, 2), "lower": (1, 1), "upper": (1, 1), "title": (1, 1), "pad": (3, 3), "truncate": (2, 2),
}  # fmt: skip
