"""Flags of create, run and update mean what docker's client makes of them: the same document, the same complaint."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pyrunc.cli import container_update, create_documents
from pyrunc.cli.flags import Refused, parse
from pyrunc.cli.main import main
from pyrunc.cli.run_flags import CREATE, RUN
from tests.cli import record_requests

_STEPS = record_requests.bodies()
_SENT = [step for step in _STEPS if "body" in step]
# What is not refused by name although docker's client sends it, or says no to it: the reason.
_OTHERWISE = {
    "create --kernel-memory 10m beta": "docker's client drops it without a word; it is refused by name",
    "update --kernel-memory 5m x": "no kernel has it any more",
    "create --expose 80/wrong beta": "",
    "create UPPER": "the engine says it",
    "run -it beta": "a terminal is asked for where there is none",
    "run --detach-keys wrong-x beta": "",
}
_EMPTY: dict[str, Any] = {
    "NetworkMode": "default", "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "LogConfig": {"Type": "", "Config": {}}, "MemorySwappiness": -1, "ConsoleSize": [0, 0],
}  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    record_requests.write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in record_requests.VARIABLES.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def _given(document: dict[str, Any], place: Path) -> dict[str, Any]:
    """What of a document is not empty, with the paths of *place* where docker's were."""
    found = {}
    for key, value in document.items():
        if key in ("HostConfig", "NetworkingConfig") or value == _EMPTY.get(key, ...):
            continue
        if value or (value == 0 and key == "StopTimeout") or (value == [] and key.endswith("Paths")):
            found[key] = value
    if "Env" in found:
        found["Env"] = sorted(found["Env"])  # docker's client has both in any order
    if "Binds" in found:
        found["Binds"] = sorted(text.replace("{work}", str(place)) for text in found["Binds"])
    for mount in found.get("Mounts", ()):
        mount.update(
            {key: text.replace("{work}", str(place)) for key, text in mount.items() if key == "Source"}
        )
    if found.get("RestartPolicy") == {"Name": "", "MaximumRetryCount": 0}:
        del found["RestartPolicy"]
    return found


@pytest.mark.parametrize(
    "step", [step for step in _SENT if "/create" in step["request"]], ids=lambda step: step["line"]
)
def test_what_create_and_run_ask_for(step: dict[str, Any], place: Path) -> None:
    verb, *words = shlex.split(step["line"])
    if step["line"] in _OTHERWISE:
        pytest.skip(_OTHERWISE[step["line"]] or "as docker's client, which leaves it to the daemon")
    try:
        flags, rest, used = parse(CREATE if verb == "create" else RUN, words, interspersed=False)
        config, host = create_documents.documents(rest[0], rest[1:], flags, used)
    except Refused as exc:
        assert re.match(r"--[a-z0-9-]+: ", str(exc))  # by name
        return
    assert _given(config, place) == _given(step["body"], place)
    assert _given(host, place) == _given(step["body"]["HostConfig"], place)


@pytest.mark.parametrize(
    "step", [step for step in _SENT if "/update" in step["request"]], ids=lambda step: step["line"]
)
def test_what_update_asks_for(step: dict[str, Any], place: Path) -> None:
    if step["line"] in _OTHERWISE:
        pytest.skip(_OTHERWISE[step["line"]])
    flags, _, _ = parse(container_update.FLAGS, shlex.split(step["line"])[1:])
    assert container_update.changes(flags) == _given(step["body"], place)


@pytest.mark.parametrize(
    "step", [step for step in _STEPS if "body" not in step], ids=lambda step: step["line"]
)
def test_what_the_client_complains_about(
    step: dict[str, Any], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if step["line"] in _OTHERWISE:
        pytest.skip(_OTHERWISE[step["line"]])
    code = main(["--root", str(place / "root"), *shlex.split(step["line"])])
    told = capsys.readouterr().err
    if re.match(r"--[a-z-]+: ", told):
        assert code == 125  # refused by name
        return
    assert (code, told) == (step["code"], step["stderr"].replace("docker", "pyrunc"))
