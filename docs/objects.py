"""Which objects are public and have a page: those of pyrunc.__all__, and what their methods take and return."""

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any

import pyrunc

# Between modules of pyrunc itself, though without an underscore.
INTERNAL = frozenset((
    "AttachClient", "Threads", "AsyncSandbox.of_launcher", "AsyncSandbox.run_by", "AsyncAttachment.ready",
    "Images.shipped", "Images.unpack", "RunResult.of",
    "Sandbox.of_launcher", "Sandbox.run_by", "Volumes.claim", "Volumes.damage", "Volumes.data", "Volumes.ensure_data",
    "Volumes.is_known", "Volumes.mount_points", "Volumes.release", "Volumes.users", "Volumes.close",
))  # fmt: skip


@cache
def public() -> dict[str, type]:
    """All public classes by their name, those of pyrunc.__all__ first, then in the order in which they are found."""
    found: dict[str, type] = {}
    left: list[type] = []
    for name in pyrunc.__all__:
        value = getattr(pyrunc, name)
        left += _classes(value) if isinstance(value, ModuleType) else [value]
    while left:
        each = left.pop(0)
        if found.setdefault(each.__name__, each) is not each:
            raise ValueError(
                f"two public objects are called {each.__name__}: {each} and {found[each.__name__]}"
            )
        left += [other for other in related(each) if other not in found.values() and other not in left]
    return found


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of *cls* that pyrunc defines, inherited ones too, by their name."""
    for name in dir(cls):
        owner = next((base for base in cls.__mro__ if name in vars(base)), object)
        if name.startswith("_") or not _is_ours(owner) or f"{owner.__name__}.{name}" in INTERNAL:
            continue
        value = vars(owner)[name]
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if inspect.isfunction(value) or isinstance(value, property):
            yield name, value


def _classes(module: ModuleType) -> list[type]:
    return [
        value
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_")
    ]


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "pyrunc" and cls.__module__ != "pyrunc.records"


def related(cls: type) -> Iterator[type]:
    """The classes of pyrunc that the annotations of *cls*, its methods and its attributes name."""
    functions: list[Callable[..., Any]] = [
        function
        for _, value in members(cls)
        for function in ((value.fget,) if isinstance(value, property) else (value,))
        if function is not None
    ]
    if "__init__" in vars(cls) and cls.__name__ in pyrunc.__all__:
        functions.append(vars(cls)["__init__"])
    for function in functions:
        for annotation in function.__annotations__.values():
            yield from _resolved(str(annotation), function.__module__)
    for annotation in vars(cls).get("__annotations__", {}).values():
        yield from _resolved(str(annotation), cls.__module__)
    for text in _attributes(cls):
        yield from _resolved(text, cls.__module__)


def _attributes(cls: type) -> Iterator[str]:
    """The classes whose objects `__init__` makes and keeps under a public name."""
    for node in ast.walk(_tree(cls.__module__)):
        if not isinstance(node, ast.ClassDef) or node.name != cls.__name__:
            continue
        for part in ast.walk(node):
            if (
                isinstance(part, ast.Assign)
                and isinstance(part.targets[0], ast.Attribute)
                and not part.targets[0].attr.startswith("_")
                and isinstance(part.value, ast.Call)
                and isinstance(part.value.func, ast.Name)
            ):
                yield part.value.func.id


def _resolved(annotation: str, module: str) -> Iterator[type]:
    """The public classes of pyrunc in an annotation, as a type checker reads it in *module*."""
    for word in re.findall(r"[A-Za-z_][\w.]*", annotation):
        name = word.rpartition(".")[2]
        value = vars(importlib.import_module(module)).get(name)
        if isinstance(value, type):
            if _is_ours(value) and not name.startswith("_") and name not in INTERNAL:
                yield value
        elif value is None:
            yield from _only_checked(name, module)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(module)))


def _only_checked(name: str, module: str) -> Iterator[type]:
    """What *name* means where only type checkers look: something imported, or another name for it."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("pyrunc"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    yield from _resolved(alias.name, str(node.module))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = ast.unparse(node.value)
            if node.targets[0].id == name and node.col_offset and name not in text:
                yield from _resolved(text, module)
