"""Containers that consist of a process in cgroups of its own and a state.json, for the verbs in Python."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pyrunc.runtime.cgroup_layout import detect
from tests.oci.native import Made, forked, program
from tests.oci.play import Player, python_player
from tests.runtime.cgroup_support import kill_members, remove_busy


class Live(NamedTuple):
    """One container and who commands it."""

    player: Player
    made: Made
    pid: int
    cgroup: str

    def run(self, verb: str, *words: str, text: str = "") -> tuple[int, str, str]:
        """Run *verb* on the container, *words* being flags before its id."""
        return self.player.run(verb, *words, self.made.id, text=text)

    def status(self) -> str:
        """What `state` says."""
        import json

        code, out, err = self.run("state")
        assert code == 0, err
        return str(json.loads(out)["status"])

    def file(self, name: str) -> Path:
        """A file of its cgroups, in the first hierarchy that has it."""
        found = [Path(directory) / name for directory in cgroup_directories(self.cgroup)]
        return next(path for path in found if path.exists())


def cgroup_directories(cgroup: str) -> list[str]:
    """The directories of a cgroup in each hierarchy."""
    return [f"{hierarchy.mountpoint}/{cgroup}" for hierarchy in detect().hierarchies]


def own_part(cgroup: str) -> dict[str, Any]:
    """What state.json says of the cgroups of a container."""
    hierarchies = detect().hierarchies
    entries = [
        {
            "path": f"{found.mountpoint}/{cgroup}",
            "version": found.version,
            "controllers": list(found.controllers),
        }
        for found in hierarchies
    ]
    freezers = [
        f"{found.mountpoint}/{cgroup}"
        for found in hierarchies
        if found.version == 2 or "freezer" in found.controllers
    ]
    first = sorted(entries, key=lambda entry: -int(str(entry["version"])))
    return {"cgroups": entries, "freezer": freezers[0] if freezers else "", "kill": first[0]["path"]}


@contextmanager
def live(
    work: Path, command: str = "echo && exec sleep 1000", *, waits: bool = False, **own: Any
) -> Iterator[Live]:
    """A container that runs *command* in a shell, which has to write a line first; killed at the end.

    One that *waits* for its start has executed nothing yet.
    """
    cgroup = f"pyrunc-test-{os.getpid()}-{work.name}"
    directories = cgroup_directories(cgroup)
    for directory in directories:
        os.mkdir(directory)
        for file in ("cpuset.cpus", "cpuset.mems"):
            path = Path(directory) / file
            # Those of cgroup v2 are empty, and then as those above.
            if path.exists() and not (path.parent / "cgroup.controllers").exists():
                path.write_text((path.parent.parent / file).read_text())
    player = python_player(work)
    try:
        places = [Path(directory) for directory in directories]
        with forked(*places) if waits else program(*places, command=command) as child:
            made = Made(player.root, "box", child.pid, **{**own_part(cgroup), **own})
            yield Live(player, made, child.pid, cgroup)
    finally:
        remove_cgroups(cgroup)


def remove_cgroups(name: str) -> None:
    """Kill what is left in the cgroup *name* and below, and remove it, in every hierarchy."""
    layout = detect()
    for top in [f"{hierarchy.mountpoint}/{name}" for hierarchy in (*layout.hierarchies, *layout.named)]:
        for directory, _, _ in os.walk(top, topdown=False):
            kill_members(Path(directory))
            remove_busy(Path(directory))
