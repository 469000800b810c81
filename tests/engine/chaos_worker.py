"""A process that does random verbs to containers which other processes use too, until its time is over.

    python -m tests.engine.chaos_worker PLACE SEED NUMBER LIFE KIND SECONDS

KIND says how: "engine" by the API, "command" by processes of the command, "inside" by the command's main function in
this process. What it did goes to PLACE/journal/NUMBER-LIFE, what nobody may see to PLACE/findings.
"""

import contextlib
import faulthandler
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.engine import chaos_words as words

CHECKOUT = Path(__file__).parents[2]
KINDS = ("engine", "command", "inside")
Outcome = tuple[str, str]  # "ok", "refused", "killed" or "finding"; and why


class Worker:
    """One process's random acts; *kind* says by what means."""

    def __init__(self, place: Path, seed: int, number: int, life: int) -> None:
        self.place = place
        self.number = number
        self.rng = random.Random(f"{seed}/{number}/{life}")
        self.journal = open(place / "journal" / f"{number}-{life}", "a", buffering=1)  # noqa: SIM115 - for good
        without = (place / "without").read_text().split(",")
        self.verbs = [verb for verb in _WEIGHTS if verb not in without]
        self.last = ""  # an id that was seen
        self.serial = 0

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        with open(self.place / "hung", "a") as hung:
            while time.monotonic() < end:
                argv = self.choose()
                faulthandler.dump_traceback_later(2 * words.BOUND_S, exit=True, file=hung)
                begin = time.monotonic()
                self.journal.write(f"{time.time():.3f} {' '.join(argv)}")
                try:
                    kind, why = self.act(argv)
                except Exception:  # noqa: BLE001 - whatever nobody has thought of is what is looked for
                    kind, why = "finding", traceback.format_exc()
                took = time.monotonic() - begin
                first = why.strip().splitlines()[-1] if why.strip() else ""
                self.journal.write(f"\t{kind} {took:.2f} {first}\n")
                if kind == "finding":
                    self.find(argv, why)
        faulthandler.cancel_dump_traceback_later()

    def find(self, argv: list[str], why: str) -> None:
        """Write down what nobody may see."""
        text = json.dumps({"worker": self.journal.name, "time": time.time(), "argv": argv, "why": why})
        with open(self.place / "findings", "a") as file:
            file.write(text + "\n")

    # --- what to do

    def name(self) -> str:
        """A container's name, mostly one that others use too; now and then an id."""
        if self.last and self.rng.random() < 0.1:
            return self.last[: self.rng.choice((12, 64))]
        return self.rng.choice(words.SHARED) if self.rng.random() < 0.75 else f"own{self.number}"

    def choose(self) -> list[str]:
        verb = self.rng.choices(self.verbs, [_WEIGHTS[verb] for verb in self.verbs])[0]
        rng, name = self.rng, self.name()
        if verb in ("create", "run", "run -d"):
            return self.creation(verb, name)
        more = {
            "stop": ["-t", rng.choice("01")], "restart": ["-t", rng.choice("01")],
            "kill": ["-s", rng.choice(("KILL", "TERM"))], "rename": [],
            "logs": rng.choice(([], ["--tail", "5"], ["-t"])), "rm": rng.choice(([], ["-v"])),
            "ps": rng.choice(([], ["-a"], ["-aq", "--no-trunc"])),
        }  # fmt: skip
        after = {
            "rename": [f"own{self.number}" if rng.random() < 0.5 else rng.choice(words.SHARED)],
            "exec": ["sh", "-c", "echo token"], "exec -d": ["sleep", "1000"],
        }  # fmt: skip
        fixed = {
            "ps": [], "rmi": [words.IMAGE], "prune": ["container", "prune", "-f"],
            "volume create": ["volume", "create", rng.choice(words.VOLUMES)],
            "volume rm": ["volume", "rm", rng.choice(words.VOLUMES)], "volume ls": ["volume", "ls"],
            "volume prune": ["volume", "prune", "-a", "-f"], "events": ["events", "--until", "0s"],
            "rm -f": ["rm", "-f", *rng.choice(([], ["-v"])), name], "exec -d": ["exec", "-d", name, *after["exec -d"]],
            "update": ["update", "--restart", rng.choice(("no", "always", "on-failure:1")), name],
            "cp": ["cp", f"{name}:/etc/hostname", "-"],
        }  # fmt: skip
        if verb == "ps":
            return ["ps", *more["ps"]]
        if verb == "rmi":
            return ["rmi", self.image_id()]
        if verb in fixed:
            return fixed[verb]
        return [verb, *more.get(verb, ()), name, *after.get(verb, ())]

    def image_id(self) -> str:
        """The image's id, which is refused for its two names, whoever uses it."""
        return (self.place / "image").read_text()

    def creation(self, verb: str, name: str) -> list[str]:
        rng = self.rng
        foreground = verb == "run"
        program = rng.choice(words.ENDING) if foreground else rng.choice(list(words.PROGRAMS))
        flags: list[str] = []
        if rng.random() < 0.3:
            flags.append("--rm")
        elif not foreground and rng.random() < 0.3:
            flags += ["--restart", rng.choice(("on-failure:2", "always", "unless-stopped"))]
        if rng.random() < 0.25:
            flags += ["-v", f"{rng.choice(words.VOLUMES)}:/volume"]
        if rng.random() < 0.15:
            flags += ["-v", "/anonymous"]
        if rng.random() < 0.2:
            flags += ["--log-opt", "max-size=2k", "--log-opt", f"max-file={rng.choice((1, 3))}"]
        elif rng.random() < 0.1:
            flags += ["--log-driver", "none"]
        if rng.random() < 0.3:
            flags += ["--cgroup-parent", (self.place / "cgroup").read_text()]
        if not foreground or rng.random() < 0.5:
            flags += ["--name", name]
        return [*verb.split(), *flags, words.IMAGE, "sh", "-c", words.PROGRAMS[program]]

    # --- how it is done, and what may come of it

    def act(self, argv: list[str]) -> Outcome:
        raise NotImplementedError

    def judge(self, argv: list[str], code: int, out: str, err: str) -> Outcome:
        """What a command's exit code and words amount to."""
        if "Traceback" in err or "Traceback" in out or "shows where)" in err:
            return "finding", err + out
        if argv[0] in ("run", "exec", "create"):
            outcome = self.judge_program(argv, code, out, err)
            if outcome is not None:
                return outcome
        if code == 0:
            if argv[0] == "logs" and "-t" not in argv and "--tail" not in argv:
                return judge_log(out)
            if argv[:2] == ["ps", "-aq"] and out.split():
                self.last = self.rng.choice(out.split())
            return "ok", ""
        if words.refused(err):
            return "refused", err
        if words.of_the_killer(err):
            return "killed", err
        return "finding", f"exit code {code}: {err}"

    def judge_program(self, argv: list[str], code: int, out: str, err: str) -> Outcome | None:
        if argv[0] == "exec" and "-d" not in argv and code == 0 and out != "token\n":
            return "finding", f"exec said {out!r}, {err!r}"
        if argv[0] == "exec" and code == 137 and not err:
            return "killed", "its container ended"
        if argv[0] == "run" and "-d" not in argv and code in (0, 3, 137, 143) and not err:
            lines = out.splitlines()
            if code == 3 or (code == 0 and words.PROGRAMS["good"] in argv):
                wanted = ["begin", *(str(number) for number in range(1, words.LINES + 1)), "end"]
                if lines != wanted:
                    return "finding", f"run said {len(lines)} lines: {lines[:3]} ... {lines[-3:]}"
                return "ok", ""
            wrong = words.gaps(lines) if lines else []
            return ("finding", f"{wrong}: {lines[-3:]}") if wrong else ("killed", f"exit code {code}")
        return None


