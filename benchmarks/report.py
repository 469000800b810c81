"""The side-by-side report: `python -m benchmarks.report [--rounds N] [--quick] [--out DIRECTORY]`, as root.

Measures every contender of :mod:`benchmarks.peers` in one run and writes report.md, report.json and report.svg.
"""

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import measure, usage, words
from benchmarks.host import Unable, Workspace, enter_private_namespace, machine_facts
from benchmarks.peers import MAKERS, Peer, make

WIDTHS = (1, 2, 8, 32)
DEFAULT_OUT = Path(__file__).with_name("out")
SEED = 1


class Settings(NamedTuple):
    """How much is measured."""

    rounds: int
    widths: tuple[int, ...]
    slices: int
    slice_s: float
    cpu_starts: int
    traced_starts: int


QUICK = Settings(rounds=5, widths=WIDTHS, slices=1, slice_s=0.02, cpu_starts=40, traced_starts=1)
FULL = Settings(rounds=200, widths=WIDTHS, slices=10, slice_s=0.25, cpu_starts=200, traced_starts=5)


class Interruption:
    """Turns SIGTERM and SIGINT into an end between two measurements: in the middle of one, containers would be left."""

    def __init__(self) -> None:
        """Take over both signals."""
        self._number = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        self._number = number

    def check(self) -> None:
        """Raise SystemExit if a signal has come."""
        if self._number:
            raise SystemExit(128 + self._number)


def measure_latency(
    peers: list[Peer], rounds: int, pause: Callable[[], None]
) -> tuple[dict[str, list[int]], dict[str, dict[str, int]]]:
    """Start each contender once a round, and call *pause* before.

    Returns nanoseconds by name, and the median stages of those that tell them.
    """
    samples: dict[str, list[int]] = {peer.name: [] for peer in peers}
    stages: dict[str, dict[str, list[int]]] = {}
    for order in measure.turns(peers, rounds, SEED):
        for peer in order:
            pause()
            elapsed, parts = peer.start()
            samples[peer.name].append(elapsed)
            for stage, ns in parts.items():
                stages.setdefault(peer.name, {}).setdefault(stage, []).append(ns)
    medians = {
        peer.name: {stage: round(measure.median(ns)) for stage, ns in stages[peer.name].items()}
        for peer in peers
        if peer.name in stages
    }
    return samples, medians


def measure_rates(
    peers: list[Peer], width: int, slices: int, slice_s: float, pause: Callable[[], None]
) -> dict[str, float]:
    """Return containers per second, *width* at once, from slices in which the contenders take turns.

    Calls *pause* before each slice.
    """
    pace = {}
    for peer in peers:
        probe = measure.slice_count(0, slice_s, width)
        pace[peer.name] = probe / peer.many(probe, width) * 1e9
    done = dict.fromkeys(pace, 0)
    spent = dict.fromkeys(pace, 0)
    for order in measure.turns(peers, slices, SEED + width):
        for peer in order:
            pause()
            count = measure.slice_count(pace[peer.name], slice_s, width)
            spent[peer.name] += peer.many(count, width)
            done[peer.name] += count
    return {name: done[name] / spent[name] * 1e9 for name in done}


def run(settings: Settings, workspace: Workspace, pause: Callable[[], None]) -> words.Report:
    """Measure all that can be measured here and return the report in its JSON form.

    *pause* is called between measurements and may end them by an exception.
    """

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    peers: list[Peer] = []
    missing: dict[str, str] = {}
    machine = machine_facts()
    try:
        for name in MAKERS:
            try:
                peers.append(make(name, workspace))
            except Unable as reason:
                missing[name] = str(reason)
                say(f"not measured: {name}: {reason}")
        say(f"latency, {settings.rounds} rounds")
        samples, stages = measure_latency(peers, settings.rounds, pause)
        rates: dict[str, dict[str, float]] = {peer.name: {} for peer in peers}
        for width in settings.widths:
            say(f"rate, {width} at once")
            found = measure_rates(peers, width, settings.slices, settings.slice_s, pause)
            for name, rate in found.items():
                rates[name][str(width)] = rate
        say("CPU time and syscalls")
        traceable = shutil.which("strace") is not None
        if not traceable:
            missing["syscalls"] = "strace is missing: apt-get install strace"
        table: dict[str, Any] = {}
        for peer in peers:
            pause()
            table[peer.name] = {
                "title": peer.title,
                "latency": measure.summarize(samples[peer.name])._asdict(),
                "rate_per_s": rates[peer.name],
                "cpu_ms": usage.cpu_ms(peer, settings.cpu_starts, workspace),
                "syscalls": usage.syscalls(peer, settings.traced_starts, workspace) if traceable else None,
            }
    finally:
        for peer in peers:
            peer.close()
    report: words.Report = {
        "machine": machine,
        "settings": settings._asdict(),
        "peers": table,
        "stages": stages,
        "missing": missing,
    }
    report["goals"] = words.goals(report)
    return report


def main(arguments: list[str] | None = None) -> int:
    """Measure and write the three files; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, help=f"starts of each contender for its latency ({FULL.rounds})"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few starts of each: shows that it works, no more"
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="where the files go (benchmarks/out)")
    options = parser.parse_args(arguments)
    settings = QUICK if options.quick else FULL
    if options.rounds is not None:
        settings = settings._replace(rounds=options.rounds)
    if os.geteuid() != 0:
        print("report: starting containers needs root", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    interruption = Interruption()
    enter_private_namespace()
    try:
        workspace = Workspace()
    except Unable as reason:
        print(f"report: {reason}", file=sys.stderr)
        return 1
    try:
        report = run(settings, workspace, interruption.check)
    finally:
        workspace.close()
    text = words.markdown(report)
    (options.out / "report.md").write_text(text)
    (options.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "report.svg").write_text(words.svg(report))
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
