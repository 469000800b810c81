"""Every public object has a page, and every public method says what it does and what it raises."""

import builtins
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs import objects
from pyrunc import errors

_ROOT = Path(__file__).parents[1]
_OBJECTS = objects.public()
_METHODS = [(name, member) for name, cls in _OBJECTS.items() for member, _ in objects.members(cls)]
# What raises nothing but what Python itself does, such as for a closed descriptor.
_QUIET = {"check", "close", "detach", "fileno", "info", "message", "version"}


_MET = (
    "Engine", "Images", "Containers", "Container", "Volumes", "Volume", "LogEntry", "Event", "NotFound", "Sandbox",
    "SandboxOptions", "SandboxProcess", "ExecProcess", "RunResult", "AsyncSandbox", "ContainerRecord",
)  # fmt: skip


def test_the_objects_that_users_meet_are_public() -> None:
    assert {
        "Engine",
        "Images",
        "Sandbox",
        "SandboxOptions",
        "RunResult",
        "NotFound",
        "LogEntry",
        "Event",
    } <= set(_OBJECTS)
    assert not [name for name in _OBJECTS if name.startswith("_")]


@pytest.mark.parametrize("name", _OBJECTS)
def test_a_public_object_says_what_it_is(name: str) -> None:
    assert _OBJECTS[name].__doc__ and "__doc__" in vars(_OBJECTS[name])


@pytest.mark.parametrize(("name", "member"), _METHODS)
def test_a_public_method_says_what_it_does_and_raises(name: str, member: str) -> None:
    value = dict(objects.members(_OBJECTS[name]))[member]
    text = value.__doc__ or ""
    first = text.split("\n\n")[0].strip()
    assert first.endswith((".", ":", ";")), f"{name}.{member}: {first!r} is no sentence"
    quiet = isinstance(value, property) or member in _QUIET
    assert quiet or re.search(r"\b[Rr]aise", text), f"{name}.{member} does not say what it raises"
    for each in re.findall(r"\b[Rr]aises? ((?:[A-Z]\w+(?:, (?:or )?| or | and )?)+)", text):
        for word in re.findall(r"[A-Z]\w+", each):
            assert hasattr(errors, word) or hasattr(builtins, word), f"{name}.{member}: there is no {word}"


def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("sphinx") is None or importlib.util.find_spec("myst_parser") is None:
        pytest.skip("needs the optional dependencies `docs`; ./dev docs installs them")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "-d",
        str(tmp_path / "trees"),
    ]
    done = subprocess.run(
        [*command, str(_ROOT / "docs"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        cwd=_ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name, cls in _OBJECTS.items():
        page = "errors" if issubclass(cls, errors.PyruncError) else name
        assert name in (tmp_path / f"out/api/{page}.html").read_text()
    for written in (_ROOT / "docs").glob("*.md"):
        assert (tmp_path / f"out/{written.stem}.html").exists()
