"""What must hold after the chaos, looked at from outside: processes, cgroups, mounts, files, and what was told."""

import contextlib
import fcntl
import itertools
import json
import os
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.engine import chaos_words as words

_CGROUPS = Path("/sys/fs/cgroup")
Document = dict[str, Any]


# --- processes


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def started_of(pid: int) -> int:
    """When the process began, in ticks since boot; 0 if there is none, or only its zombie."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else 0


def parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def descendants(pid: int, without: Collection[int] = ()) -> list[int]:
    """All that live below *pid*, but *without* some and what is below these; zombies do not."""
    table: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        fields = _stat(int(name)) if name.isdigit() else []
        if fields and fields[0] not in "ZX":
            table.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    queue = [pid]
    while queue:
        below = [each for each in table.get(queue.pop(), []) if each not in without]
        found += below
        queue += below
    return found


def _described(pid: int) -> str:
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        name = "?"
    return f"process {pid} {name} {command_line(pid).replace(bytes(1), b' ')[:200].decode(errors='replace')}"


def running_files(place: Path) -> dict[str, Document]:
    """id -> what the shim has written when its container began to run."""
    return {path.parent.name: document for path, document in _documents((place / "state").glob("*/running"))}


def _documents(paths: Iterable[Path]) -> Iterator[tuple[Path, Document]]:
    """Those that are there, each with its path; what is about to go may be gone."""
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            yield path, json.loads(path.read_text())


# --- the host


def cgroups() -> set[str]:
    """Every cgroup of ours, and of other users of pyrunc."""
    found: set[str] = set()
    for top in (_CGROUPS, *_CGROUPS.iterdir()):
        for group in top.glob("pyrunc*") if top.is_dir() else ():
            found.update(directory for directory, _, _ in os.walk(group))
    return found


def mounts() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split(" ", 3)[3] for line in lines}


class Host(NamedTuple):
    """What was there before."""

    mounts: set[str]
    cgroups: set[str]
    interfaces: set[str]
    namespaces: set[str]

    @classmethod
    def now(cls) -> "Host":
        named = {str(path) for path in Path("/run/netns").glob("*")}
        return cls(mounts(), cgroups(), set(os.listdir("/sys/class/net")), named)


def known_ids(place: Path) -> set[str]:
    """Every container that there ever was, by what was told of it."""
    return {event["Actor"]["ID"] for event in events(place) if event["Type"] == "container"}


def _ours(place: Path, before: Host) -> Iterator[str]:
    """The cgroups of this run: of a container that was told of, or of the parent that was asked for."""
    ids, parent_name = known_ids(place), (place / "cgroup").read_text()
    for path in sorted(cgroups() - before.cgroups):
        parts = path.split("/")
        if parent_name[1:] in parts or ids.intersection(parts):
            yield path


def remove_cgroups(place: Path, name: str) -> None:
    ids = {path.name for path in (place / "root/containers").glob("*")} | known_ids(place)
    for path in sorted(cgroups(), reverse=True):
        if {name[1:], *ids}.intersection(path.split("/")):
            with contextlib.suppress(OSError):
                os.rmdir(path)


def _held_locks(place: Path) -> Iterator[str]:
    for path in (place / "root/locks").glob("*"):
        with open(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield f"the lock {path.name} is held"


# --- what must hold while containers are there


def invariants(place: Path, before: Host, kills: bool) -> list[str]:
    """What is wrong after one `ps`, in words."""
    from pyrunc import Engine

    with Engine() as opened:
        engine: Any = opened
        documents = {
            record.id: engine.containers.get(record.id).inspect()
            for record in engine.containers.list(all=True)
        }
        snapshots = {info.key for info in engine._parts.snapshotter.walk()}
        volumes = {volume.name for volume in engine.volumes.list()}
    found: list[str] = []
    shims: set[int] = set()
    files = running_files(place)
    for key, document in documents.items():
        who = f"{document['Name']} {key[:12]} {document['State']['Status']}"
        alive = document["State"]["Status"] in ("running", "paused")
        wrong = _running(document, files.get(key), shims) if alive else _ended(place, document)
        if wrong and alive and _restarts(place, document, files.get(key)):
            continue  # its program ends as soon as it begins: it was another run that was looked at
        if wrong and alive and (ended := _ended_meanwhile(key)):
            wrong = _ended(place, ended)
        wrong += _log(place, document)
        if key not in snapshots:
            wrong.append("has no snapshot")
        found += [f"{who}: {each}" for each in wrong]
        if alive:  # programs that were executed in it and go on have shims of their own
            execs = _documents((place / "state" / key).glob("exec/*/running"))
            shims.update(file["shim"] for _, file in execs)
    found += _without_a_row(place, before, documents, snapshots, volumes, shims)
    found += _events(place, documents, kills)
    return found


def _restarts(place: Path, document: Document, file: Document | None) -> bool:
    """Whether a restart policy begins another run than that of *file*, without anybody's looking after it."""
    if file is None or document["HostConfig"]["RestartPolicy"]["Name"] in ("", "no"):
        return False
    deadline = time.monotonic() + 70.0  # the longest pause between two runs is a minute
    while time.monotonic() < deadline:
        now = running_files(place).get(document["Id"])
        if now is not None and now["started_ns"] != file["started_ns"]:
            return True
        time.sleep(0.1)
    return False


