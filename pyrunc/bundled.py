"""The modules of a cold start in one file: the byte code that Python would find in fifty, without looking for each.

To find a module and to open its byte code takes a dozen steps in Python itself; for those of a cold `create` that was
a fifth of the CPU time which the interpreter and all imports take together. The file lies among Python's own caches
and is one of them: a start that finds it missing or out of date imports as ever, watches what and in which order, and
writes it. It is used whole, and only while each source and each shared library has the time and size that it had.

What a later start imports beyond that is added, and read when it is asked for: what is rare is not loaded by all.
"""

import sys
from _frozen_importlib import ModuleSpec, _load  # type: ignore[attr-defined]
from _frozen_importlib_external import (
    MAGIC_NUMBER,
    ExtensionFileLoader,
    PathFinder,
    SourceFileLoader,
)
from marshal import dumps, loads
from posix import stat

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType
    from typing import Any

    # Name, file, its time in ns, its size, whether it is a package, its code: None of a shared library and of this
    # module, bytes of what is read late.
    Entry = tuple[str, str, int, int, bool, Any]

_finder: "Finder | None" = None


class Finder:
    """Finds what is read late, and sees what is imported in other ways.

    *kind* names the file, *taken* are its entries if it was used, *late* those that are not loaded yet.
    """

    def __init__(self, kind: str, taken: "Sequence[Entry]", late: "dict[str, Entry]") -> None:
        self.kind = kind
        self.taken = taken
        self.late = late
        self.finished: list[str] = []

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> ModuleSpec | None:
        """The module *name*; what is not in the file, where Python finds it."""
        entry = self.late.get(name)
        if entry is not None and _seen(entry[1]) == entry[2:4]:
            return _spec(entry, _Late(name, entry[1], entry[5]))
        spec: ModuleSpec | None = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) in (SourceFileLoader, ExtensionFileLoader):
            loader: Any = spec.loader
            loader.exec_module = _Noting(loader.exec_module, self.finished)
        return spec


class _Late(SourceFileLoader):
    """Loads a module whose marshalled code is *code*."""

    def __init__(self, name: str, path: str, code: bytes) -> None:
        super().__init__(name, path)
        self.code = code

    def get_code(self, fullname: str) -> "CodeType":  # noqa: ARG002
        """The module's."""
        found: CodeType = loads(self.code)
        return found


class _Noting:
    """Runs a module, and notes when that is done; before it all that it imports is."""

    def __init__(self, run: "Any", finished: list[str]) -> None:
        self.run = run
        self.finished = finished

    def __call__(self, module: "ModuleType") -> None:
        self.run(module)
        self.finished.append(module.__name__)


def _spec(entry: "Entry", loader: "Any") -> ModuleSpec:
    spec = ModuleSpec(entry[0], loader, origin=entry[1], is_package=entry[4])
    spec.has_location = True
    if spec.submodule_search_locations is not None:
        spec.submodule_search_locations.append(entry[1].rpartition("/")[0])
    return spec


def _seen(path: str) -> tuple[int, int] | None:
    try:
        status = stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def take(own: "ModuleType", kind: str, content: "Any") -> bool:
    """Make all modules of a file's *content*, unless one is out of date; whether they were made.

    Called with this module, *own*, made from the file and not imported yet.
    """
    eager: Sequence[Entry] = content[2]
    for entry in eager:
        status = stat(entry[1])
        if status.st_mtime_ns != entry[2] or status.st_size != entry[3]:
            return False
    modules = sys.modules
    made = []
    try:
        for entry in eager:
            name = entry[0]
            if name in modules:
                continue
            made.append(name)
            if entry[5] is not None:
                module = _make(type(own)(name), entry)
                modules[name] = module
                exec(entry[5], module.__dict__)
            elif name == own.__name__:
                module = modules[name] = _make(own, entry)
            else:
                module = _load(_spec(entry, ExtensionFileLoader(name, entry[1])))
            parent, _, leaf = name.rpartition(".")
            if parent:
                setattr(modules[parent], leaf, module)
    except Exception:  # noqa: BLE001
        # It was saved of a start in which this order was possible; whatever it is now, imports tell it better.
        for name in made:
            modules.pop(name, None)
        return False
    _watch(kind, eager, content[3])
    return True


def _make(module: "ModuleType", entry: "Entry") -> "ModuleType":
    """What Python's import gives to a module."""
    name, path = entry[:2]
    loader = SourceFileLoader(name, path)
    module.__spec__ = spec = _spec(entry, loader)
    module.__loader__ = loader
    module.__file__ = path
    if entry[4]:
        module.__path__ = spec.submodule_search_locations  # type: ignore[assignment]
        module.__package__ = name
    else:
        module.__package__ = name.rpartition(".")[0]
    return module


def watch(kind: str) -> None:
    """See what is imported from here on, unless a file was taken: for `save` to write it to that of *kind*."""
    if _finder is None:
        _watch(kind, (), {})


def _watch(kind: str, taken: "Sequence[Entry]", late: "dict[str, Entry]") -> None:
    global _finder
    _finder = Finder(kind, taken, late)
    # Behind those of what is built in and frozen.
    sys.meta_path.insert(2, _finder)


def save() -> None:
    """Write what was imported in other ways since `watch`. Nothing is raised: without it all works too."""
    if _finder is None or not _finder.finished:
        return
    found: list[Entry] = []
    for name in ("pyrunc", __name__, *_finder.finished):
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if spec is None or spec.origin is None:
            continue
        seen = _seen(spec.origin)
        code = spec.loader.get_code(name)
        if seen is not None and _seen(spec.origin) == seen:
            package = spec.submodule_search_locations is not None
            found.append((name, spec.origin, *seen, package, None if name == __name__ else code))
    own = __spec__.loader.get_code(__name__)  # type: ignore[union-attr]
    if not _finder.taken:
        _write(_finder.kind, (MAGIC_NUMBER, own, found, {}))
        return
    late = _finder.late | {entry[0]: (*entry[:5], dumps(entry[5])) for entry in found[2:] if entry[5]}
    if late != _finder.late:
        _write(_finder.kind, (MAGIC_NUMBER, own, _finder.taken, late))


def _write(kind: str, content: "Any") -> None:
    import os

    path = f"{__file__.rpartition('/')[0]}/__pycache__/{kind}.{sys.implementation.cache_tag}.bin"
    temporary = f"{path}.{os.getpid()}"
    try:
        # Whatever the caller's umask is: who may write to it has its bytes executed by others.
        with open(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb"
        ) as file:
            file.write(dumps(content))
        os.rename(temporary, path)
    except OSError:
        try:
            os.unlink(temporary)
        except OSError:
            pass
