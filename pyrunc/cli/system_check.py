"""`pyrunc system check`."""

from typing import TYPE_CHECKING

from pyrunc.cli import units
from pyrunc.cli.flags import Flag
from pyrunc.cli.session import engine, say, short
from pyrunc.cli.verb import verb

if TYPE_CHECKING:
    from pyrunc.store.check import Problem


@verb(
    "check", "Read everything that is stored, and tell what is damaged or missing; exit code 1 if anything is",
    Flag("-q --quiet", "", "Only show what is damaged or missing: digests, snapshots and paths"),
)  # fmt: skip
def check(quiet: bool, arguments: list[str]) -> int:
    """One paragraph for each problem: what it is, and which images, names and containers it concerns."""
    del arguments
    sizes: list[int] = []
    problems = engine().check(sizes.append)
    for problem in problems:
        say(f"{problem.what}\n" if quiet else _words(problem))
    if not quiet:
        read = f"{len(sizes)} blobs of {units.size(sum(sizes))} are whole"
        say(f"{read}; {_count(len(problems))}\n" if problems else f"{read}; nothing is lost\n")
    return 1 if problems else 0


def _count(problems: int) -> str:
    return "1 problem" if problems == 1 else f"{problems} problems"


def _words(problem: "Problem") -> str:
    lines = [f"{problem.kind}: {problem.text}"]
    if problem.images:
        lines.append(f"    images: {' '.join(map(short, problem.images))}")
    if problem.names:
        lines.append(f"    names: {' '.join(problem.names)}")
    if problem.containers:
        lines.append(f"    containers: {' '.join(map(short, problem.containers))}")
    return "\n".join(lines) + "\n"
