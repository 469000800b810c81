"""What an object file reaches from one of its functions, by its relocations."""

import re
import subprocess
import sysconfig
from pathlib import Path
from typing import NamedTuple

ALLOCATING = re.compile(
    r"_*(libc_)?(malloc|calloc|realloc|free|reallocarray|\w*memalign|\w*strdup|v?\w*printf)"
)
PYTHON = re.compile(r"_*Py[A-Z_]\w*")
VARIABLES = re.compile(r"\.(l?data|l?bss|tdata|tbss)(\.(?!rel\.ro).*)?|\*COM\*")

_SYMBOL = re.compile(r"^[0-9a-f]{16} .{7} (\S+)\t[0-9a-f]{16} (?:\.hidden )?(\S+)$", re.MULTILINE)
_RELOCATION = re.compile(r"^[0-9a-f]{16} R_\w+ +(\S+?)(?:[+-]0x[0-9a-f]+)?$", re.MULTILINE)


class Reached(NamedTuple):
    """The sections that are reached, and the symbols that other objects must bring."""

    sections: set[str]
    undefined: set[str]

    def python(self) -> set[str]:
        """What only an interpreter has."""
        return {name for name in self.undefined if PYTHON.fullmatch(name)}

    def allocating(self) -> set[str]:
        """What allocates or formats."""
        return {name for name in self.undefined if ALLOCATING.fullmatch(name)}

    def variables(self) -> set[str]:
        """Sections of writable memory."""
        return {name for name in self.sections if VARIABLES.fullmatch(name)}


def compile_object(source: Path, target: Path) -> None:
    """Compile Cython's output as the extension module is, but each function and variable in its own section."""
    include = sysconfig.get_paths()["include"]
    subprocess.run(
        ["cc", "-c", "-O2", "-fPIC", "-w", "-ffunction-sections", "-fdata-sections", "-DPy_LIMITED_API=0x030B0000",
         f"-I{include}", "-o", target, source],
        check=True,
    )  # fmt: skip


def reached(object_file: Path, entry: str) -> Reached:
    """Follow every relocation from the function *entry* on."""
    listing = subprocess.run(
        ["objdump", "-rtw", object_file], capture_output=True, text=True, check=True
    ).stdout
    table, *parts = listing.split("RELOCATION RECORDS FOR [")
    homes = {name: section for section, name in _SYMBOL.findall(table)}
    edges = {part.partition("]")[0]: set(_RELOCATION.findall(part)) for part in parts}
    sections: set[str] = set()
    undefined: set[str] = set()
    todo = [homes[entry]]
    while todo:
        section = todo.pop()
        if section in sections:
            continue
        sections.add(section)
        for symbol in edges.get(section, ()):
            home = homes[symbol]
            if home == "*UND*":
                undefined.add(symbol)
            else:
                todo.append(home)
    return Reached(sections, undefined)
