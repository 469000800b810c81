"""Verbs that are cut short before each of their file operations, SQL statements and calls of the runtime.

`cut` runs one in a process of its own, which is killed (or interrupted, or told that the disk is full) at the step
that is asked for; `wrong` is what must not be so afterwards. By hand: ``python -m tests.engine.steps --help``.
"""

import argparse
import errno
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from pyrunc import Engine
from pyrunc.errors import NotFound, PyruncError
from pyrunc.runtime import shim

SLEEP = ["sh", "-c", "trap 'exit 5' TERM; while :; do busybox sleep 0.05; done"]
MOUNTS = {"Binds": ["data:/data"]}
ANONYMOUS: dict[str, Any] = {"Volumes": {"/anonymous": {}}}
_MODULES = ("posix", "fcntl", "_socket", "_posixsubprocess")
_FILES = tuple(
    f"/pyrunc/runtime/{name}.py"
    for name in ("launcher", "spawner", "supervised", "shim", "cgroup_control", "joining")
)
_MODES = ("kill", "interrupt", "full")
_FILLS = frozenset(
    ("open", "mkdir", "write", "rename", "link", "symlink", "posix_fallocate", "execute", "fsync")
)
_GIVEN_S = 120

Act = Callable[[Engine], object]


def _start(engine: Engine, **more: Any) -> object:
    return engine.start(
        "beta",
        SLEEP,
        name="one",
        config=ANONYMOUS,
        host_config={**MOUNTS, **more.pop("host_config", {})},
        **more,
    )


def _create(engine: Engine) -> object:
    return engine.containers.create("beta", SLEEP, name="one", config=ANONYMOUS, host_config=MOUNTS)


def _nothing(_engine: Engine) -> None:
    """There is nothing before."""


def _ended(engine: Engine) -> None:
    engine.start("beta", ["true"], name="one", config=ANONYMOUS, host_config=MOUNTS).wait(_GIVEN_S)


def _paused(engine: Engine) -> None:
    _start(engine)
    engine.containers.get("one").pause()


def _restarting(engine: Engine) -> None:
    policy = {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}}
    one = engine.start("beta", ["sh", "-c", "exit 1"], name="one", config=ANONYMOUS, host_config=policy)
    while one.record().state != "restarting" or one.record().restart_count < 5:
        time.sleep(0.01)


def _always(engine: Engine) -> None:
    _start(engine, host_config={"RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}})


def _volume(engine: Engine) -> None:
    engine.volumes.create("other")


def _copy(engine: Engine) -> None:
    import io
    import tarfile

    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        info = tarfile.TarInfo("file")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"hello"))
    made.seek(0)
    engine.containers.get("one").put_archive("/data", made)


VERBS: dict[str, tuple[Act, Act]] = {
    "create": (_nothing, _create),
    "start-new": (_nothing, _start),
    "start-new-rm": (_nothing, lambda e: _start(e, remove=True)),
    "run": (_nothing, lambda e: e.run("beta", ["true"], name="one")),
    "run-kept": (_nothing, lambda e: e.run("beta", ["true"], name="one", remove=False)),
    "start": (_create, lambda e: e.containers.get("one").start()),
    "start-again": (_ended, lambda e: e.containers.get("one").start()),
    "stop": (_start, lambda e: e.containers.get("one").stop(5)),
    "stop-rm": (lambda e: _start(e, remove=True), lambda e: e.containers.get("one").stop(5)),
    "stop-always": (_always, lambda e: e.containers.get("one").stop(5)),
    "stop-restarting": (_restarting, lambda e: e.containers.get("one").stop(5)),
    "kill": (_start, lambda e: e.containers.get("one").kill()),
    "kill-paused": (_paused, lambda e: e.containers.get("one").kill()),
    "restart": (_start, lambda e: e.containers.get("one").restart(0)),
    "restart-rm": (lambda e: _start(e, remove=True), lambda e: e.containers.get("one").restart(0)),
    "pause": (_start, lambda e: e.containers.get("one").pause()),
    "unpause": (_paused, lambda e: e.containers.get("one").unpause()),
    "rename": (_create, lambda e: e.containers.get("one").rename("two")),
    "update": (_start, lambda e: e.containers.get("one").update(PidsLimit=50)),
    "remove": (_ended, lambda e: e.containers.get("one").remove(volumes=True)),
    "remove-force": (_start, lambda e: e.containers.get("one").remove(force=True, volumes=True)),
    "remove-restarting": (_restarting, lambda e: e.containers.get("one").remove(force=True, volumes=True)),
    "exec": (_start, lambda e: e.containers.get("one").exec(["true"])),
    "exec-detached": (_start, lambda e: e.containers.get("one").exec_detached(["sleep", "100"])),
    "commit": (_start, lambda e: e.containers.get("one").commit("made:1")),
    "copy": (_start, _copy),
    "prune": (_ended, lambda e: e.containers.prune()),
    "list": (_start, lambda e: e.containers.list(all=True)),
    "volume-create": (_nothing, _volume),
    "volume-remove": (_volume, lambda e: e.volumes.remove("other")),
    "volume-prune": (_volume, lambda e: e.volumes.prune(everything=True)),
    "rmi": (_nothing, lambda e: e.images.remove("beta", force=True)),
}


