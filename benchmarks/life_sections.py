"""The measurements of :mod:`benchmarks.life`, one function a section; each returns its part of the report."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import measure
from benchmarks.engines import IMAGE, Contender, Place, processes_of
from benchmarks.host import Unable, Workspace
from benchmarks.peers import FloorPeer

SECTIONS = ("start", "cold", "idle", "crowd", "exec")
SEED = 1
SETTLE_S = 1.0
REMOVED_S = 0.02  # in which the kernel has removed the cgroups and namespaces of a container
CROWDS = 3  # how often many are started and removed
IDLE = ["/bin/sleep", "100000"]
_KERNEL_MEMORY = ("Slab", "KernelStack", "PageTables", "Percpu")
Part = dict[str, Any]
Act = Callable[[], int]  # does it once; nanoseconds


class Bench(NamedTuple):
    """What a section measures with, how much, what it calls between measurements, and where it says what is missing."""

    workspace: Workspace
    place: Place
    settings: Any
    pause: Callable[[], None]
    say: Callable[[str], None]
    missing: dict[str, str]


def timed(act: Callable[[], object]) -> int:
    """Call *act*; nanoseconds."""
    begin = time.perf_counter_ns()
    act()
    return time.perf_counter_ns() - begin


def taken_in_turns(acts: dict[str, Act], rounds: int, pause: Callable[[], None]) -> dict[str, list[int]]:
    """Do every act *rounds* times, in a new order each round; nanoseconds of each."""
    samples: dict[str, list[int]] = {name: [] for name in acts}
    for order in measure.turns(list(acts), rounds, SEED):
        for name in order:
            pause()
            samples[name].append(acts[name]())
    return samples


def interleaved(acts: dict[str, Act], rounds: int, pause: Callable[[], None]) -> dict[str, Any]:
    """Do every act *rounds* times, in a new order each round; their summaries."""
    return {
        name: measure.summarize(taken)._asdict()
        for name, taken in taken_in_turns(acts, rounds, pause).items()
    }


def repeated(act: Act, rounds: int, pause: Callable[[], None]) -> list[int]:
    """Do it *rounds* times; nanoseconds of each."""
    taken = []
    for _ in range(rounds):
        pause()
        taken.append(act())
    return taken


# --- start


def start(bench: Bench) -> Part:
    """`Engine.run("hello")` in its three forms, on the tmpfs where the floor is too and on the disk."""
    import pyrunc

    floor = FloorPeer(bench.workspace)
    memory = pyrunc.Engine(bench.workspace.directory("life-engine"))
    disk = bench.place.engine()
    try:

        def run(engine: pyrunc.Engine, **options: Any) -> Act:
            def act() -> int:
                begin = time.perf_counter_ns()
                result = engine.run("hello", **options)
                elapsed = time.perf_counter_ns() - begin
                if result.exit_code:
                    raise RuntimeError(f"hello: {result.exit_code} {result.stderr!r}")
                if not options.get("remove", True):
                    engine.containers.get(result.container_id).remove()
                # Or who is next would be measured with it.
                engine._parts.come_to_rest()  # noqa: SLF001
                return elapsed

            act()
            return act

        acts: dict[str, Act] = {
            "floor": lambda: floor.start()[0],
            "run": run(memory),
            "run, shim, row, snapshot": run(memory, scratch="disk"),
            "run, kept": run(memory, remove=False),
            "run, shim, row, snapshot, on a disk": run(disk, scratch="disk"),
            "run, kept, on a disk": run(disk, remove=False),
        }
        acts["floor"]()
        return {"latency": interleaved(acts, bench.settings.starts, bench.pause)}
    finally:
        memory.close()
        floor.close()


# --- cold


def cold(bench: Bench) -> Part:
    """One `run --rm --network none` from a shell, with the imports; and what Python alone takes."""
    bench.place.pyrunc()
    bench.missing.update(bench.place.all(("podman", "docker"), bench.say))
    argv = ("run", "--rm", "--network", "none", IMAGE, "/bin/true")

    def act(contender: Contender) -> Act:
        return lambda: contender.timed(*argv)

    names = [name for name in ("pyrunc", "podman", "docker") if name in bench.place.peers]
    acts: dict[str, Act] = {name: act(bench.place.peers[name]) for name in names}
    acts["python -c pass"] = python_alone
    for each in acts.values():
        each()
    return {"latency": interleaved(acts, bench.settings.commands, bench.pause)}


def python_alone() -> int:
    """What a command of ours cannot go below."""
    return timed(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))


# --- idle


def pss_bytes(pid: int) -> tuple[int, int]:
    """Proportional and resident memory of a process, 0 for one that has ended; proc(5), smaps_rollup."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    found = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines[1:]}
    return found["Pss"], found["Rss"]


