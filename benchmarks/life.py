"""Containers with a life, side by side with podman, docker, runc and crun: `python -m benchmarks.life`, as root.

    python -m benchmarks.life [--quick] [--rounds N] [--only SECTION,...] [--out DIRECTORY]

| section | what |
|---|---|
| start | `Engine.run` that keeps nothing, and with shim, row and snapshot, beside the floor |
| cold | `run --rm --network none` as a command, beside podman and docker |
| idle | memory of an idle detached container, from one process and each by its own command; `ps` of them |
| crowd | the start of one container beside many that run, and beside one |
| exec | a further program in a container, beside runc and crun |

Writes life.md and life.json. Everything that was started is removed, after an interrupt too.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import life_sections, life_words
from benchmarks.engines import Place
from benchmarks.host import Unable, Workspace, enter_private_namespace, machine_facts
from benchmarks.report import DEFAULT_OUT, Interruption


class Settings(NamedTuple):
    """How much is measured: rounds of each section, and how many containers there are."""

    starts: int
    commands: int
    few: int
    many: int
    docker_many: int
    crowd: int
    crowd_starts: int
    execs: int


QUICK = Settings(starts=20, commands=5, few=5, many=25, docker_many=5, crowd=50, crowd_starts=15, execs=10)
FULL = Settings(
    starts=100, commands=15, few=10, many=200, docker_many=200, crowd=500, crowd_starts=60, execs=50
)
Report = dict[str, Any]


def run(settings: Settings, sections: list[str], pause: Callable[[], None]) -> Report:
    """Measure *sections* and return the report; *pause* is called between measurements and may end them."""

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    report: Report = {
        "machine": machine_facts(), "settings": settings._asdict(), "sections": {}, "missing": {},
    }  # fmt: skip
    place = Place()
    try:
        workspace = Workspace()
        try:
            for name in sections:
                say(name)
                bench = life_sections.Bench(workspace, place, settings, pause, say, report["missing"])
                report["sections"][name] = getattr(life_sections, name)(bench)
        finally:
            workspace.close()
    finally:
        place.close()
    report["goals"] = life_words.goals(report)
    return report


def main(arguments: list[str] | None = None) -> int:
    """Measure and write both files; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.life", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a little of each: shows that it works, no more")
    parser.add_argument(
        "--rounds", type=int, help=f"starts, commands and execs of each ({FULL.commands} to {FULL.starts})"
    )
    parser.add_argument("--only", help=f"some of {','.join(life_sections.SECTIONS)}")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="where the files go (benchmarks/out)")
    options = parser.parse_args(arguments)
    settings = QUICK if options.quick else FULL
    if options.rounds is not None:
        settings = settings._replace(
            starts=options.rounds, commands=options.rounds, crowd_starts=options.rounds, execs=options.rounds
        )
    sections = options.only.split(",") if options.only else list(life_sections.SECTIONS)
    if unknown := set(sections) - set(life_sections.SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    if os.geteuid() != 0:
        print("life: starting containers needs root", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    interruption = Interruption()
    enter_private_namespace()
    try:
        report = run(settings, sections, interruption.check)
    except Unable as reason:
        print(f"life: {reason}", file=sys.stderr)
        return 1
    text = life_words.markdown(report)
    (options.out / "life.md").write_text(text)
    (options.out / "life.json").write_text(json.dumps(report, indent=1) + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
