"""What is true of every module of the native core."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import pyrunc._native

NATIVE = Path(pyrunc._native.__file__).parent
MODULES = sorted(path.stem for path in NATIVE.glob("*.pyx"))


def test_importing_pyrunc_loads_none_of_them() -> None:
    code = "import sys, pyrunc; print([name for name in sys.modules if name.startswith('pyrunc._native')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(path.stem for path in NATIVE.glob("*.pyi")))
def test_the_stub_names_exactly_what_the_module_offers(name: str) -> None:
    module = importlib.import_module(f"pyrunc._native.{name}")
    stub = (NATIVE / f"{name}.pyi").read_text()
    declared = {
        line.split("(")[0].removeprefix("def ") for line in stub.splitlines() if line.startswith("def ")
    }
    declared |= {line.split(":")[0] for line in stub.splitlines() if line[:1].isupper()}
    declared |= {
        line.split(":")[0].split("(")[0][6:]
        for line in stub.splitlines()
        if line.startswith("class ") and not line.startswith("class _")
    }
    offered = {
        name for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }  # fmt: skip
    assert offered == declared
    for function in filter(callable, (getattr(module, name) for name in declared)):
        assert function.__doc__, f"{name}.{function} has no docstring"