def kernel_bytes() -> int:
    """What the kernel holds for all: slabs, stacks, page tables, per-processor memory."""
    found = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(found[name].split()[0]) << 10 for name in _KERNEL_MEMORY)


def _memory(place: Place) -> dict[str, int]:
    """What runs for the containers of *place*, but their own programs."""
    time.sleep(SETTLE_S)
    ours = [pss_bytes(pid) for pid in processes_of(place.state, programs=False)]
    resident = [pss_bytes(pid) for pid in _spawners()]
    return {
        "pss": sum(pss for pss, _ in (*ours, *resident)), "rss": sum(rss for _, rss in (*ours, *resident)),
        "starter": pss_bytes(os.getpid())[0], "kernel": kernel_bytes(), "processes": len(ours) + len(resident),
    }  # fmt: skip


def _spawners() -> list[int]:
    below = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in below if Path(f"/proc/{pid}/comm").read_text().startswith("pyrunc")]


def idle(bench: Bench) -> Part:
    """Memory by the slope between few and many containers, and how long `ps` takes with many."""
    settings = bench.settings
    part: Part = {"slope_bytes": {}, "from": settings.few, "to": settings.many}
    contender = bench.place.pyrunc()
    engine = bench.place.engine()
    engine.run("bench", ["/bin/true"])
    ways: dict[str, Callable[[], object]] = {
        "from one process": lambda: engine.start(IMAGE, IDLE),
        "each by its own command": lambda: contender.call("run", "-d", "--network", "none", IMAGE, *IDLE),
    }
    for way, act in ways.items():
        bench.say(f"idle, {way}")
        taken: list[dict[str, int]] = []
        done = 0
        for count in (settings.few, settings.many):
            while done < count:
                bench.pause()
                act()
                done += 1
            taken.append(_memory(bench.place))
        part["slope_bytes"][way] = {
            key: round((taken[1][key] - taken[0][key]) / (settings.many - settings.few)) for key in taken[0]
        }
        part["slope_bytes"][way]["processes"] = taken[1]["processes"]
        if way == "from one process":
            part["ps"] = _ps(bench, contender)
        bench.place.empty(contender)
    return part


def _ps(bench: Bench, contender: Contender) -> dict[str, Any]:
    """`ps` of many, which the caller has started; docker's beside it, of as many as the settings say."""
    bench.missing.update(bench.place.all(("docker",), bench.say))
    acts: dict[str, Act] = {"pyrunc": lambda: contender.timed("ps"), "python -c pass": python_alone}
    docker = bench.place.peers.get("docker")
    if docker is not None:
        bench.say(f"docker run -d, {bench.settings.docker_many} times")

        def detached(_: int) -> None:
            bench.pause()
            docker.call("run", "-d", "--network", "none", IMAGE, *IDLE)

        try:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(detached, range(bench.settings.docker_many)))
            acts["docker"] = lambda: docker.timed("ps")
        except RuntimeError as reason:
            bench.missing["docker ps"] = str(reason)
    for each in acts.values():
        each()
    found = interleaved(acts, bench.settings.commands, bench.pause)
    if docker is not None:
        bench.place.empty(docker)
    return {
        "latency": found,
        "running": {"pyrunc": bench.settings.many, "docker": bench.settings.docker_many},
    }


# --- crowd


