"""Shims keep nothing of who started them, do not grow with what they serve, and leave nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pyrunc import Engine
from pyrunc.runtime import attach, shim
from tests.safety import support
from tests.safety.test_leaks import _only_ours, private_bytes, repeat

__all__ = ["_only_ours"]  # a fixture: what is counted is only what these tests start
_CHECKOUT = str(Path(__file__).parents[2])
_SERVED = 100
_IDLE, _IDLE_BYTES = 20, 256 << 10


@pytest.fixture
def engine(tmp_path: Path, rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine with the root of these tests as the image `root`."""
    monkeypatch.setenv("PYRUNC_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PYRUNC_ROOT", str(tmp_path / "root"))
    with Engine() as opened:
        archive = tmp_path / "root.tar"
        subprocess.run(["tar", "-C", rootfs, "-cf", archive, "."], check=True)
        with archive.open("rb") as file:
            opened.images.import_(file, "root")
        # The thread that takes note of ends opens the databases with its first one, and keeps them open.
        ending = [opened.start("root", ["/bin/true"]) for _ in range(3)]
        assert support.wait_until(lambda: all(each.record().state == "exited" for each in ending))
        for each in ending:
            each.remove()
        yield opened
        for record in opened.containers.list(all=True):
            opened.containers.get(record.id).remove(force=True)


def running(key: str) -> shim.Running:
    """What the shim of the container says of itself."""
    found = shim.running(os.path.join(os.environ["PYRUNC_STATE"], key))
    assert found is not None
    return found


def descriptors(pid: int) -> dict[str, str]:
    """Number -> what it leads to."""
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            found[fd] = os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


@pytest.mark.parametrize("starts", [100, pytest.param(5_000, marks=pytest.mark.soak)])
def test_containers_that_come_and_go(engine: Engine, tmp_path: Path, starts: int) -> None:
    def act() -> None:
        engine.start("root", ["/bin/sleep", "60"]).remove(force=True)

    repeat(act, starts)
    assert [name for name in os.listdir(tmp_path / "state") if name != "seccomp"] == []
    assert os.listdir(tmp_path / "root/containers") == []


@pytest.mark.parametrize("starts", [100, pytest.param(5_000, marks=pytest.mark.soak)])
def test_containers_that_end_by_themselves(engine: Engine, tmp_path: Path, starts: int) -> None:
    def act() -> None:
        assert engine.run("root", ["/bin/true"], scratch="disk").exit_code == 0

    repeat(act, starts)
    assert engine.containers.list(all=True) == []
    assert [name for name in os.listdir(tmp_path / "state") if name != "seccomp"] == []


def test_a_shim_does_not_grow_with_its_clients(engine: Engine) -> None:
    container = engine.start("root", ["/bin/sleep", "60"])
    of = running(container.id).shim
    state = os.path.join(os.environ["PYRUNC_STATE"], container.id)

    def serve() -> None:
        client = attach.AttachClient.connect(state)
        client.resize(10, 20)
        client.close()
        assert container.exec(["/bin/true"]).exit_code == 0

    for _ in range(5):
        serve()
    assert support.wait_until(lambda: len(support.descendants(of)) == 1)
    before, bytes_before = descriptors(of), private_bytes(of)
    for _ in range(_SERVED):
        serve()
    assert support.wait_until(lambda: descriptors(of).keys() == before.keys()), (before, descriptors(of))
    assert support.wait_until(lambda: len(support.descendants(of)) == 1)
    assert private_bytes(of) - bytes_before <= 64 << 10


def test_a_shim_does_not_grow_with_its_log(engine: Engine, tmp_path: Path) -> None:
    script = "i=0; while [ $i -lt 5000 ]; do i=$((i+1)); echo $i; done; echo whole; sleep 60"
    host_config = {"LogConfig": {"Type": "json-file", "Config": {"max-size": "4k", "max-file": "3"}}}
    container = engine.containers.create("root", ["/bin/sh", "-c", script], host_config=host_config)
    container.start()
    directory = tmp_path / "root/containers" / container.id
    log = directory / f"{container.id}-json.log"
    of = running(container.id).shim
    before = len(descriptors(of))
    assert support.wait_until(lambda: log.exists() and "whole" in log.read_text())
    names = sorted(path.name for path in directory.glob("*-json.log*"))
    assert names == [log.name, f"{log.name}.1", f"{log.name}.2"]
    assert len(descriptors(of)) <= before
    assert private_bytes(of) <= 1 << 20
    text = b"".join(Path(directory, name).read_bytes() for name in (names[2], names[1], names[0]))
    lines = [json.loads(line)["log"].strip() for line in text.splitlines()]
    assert lines == [str(number) for number in range(int(lines[0]), 5001)] + ["whole"]


def test_idle_shims_are_small(engine: Engine) -> None:
    """A goal of the benchmarks, which measure it better: 0.1 MiB by the slope."""
    shims = [running(engine.start("root", ["/bin/sleep", "60"]).id).shim for _ in range(_IDLE)]
    total = 0
    for pid in shims:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    assert total <= _IDLE * _IDLE_BYTES


@pytest.mark.parametrize("flags", [["-d"], ["-d", "--rm"], ["-di"]])
def test_a_shim_keeps_nothing_of_the_command_that_started_it(
    engine: Engine, tmp_path: Path, flags: list[str]
) -> None:
    """Its pipes come to their end, its directory can go, and nothing of its session or cgroups is held."""
    secret, here = tmp_path / "secret", tmp_path / "here"
    secret.write_text("secret")
    here.mkdir()
    kept = os.open(secret, os.O_RDONLY)
    os.set_inheritable(kept, True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pyrunc", "run", *flags, "root", "/bin/sleep", "60"], pass_fds=(kept,),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=here, check=False, timeout=60,
            env={**os.environ, "PYTHONPATH": _CHECKOUT},
        )  # fmt: skip
    finally:
        os.close(kept)
    assert (done.returncode, done.stderr) == (0, "")
    key = done.stdout.strip()
    of = running(key).shim
    assert support.name_of(of) == "pyrunc-shim"
    held = descriptors(of)
    assert str(secret) not in held.values()
    assert os.readlink(f"/proc/{of}/cwd") == "/"
    assert os.getsid(of) == of
    fields = Path(f"/proc/{of}/stat").read_text().rpartition(") ")[2].split()
    assert fields[4] == "0", "it has a controlling terminal"
    ours = Path("/proc/self/cgroup").read_text().splitlines()
    assert support.wait_until(
        lambda: not [line for line in Path(f"/proc/{of}/cgroup").read_text().splitlines()
                     if line in ours and not line.endswith(":/")]
    )  # fmt: skip
    assert engine.containers.get(key).record().state == "running"


def test_a_shim_holds_no_memory_of_its_starter(engine: Engine) -> None:
    """What the starter had in its memory is not in the shim's."""
    secret = os.urandom(16).hex().encode()
    container = engine.start("root", ["/bin/sleep", "60"])
    assert support.memory_contains(os.getpid(), secret)
    assert not support.memory_contains(running(container.id).shim, secret)
