"""Layers applied side by side: `python -m benchmarks.layers [--rounds N] [--archive TAR] [--out DIRECTORY]`, as root.

The archive is a Debian that debootstrap makes once (it is kept), or, where that fails, what this host has in /usr. Each
contender unpacks it into an empty directory on a tmpfs, in a process of its own whose modules are imported already, so
that neither a disk's moods nor the start of an interpreter are measured. CPU time is that of the process and its
children, user and system.
"""

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import measure
from benchmarks.host import machine_facts
from pyrunc._native.layer_apply import REMOVE, LayerApplier
from pyrunc.image import compression, layer

DEFAULT_OUT = Path(__file__).with_name("out")
SUITE, INCLUDED = "bookworm", "python3,perl"
MAX_HOST_BYTES = 200 << 20
SEED = 1

Apply = Callable[[Path, Path], object]


class Cost(NamedTuple):
    """What one contender took, in seconds: medians, and the least."""

    wall_s: float
    cpu_s: float
    least_cpu_s: float


def applied(archive: Path, target: Path) -> object:
    """Apply and no more: what GNU tar and tarfile do."""
    with archive.open("rb", buffering=0) as source:
        reader = compression.open_reader(source)
        root = os.open(target, os.O_RDONLY)
        applier = LayerApplier(root, REMOVE, max_bytes=1 << 40, max_members=1 << 30, max_path_bytes=4095)
        while data := reader.read(256 << 10):
            applier.feed(data)
        return applier.finish()


def verified(archive: Path, target: Path) -> object:
    """Apply as an image's layer: digest and diffID are computed too, and two threads share the work."""
    with archive.open("rb", buffering=0) as source:
        return layer.apply(source, os.open(target, os.O_RDONLY), layer.REMOVE)


def gnu(archive: Path, target: Path) -> object:
    """GNU tar, with all that a layer has."""
    options = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"]
    return os.execvp("tar", ["tar", "-C", str(target), *options, str(archive)])


def python_tarfile(archive: Path, target: Path) -> object:
    """The standard library."""
    with tarfile.open(archive) as opened:
        # Where tarfile filters, devices and owners would not be what the archive says.
        opened.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        opened.extractall(target, numeric_owner=True)
        return None


CONTENDERS: dict[str, Apply] = {
    "pyrunc, applied": applied,
    "pyrunc, verified and applied": verified,
    "GNU tar": gnu,
    "tarfile": python_tarfile,
}
# (what, archive, measure, contender, over, at most)
GOALS = (
    ("CPU, applied / GNU tar", "plain", "cpu_s", "pyrunc, applied", "GNU tar", 1.3),
    ("CPU, applied / tarfile", "plain", "cpu_s", "pyrunc, applied", "tarfile", 1 / 3),
    ("wall, gzip, verified / GNU tar", "gzip", "wall_s", "pyrunc, verified and applied", "GNU tar", 1.0),
)


def once(apply: Apply, archive: Path, place: Path) -> tuple[float, float]:
    """Return wall and CPU seconds of one run in a child; raises RuntimeError if it fails."""
    target = place / "root"
    target.mkdir()
    begin = time.perf_counter()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            apply(archive, target)
            status = 0
        finally:
            os._exit(status)
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - begin
    shutil.rmtree(target)
    if status:
        raise RuntimeError(f"{apply.__name__} ended with status {status}")
    return wall, usage.ru_utime + usage.ru_stime


def run(archives: dict[str, Path], place: Path, rounds: int) -> dict[str, dict[str, Cost]]:
    """Measure all contenders on all archives, in a new order every round."""
    pairs = [(kind, name) for kind in archives for name in CONTENDERS]
    samples: dict[tuple[str, str], list[tuple[float, float]]] = {pair: [] for pair in pairs}
    for order in measure.turns(pairs, rounds, SEED):
        for kind, name in order:
            samples[kind, name].append(once(CONTENDERS[name], archives[kind], place))
    costs: dict[str, dict[str, Cost]] = {kind: {} for kind in archives}
    for (kind, name), found in samples.items():
        walls, cpus = [wall for wall, _ in found], [cpu for _, cpu in found]
        costs[kind][name] = Cost(measure.median(walls), measure.median(cpus), min(cpus))
    return costs


