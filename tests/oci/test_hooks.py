"""Hooks of a runtime document: what they get, how long they may take, and the words for their failures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyrunc.errors import InvalidSpec
from pyrunc.oci import hooks
from pyrunc.oci.state import Container
from pyrunc.oci.state_text import told_to_hooks
from pyrunc.runtime.plan import HOOK_KINDS
from tests.oci.waiting import until


def _parse(kind: str, *table: dict[str, object]) -> list[hooks.Hook]:
    return hooks.parse({"hooks": {kind: list(table)}})


def _shell(script: str, **more: object) -> dict[str, object]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


def _run(*table: dict[str, object], state: bytes = b"{}") -> list[str]:
    return hooks.run(_parse("poststop", *table), "poststop", state)


def test_a_hook_reads_the_state_on_its_standard_input(tmp_path: Path) -> None:
    document = {"ociVersion": "1.2.0", "id": "box", "pid": 7, "bundle": "/b", "pyrunc": {}}
    noted = Container("/s/box", {**document, "annotations": {"a": 'quo"te', "ü": "ß"}})
    state = told_to_hooks(noted, "stopped")
    assert _run(_shell(f"cat > {tmp_path}/state"), state=state) == []
    assert json.loads((tmp_path / "state").read_bytes()) == {
        "ociVersion": "1.2.0", "id": "box", "status": "stopped", "bundle": "/b",
        "annotations": {"a": 'quo"te', "ü": "ß"},
    }  # fmt: skip
    running = {"ociVersion": "1.2.0", "id": "box", "status": "running", "pid": 7, "bundle": "/b"}
    assert json.loads(told_to_hooks(Container("/s/box", document), "running")) == running


def test_a_state_that_is_larger_than_a_pipe_arrives_whole_and_need_not_be_read(tmp_path: Path) -> None:
    state = b"x" * 1_000_000
    assert _run(_shell(f"wc -c > {tmp_path}/size"), {"path": "/bin/true"}, state=state) == []
    assert int((tmp_path / "size").read_text()) == len(state)


def test_arguments_and_environment_are_exactly_those_given(tmp_path: Path) -> None:
    os.environ["PYRUNC_TEST_HOOK"] = "inherited"
    try:
        show = f"tr '\\0' '\\n' < /proc/self/environ > {tmp_path}/$0"
        script: dict[str, object] = {
            "path": "/bin/sh",
            "args": ["own", "-c", show.replace("$0", "${NAME:-inherited}")],
        }
        assert _run(script, {**script, "env": ["NAME=given", "B="]}) == []
        assert "PYRUNC_TEST_HOOK=inherited" in (tmp_path / "inherited").read_text().splitlines()
        # The shell adds PWD to its own children's; tr has read its environment, which it was given.
        given = {
            line for line in (tmp_path / "given").read_text().splitlines() if not line.startswith("PWD=")
        }
        assert given == {"NAME=given", "B="}
    finally:
        del os.environ["PYRUNC_TEST_HOOK"]
    assert _run(_shell("cat /proc/$$/environ >&2; exit 1", env=[]))[0].endswith("stderr: ")
    argv = "tr '\\0' ' ' < /proc/$$/cmdline >&2; exit 1"
    assert f"stderr: x -c {argv} y " in _run({"path": "/bin/sh", "args": ["x", "-c", argv, "y"]})[0]


def test_a_hook_has_three_descriptors_and_default_signals() -> None:
    with open("/dev/null") as kept:
        os.set_inheritable(kept.fileno(), True)
        [words] = _run(_shell("ls /proc/$$/fd >&2; grep SigIgn /proc/$$/status >&2; exit 1"))
        os.set_inheritable(kept.fileno(), False)
    listed = words.split("stderr: ")[1].split("SigIgn:")
    # The shell keeps its own standard error as 10.
    assert [number for number in listed[0].split() if number != "10"] == ["0", "1", "2"]
    assert int(listed[1], 16) == 0


def test_failures_are_worded_as_runc_words_them() -> None:
    # Recorded from runc 1.1.5.
    assert _run(
        {"path": "/bin/true"}, _shell("echo out; echo err line >&2; exit 3"), {"path": "/nonexistent/hook"},
        _shell("kill -9 $$"), _shell("kill -15 $$"), {"path": "/etc/passwd"}, {"path": "/etc"},
    ) == [
        "error running hook #1: error running hook: exit status 3, stdout: out\n, stderr: err line\n",
        "error running hook #2: fork/exec /nonexistent/hook: no such file or directory",
        "error running hook #3: error running hook: signal: killed, stdout: , stderr: ",
        "error running hook #4: error running hook: signal: terminated, stdout: , stderr: ",
        "error running hook #5: fork/exec /etc/passwd: permission denied",
        "error running hook #6: fork/exec /etc: permission denied",
    ]  # fmt: skip


def test_a_hook_that_runs_too_long_is_killed_with_what_it_has_started(tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pids; sleep 1000 & echo $! >> {tmp_path}/pids; wait"
    assert _run(_shell(script, timeout=2)) == [
        "error running hook #0: hook ran past specified timeout of 2.0s"
    ]

    def ended(pid: str) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        return state in "ZX"  # whoever has inherited it will reap it

    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    until(lambda: all(map(ended, pids)), "it still runs")


def test_what_a_hook_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    left = f"sleep 1000 & echo $! > {tmp_path}/pid"
    program = f"from tests.oci.test_hooks import _run, _shell; assert _run(_shell({left!r})) == []"
    try:
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
        assert Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
    finally:
        os.kill(int((tmp_path / "pid").read_text()), 9)


def test_only_the_last_of_a_long_output_is_told() -> None:
    [words] = _run(_shell("seq 100000; seq 100000 >&2; exit 1"))
    assert words.endswith("99999\n100000\n")
    assert len(words) < 2000


def test_hooks_are_in_the_order_in_which_they_run() -> None:
    table = {kind: [{"path": f"/{kind}/{number}"} for number in range(2)] for kind in reversed(HOOK_KINDS)}
    found = hooks.parse({"hooks": table})
    assert [hook.path for hook in found] == [f"/{kind}/{n}" for kind in HOOK_KINDS for n in range(2)]
    assert found[0] == (0, "/prestart/0", ("/prestart/0",), None, 0)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([], "hooks: must be an object"),
        ({"prestart": {}}, "hooks.prestart: must be a list"),
        ({"prestart": [{}]}, "hooks.prestart[0].path: must be an absolute path, not None"),
        ({"poststop": [{"path": "relative"}]}, "hooks.poststop[0].path: must be an absolute path"),
        ({"poststop": [{"path": "/a\0b"}]}, "hooks.poststop[0].path: must be text without NUL"),
        ({"poststart": [{"path": "/a", "args": "b"}]}, "hooks.poststart[0].args: must be a list"),
        ({"poststart": [{"path": "/a", "env": [1]}]}, "hooks.poststart[0].env[0]: must be a string"),
        ({"poststart": [{"path": "/a", "timeout": 0}]}, "hooks.poststart[0].timeout: must be an integer from 1"),
        ({"poststart": [{"path": "/a", "timeout": "1"}]}, "hooks.poststart[0].timeout: must be an integer from 1"),
    ],
)  # fmt: skip
def test_a_wrong_hook_is_refused_by_the_name_of_its_field(table: object, words: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        hooks.parse({"hooks": table})
    assert str(caught.value).startswith(words)
