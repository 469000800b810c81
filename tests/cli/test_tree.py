"""Every command and flag that docker 28.2.2 has works, or is refused by name with a reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from pyrunc.cli import create_documents
from pyrunc.cli.flags import Flag
from pyrunc.cli.main import main, root
from pyrunc.cli.run_flags import CREATE, RUN
from pyrunc.cli.verb import Group, Verb

_TREE: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "fixtures/docker/cli-28.2.2-tree.json").read_text()
)
_VALUES = {
    "": "", "int": "1", "uint": "1", "uint16": "1", "bytes": "1g", "decimal": "1", "filter": "a=b", "map": "a=b",
    "duration": "1s",
}  # fmt: skip
# What has nothing to do here, and may be said all the same.
_OF_THE_COMMAND = {"allow_host_image", "cidfile", "detach_keys", "name", "platform", "sig_proxy"}
_WITHOUT_EFFECT = {"quiet": "nothing is pulled", "disable_content_trust": "signatures are never asked for"}


_NO_COMMAND = "docker"


def _find(path: str) -> Verb | Group | None:
    """The command *path*; None if it does not exist yet."""
    command: Verb | Group = root
    for name in path.split():
        assert isinstance(command, Group), path
        found = command.find(name)
        if found is None:
            return None
        command = found
    return command


def _exists(path: str) -> bool:
    return path != _NO_COMMAND and isinstance(_find(path), Verb)


_PATHS = [path for path in _TREE if _exists(path)]
# What other parts of pyrunc bring.
_COMING = {"attach", "cp", "exec", "top"}
_MISSING = [
    path
    for path in _TREE
    if path != _NO_COMMAND and _find(path) is None and not _COMING.intersection(path.split())
]


def _flags(path: str) -> dict[str, Flag]:
    found = _find(path)
    assert isinstance(found, Verb)
    return {flag.long: flag for flag in found.flags}


@pytest.mark.parametrize("path", _MISSING)
def test_what_does_not_exist_says_why_in_one_line(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a group that does not exist its commands do not either."""
    assert main([*path.split(), "--help"]) == 125
    told = capsys.readouterr().err
    assert told.startswith("pyrunc ") and " does not exist yet: " in told and told.count("\n") == 1


@pytest.mark.parametrize("path", _PATHS)
def test_every_flag_of_dockers_is_known(path: str) -> None:
    known = _flags(path)
    for short, long, kind in _TREE[path]["flags"]:
        assert long in known, f"{path} {long}"
        assert (known[long].short, known[long].kind) == (short, kind), f"{path} {long}"


@pytest.mark.parametrize("path", _PATHS)
def test_the_usage_line_is_dockers(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*path.split(), "--help"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"Usage:  {_TREE[path]['usage']}".replace("docker", "pyrunc")


@pytest.mark.parametrize("path", _PATHS)
def test_what_is_refused_is_refused_by_name(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in (flag for flag in _flags(path).values() if flag.refused):
        value = _VALUES.get(flag.kind, "x")
        code = main([*path.split(), f"{flag.long}={value}" if value else flag.long, "x", "y"])
        assert (code, capsys.readouterr().err) == (125, f"{flag.long}: {flag.refused}\n")


@pytest.mark.parametrize(("verb", "flags"), [("run", RUN), ("create", CREATE)])
def test_help_shows_what_works_and_nothing_else(
    verb: str, flags: tuple[Flag, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    for flag in flags:
        assert (f" {flag.long} " in text) == (not flag.refused), flag.long


def test_help_names_a_commands_other_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rm", "--help"]) == 0
    assert "Aliases:\n  pyrunc container rm, pyrunc container remove, pyrunc rm\n" in capsys.readouterr().out


class _Watched(dict[str, Any]):
    """Flags that know which of them were looked at."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.seen: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.seen.add(key)
        return super().get(key, default)


def test_every_flag_of_run_that_is_not_refused_is_used() -> None:
    values = _Watched({flag.name: flag.begin() for flag in RUN})
    wanted = {flag.name for flag in RUN if not flag.refused}
    create_documents.documents("image", [], values, wanted)
    assert wanted - values.seen - set(_WITHOUT_EFFECT) - _OF_THE_COMMAND == set()
