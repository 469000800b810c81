"""The modules of a cold start in one file: the byte code that Python would find in forty, without looking for each.

To find a module and to open its byte code takes a dozen steps in Python itself; for those of a cold `create` they are
1 to 2 of the 25 ms of CPU time that `run` takes. The file lies among Python's own caches and is one of them: whoever
found that it was missing or out of date writes it, and what it holds of a module is used as long as the source has the
time and size that it had. A start without it does the same.
"""

import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER
from marshal import dumps, loads
from posix import stat

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from types import ModuleType

    # Source, its time in ns, its size, whether it is a package, and the marshalled code.
    Entry = tuple[str, int, int, bool, bytes]


class Finder:
    """Finds and loads the modules that the file *entries* came from has."""

    def __init__(self, entries: "dict[str, Entry]") -> None:
        self.entries = entries

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """The module *name*, if its source is as it was."""
        entry = self.entries.get(name)
        if entry is None or _seen(entry[0]) != entry[1:3]:
            return None
        spec = ModuleSpec(name, self, origin=entry[0], is_package=entry[3])  # type: ignore[arg-type]
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(entry[0].rpartition("/")[0])
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Have Python make an ordinary one."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run the module's code."""
        exec(loads(self.entries[module.__name__][4]), module.__dict__)


def _seen(path: str) -> tuple[int, int] | None:
    try:
        status = stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _place() -> str:
    return f"{__file__.rpartition('/')[0]}/__pycache__/cold.{sys.implementation.cache_tag}.bin"


def install() -> None:
    """Have Python look in the file first, if there is one."""
    try:
        with open(_place(), "rb") as file:
            magic, entries = loads(file.read())
    except (OSError, EOFError, ValueError, TypeError):
        return
    if magic == MAGIC_NUMBER:
        # Behind those of what is built in and frozen.
        sys.meta_path.insert(2, Finder(entries))


def save() -> None:
    """Add what was imported by this process in other ways. Nothing is raised: without it all works too."""
    entries: dict[str, Entry] = {}
    for finder in sys.meta_path:
        if isinstance(finder, Finder):
            entries.update(finder.entries)
    found: dict[str, Entry] = {}
    for name, module in [*sys.modules.items()]:
        spec = getattr(module, "__spec__", None)
        if not name.startswith("pyrunc") or spec is None or isinstance(spec.loader, Finder):
            continue
        if name == "pyrunc" or not (spec.origin or "").endswith(".py") or name in ("pyrunc.oci", __name__):
            continue
        seen = _seen(spec.origin)
        code = spec.loader.get_code(name)
        if seen is not None and _seen(spec.origin) == seen:
            package = spec.submodule_search_locations is not None
            found[name] = (spec.origin, *seen, package, dumps(code))
    if found:
        _write(_place(), dumps((MAGIC_NUMBER, entries | found)))


def _write(path: str, data: bytes) -> None:
    import os

    temporary = f"{path}.{os.getpid()}"
    try:
        # Whatever the caller's umask is: who may write to it has its bytes executed by others.
        with open(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb"
        ) as file:
            file.write(data)
        os.rename(temporary, path)
    except OSError:
        try:
            os.unlink(temporary)
        except OSError:
            pass
