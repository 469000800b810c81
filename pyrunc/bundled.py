"""The modules of a cold start in one file: the byte code that Python would find in fifty, without looking for each.

To find a module and to open its byte code takes a dozen steps in Python itself; for those of a cold `create` that was
a fifth of the CPU time which the interpreter and all imports take together. The file lies among Python's own caches
and is one of them: a start that finds it missing or out of date imports as ever, watches what and in which order, and
writes it. It is used whole, by the same Python, and only while each source and each shared library has the time and
size that it had. What is neither pyrunc's nor the standard library's is never in it.

What two starts have imported is made at once by the third, in that order. What is rare is in a second file, and read
when it is asked for.
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
from posix import W_OK, access, stat

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType
    from typing import Any

    # Name, file, its time in ns, its size, whether it is a package, its code: None of a shared library and of this
    # module, marshalled of what is read late.
    Entry = tuple[str, str, int, int, bool, Any]

_NAMES = ("pyrunc", __name__)  # of these a start has need anyway
_finder: "Finder | None" = None


class Finder:
    """Finds what is read late, and sees what is imported in other ways.

    *kind* names the file, *taken* are the modules that were made from it.
    """

    def __init__(self, kind: str, taken: "Sequence[Entry]") -> None:
        self.kind = kind
        self.taken = taken
        self.finished: list[str] = []
        self._late: dict[str, Entry] | None = None if taken else {}

    @property
    def late(self) -> "dict[str, Entry]":
        """The modules that are read late."""
        if self._late is None:
            self._late = {}
            try:
                with open(_place(f"{self.kind}-late"), "rb", 0) as file:
                    whose, late = loads(file.read())
                if whose == _whose():
                    self._late = late
            except (OSError, EOFError, ValueError, TypeError):
                pass
        return self._late

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> ModuleSpec | None:
        """The module *name*; what is not in the file, where Python finds it."""
        entry = self.late.get(name)
        if entry is not None and entry[5] is not None and _seen(entry[1]) == entry[2:4]:
            spec = _spec(entry, _Late(name, entry[1], entry[5]))
        else:
            found: ModuleSpec | None = PathFinder.find_spec(name, path, target)
            if found is None or type(found.loader) not in (SourceFileLoader, ExtensionFileLoader):
                return found
            spec = found
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


def begin(kind: str) -> None:
    """Make the modules that the file *kind* has, or see what is imported from here on, for `save` to write it."""
    if _finder is not None:
        return
    try:
        with open(_place(kind), "rb", 0) as file:
            if take(sys.modules[__name__], kind, loads(file.read())):
                return
    except (OSError, EOFError, ValueError, TypeError, IndexError):
        pass
    _watch(kind, ())


def take(own: "ModuleType", kind: str, content: "Any") -> bool:
    """Make all modules of a file's *content*, unless one is out of date; whether they were made.

    *own* is this module, which may have been made from the file and not been imported yet.
    """
    if content[0] != _whose():
        return False
    eager: Sequence[Entry] = content[2]
    for entry in eager:
        status = stat(entry[1])
        if status.st_mtime_ns != entry[2] or status.st_size != entry[3]:
            return False
    modules = sys.modules
    made: list[str] = []
    try:
        for entry in eager:
            name = entry[0]
            if name in modules and name not in made:
                continue
            parent, _, leaf = name.rpartition(".")
            if parent and parent not in modules:
                # A package that imports its own modules: it has begun, and ends behind them.
                made.append(parent)
                modules[parent] = _make(type(own)(parent), next(each for each in eager if each[0] == parent))
            if entry[5] is not None:
                module = modules.get(name) or _make(type(own)(name), entry)
                made.append(name)
                modules[name] = module
                exec(entry[5], module.__dict__)
            elif name == own.__name__:
                made.append(name)
                module = modules[name] = _make(own, entry)
            else:
                made.append(name)
                module = _load(_spec(entry, ExtensionFileLoader(name, entry[1])))
            if parent:
                setattr(modules[parent], leaf, module)
    except Exception:  # noqa: BLE001
        # It was saved of a start in which this order was possible; whatever it is now, imports tell it better.
        for name in made:
            modules.pop(name, None)
        return False
    _watch(kind, eager)
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


def _whose() -> "tuple[bytes, str, str, int]":
    """Which Python: byte code and shared libraries are those of one."""
    return MAGIC_NUMBER, sys.version, sys.base_exec_prefix, sys.flags.optimize


def _watch(kind: str, taken: "Sequence[Entry]") -> None:
    global _finder
    _finder = Finder(kind, taken)
    # Behind those of what is built in and frozen.
    sys.meta_path.insert(2, _finder)


def save() -> None:
    """Write what was imported in other ways since `begin`. Nothing is raised: without it all works too."""
    finder = _finder
    if finder is None or not finder.finished or sys.dont_write_bytecode:
        return
    if not access(f"{__file__.rpartition('/')[0]}/__pycache__", W_OK):
        return
    again = [finder.late[name] for name in finder.finished if name in finder.late]
    new = {entry[0]: entry for entry in map(_entry, finder.finished) if entry and entry not in again}
    taken, late = finder.taken, finder.late | new
    if len(taken) <= len(_NAMES):
        taken = [entry for entry in map(_entry, _NAMES) if entry]
        if finder.late:
            taken += [entry for entry in again if late.pop(entry[0]) is entry]
        taken = [(*entry[:5], loads(entry[5]) if entry[5] else None) for entry in taken]
    elif not new:
        return
    _write(f"{finder.kind}-late", (_whose(), late))
    if taken is not finder.taken:
        _write(finder.kind, (_whose(), __spec__.loader.get_code(__name__), taken))  # type: ignore[union-attr]


def _entry(name: str) -> "Entry | None":
    """What the file says of a module that is there; None of one that is none of the file's business."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    ours = (f"{__file__.rpartition('/')[0]}/", f"{sys._stdlib_dir}/")  # type: ignore[attr-defined]  # noqa: SLF001
    if spec is None or not (spec.origin or "").startswith(ours):
        return None
    seen = _seen(spec.origin)
    code = None if name == __name__ else spec.loader.get_code(name)
    if seen is None or _seen(spec.origin) != seen:
        return None
    return name, spec.origin, *seen, spec.submodule_search_locations is not None, code and dumps(code)


def _place(kind: str) -> str:
    return f"{__file__.rpartition('/')[0]}/__pycache__/{kind}.{sys.implementation.cache_tag}.bin"


def _write(kind: str, content: "Any") -> None:
    import os

    path = _place(kind)
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
