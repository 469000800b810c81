"""Native sources import downwards only: import-linter sees no `.pyx` and `.pxd`, this does."""

import re
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[1] / "pyrunc/_native"
ALLOWED = ("pyrunc._native", "pyrunc.errors")
_IMPORT = re.compile(
    r"^\s*(?:from\s+(?P<source>[.\w]+)\s+c?import\b|c?import\s+(?P<names>[.\w]+(?:\s*,\s*[.\w]+)*))",
    re.MULTILINE,
)


def imported(source: str) -> list[str]:
    """Return the modules that a native source imports or cimports."""
    found = []
    for match in _IMPORT.finditer(source):
        found += [match["source"]] if match["source"] else re.split(r"\s*,\s*", match["names"])
    return found


def misplaced(source: str) -> list[str]:
    """Return those of them that belong to pyrunc but lie above the native core, or are relative."""
    return [
        name
        for name in imported(source)
        if name.partition(".")[0] in ("pyrunc", "")
        and not f"{name}.".startswith(tuple(f"{top}." for top in ALLOWED))
    ]


def sources() -> list[Path]:
    return sorted([*NATIVE.glob("*.pyx"), *NATIVE.glob("*.pxd")])


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.name)
def test_native_sources_import_only_the_native_core_and_errors(path: Path) -> None:
    assert misplaced(path.read_text()) == []


@pytest.mark.parametrize(
    "path", [path for path in sources() if path.suffix == ".pxd"], ids=lambda path: path.name
)
def test_the_c_floor_cimports_nothing_of_python(path: Path) -> None:
    """What a `.pxd` names is in pyrunc-init too, where no module is ever imported."""
    assert [
        name for name in imported(path.read_text()) if not name.startswith(("pyrunc._native.", "libc."))
    ] == []


@pytest.mark.parametrize(
    "line",
    [
        "from pyrunc.runtime cimport plan",
        "    import pyrunc",
        "from . import plan",
        "cimport os, pyrunc.spec.x",
        "import pyrunc.errorsome",
    ],
)
def test_an_import_upwards_would_be_seen(line: str) -> None:
    assert misplaced(f"from libc.stdint cimport uint8_t\n{line}\n")
