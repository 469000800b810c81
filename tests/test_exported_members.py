"""The public face: what `pyrunc` names exists, is imported when it is used, and nothing slow before."""

import subprocess
import sys

import pytest

import pyrunc
from pyrunc import errors


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_every_name_is_there_sorted_and_documented() -> None:
    assert sorted(pyrunc.__all__) == pyrunc.__all__
    for name in pyrunc.__all__:
        value = getattr(pyrunc, name)
        assert value.__doc__, name
        if isinstance(value, type):
            assert value.__name__ == name


def test_public_classes_document_their_public_members() -> None:
    for name in pyrunc.__all__:
        value = getattr(pyrunc, name)
        for member, attribute in vars(value).items() if isinstance(value, type) else ():
            if not member.startswith("_") and (callable(attribute) or isinstance(attribute, property)):
                assert attribute.__doc__, f"{name}.{member}"


def test_dir_is_what_can_be_used() -> None:
    assert set(pyrunc.__all__) <= set(dir(pyrunc))
    assert pyrunc.errors is errors


def test_star_import_gives_all() -> None:
    names = python(
        "from pyrunc import *; import pyrunc; print(all(name in globals() for name in pyrunc.__all__))"
    )
    assert names == "True\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pyrunc' has no attribute 'Sandbocks'"):
        pyrunc.Sandbocks  # noqa: B018


def test_import_loads_nothing_else_of_the_package() -> None:
    loaded = python("import pyrunc, sys; print([name for name in sys.modules if name.startswith('pyrunc.')])")
    assert loaded == "[]\n"


def test_the_sandbox_loads_no_event_loop() -> None:
    assert python("import pyrunc, sys; pyrunc.Sandbox; print('asyncio' in sys.modules)") == "False\n"