def markdown(costs: dict[str, dict[str, Cost]], archives: dict[str, Path], what: str) -> str:
    """Return the tables."""
    machine = machine_facts()
    lines = [
        f"Layers, on Linux {machine['kernel']}, {machine['cores']} cores, Python {machine['python']}: {what}.", "",
        "| layer | contender | wall ms | CPU ms | least CPU ms | CPU x GNU tar | wall x GNU tar |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for kind, by_name in costs.items():
        theirs = by_name["GNU tar"]
        size = archives[kind].stat().st_size >> 20
        lines += [
            f"| {kind}, {size} MiB | {name} | {cost.wall_s * 1e3:.0f} | {cost.cpu_s * 1e3:.0f} "
            f"| {cost.least_cpu_s * 1e3:.0f} | {cost.cpu_s / theirs.cpu_s:.2f} | {cost.wall_s / theirs.wall_s:.2f} |"
            for name, cost in by_name.items()
        ]
    lines += ["", "| goal | at most | measured | reached |", "| --- | ---: | ---: | ---: |"]
    for goal, kind, unit, one, other, limit in GOALS:
        if kind in costs:
            ratio = getattr(costs[kind][one], unit) / getattr(costs[kind][other], unit)
            lines.append(f"| {goal} | {limit:.2f} | {ratio:.2f} | {'yes' if ratio <= limit else '**no**'} |")
    return "\n".join(lines) + "\n"


def debian(cache: Path) -> tuple[Path, str]:
    """Return a Debian's archive, which is made where it is not there yet, and what it is."""
    archive = cache / f"{SUITE}.tar"
    if archive.exists():
        return archive, f"Debian {SUITE}"
    with tempfile.TemporaryDirectory(prefix="pyrunc-bench-") as place:
        root = Path(place, "root")
        command = ["nice", "debootstrap", "--variant=minbase", f"--include={INCLUDED}", SUITE, str(root)]
        print(f"making a Debian, once: {' '.join(command)}", file=sys.stderr)
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as exc:
            return host(cache), f"what this host has in /usr (no Debian: {exc})"
        pack(root, ["."], archive, "--exclude=./var/cache", "--exclude=./var/lib/apt/lists")
    return archive, f"Debian {SUITE}"


def host(cache: Path) -> Path:
    """Return an archive of this host's /usr, as much as is asked for."""
    names, total = [], 0
    for directory, _, files in sorted(os.walk("/usr")):
        for name in files:
            path = os.path.join(directory, name)
            total += os.lstat(path).st_size
            if total > MAX_HOST_BYTES:
                break
            names.append(path[1:])
    archive = cache / "host.tar"
    pack(Path("/"), names, archive)
    return archive


def pack(root: Path, names: list[str], archive: Path, *options: str) -> None:
    """Write the archive, whole or not at all."""
    part = archive.with_suffix(".part")
    command = [
        "tar",
        "-C",
        str(root),
        "--format=pax",
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
        "--sort=name",
    ]
    subprocess.run(
        [*command, *options, "-cf", str(part), "--null", "--files-from=-"],
        input=b"\0".join(map(os.fsencode, names)), check=True,
    )  # fmt: skip
    part.rename(archive)


def memory() -> str:
    """Return a directory on a tmpfs with room for archives and trees, or what has to do."""
    return (
        "/dev/shm"
        if os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 2 << 30
        else tempfile.gettempdir()
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write layers.md; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layers", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="runs of each contender on each archive (9)")
    parser.add_argument("--archive", type=Path, help="a plain tar to take instead of a Debian")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="where the table goes (benchmarks/out)")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("layers: owners and devices need root", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    source, what = (options.archive, str(options.archive)) if options.archive else debian(options.out)
    with tempfile.TemporaryDirectory(prefix="pyrunc-bench-", dir=memory()) as directory:
        place = Path(directory)
        archives = {"plain": place / "plain.tar", "gzip": place / "gzip.tar.gz"}
        shutil.copyfile(source, archives["plain"])
        with source.open("rb") as plain, gzip.open(archives["gzip"], "wb", compresslevel=6) as packed:
            shutil.copyfileobj(plain, packed, 1 << 20)
        text = markdown(run(archives, place, options.rounds), archives, what)
    (options.out / "layers.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