class _Cutter:
    """Counts the steps of this process, and ends it, or what it does, before step *at*."""

    def __init__(self, at: int, mode: str) -> None:
        self.at = at
        self.mode = mode
        self.count = 0
        self.where = ""

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            module = getattr(arg, "__module__", None)
            owner = type(getattr(arg, "__self__", None)).__module__
            if module not in _MODULES and owner != "sqlite3":
                return
            name = arg.__name__
            if self.mode == "full" and name not in _FILLS:
                return
        elif event == "call" and self.mode != "full" and frame.f_code.co_filename.endswith(_FILES):
            name = frame.f_code.co_name
        else:
            return
        self.count += 1
        if self.count == self.at:
            self.where = _where(frame, name)
            os.write(2, f"{self.where}\n".encode())
            if self.mode == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            sys.setprofile(None)
            raise (
                KeyboardInterrupt
                if self.mode == "interrupt"
                else OSError(errno.ENOSPC, "No space left on device")
            )


def _where(frame: FrameType | None, name: str) -> str:
    found = [name]
    while frame is not None and len(found) < 7:
        if "/pyrunc/" in frame.f_code.co_filename:
            found.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(found)


def cut(root: Path, act: Act, at: int, mode: str, told: Path) -> bool:
    """Do *act* in a process of its own until step *at*; whether it came so far. Where that was is written to *told*."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            fd = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            os.dup2(fd, 2)
            code = _cut(root, act, at, mode)
        except BaseException:  # noqa: BLE001 - a process of its own
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    deadline = time.monotonic() + _GIVEN_S
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGABRT)
            os.waitpid(child, 0)
            raise AssertionError(f"hangs after {told.read_text()}")
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        return True
    assert code in (0, 1), f"{code} after {told.read_text()}"
    return code == 1


def _cut(root: Path, act: Act, at: int, mode: str) -> int:
    import faulthandler

    faulthandler.enable(2)
    engine = Engine(root, graph="overlay2")
    engine.images.get("beta")  # so that opening is not counted each time
    engine.containers.list()
    cutter = _Cutter(at, mode)
    sys.setprofile(cutter)
    try:
        act(engine)
    except KeyboardInterrupt:
        if mode != "interrupt":
            raise
    except (PyruncError, OSError):
        if mode != "full":
            raise
    finally:
        sys.setprofile(None)
    if cutter.where:
        engine.containers.list(all=True)  # no lock is held
    engine.close()
    return 1 if cutter.where else 0


# --- what must hold


def wrong(root: Path, state: Path, gone: Collection[str] = ()) -> Iterator[str]:
    """What is not as it should be, after one look at all containers; *gone* are the ids of those that are."""
    with Engine(root, graph="overlay2") as engine:
        records = {each.id: each for each in engine.containers.list(all=True)}
        snapshots = {info.key for info in engine._parts.snapshotter.walk() if len(info.key) == 64}
        used = {row[0] for row in engine._parts.metadata.database.query("SELECT container FROM users")}
        volumes = {each.name for each in engine.volumes.list()}
        claims = {
            row[0] for row in engine._parts.volumes._database.query("SELECT container FROM mount_points")
        }
        problems = engine.check()
    running = {key for key, each in records.items() if each.state in ("running", "paused")}
    for key, each in records.items():
        if each.state not in ("created", "running", "paused", "exited", "restarting"):
            yield f"{each.name} is {each.state}"
        if key in running:
            who = shim.running(each.state_dir)
            if who is None or not shim.is_alive(who.pid, who.pid_started):
                yield f"{each.name} has no process"
            elif each.state == "running" and _frozen(key):
                yield f"{each.name} runs, and is frozen"
        if each.state == "exited" and each.auto_remove:
            yield f"{each.name} was to go with its end"
        if each.state == "exited" and not each.finished_ns:
            yield f"{each.name}: nobody knows when it ended"
    if snapshots != set(records):
        yield f"snapshots {snapshots ^ set(records)}"
    if used != set(records):
        yield f"users of images {used ^ set(records)}"
    if claims - set(records):
        yield f"claims of volumes {claims - set(records)}"
    yield from (f"problem: {each}" for each in problems)
    for path in (root / "volumes").glob("*"):  # an empty one is swept by the next removal
        # An exit command may be removing it just now: os.walk passes over what goes.
        if path.name not in volumes and any(files for _, _, files in os.walk(path)):
            yield f"volume without a row: {path.name}"
    for place in (root / "containers", state):
        for path in place.glob("*"):
            if len(path.name) == 64 and path.name not in (running if place == state else records):
                with suppress(FileNotFoundError):  # it has just gone
                    yield f"left: {path} {os.listdir(path)}"
    yield from (f"lock {name}" for name in os.listdir(root / "locks") if name.endswith(".container"))
    for path in _cgroups():
        if path.name not in running and (path.name in records or path.name in gone):
            yield f"cgroup {path}"


def _cgroups() -> Iterator[Path]:
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        try:
            yield from [hierarchy / "pyrunc" / name for name in os.listdir(hierarchy / "pyrunc")]
        except OSError:
            continue  # there is none


def _frozen(container_id: str) -> bool:
    try:
        return Path(f"/sys/fs/cgroup/freezer/pyrunc/{container_id}/freezer.state").read_text() != "THAWED\n"
    except OSError:
        return False


def settled(root: Path, state: Path, gone: Collection[str] = ()) -> list[str]:
    """What is `wrong` and stays so while exit commands have their time."""
    deadline = time.monotonic() + 60
    while True:
        found = list(wrong(root, state, gone))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def cleared(root: Path, state: Path) -> list[str]:
    """Remove all containers and volumes: what is left then."""
    with Engine(root, graph="overlay2") as engine:
        ids = [each.id for each in engine.containers.list(all=True)]
        for container_id in ids:
            with suppress(NotFound):  # it has just gone with its end
                engine.containers.get(container_id).remove(force=True, volumes=True)
        engine.volumes.prune(everything=True)
        left = [volume.name for volume in engine.volumes.list()]
    return [f"volume {name}" for name in left] + settled(root, state, ids)


def walk(
    root: Path, state: Path, verb: str, mode: str, every: int = 1, first: int = 1
) -> Iterator[tuple[int, str, list[str]]]:
    """Cut a verb at each *every*-th step: the step, where it was, and what was wrong after it."""
    before, act = VERBS[verb]
    told = state.parent / "told"
    at = first
    while True:
        with Engine(root, graph="overlay2") as engine:
            before(engine)
        try:
            came, found = cut(root, act, at, mode, told), []
        except AssertionError as exc:
            came, found = True, [str(exc)]
        found += settled(root, state)
        found += [f"afterwards: {each}" for each in cleared(root, state)]
        yield at, told.read_text().strip(), found
        if not came:
            return
        at += every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verbs", nargs="*")
    parser.add_argument("--mode", choices=_MODES, default="kill")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--archives", type=Path, required=True)
    arguments = parser.parse_args()
    for verb in arguments.verbs or VERBS:
        with tempfile.TemporaryDirectory() as name:
            root, state = Path(name, "root"), Path(name, "state")
            os.environ["PYRUNC_STATE"] = str(state)
            with Engine(root, graph="overlay2") as engine:
                engine.images.load(arguments.archives / "alpha.tar")
                engine.images.load(arguments.archives / "beta.tar")
            at = 0
            for at, where, found in walk(root, state, verb, arguments.mode, arguments.every, arguments.first):
                if found:
                    print(f"{verb} {at} {where}", *found, sep="\n    ", flush=True)
                    if verb == "rmi":
                        break
            print(f"{verb}: {at} steps", flush=True)


if __name__ == "__main__":
    main()
