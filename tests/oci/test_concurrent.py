"""Many commands at once, on one container and on many, leave a state that is consistent and can be deleted."""

import os
import random
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.oci.observe import places
from tests.oci.runtime import Result, Runtime, unique_id
from tests.oci.waiting import until
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root
MANY = 32
Bundle = Callable[..., Path]


def all_at_once(runtime: Runtime, commands: Sequence[Sequence[str]]) -> list[Result]:
    """Start all command lines before any has ended; how each went."""
    started = []
    for words in commands:
        out = runtime.root.parent / f"{unique_id()}.out"
        with (
            out.open("wb") as output,
            out.with_suffix(".err").open("wb") as errors,
            open(os.devnull, "rb") as empty,
        ):
            process = subprocess.Popen(runtime.command(*words), stdin=empty, stdout=output, stderr=errors)
        started.append((process, out))
    results = []
    for process, _ in started:
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for process, out in started:
        code = process.returncode
        results.append(Result(code, out.read_text(), out.with_suffix(".err").read_text()))
    assert not any("Traceback" in result.err or result.code < 0 for result in results), results
    return results


def leaves_nothing(runtime: Runtime, *names: str) -> None:
    """After `delete --force`, which may find nothing, there is neither state nor cgroup."""
    for name in names:
        runtime("delete", "--force", name)
        assert not (runtime.root / name).exists()
        assert places(name) == []


def sleeping(bundle: Bundle) -> tuple[Path, str]:
    name = unique_id()
    return bundle(name, "/bin/sleep", "1000", linux__cgroupsPath=f"/{name}"), name


def test_one_of_many_creates_gets_the_name(runtime: Runtime, bundle: Bundle) -> None:
    path, name = sleeping(bundle)
    runtime.made.append(name)
    runtime.root.mkdir(parents=True)
    results = all_at_once(runtime, [["create", "--bundle", str(path), name]] * MANY)
    assert sorted(result.code for result in results) == [0, *[1] * (MANY - 1)], results
    assert all("already exist" in result.err for result in results if result.code), results
    assert runtime.state(name)["status"] == "created"
    runtime("start", name)
    runtime.end(name)
    leaves_nothing(runtime, name)


def test_many_lives(runtime: Runtime, bundle: Bundle) -> None:
    made = [sleeping(bundle) for _ in range(MANY)]
    names = [name for _, name in made]
    runtime.made.extend(names)
    runtime.root.mkdir(parents=True)
    creates = all_at_once(runtime, [["create", "--bundle", str(path), name] for path, name in made])
    assert [result.code for result in creates] == [0] * MANY, creates
    pids = {runtime.state(name)["pid"] for name in names}
    assert len(pids) == MANY
    for words in (["start"], ["kill", "KILL"]):
        results = all_at_once(runtime, [[words[0], name, *words[1:]] for name in names])
        assert [result.code for result in results] == [0] * MANY, results
    for name in names:
        runtime.wait(name, "stopped")
    results = all_at_once(runtime, [["delete", name] for name in names])
    assert [result.code for result in results] == [0] * MANY, results
    leaves_nothing(runtime, *names)


def test_many_execs(runtime: Runtime, bundle: Bundle) -> None:
    path, name = sleeping(bundle)
    runtime.create(path, name=name)
    runtime("start", name)
    commands = [["exec", name, "/bin/sh", "-c", f"echo {number}; exit {number}"] for number in range(MANY)]
    results = all_at_once(runtime, commands)
    assert [(result.code, result.out) for result in results] == [(n, f"{n}\n") for n in range(MANY)], results
    runtime.end(name)
    leaves_nothing(runtime, name)


def test_many_starts_start_once(runtime: Runtime, bundle: Bundle) -> None:
    name = unique_id()
    path = bundle(
        name, "/bin/sh", "-c", "echo began >>/tmp/began; exec sleep 1000", linux__cgroupsPath=f"/{name}",
        root__readonly=False,
    )  # fmt: skip
    runtime.create(path, name=name)
    results = all_at_once(runtime, [["start", name]] * MANY)
    assert sorted(result.code for result in results) == [0, *[1] * (MANY - 1)], results
    runtime.wait(name, "running")
    began = path / "rootfs/tmp/began"
    until(lambda: began.exists() and began.read_text(), "it does not begin")
    assert began.read_text() == "began\n"
    runtime.end(name)


def test_many_kills_and_deletes(runtime: Runtime, bundle: Bundle) -> None:
    path, name = sleeping(bundle)
    runtime.create(path, name=name)
    runtime("start", name)
    kills = all_at_once(runtime, [["kill", name, "KILL"]] * MANY)
    assert 0 in {result.code for result in kills}, kills
    assert all("container not running" in result.err for result in kills if result.code), kills
    runtime.wait(name, "stopped")
    deletes = all_at_once(runtime, [["delete", name]] * MANY)
    assert 0 in {result.code for result in deletes}, deletes
    assert not (runtime.root / name).exists()
    leaves_nothing(runtime, name)


def test_forced_deletes_of_what_runs(runtime: Runtime, bundle: Bundle) -> None:
    path, name = sleeping(bundle)
    runtime.create(path, name=name)
    runtime("start", name)
    pid = runtime.state(name)["pid"]
    deletes = all_at_once(runtime, [["delete", "--force", name]] * MANY)
    assert 0 in {result.code for result in deletes}, deletes
    assert not os.path.exists(f"/proc/{pid}/exe")  # a zombie, if it is there, has none
    leaves_nothing(runtime, name)


def test_random_verbs_on_few_names(runtime: Runtime, bundle: Bundle) -> None:
    """Whatever the order: each command succeeds or fails with words, and all can be deleted in the end."""
    made = [sleeping(bundle) for _ in range(4)]
    choice = random.Random(5)
    runtime.root.mkdir(parents=True)
    runtime.made.extend(name for _, name in made)

    def any_command() -> list[str]:
        path, name = choice.choice(made)
        return choice.choice(
            [
                ["create", "--bundle", str(path), name], ["create", "--bundle", str(path), name],
                ["start", name], ["start", name], ["state", name], ["exec", name, "/bin/true"],
                ["kill", name, "KILL"], ["delete", name], ["delete", "--force", name], ["list"], ["pause", name],
                ["resume", name],
            ]
        )  # fmt: skip

    for _ in range(6):
        commands = [any_command() for _ in range(16)]
        results = all_at_once(runtime, commands)
        wordless = [
            (words, result.code)
            for words, result in zip(commands, results, strict=True)
            # A program that is killed with its container is no failure of `exec`: its code says it.
            if result.code and not result.err and (words[0], result.code) != ("exec", 128 + signal.SIGKILL)
        ]
        assert wordless == [], results
    for _, name in made:
        runtime("resume", name, code=None)
    leaves_nothing(runtime, *(name for _, name in made))
    assert list(runtime.root.iterdir()) == []