def judge_log(text: str) -> Outcome:
    """Whether the lines of a log that may be of several starts are without gaps; rotation may have cut the first."""
    for number, lines in enumerate(words.runs(text.splitlines())):
        wrong = words.gaps(lines, rotated=number == 0)
        if wrong:
            return "finding", f"the log {wrong}, of {len(lines)} lines"
    return "ok", ""


class CommandWorker(Worker):
    """Each verb is a process, as from a shell; some of them are killed on the way."""

    def act(self, argv: list[str]) -> Outcome:
        bound = words.BOUND_S
        if argv[0] == "wait":
            bound = self.rng.uniform(0.1, 1.0)
        elif argv[0] in ("logs", "attach") and self.rng.random() < 0.4:
            argv = ["logs", "-f", *argv[1:]] if argv[0] == "logs" else ["attach", "--no-stdin", argv[-1]]
            bound = self.rng.uniform(0.1, 1.0)
        elif argv[0] == "attach":
            return "ok", ""
        environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
        with subprocess.Popen(
            [sys.executable, "-m", "pyrunc", *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, cwd=CHECKOUT, env=environment,
        ) as process:  # fmt: skip
            (self.place / "commands" / str(self.number)).write_text(str(process.pid))
            try:
                out, err = process.communicate(timeout=bound)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT if bound == words.BOUND_S else signal.SIGINT)
                try:
                    out, err = process.communicate(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    out, err = process.communicate()
                    return "finding", f"not even a signal ends it\n{err}"
                if bound == words.BOUND_S:
                    return "finding", f"hung for {bound} s\n{err}"
                if "KeyboardInterrupt" in err:
                    return "ok", "interrupted before it was there"
                if process.returncode not in (0, 130, -signal.SIGINT, 137, -signal.SIGKILL, 3, 143):
                    return self.judge(argv, process.returncode, "", err)
                return "ok", "interrupted"
        if process.returncode == -signal.SIGKILL:
            return "killed", "the command was killed"
        if argv[0] in ("attach", "wait"):
            return ("ok", "") if not err else self.judge([argv[0]], process.returncode or 1, "", err)
        return self.judge(argv, process.returncode, out, err)


class InsideWorker(Worker):
    """The command's main function, again and again in one process."""

    def act(self, argv: list[str]) -> Outcome:
        from pyrunc.cli.main import main

        if argv[0] in ("wait", "attach"):
            return "ok", ""
        saved = os.dup(1), os.dup(2)
        with open(self.place / f"inside-{self.number}", "w+b") as out, open(
            self.place / f"inside-{self.number}-err", "w+b"
        ) as err:  # fmt: skip
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                code = main(argv)
            finally:
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(OSError, ValueError):
                        stream.flush()
                os.dup2(saved[0], 1)
                os.dup2(saved[1], 2)
                for fd in saved:
                    os.close(fd)
            for file in (out, err):
                file.seek(0)
            return self.judge(
                argv, code, out.read().decode(errors="replace"), err.read().decode(errors="replace")
            )


class EngineWorker(Worker):
    """The engine's own methods."""

    def __init__(self, place: Path, seed: int, number: int, life: int) -> None:
        super().__init__(place, seed, number, life)
        from pyrunc import Engine

        self.engine: Any = Engine()

    def act(self, argv: list[str]) -> Outcome:
        from pyrunc.errors import PyruncError, TimedOut

        method: Callable[[list[str]], Outcome | None] = getattr(self, f"do_{argv[0].replace('-', '_')}")
        try:
            return method(argv[1:]) or ("ok", "")
        except TimedOut as exc:
            return ("ok", str(exc)) if argv[0] == "wait" else ("finding", traceback.format_exc())
        except PyruncError as exc:
            if words.refused(str(exc)):
                return "refused", str(exc)
            if words.of_the_killer(str(exc)):
                return "killed", str(exc)
            return "finding", traceback.format_exc()

    def container(self, name: str) -> Any:
        return self.engine.containers.get(name)

    def made(self, argv: list[str]) -> tuple[list[str], dict[str, Any]]:
        """The program and the keywords of what `creation` has made."""
        at = argv.index(words.IMAGE)
        flags = argv[:at]
        host_config: dict[str, Any] = {}
        options: dict[str, Any] = {}
        pairs = [(flag, flags[n + 1] if n + 1 < len(flags) else "") for n, flag in enumerate(flags)]
        config: dict[str, Any] = {}
        for flag, value in pairs:
            if flag == "--name":
                options["name"] = value
            elif flag == "--rm":
                host_config["AutoRemove"] = True
            elif flag == "--restart":
                policy, _, count = value.partition(":")
                host_config["RestartPolicy"] = {"Name": policy, "MaximumRetryCount": int(count or 0)}
            elif flag == "-v" and ":" in value:
                host_config.setdefault("Binds", []).append(value)
            elif flag == "-v":
                config["Volumes"] = {value: {}}
            elif flag == "--log-driver":
                host_config["LogConfig"] = {"Type": value, "Config": {}}
            elif flag == "--log-opt":
                key, _, text = value.partition("=")
                log = host_config.setdefault("LogConfig", {"Type": "json-file", "Config": {}})
                log["Config"][key] = text
            elif flag == "--cgroup-parent":
                host_config["CgroupParent"] = value
        return argv[at + 1 :], {**options, "config": config, "host_config": host_config}

    def do_create(self, argv: list[str]) -> None:
        program, options = self.made(argv)
        self.engine.containers.create(words.IMAGE, program, **options)

    def do_run(self, argv: list[str]) -> Outcome | None:
        if argv[0] == "-d":
            program, options = self.made(argv[1:])
            self.last = self.engine.containers.create(words.IMAGE, program, **options).id
            self.container(self.last).start()
            return None
        program, options = self.made(argv)
        name = options.get("name")
        done = self.engine.run(
            words.IMAGE, program, name=name, remove=self.rng.random() < 0.5, scratch="disk"
        )
        return self.judge_program(
            ["run", *program], done.exit_code, done.stdout.decode(), done.stderr.decode()
        )

    def do_start(self, argv: list[str]) -> None:
        self.container(argv[0]).start()

    def do_stop(self, argv: list[str]) -> None:
        self.container(argv[2]).stop(timeout_s=int(argv[1]))

    def do_restart(self, argv: list[str]) -> None:
        self.container(argv[2]).restart(timeout_s=int(argv[1]))

    def do_kill(self, argv: list[str]) -> None:
        self.container(argv[2]).kill(argv[1])

    def do_pause(self, argv: list[str]) -> None:
        self.container(argv[0]).pause()

    def do_unpause(self, argv: list[str]) -> None:
        self.container(argv[0]).unpause()

    def do_rename(self, argv: list[str]) -> None:
        self.container(argv[0]).rename(argv[1])

    def do_exec(self, argv: list[str]) -> Outcome | None:
        if argv[0] == "-d":
            return None
        done = self.container(argv[0]).exec(argv[1:])
        return self.judge_program(["exec"], done.exit_code, done.stdout.decode(), done.stderr.decode())

    def do_logs(self, argv: list[str]) -> Outcome | None:
        entries = list(self.container(argv[-1]).logs())
        if "--tail" in argv:
            return None
        return judge_log(b"".join(entry.data for entry in entries).decode())

    def do_wait(self, argv: list[str]) -> None:
        self.container(argv[0]).wait(timeout_s=self.rng.uniform(0.05, 1))

    def do_rm(self, argv: list[str]) -> None:
        self.container(argv[-1]).remove(force="-f" in argv, volumes="-v" in argv)

    def do_ps(self, argv: list[str]) -> None:
        found = self.engine.containers.list(all=bool(argv))
        if found:
            self.last = self.rng.choice(found).id

    def do_inspect(self, argv: list[str]) -> None:
        self.container(argv[0]).inspect()

    def do_top(self, argv: list[str]) -> None:
        self.container(argv[0]).top()

    def do_update(self, argv: list[str]) -> None:
        policy, _, count = argv[1].partition(":")
        self.container(argv[2]).update(RestartPolicy={"Name": policy, "MaximumRetryCount": int(count or 0)})

    def do_cp(self, argv: list[str]) -> None:
        self.container(argv[0].partition(":")[0]).get_archive("/etc/hostname", io.BytesIO().write)

    def do_attach(self, _: list[str]) -> None:
        return

    def do_events(self, _: list[str]) -> None:
        for _ in self.engine.events(since_ns=time.time_ns() - 10**9, until_ns=time.time_ns()):
            pass

    def do_rmi(self, argv: list[str]) -> None:
        self.engine.images.remove(argv[0])

    def do_container(self, _: list[str]) -> None:
        self.engine.containers.prune()

    def do_volume(self, argv: list[str]) -> None:
        volumes = self.engine.volumes
        if argv[0] == "create":
            volumes.create(argv[1])
        elif argv[0] == "rm":
            volumes.remove(argv[1])
        elif argv[0] == "ls":
            volumes.list()
        else:
            volumes.prune(everything=True)


_WEIGHTS = {
    "create": 6, "run": 8, "run -d": 14, "start": 9, "stop": 5, "kill": 4, "restart": 4, "pause": 4, "unpause": 6,
    "rename": 3, "exec": 8, "exec -d": 2, "logs": 6, "wait": 4, "attach": 3, "rm": 6, "rm -f": 8, "ps": 6,
    "inspect": 5, "top": 2, "update": 1, "cp": 2, "events": 1, "rmi": 2, "prune": 1, "volume create": 2,
    "volume rm": 2, "volume ls": 1, "volume prune": 1,
}  # fmt: skip
_CLASSES = {"engine": EngineWorker, "command": CommandWorker, "inside": InsideWorker}

if __name__ == "__main__":
    place, seed, number, life, kind, seconds = sys.argv[1:]
    _CLASSES[kind](Path(place), int(seed), int(number), int(life)).run(float(seconds))
