"""Hooks in the life of a container: which run when, where and with what, as runc runs them."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc.oci.flags import NAME
from pyrunc.runtime.plan import HOOK_KINDS as KINDS
from tests.oci.runtime import OURS, SUBJECT, Result, Runtime, unique_id
from tests.runtime.cgroup_support import needs_root

pytestmark = [needs_root, pytest.mark.skipif(str(OURS) != SUBJECT, reason="a peer is tried")]
Make = Callable[[str], Runtime]


@pytest.fixture(autouse=True)
def no_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRUNC_OCI_PLANNER", "0")


@pytest.fixture
def place(bundle: Callable[..., Path], tmp_path: Path) -> Path:
    """A bundle in which hooks write to the directory /log, by its host's path and in the container."""
    made = bundle("bundle", "sh", "-c", "echo program >> /log/lines")
    (made / "rootfs/log").mkdir()
    (tmp_path / "log").mkdir()
    change(made, lambda spec: spec["mounts"].append(
        {"destination": "/log", "type": "bind", "source": str(tmp_path / "log"), "options": ["bind", "rw"]}
    ))  # fmt: skip
    return made


def change(place: Path, how: Callable[[dict[str, Any]], object]) -> None:
    spec = json.loads((place / "config.json").read_text())
    how(spec)
    (place / "config.json").write_text(json.dumps(spec))


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


def with_hooks(place: Path, **hooks: list[dict[str, Any]]) -> None:
    change(place, lambda spec: spec.update(hooks=hooks))


def run(runtime: Runtime, place: Path, code: int | None = 0) -> Result:
    name = unique_id()
    runtime.made.append(name)
    change(place, lambda spec: spec["linux"].update(cgroupsPath=f"/{name}"))
    result = runtime("run", "--bundle", str(place), name, code=code)
    assert not (runtime.root / name).exists()
    return result._replace(err=result.err.replace(name, "ID").replace(NAME, "runc"))


def lines(tmp_path: Path) -> list[str]:
    found = tmp_path / "log/lines"
    text = found.read_text().splitlines() if found.exists() else []
    found.unlink(missing_ok=True)
    return text


def test_every_kind_runs_when_and_where_runcs_does(make_runtime: Make, place: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    links = "; ".join(f"readlink /proc/self/ns/{name}" for name in ("mnt", "net", "pid"))
    hooks = {}
    for kind in KINDS:
        directory = "/log" if kind == "startContainer" else log
        hooks[kind] = [
            shell(
                f"echo {kind}{number} $(cat) $({links}) $(pwd) A=$A B=$B >> {directory}/lines",
                env=["A=1", "PATH=/bin:/usr/bin"],
            )
            for number in range(2)
        ]
    change(place, lambda spec: spec.update(annotations={"b": 'quo"te', "a": "x"}))
    with_hooks(place, **hooks)
    seen = {}
    for path in ("runc", SUBJECT):
        runtime = make_runtime(path)
        run(runtime, place)
        found: list[tuple[Any, ...]] = []
        for line in lines(tmp_path):
            if line == "program":
                found.append(("program",))
                continue
            kind, state_text, rest = re.fullmatch(r"(\w+) (\{.*\}) (.*)", line).groups()  # type: ignore[union-attr]
            state = json.loads(state_text)
            pid = state.pop("pid", None)
            state.pop("ociVersion")
            state["id"] = "ID"
            if kind.startswith("poststart"):
                state.pop("status")  # runc 1.1 runs these when it has created the container
            mnt, net, pidns, cwd, *variables = rest.split()
            spaces = {"mnt": mnt, "net": net, "pid": pidns}
            own = [os.readlink(f"/proc/self/ns/{name}") == value for name, value in spaces.items()]
            found.append((kind, state, pid if pid in (None, 0, 1) else "pid", own, cwd, variables))
        # What the program writes and what runs after its start may come in either order; and see above.
        seen[path] = sorted(found, key=lambda row: [*KINDS, "program"].index(row[0].rstrip("01")))
    assert seen[SUBJECT] == seen["runc"]
    assert [row[0] for row in found if row[0] != "program"] == [
        f"{kind}{number}" for kind in KINDS for number in range(2)
    ]


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
@pytest.mark.parametrize(
    "hook",
    [
        shell("echo out; echo err line >&2; exit 3"), {"path": "/nonexistent/hook"}, {"path": "/etc/passwd"},
        shell("kill -9 $$"), {"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1},
    ],
    ids=["exits", "missing", "not executable", "killed", "too long"],
)  # fmt: skip
def test_one_that_fails_ends_the_container(
    make_runtime: Make, place: Path, tmp_path: Path, kind: str, hook: dict[str, Any]
) -> None:
    with_hooks(place, **{kind: [{"path": "/bin/true"}, hook, shell(f"echo third >> {tmp_path}/log/lines")]})
    said = {}
    for path in ("runc", SUBJECT):
        result = run(make_runtime(path), place, 1)
        assert lines(tmp_path) == []
        assert result.out == ""
        said[path] = re.sub('time="[^"]*" ', "", result.err)
    assert said[SUBJECT] == said["runc"]


def test_one_that_fails_last_is_told_and_the_others_run(
    make_runtime: Make, place: Path, tmp_path: Path
) -> None:
    # The document's standard wants the others to run; runc stops at the first.
    with_hooks(place, poststop=[shell("exit 3"), shell(f"echo second >> {tmp_path}/log/lines")])
    result = run(make_runtime(SUBJECT), place)
    assert lines(tmp_path) == ["program", "second"]
    assert "error running hook #0: error running hook: exit status 3" in result.err


def test_one_in_the_container_sees_only_the_container(
    make_runtime: Make, place: Path, tmp_path: Path
) -> None:
    script = "ls / > /log/lines; ls /proc/self/fd | tr '\\n' ' ' >> /log/lines; env >> /log/lines"
    with_hooks(place, startContainer=[shell(script)])
    run(make_runtime(SUBJECT), place)
    found = lines(tmp_path)
    assert "rootfs" not in found
    assert {"bin", "log", "proc"} <= set(found)
    assert "0 1 2 3 " in " ".join(found)
    # The document says nothing of its environment: it has the program's.
    assert not any(line.startswith("PYRUNC_OCI_PLANNER") for line in found)
    assert any(line.startswith("PATH=") for line in found)
