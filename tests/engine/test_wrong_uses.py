"""Whatever a script asks for by mistake is refused by one of pyrunc's errors, and nothing is left of it."""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc import AsyncEngine, Engine
from pyrunc.errors import FailedPrecondition, InvalidArgument, PyruncError
from tests.cli import samples
from tests.engine.conftest import clear

pytestmark = [
    pytest.mark.usefixtures("host_unchanged"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
SLEEP = ["sleep", "600"]
NAN = float("nan")


@pytest.fixture
def engine(tmp_path: Path, busybox: Path) -> Iterator[Any]:
    samples.write(tmp_path, busybox)
    with Engine(tmp_path / "root") as made:
        made.images.load(tmp_path / "beta.tar")
        yield made
        clear(made)


def refused(calls: "list[Callable[[], object]]") -> None:
    wrong = []
    for number, call in enumerate(calls):
        try:
            wrong.append((number, call()))
        except PyruncError as exc:
            assert str(exc)
            if isinstance(exc, OSError) and not exc.errno:
                wrong.append((number, exc))
    assert not wrong


def test_what_is_to_be_made(engine: Any) -> None:
    run, start = engine.run, engine.start
    refused([
        lambda: run(None), lambda: run(5), lambda: run(""), lambda: run("UPPER"), lambda: run("nothing"),
        lambda: run("beta", "true"), lambda: run("beta", [1]), lambda: run("beta", [b"true"]),
        lambda: run("beta", [""]),
        lambda: start("beta", "true"), lambda: start("beta", [1]), lambda: start("beta", [b"true"]),
        lambda: start("beta", ["a\0b"]), lambda: start("beta", ["x"], entrypoint="sh"),
        lambda: run("beta", ["true"], stdin="x"), lambda: run("beta", ["true"], stdin=None, scratch="disk"),
        lambda: run("beta", ["true"], timeout_s="1"), lambda: run("beta", ["true"], timeout_s=NAN, scratch="disk"),
        lambda: run("beta", ["true"], scratch="tape"), lambda: run("beta", ["true"], env={"A": 1}),
        lambda: start("beta", ["true"], memory_bytes="1g"), lambda: start("beta", ["true"], env=["A=1"]),
        lambda: start("beta", ["true"], name="a b"), lambda: start("beta", ["true"], name=5),
        lambda: start("beta", ["true"], user=5), lambda: start("beta", ["true"], cwd="relative"),
        lambda: start("beta", ["nothing"], remove=True), lambda: run(["beta"]), lambda: run("beta", 5),
        lambda: run("beta", entrypoint=5), lambda: start(["beta"]), lambda: start("beta", config=5, stdin_open=True),
        lambda: start("beta", host_config=5, remove=True),
    ])  # fmt: skip
    assert engine.containers.list(all=True) == []


def test_documents(engine: Any) -> None:
    def config(**document: object) -> Callable[[], object]:
        return lambda: engine.start("beta", ["true"], config=document)

    def host(**document: object) -> Callable[[], object]:
        return lambda: engine.start("beta", ["true"], host_config=document)

    refused([
        lambda: engine.start("beta", ["true"], config=5), lambda: engine.start("beta", ["true"], host_config=[1]),
        config(Env=5), config(Env="A=1"), config(Labels=["a"]), config(Cmd=5), config(User=5), config(Tty="yes"),
        config(Volumes=["/a"]), config(StopTimeout="1"), host(Memory="1g"), host(Memory=True), host(Binds=5),
        host(Binds=["x"]), host(Mounts=5), host(Mounts=[{"Type": "x"}]), host(RestartPolicy=5),
        host(RestartPolicy={"Name": "sometimes"}), host(LogConfig={"Type": "syslog"}), host(NetworkMode="bridge"),
        config(Memory=64 << 20), config(cmd=["x"]), host(Image="x"), host(memory=64 << 20), host(Nonsense=None),
        host(NetworkMode="container:nobody"), host(VolumesFrom=["nobody"]), host(AutoRemove="yes"), host(Tmpfs=["/a"]),
    ])  # fmt: skip
    assert engine.containers.list(all=True) == []


def test_verbs(engine: Any) -> None:
    c = engine.start("beta", SLEEP, name="runs")
    stopped = engine.containers.create("beta", SLEEP, name="stopped")
    gone = engine.containers.create("beta", SLEEP)
    gone.remove()
    refused([
        stopped.kill, lambda: c.kill("NOPE"), lambda: c.kill(1000), lambda: c.kill(None), lambda: c.kill(-1),
        lambda: c.stop("x"), lambda: c.stop(NAN), lambda: c.stop(1, "NOPE"), stopped.pause, c.unpause,
        lambda: c.wait("x"), lambda: c.wait(-1), lambda: c.wait(NAN), lambda: c.wait(1, "x"), lambda: c.wait(0.01),
        c.remove, gone.remove, lambda: c.rename(""), lambda: c.rename("runs"), lambda: c.rename("stopped"),
        lambda: c.rename("a b"), lambda: c.rename(5), lambda: c.update(Nope=1), lambda: c.update(Memory="x"),
        lambda: c.update(RestartPolicy="x"), lambda: c.update(PidsLimit="x"), lambda: c.exec("true"),
        lambda: c.exec([]), lambda: c.exec([1]), lambda: c.exec(["nothing"]), lambda: stopped.exec(["true"]),
        lambda: c.exec(["true"], user="nobody"), lambda: c.exec(["true"], env=5), lambda: c.exec(["true"], stdin="x"),
        lambda: c.exec(["true"], timeout_s="x"), lambda: c.exec_detached("x"), stopped.top, gone.record, gone.attach,
        stopped.attach, lambda: c.commit("UPPER"), lambda: c.commit("a:b", changes=["NOPE"]),
        lambda: c.get_archive("/nothing", print), lambda: c.stat_path("/nothing"),
        lambda: c.commit("a:b", changes=5), lambda: c.commit("a:b", changes=[1]), lambda: c.commit("a:b", author=b"x"),
        lambda: c.commit("a:b", message="\ud800"), lambda: c.commit(5), lambda: c.get_archive(5, print),
        lambda: c.get_archive("x\0y", print), lambda: c.stat_path(None), lambda: c.put_archive(5, io.BytesIO(b"")),
        lambda: c.put_archive("/", "x"), lambda: c.exec_start(["true"], stdin="x"),
        lambda: c.exec_start(["true"], stdout=[]), lambda: c.logs(tail="x"), lambda: c.logs(tail=-1),
        lambda: c.logs(since_ns="x"), lambda: c.logs(until_ns=1.5), lambda: c.logs(tail=True),
        lambda: c.put_archive("/nothing", io.BytesIO(b"")), lambda: c.put_archive("/", io.BytesIO(b"garbage" * 100)),
    ])  # fmt: skip
    assert c.record().state == "running"


def test_objects(engine: Any, tmp_path: Path) -> None:
    closed = Engine(tmp_path / "root")
    closed.close()
    absent = f"{tmp_path}/absent"
    get, listed, volumes, images = (
        engine.containers.get,
        engine.containers.list,
        engine.volumes,
        engine.images,
    )
    refused([
        lambda: get("nobody"), lambda: get(""), lambda: get(None), lambda: get(5), lambda: listed(filters="x"),
        lambda: listed(filters=[("colour", "red")]), lambda: listed(filters={"status": ["x"]}),
        lambda: listed(filters=[("status", "x")]), lambda: listed(limit="x"),
        lambda: engine.containers.prune([("x", "y")]), lambda: list(engine.events(filters=[("x", "y")])),
        lambda: list(engine.events(filters="x")), lambda: list(engine.events(since_ns="x")),
        lambda: volumes.create("a b"), lambda: volumes.get("nothing"), lambda: volumes.remove("nothing"),
        lambda: volumes.create("x", driver="nfs"), lambda: volumes.list([("x", "y")]), lambda: images.get("nothing"),
        lambda: get("\ud800"), lambda: listed(filters=5), lambda: listed(filters=[1]), lambda: images.list(filters=5),
        lambda: volumes.list(5), lambda: engine.events(filters=None), lambda: volumes.create(5),
        lambda: volumes.create("\ud800"), lambda: volumes.create("x", labels="y"),
        lambda: volumes.create("x", options=5),
        lambda: volumes.get("\ud800"), lambda: volumes.remove("\ud800"), lambda: images.load(5),
        lambda: images.load(""),
        lambda: images.load("x\0y"), lambda: images.load(absent),
        lambda: images.load(tmp_path / "beta.tar", platform=5),
        lambda: images.import_(5), lambda: images.import_(absent), lambda: images.import_(absent, 5),
        lambda: images.import_("/etc/passwd", changes=5), lambda: images.import_("/etc/passwd", message=b"x"),
        lambda: images.save(5, print), lambda: images.save([1], print), lambda: images.tag("beta", 5),
        lambda: images.shipped(5), lambda: images.bootstrap(5),
        lambda: images.get(None), lambda: images.load(io.BytesIO(b"x")), lambda: images.tag("nothing", "x"),
        lambda: images.tag("beta", "UPPER"), lambda: images.remove("nothing"), lambda: images.save(["nothing"], print),
        lambda: images.list(filters=[("x", "y")]), lambda: closed.run("beta"), closed.containers.list,
        closed.images.list, lambda: closed.start("beta", SLEEP), Engine("/etc/passwd").images.list,
        Engine("/proc/x").images.list, lambda: Engine(5),  # type: ignore[arg-type]
        lambda: AsyncEngine(tmp_path, threads=0), lambda: AsyncEngine(tmp_path, threads="x"),  # type: ignore[arg-type]
    ])  # fmt: skip
    with pytest.raises(FailedPrecondition, match=r"^cannot use /etc/passwd: Not a directory$"):
        Engine("/etc/passwd").images.list()
    with pytest.raises(FileNotFoundError, match=f"^open {absent}: no such file or directory$") as told:
        images.load(absent)
    assert (told.value.filename, told.value.errno) == (absent, 2)
    with pytest.raises(InvalidArgument, match=r"^'memory' is no key of Docker's HostConfig$"):
        engine.start("beta", SLEEP, host_config={"memory": 1})
