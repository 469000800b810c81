"""What pyrunc-init is made of: from its entry nothing of Python, no allocation and no variable is reached.

Twice: in the map of the executable as it was linked, and by the relocations of an object that is compiled
as the extension module is, which still holds everything that Cython generated.
"""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import pyrunc
from pyrunc.runtime import spawner
from pyrunc.runtime.sandbox import Sandbox
from tests import rootfs
from tests._native.reachable import ALLOCATING, PYTHON, VARIABLES, compile_object, reached

NATIVE = Path(pyrunc.__file__).parent / "_native"
SETUP = NATIVE.parent.parent / "setup.py"
INIT = NATIVE / "pyrunc-init"
MAPS = {"pyrunc-init": NATIVE / "pyrunc-init.map", "pyrunc-oci": NATIVE / "pyrunc-oci.map"}
MAP = MAPS["pyrunc-init"]
GENERATED = NATIVE / "init.c"

pytestmark = pytest.mark.skipif(
    not MAP.exists() or not GENERATED.exists(), reason="needs a checkout that was built in place"
)
BOTH = pytest.mark.parametrize("program", MAPS)


class Section(NamedTuple):
    """An input section that the linker kept."""

    name: str
    file: str


def kept_sections(program: str) -> list[Section]:
    """The input sections of a program's link map that have a size and a place in memory."""
    text = MAPS[program].read_text().split("Linker script and memory map", 1)[1]
    found = re.findall(r"^ (\.\S+)\s+0x([0-9a-f]{16})\s+0x([0-9a-f]+) (\S+)$", text, re.MULTILINE)
    return [Section(name, file) for name, at, size, file in found if int(at, 16) and int(size, 16)]


def ours(program: str) -> list[Section]:
    """Those of the object that was compiled from Cython's output: the one with the entry in it."""
    sections = kept_sections(program)
    (file,) = {section.file for section in sections if section.name == ".text.startup.main"}
    return [section for section in sections if section.file == file]


def is_musl() -> bool:
    return "-musl/libc.a" in MAP.read_text()


@BOTH
def test_the_map_is_that_of_the_core(program: str) -> None:
    names = [section.name for section in ours(program)]
    assert len(names) > 20
    assert any("container_init_" in name for name in names)
    # Each is in every container's memory, and has nothing of the other's.
    for part, whose in (("7spawner_", "pyrunc-init"), ("14oci_front_door_", "pyrunc-oci")):
        assert any(part in name for name in names) == (whose == program), part


@BOTH
def test_nothing_of_python_is_linked(program: str) -> None:
    assert [
        section for section in kept_sections(program) if PYTHON.fullmatch(section.name.rpartition(".")[2])
    ] == []


@BOTH
def test_no_variable_of_ours_is_linked(program: str) -> None:
    """A module-level variable is 0 in pyrunc-init, and a cimported function is one: a NULL pointer."""
    assert [section for section in ours(program) if VARIABLES.fullmatch(section.name)] == []


@BOTH
def test_no_allocator_and_no_formatting_is_linked(program: str) -> None:
    if not is_musl():
        pytest.skip("pyrunc-init was built with glibc, whose own start-up code allocates")
    head = MAPS[program].read_text().split("Discarded input sections", 1)[0]
    members = re.findall(r"^\S+libc\.a\((\w+)\.\w+\)$", head, re.MULTILINE)
    assert "execve" in members
    assert [member for member in members if ALLOCATING.fullmatch(member)] == []
    assert [
        section for section in kept_sections(program) if ALLOCATING.fullmatch(section.name.rpartition(".")[2])
    ] == []


@BOTH
def test_the_executable_is_small_and_static(program: str) -> None:
    path = {"pyrunc-init": INIT, "pyrunc-oci": SETUP.parent / "bin/pyrunc-oci"}[program]
    assert path.stat().st_size < (96 << 10 if is_musl() else 1 << 20)
    headers = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True, check=True).stdout
    assert "INTERP" not in headers
    assert re.search(r"GNU_STACK .* RW ", headers), "the stack is executable"


@pytest.mark.parametrize("entry", ["pyrunc_init_main", "pyrunc_oci_main"])
def test_the_generated_c_reaches_nothing_of_python_no_allocator_and_no_variable(
    tmp_path: Path, entry: str
) -> None:
    compile_object(GENERATED, tmp_path / "init.o")
    found = reached(tmp_path / "init.o", entry)
    assert {"execve", "syscall"} <= found.undefined
    assert found.python() == set()
    assert found.allocating() == set()
    assert found.variables() == set()


HEAD = "# cython: cdivision=True, boundscheck=False\n"
ENTRY = "cdef public long entry(int x) noexcept nogil:\n    return "
UNSAFE = {
    "a missing noexcept": HEAD + "cdef int f(int x) nogil:\n    return -x\n" + ENTRY + "f(x)\n",
    "division as Python has it": ENTRY + "7 // x\n",
    "a variable of the module": HEAD + "cdef int base = 7\n" + ENTRY + "base + x\n",
    "a function cimported from another module": HEAD + "from other cimport f\n" + ENTRY + "f(x)\n",
    "an allocation": HEAD + "from libc.stdlib cimport malloc\n" + ENTRY + "<long>malloc(x)\n",
}


@pytest.mark.parametrize("what", UNSAFE)
def test_each_trap_would_be_seen(tmp_path: Path, what: str) -> None:
    (tmp_path / "other.pxd").write_text("cdef int f(int x) noexcept nogil\n")
    (tmp_path / "unsafe.pyx").write_text(UNSAFE[what])
    subprocess.run([sys.executable, "-m", "cython", "-3", "unsafe.pyx"], check=True, cwd=tmp_path)
    compile_object(tmp_path / "unsafe.c", tmp_path / "unsafe.o")
    found = reached(tmp_path / "unsafe.o", "entry")
    assert found.python() or found.allocating() or found.variables()


def build_init(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path], None]:
    """The function of setup.py that links pyrunc-init, without running the rest of it."""
    with monkeypatch.context() as patch:
        patch.setattr("setuptools.setup", lambda **_: None)
        patch.setattr("Cython.Build.cythonize", lambda *_, **__: [])
        patch.chdir(SETUP.parent)
        namespace: dict[str, Any] = runpy.run_path(str(SETUP))
    function: Callable[[Path, Path], None] = namespace["build_init"]
    return function


def test_the_fallback_to_glibc_is_below_a_megabyte_and_runs_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "pyrunc-init"
    monkeypatch.setenv("PYRUNC_INIT_CC", "cc")
    build_init(monkeypatch)(GENERATED, target)
    assert target.stat().st_size < 1 << 20
    if os.geteuid() != 0:
        pytest.skip("a container needs root")
    spawner.shut_down()
    monkeypatch.setattr(spawner, "init_path", lambda: str(target))
    try:
        with Sandbox(rootfs.make(tmp_path / "root"), seccomp="unconfined") as box:
            result = box.run(["/bin/echo", "hello"])
        assert (result.exit_code, result.stdout, result.stderr) == (0, b"hello\n", b"")
    finally:
        spawner.shut_down()