def crowd(bench: Bench) -> Part:
    """A start on a root where one container runs, and on one where many do: one after the other, and in turns.

    The first says what the user sees, who has many or one; the second, what of it is pyrunc's and not the kernel's,
    which has many either way. Each starts when the kernel has seen to the end of the one before; "behind a removal" is
    without that wait, as in a row of short containers. Many are started, and removed, several times: a machine is
    slower for seconds now and then, which is more than the difference.
    """
    settings = bench.settings
    few, many = bench.place.engine("few"), bench.place.engine("many")
    alone, beside = "beside 1", f"beside {settings.crowd}"
    on_the_host = f"beside 1 on its root, {settings.crowd} on the host"
    churning = {name: f"{name}, behind a removal" for name in (alone, beside)}
    samples: dict[str, list[int]] = {
        name: [] for name in (alone, beside, on_the_host, *churning.values(), "the first 50", "the last 50")
    }

    def start_on(engine: Any, settle_s: float = REMOVED_S) -> Act:
        def act() -> int:
            time.sleep(settle_s)
            begin = time.perf_counter_ns()
            container = engine.start(IMAGE, IDLE)
            elapsed = time.perf_counter_ns() - begin
            container.remove(force=True)
            return elapsed

        return act

    acts = {on_the_host: start_on(few), beside: start_on(many)}
    few.start(IMAGE, IDLE)
    for cycle in range(CROWDS + 1):
        for _ in range(3):
            acts[on_the_host]()
        samples[alone] += repeated(acts[on_the_host], settings.crowd_starts, bench.pause)
        samples[churning[alone]] += repeated(start_on(few, 0), settings.crowd_starts, bench.pause)
        if cycle == CROWDS:
            break
        bench.say(f"starting {settings.crowd}")
        started: list[int] = []
        for _ in range(settings.crowd):
            bench.pause()
            started.append(timed(lambda: many.start(IMAGE, IDLE)))
        samples["the first 50"] += started[:50]
        samples["the last 50"] += started[-50:]
        for each in acts.values():
            each()
        for name, taken in taken_in_turns(acts, settings.crowd_starts, bench.pause).items():
            samples[name] += taken
        samples[churning[beside]] += repeated(start_on(many, 0), settings.crowd_starts, bench.pause)
        bench.say("removing them")
        bench.place.empty(bench.place.pyrunc("many"))
        time.sleep(SETTLE_S)
    bench.place.empty(bench.place.pyrunc("few"))
    latency = {name: measure.summarize(taken)._asdict() for name, taken in samples.items()}
    return {"running": settings.crowd, "latency": latency}


# --- exec


def exec(bench: Bench) -> Part:  # noqa: A001 - the section's name
    """/bin/true in a container that runs: by `Container.exec`, by `SandboxProcess.exec`, by runc and crun."""
    import pyrunc
    from benchmarks.exec_into import joiner, sleeper

    document = sleeper(bench.workspace)
    engine = bench.place.engine()
    container = engine.start(IMAGE, IDLE)
    process = pyrunc.Sandbox.from_spec(document, bench.workspace.bundle).start(document["process"]["args"])
    endings: list[Callable[[], object]] = [process.close, lambda: container.remove(force=True)]
    acts: dict[str, Act] = {
        "Container.exec": lambda: timed(lambda: container.exec(["/bin/true"])),
        "SandboxProcess.exec": lambda: timed(lambda: process.exec(["/bin/true"])),
    }
    try:
        for name in ("crun", "runc"):
            try:
                once, end = joiner(name, bench.workspace)
                endings.append(end)
                once()
            except (Unable, RuntimeError, subprocess.CalledProcessError) as reason:
                bench.missing[f"{name} exec"] = str(reason)
            else:
                acts[f"{name} exec"] = _timed(once)
        for each in acts.values():
            each()
        return {"latency": interleaved(acts, bench.settings.execs, bench.pause)}
    finally:
        for each_end in endings:
            each_end()


def _timed(act: Callable[[], object]) -> Act:
    return lambda: timed(act)
