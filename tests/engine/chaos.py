"""Several processes do random verbs on one root while a killer kills what runs; then all must be right.

    python -m tests.engine.chaos [--seed N] [--seconds N] [--workers N] [--no-kills] [PLACE]

The seed says what every worker does, in which order; who is faster does not repeat. What was found is printed, the
exit code is then 1, and the place stays: journals of all workers, the root and the state.
"""

import argparse
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.engine import chaos_check as check
from tests.engine import chaos_words as words
from tests.engine.chaos_worker import CHECKOUT, KINDS

_PR_SET_CHILD_SUBREAPER = 36
_SETTLE_S = 75.0  # a restart policy pauses for a minute
APPLETS = ("sh", "sleep", "echo", "true", "cat", "ps")


class Chaos:
    """One run in *place*, which is empty."""

    def __init__(self, place: Path, options: argparse.Namespace) -> None:
        self.place = place
        self.options = options
        self.rng = random.Random(f"{options.seed}/killer")
        self.workers: dict[int, tuple[int, int]] = {}  # pid: number, life
        self.killed: Counter[str] = Counter()
        self.findings: list[str] = []
        self.cgroup = f"/pyrunc-chaos-{os.getpid()}"
        for name in ("journal", "commands", "rootfs/bin", "rootfs/etc"):
            (place / name).mkdir(parents=True)
        (place / "cgroup").write_text(self.cgroup)
        (place / "without").write_text(options.without)
        os.environ.update(PYRUNC_ROOT=str(place / "root"), PYRUNC_STATE=str(place / "state"))
        os.environ["PYTHONPATH"] = str(CHECKOUT)
        # Whoever loses its parent becomes ours: nothing that is started can hide, whatever session it is in.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.before = check.Host.now()

    # --- the three acts

    def prepare(self) -> None:
        """An image, and its id for who tries to remove it."""
        rootfs = self.place / "rootfs"
        busybox = shutil.which("busybox")
        assert busybox, "needs a static busybox"
        shutil.copy(busybox, rootfs / "bin/busybox")
        for applet in APPLETS:
            (rootfs / "bin" / applet).symlink_to("busybox")
        (rootfs / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
        subprocess.run(["tar", "-C", rootfs, "-cf", self.place / "rootfs.tar", "."], check=True)
        change = ["-c", "ENV PATH=/bin"]
        self.command("import", *change, str(self.place / "rootfs.tar"), words.IMAGE)
        self.command("tag", words.IMAGE, words.OTHER)
        (self.place / "image").write_text(self.command("images", "-q", "--no-trunc", words.IMAGE).split()[0])

    def play(self) -> None:
        """Start the workers, kill whom the dice choose, and start others in their place."""
        end = time.monotonic() + self.options.seconds
        for number in range(self.options.workers):
            self.spawn(number, 0, self.options.seconds)
        while time.monotonic() < end - 1:
            if self.options.kills:
                self.kill()
            pause = time.monotonic() + self.rng.uniform(0.02, 0.2)
            while time.monotonic() < pause:
                for number, life in self.reap():
                    self.spawn(number, life + 1, end - time.monotonic())
                time.sleep(0.01)
        end = time.monotonic() + 2 * words.BOUND_S + 10
        while self.workers:
            if time.monotonic() > end:
                self.findings.append(f"workers do not end: {self.workers}")
                return
            for _ in self.reap():
                pass
            time.sleep(0.01)

    def judge(self) -> None:
        """One `ps`, and the invariants; then all is removed, and nothing must be left."""
        self.settle(5)
        self.command("ps", "-a", failure_is_a_finding=True)
        self.calm()
        self.findings += check.invariants(self.place, self.before, self.options.kills)
        ids = self.command("ps", "-aq", "--no-trunc", failure_is_a_finding=True).split()
        if ids:
            self.command("rm", "-f", "-v", *ids, failure_is_a_finding=True)
        self.command("volume", "prune", "-a", "-f", failure_is_a_finding=True)
        deadline = time.monotonic() + _SETTLE_S
        while True:
            list(self.reap())
            left = check.leftovers(self.place, self.before)
            if not left or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        self.findings += [f"after all was removed: {each}" for each in left]
        self.findings += check.told(self.place)

    def calm(self) -> None:
        """Take all restart policies away: what comes and goes by itself cannot be looked at."""
        ids = self.command("ps", "-aq", "--no-trunc", failure_is_a_finding=True).split()
        form = "{{.Id}} {{.HostConfig.RestartPolicy.Name}}"
        told = self.command("inspect", "-f", form, *ids, failure_is_a_finding=True) if ids else ""
        lively = [line.split()[0] for line in told.splitlines() if line.split()[1:] not in ([], ["no"])]
        if lively:
            self.command("update", "--restart", "no", *lively, failure_is_a_finding=True)
        if not self.settle():
            self.findings.append(f"processes that look after ends do not end: {self.late()}")

    def close(self) -> None:
        """End what is left, and remove its cgroups."""
        for _ in range(50):
            left = check.descendants(os.getpid())
            if not left:
                break
            for pid in left:
                _kill(pid)
            list(self.reap())
            time.sleep(0.05)
        check.remove_cgroups(self.place, self.cgroup)

    # --- processes

    def spawn(self, number: int, life: int, seconds: float) -> None:
        kind = KINDS[number % len(KINDS)]
        argv = [
            sys.executable, "-m", "tests.engine.chaos_worker", str(self.place), str(self.options.seed), str(number),
            str(life), kind, str(max(0.0, seconds)),
        ]  # fmt: skip
        said = os.open(self.place / f"said-{number}-{life}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
        actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
        streams = [(os.POSIX_SPAWN_DUP2, said, fd) for fd in (1, 2)]
        pid = os.posix_spawn(sys.executable, argv, os.environ, file_actions=[*actions, *streams])
        os.close(said)
        self.workers[pid] = (number, life)

    def reap(self) -> Iterator[tuple[int, int]]:
        """Collect whoever has ended, orphans too; the workers among them, and what they should not have ended of."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.workers:
                number, life = self.workers.pop(pid)
                code = os.waitstatus_to_exitcode(status)
                if code not in (0, -signal.SIGKILL):
                    said = (self.place / f"said-{number}-{life}").read_text()
                    hung = (self.place / "hung").read_text()[-6000:]
                    self.findings.append(f"worker {number}-{life} ended with {code}: {said} {hung}")
                yield number, life

    def kill(self) -> None:
        """SIGKILL for one process of a kind that the dice choose, if there is one."""
        kind = self.rng.choices(("worker", "command", "shim", "exit command", "init"), (2, 1, 3, 3, 3))[0]
        candidates = list(self.candidates(kind))
        # Who ends by itself soon is seldom there; nobody is chosen by name, all are of this run.
        if candidates:
            _kill(self.rng.choice(candidates))
            self.killed[kind] += 1

    def candidates(self, kind: str) -> Iterator[int]:
        if kind == "worker":
            yield from self.workers
        elif kind == "command":
            for path in (self.place / "commands").iterdir():
                text = path.read_text()
                if text and check.parent(int(text)) in self.workers:
                    yield int(text)
        elif kind == "exit command":
            yield from self.late()
        else:
            for found in check.running_files(self.place).values():
                pid, started = (
                    (found["shim"], found["shim_started"])
                    if kind == "shim"
                    else (found["pid"], found["pid_started"])
                )
                if check.started_of(pid) == started:
                    yield pid

    def late(self) -> list[int]:
        """The exit commands that run now."""
        return [pid for pid in check.descendants(os.getpid()) if b"exit_command" in check.command_line(pid)]

    def settle(self, timeout_s: float = _SETTLE_S) -> bool:
        """Wait until no exit command runs any more; whether that came to pass."""
        deadline = time.monotonic() + timeout_s
        while self.late():
            list(self.reap())
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        list(self.reap())
        return True

    def command(self, *argv: str, failure_is_a_finding: bool = False) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pyrunc", *argv], capture_output=True, text=True, cwd=CHECKOUT, check=False,
            stdin=subprocess.DEVNULL, timeout=4 * words.BOUND_S,
        )  # fmt: skip
        if done.returncode or "Traceback" in done.stderr:
            said = f"{' '.join(argv)[:200]}: {done.returncode} {done.stderr[-3000:]}"
            if not failure_is_a_finding:
                raise AssertionError(said)
            self.findings.append(said)
        return done.stdout


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def outcomes(place: Path) -> dict[str, Counter[str]]:
    """verb -> how often what came of it."""
    found: dict[str, Counter[str]] = {}
    for journal in (place / "journal").iterdir():
        for line in journal.read_text().splitlines():
            act, _, outcome = line.partition("\t")
            words_of = act.split()
            if len(words_of) > 1:
                verb = " ".join(words_of[1:3]) if words_of[1] in ("volume", "container") else words_of[1]
                found.setdefault(verb, Counter())[outcome.split(" ")[0] or "cut short"] += 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.engine.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("place", nargs="?", type=Path, help="an empty directory (default: a temporary one)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--without", default="", help="verbs that nobody does, such as 'run,exec -d'")
    parser.add_argument("--no-kills", dest="kills", action="store_false", help="nobody is killed")
    options = parser.parse_args()
    place = options.place or Path(tempfile.mkdtemp(prefix="pyrunc-chaos-", dir="/var/tmp"))
    place.mkdir(exist_ok=True)
    print(f"seed {options.seed}, {options.seconds:g} s, {options.workers} workers, {place}", flush=True)
    chaos = Chaos(place, options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        chaos.prepare()
        chaos.play()
        chaos.judge()
    finally:
        chaos.close()
    for verb, counts in sorted(outcomes(place).items()):
        print(f"{verb:14} {json.dumps(counts)}")
    print(f"killed: {json.dumps(chaos.killed)}")
    for finding in chaos.findings:
        print(f"FOUND: {finding}")
    if not chaos.findings and not options.place:
        shutil.rmtree(place)
    return 1 if chaos.findings else 0


if __name__ == "__main__":
    sys.exit(main())
