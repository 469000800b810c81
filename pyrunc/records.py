"""NamedTuple, contextmanager, JSON and the like for what is imported on the way to a container's first instruction.

They do what those of typing, functools, contextlib and json do, without the 10 to 15 ms that it takes to import
these: half of what Python needs to start its first container. A module on that way says

    TYPE_CHECKING = False
    if TYPE_CHECKING:
        from typing import Any

since type checkers take a variable of that name for theirs.
"""

import sys
from _collections import _tuplegetter  # type: ignore[import-not-found]
from _functools import _lru_cache_wrapper  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from functools import lru_cache
    from typing import Any, NamedTuple, TypedDict
elif sys.version_info >= (3, 14):
    # Annotations are computed when they are asked for, and these modules import less.
    from functools import lru_cache
    from typing import NamedTuple, TypedDict
else:

    def lru_cache(maxsize):
        """Remember the results of the *maxsize* latest calls; functools.lru_cache."""

        def decorate(function):
            wrapper = _lru_cache_wrapper(function, maxsize, False, tuple)
            wrapper.__wrapped__, wrapper.__doc__ = function, function.__doc__
            return wrapper

        return decorate

    class TypedDict:
        """A dict with known keys: the class is never instantiated, only its annotations are read."""

        def __init_subclass__(cls, total=True):
            """Accept what typing.TypedDict accepts."""

    class _Record(type):
        """Makes each annotated name of the class a field of a tuple."""

        def __new__(cls, name, bases, space):
            names = tuple(space.get("__annotations__", ()))
            space["_fields"] = space["__match_args__"] = names
            space["_field_defaults"] = {field: space[field] for field in names if field in space}
            space["__slots__"] = ()
            for number, field in enumerate(names):
                space[field] = _tuplegetter(number, f"field {number}")
            return type.__new__(cls, name, bases, space)

    class NamedTuple(tuple, metaclass=_Record):
        """A tuple with names; typing.NamedTuple."""

        def __new__(cls, *values, **named):
            """One value for each field, in order or by name."""
            if named or len(values) != len(cls._fields):
                values = _complete(cls, values, named)
            return tuple.__new__(cls, values)

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _replace(self, **changes):
            values = list(map(changes.pop, self._fields, self))
            if changes:
                raise TypeError(f"{type(self).__name__} has no field {', '.join(changes)}")
            return tuple.__new__(type(self), values)

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            pairs = zip(self._fields, self, strict=True)
            return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in pairs)})"

    def _complete(kind, values, named):
        """Put arguments by name and defaults in their places, and refuse what a function would."""
        names, defaults = kind._fields, kind._field_defaults
        found, missing = [*values], []
        for name in names[len(values) :]:
            if name in named:
                found.append(named.pop(name))
            elif name in defaults:
                found.append(defaults[name])
            else:
                missing.append(name)
        if named or len(values) > len(names):
            raise TypeError(f"{kind.__name__}() got too many arguments, an unknown one, or one twice")
        if missing:
            raise TypeError(f"{kind.__name__}() missing arguments: {', '.join(missing)}")
        return found


if TYPE_CHECKING:
    from contextlib import contextmanager
else:

    def contextmanager(function):
        """Make a context manager of a generator function; contextlib.contextmanager, for use in a ``with`` only."""

        def make(*arguments, **named):
            return _Block(function(*arguments, **named))

        make.__wrapped__, make.__doc__, make.__name__ = function, function.__doc__, function.__name__
        return make

    class _Block:
        """The ``with`` block of a generator, which yields once."""

        __slots__ = ("_generator",)

        def __init__(self, generator):
            self._generator = generator

        def __enter__(self):
            for value in self._generator:
                return value
            raise RuntimeError("generator didn't yield")

        def __exit__(self, kind, value, trace):
            if kind is None:
                for _ in self._generator:
                    raise RuntimeError("generator didn't stop")
                return False
            try:
                self._generator.throw(value)
            except StopIteration as exc:
                return exc is not value
            except RuntimeError as exc:
                # What Python makes of a StopIteration that leaves a generator.
                if exc is value or (isinstance(value, StopIteration) and exc.__cause__ is value):
                    return False
                raise
            except BaseException as exc:
                if exc is not value:
                    raise
                return False
            raise RuntimeError("generator didn't stop after throw()")


try:
    import _json as _native  # what does json's work; json itself imports re and enum
except ImportError:
    _native = None  # type: ignore[assignment]
_json: "Any" = _native


class Reader:
    """Reads JSON; *pairs* makes what becomes of an object, *constant* of NaN and the infinities (None: as json)."""

    strict = True
    object_hook = None
    parse_float = float
    parse_int = int

    def __init__(
        self,
        pairs: "Callable[[list[tuple[str, Any]]], Any] | None" = None,
        constant: "Callable[[str], Any] | None" = None,
    ) -> None:
        self.object_pairs_hook = pairs
        self.parse_constant = constant or {name: float(name) for name in _CONSTANTS}.__getitem__
        self._scan = None if _json is None else _json.make_scanner(self)

    def __call__(self, text: str) -> "Any":
        """The value of *text*. Raises ValueError as json.loads does."""
        if self._scan is not None:
            bare = text.strip(" \t\n\r")
            try:
                value, end = self._scan(bare, 0)
            except (StopIteration, SystemError):
                # SystemError: its error is a class of json, which it looks for among what is imported already.
                end = -1
            if end == len(bare):
                return value
        import json  # which says what is wrong

        return json.loads(text, object_pairs_hook=self.object_pairs_hook, parse_constant=self.parse_constant)


_CONSTANTS = ("NaN", "Infinity", "-Infinity")
loads = Reader()


def dumps(value: "Any") -> str:
    """Compact JSON in ASCII. Raises TypeError for what JSON has no word for."""
    if _json is None:
        import json

        return json.dumps(value, separators=(",", ":"))
    encode = _json.make_encoder(
        None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, True
    )
    return "".join(encode(value, 0))


def quoted(text: str) -> str:
    """*text* as a string of JSON, in Unicode."""
    if _json is None:
        import json

        return json.dumps(text, ensure_ascii=False)
    found: str = _json.encode_basestring(text)
    return found


def _refuse(value: object) -> "Any":
    raise TypeError(f"{type(value).__name__} is not a value of JSON")


__all__ = ["NamedTuple", "Reader", "TypedDict", "contextmanager", "dumps", "loads", "lru_cache", "quoted"]