def _ended_meanwhile(key: str) -> Document | None:
    """What is said of a container by now, if it does not run any more: its program may end at any moment."""
    from pyrunc import Engine

    with Engine() as opened:
        engine: Any = opened
        document: Document = engine.containers.get(key).inspect()
    return None if document["State"]["Status"] in ("running", "paused") else document


def _running(document: Document, file: Document | None, shims: set[int]) -> list[str]:
    if file is None:
        return ["runs, and no shim says so"]
    wrong = [
        f"its {name} {file[name]} is dead"
        for name in ("pid", "shim")
        if started_of(file[name]) != file[f"{name}_started"]
    ]
    if document["State"]["Pid"] != file["pid"]:
        wrong.append(f"its pid is {file['pid']}, and it says {document['State']['Pid']}")
    shims.add(file["shim"])
    if document["Id"] not in _read(f"/proc/{file['pid']}/cgroup"):
        wrong.append("its init is in no cgroup of its own")
    return wrong


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _ended(place: Path, document: Document) -> list[str]:
    state = document["State"]
    wrong = []
    if (place / "state" / document["Id"]).exists():
        left = os.listdir(place / "state" / document["Id"])
        wrong.append(f"does not run and has a state directory with {left}")
    if state["Status"] not in ("created", "exited"):
        wrong.append("neither runs nor has ended")
    if state["Status"] == "exited" and state["FinishedAt"].startswith("0001"):
        wrong.append("has ended, and nobody knows when")
    if state["Pid"] != 0:
        wrong.append(f"has ended, and a pid {state['Pid']}")
    if document["HostConfig"]["AutoRemove"] and state["Status"] == "exited":
        wrong.append("was to go with its end")
    return wrong


def _without_a_row(
    place: Path, before: Host, documents: dict[str, Document], snapshots: set[str], volumes: set[str],
    shims: set[int],
) -> Iterator[str]:  # fmt: skip
    for key in snapshots:
        if len(key) == 64 and set(key) <= set("0123456789abcdef") and key not in documents:
            yield f"snapshot {key} without a row"
    for name in ("root/containers", "state"):
        for path in (place / name).glob("*"):
            if len(path.name) == 64 and path.name not in documents:
                with contextlib.suppress(FileNotFoundError):  # it has just gone
                    yield f"{name}/{path.name} without a row, with {os.listdir(path)}"
    for path in (place / "root/volumes").glob("*/_data"):
        if path.parent.name not in volumes:
            yield f"volume {path.parent.name} that is not listed"
    running = {key for key in documents if documents[key]["State"]["Status"] in ("running", "paused")}
    for group in _ours(place, before):
        inside = set(group.split("/")) & known_ids(place)
        if inside and not inside & running:
            yield f"cgroup {group} of no running container"
    for pid in descendants(os.getpid(), shims):
        yield f"{_described(pid)}, of no running container"
    yield from _held_locks(place)
    yield from _host(before)


def _host(before: Host) -> Iterator[str]:
    now = Host.now()
    for what in ("mounts", "interfaces", "namespaces"):
        yield from (f"left of {what}: {each}" for each in getattr(now, what) - getattr(before, what))


# --- logs and events


def _log_files(place: Path, key: str) -> list[Path]:
    """The files of a container's log, the oldest first."""
    directory = place / "root/containers" / key
    rotated = sorted(directory.glob(f"{key}-json.log.*"), key=lambda path: -int(path.suffix[1:]))
    current = directory / f"{key}-json.log"
    return [*rotated, *([current] if current.exists() else [])]


def _log(place: Path, document: Document) -> list[str]:
    """What is wrong with the log of a container, three times in turn: it may be written to, and rotated, meanwhile."""
    wrong: list[str] = []
    for _ in range(3):
        with contextlib.suppress(FileNotFoundError):  # renamed before it was opened
            wrong = _log_now(place, document)
            if not wrong:
                break
        time.sleep(0.2)
    return wrong


