"""Every flag that docker 28.2.2 has for a command of ours works, or is refused by name with a reason."""

import json
from pathlib import Path
from typing import Any

import click
import pytest

from pyrunc.cli import mount_flags, run, run_options
from pyrunc.cli.flags import Flag
from pyrunc.cli.main import main, root
from pyrunc.cli.run_flags import FLAGS
from pyrunc.cli.verb import Group, Verb

_TREE: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "fixtures/docker/cli-28.2.2-tree.json").read_text()
)
_VALUES = {
    "": "", "int": "1", "uint": "1", "uint16": "1", "bytes": "1g", "decimal": "1", "filter": "a=b", "map": "a=b",
    "duration": "1s",
}  # fmt: skip
# What has nothing to do here, and may be said all the same.
_WITHOUT_EFFECT = {"quiet": "nothing is pulled", "disable_content_trust": "signatures are never asked for"}


def _find(path: str) -> Verb:
    command: click.Command = root
    for name in path.split():
        assert isinstance(command, Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"there is no command {path}"
        command = found
    assert isinstance(command, Verb)
    return command


def _flags(path: str) -> dict[str, Flag]:
    return {flag.long: flag for flag in _find(path).flags}


@pytest.mark.parametrize("path", _TREE)
def test_every_flag_of_dockers_is_known(path: str) -> None:
    known = _flags(path)
    for short, long, kind in _TREE[path]["flags"]:
        assert long in known, f"{path} {long}"
        assert (known[long].short, known[long].kind) == (short, kind), f"{path} {long}"


@pytest.mark.parametrize("path", _TREE)
def test_the_usage_line_is_dockers(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*path.split(), "--help"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"Usage:  {_TREE[path]['usage']}".replace("docker", "pyrunc")


@pytest.mark.parametrize("path", _TREE)
def test_what_is_refused_is_refused_by_name(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused = [flag for flag in _find(path).flags if flag.refused]
    for flag in refused:
        value = _VALUES.get(flag.kind, "x")
        code = main([*path.split(), f"{flag.long}={value}" if value else flag.long, "x", "y"])
        assert (code, capsys.readouterr().err) == (125, f"{flag.long}: {flag.refused}\n")


def test_help_shows_what_works_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    for flag in FLAGS:
        assert (f" {flag.long} " in text) == (not flag.refused), flag.long


class _Watched(dict[str, Any]):
    """Flags that know which of them were looked at."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.seen: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)


def test_every_flag_of_run_that_is_not_refused_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    values = _Watched({str(flag.name): flag.begin() for flag in FLAGS})

    class Stopped(Exception):
        pass

    class Nothing:
        def start(self, *_: object, **__: object) -> None:
            raise Stopped

    monkeypatch.setattr(run, "engine", Nothing)
    monkeypatch.setattr(run, "check_image", lambda *_: None)
    wanted = {str(flag.name) for flag in FLAGS if not flag.refused}
    with pytest.raises(Stopped):
        run._run("image", [], values, wanted - {"shm_size"})
    used = values.seen | {"sig_proxy"} | set(_WITHOUT_EFFECT)  # signals are passed on once it runs
    assert wanted - used - {"shm_size"} == set()
    assert set(run_options._SAME) <= wanted and mount_flags.mounts([], []) == []