def _log_now(place: Path, document: Document) -> list[str]:
    log = document["HostConfig"]["LogConfig"]
    paths = _log_files(place, document["Id"])
    if log["Type"] != "json-file":
        return [f"has a log of type {log['Type']}"] if paths else []
    text = b"".join(path.read_bytes() for path in paths)
    records = text.splitlines()
    try:
        said = "".join(json.loads(record)["log"] for record in records)
    except ValueError as exc:
        return [f"its log is no JSON: {exc}: {records[-1][-100:]!r}"]
    if text and not text.endswith(b"\n"):
        return [f"its log ends in the middle of a record: {text[-100:]!r}"]
    rotates = bool(log["Config"].get("max-size"))
    wrong = []
    starts = words.runs(said.splitlines())
    for number, lines in enumerate(starts):
        wrong += [f"start {number} of {len(starts)} in its log {each}" for each in
                  words.gaps(lines, rotated=rotates and number == 0)]  # fmt: skip
    state = document["State"]
    program = next((name for name in words.ENDING if words.PROGRAMS[name] in document["Config"]["Cmd"]), "")
    by_itself = state["Status"] == "exited" and program and not state["Error"]
    if by_itself and state["ExitCode"] == words.CODES[program] and (not starts or starts[-1][-1] != "end"):
        wrong.append(f"has ended by itself, and its log ends with {starts[-1][-1:] if starts else 'nothing'}")
    return wrong


def events(place: Path) -> list[Document]:
    """What was told, the oldest first."""
    found = []
    for name in ("events.jsonl.1", "events.jsonl"):
        with contextlib.suppress(FileNotFoundError):
            for line in (place / "root" / name).read_text().splitlines():
                with contextlib.suppress(ValueError):  # torn: its writer was killed
                    found.append(json.loads(line))
    return found


def _interruptions(place: Path) -> list[float]:
    """When commands that got Ctrl-C had ended, in seconds."""
    found = []
    for journal in (place / "journal").iterdir():
        for line in journal.read_text().splitlines():
            act, _, outcome = line.partition("\t")
            if "interrupted" in outcome:
                found.append(float(act.split()[0]) + float(outcome.split()[1]))
    return found


def _events(place: Path, documents: dict[str, Document], kills: bool) -> Iterator[str]:
    """Of each container: created first, starts and ends in turn, removed last.

    Where processes are killed, the one that has acted may not live to tell; then only the order must be right. And of
    who was created before the oldest event that is still there, nothing is asked.
    """
    told: dict[str, list[Document]] = {}
    found = events(place)
    cut = _interruptions(place)
    whole = bool(found) and found[0]["Type"] == "image"  # the first thing that happens is that one is loaded
    for event in found:
        if event["Type"] == "container":
            told.setdefault(event["Actor"]["ID"], []).append(event)
    for key, said in told.items():
        story = [event for event in said if event["Action"] in ("create", "start", "die", "destroy")]
        short = [event["Action"] for event in story]
        if not whole and short[:1] != ["create"]:
            continue
        if "create" in short[1:]:
            yield f"container {key[:12]} was told of before it was created: {short}"
        if "destroy" in short[:-1]:
            yield f"container {key[:12]} was told of after it was removed: {short}"
        turns = [action for action in short if action in ("start", "die")]
        for one, other in itertools.pairwise(event for event in story if event["Action"] in ("start", "die")):
            # Who is interrupted after the word and before the row leaves it to the next one to say it again.
            again = any(one["timeNano"] / 1e9 < end < other["timeNano"] / 1e9 + 0.1 for end in cut)
            if one["Action"] == other["Action"] and not kills and not (again and one["Action"] == "die"):
                yield f"container {key[:12]}: {one['Action']} twice: {short}"
        if not kills:
            if short[:1] != ["create"]:
                yield f"container {key[:12]} was never created: {short}"
            if (key in documents) == ("destroy" in short):
                yield f"container {key[:12]}: {'is there' if key in documents else 'is gone'}, and {short}"
            if key in documents:
                running = documents[key]["State"]["Status"] in ("running", "paused")
                if running != (bool(turns) and turns[-1] == "start"):
                    yield f"container {key[:12]} {documents[key]['State']['Status']}: {short}"


# --- after all was removed, and what the workers have found


def leftovers(place: Path, before: Host) -> list[str]:
    """What is left when no container is there any more."""
    found = [_described(pid) for pid in descendants(os.getpid())]
    found += [f"cgroup {path}" for path in _ours(place, before)]
    for directory in ("state", "root/containers", "root/volumes", "root/locks"):
        if (place / directory).is_dir():
            found += [f"{directory}/{name}" for name in os.listdir(place / directory) if name != "seccomp"]
    return found + list(_host(before))


def told(place: Path) -> list[str]:
    """What the workers have written down."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in (place / "findings").read_text().splitlines():
            entry = json.loads(line)
            who = os.path.basename(entry["worker"])
            found.append(f"worker {who} at {entry['time']:.3f}: {' '.join(entry['argv'])}\n{entry['why']}")
    return found
