"""Command lines of tests/fixtures/runc/*.txt, played through an OCI runtime; what it answers, made comparable.

A line is the arguments of the runtime, split as a shell does. Behind `<` is a text for standard input. Lines that
begin with `%` prepare: `% bundle NAME {changes}` makes a bundle of a busybox root (changes: dotted path → value, null
removes), `% wait ID STATUS`, `% cgroup ID FILE...` records files of the container's cgroups, `% write FILE TEXT`,
`% root` makes the root directory. `#` begins a comment. In answers `{work}`, `{root}`, `{cgroup}`, `{pid}`, `{time}`
stand for what differs each time, `{runtime}` for the runtime's name.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.oci.waiting import PATIENCE_S

FIXTURES = Path(__file__).parents[1] / "fixtures/runc"
SCENARIOS = tuple(sorted(path.stem for path in FIXTURES.glob("*.txt")))
_BUSYBOX = Path("/bin/busybox")
_APPLETS = ("sh", "true", "sleep", "cat", "echo")
_HEADINGS = ("NAME:", "USAGE:", "OPTIONS:", "COMMANDS:", "GLOBAL OPTIONS:")

Answer = dict[str, Any]


def lines(scenario: str) -> list[str]:
    """The lines of a scenario, without comments."""
    text = (FIXTURES / f"{scenario}.txt").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


class Player:
    """Plays lines through the runtime *program*, in the directory *work*, below the cgroup *cgroup*."""

    def __init__(self, program: list[str], name: str, work: Path, cgroup: str) -> None:
        self.program = program
        self.name = name
        self.work = work
        self.root = work / "root"
        self.cgroup = cgroup
        self.input = work / "stdin"
        self.planner = "0"
        """The directory of the planner's socket, or 0 for none."""

    def play(self, line: str) -> Answer | None:
        """Do one line; gives what was answered, or None for a preparation."""
        if line.startswith("%"):
            words = shlex.split(line[1:])
            found: Answer | None = getattr(self, f"_do_{words[0]}")(*words[1:])
            return found
        words = [
            word.replace("{work}", str(self.work)).replace("{root}", str(self.root))
            for word in shlex.split(line)
        ]
        text = ""
        if "<" in words:
            words, text = words[: words.index("<")], words[words.index("<") + 1]
        code, out, err = self.run(*words, text=text)
        return {"code": code, "stdout": self.clean(out), "stderr": self.clean(err)}

    def run(self, *words: str, text: str = "") -> tuple[int, str, str]:
        """Run one command: exit code, standard output and error."""
        # Files, not pipes: a container keeps the descriptors of whoever created it.
        self.input.write_text(text)
        root = [] if words[:1] == ("--root",) else ["--root", str(self.root)]
        out, err = self.work / "out", self.work / "err"
        with self.input.open() as stdin, out.open("wb") as stdout, err.open("wb") as stderr:
            ended = subprocess.run(
                [*self.program, *root, *words], stdin=stdin, stdout=stdout, stderr=stderr, cwd=self.work,
                timeout=120, check=False,
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYRUNC_OCI_PLANNER": self.planner},
            )  # fmt: skip
        return ended.returncode, out.read_text(errors="replace"), err.read_text(errors="replace")

    def clean(self, text: str) -> str:
        """*text* with words for what differs from run to run."""
        text = outline(text)
        text = text.replace(str(self.root), "{root}").replace(str(self.work), "{work}")
        text = text.replace(self.cgroup, "{cgroup}").replace(self.name, "{runtime}")
        # Some of runc's texts have its own name, and are kept as they are.
        text = re.sub(r"\brunc\b", "{runtime}", text)
        text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "{time}", text)
        text = re.sub(r'("pid": ?)[1-9]\d*', r"\1{pid}", text)
        text = re.sub(r'("(?:ociVersion|spec)": ?)"[^"]*"', r'\1"{version}"', text)
        text = re.sub(r"(adding pid|write) \d+", r"\1 {pid}", text)
        text = re.sub(r"usage: \d+", "usage: {bytes}", text)
        return "".join(map(_clean_row, text.splitlines(keepends=True)))

    def _do_bundle(self, name: str, changes: str = "{}") -> None:
        root = self.work / name / "rootfs"
        for directory in ("bin", "proc", "sys", "dev", "tmp"):
            (root / directory).mkdir(parents=True, exist_ok=True)
        shutil.copy(_BUSYBOX, root / "bin/busybox")
        for applet in _APPLETS:
            if not (root / "bin" / applet).is_symlink():
                (root / "bin" / applet).symlink_to("busybox")
        document = json.loads((FIXTURES / "bundle.json").read_text())
        document["linux"]["cgroupsPath"] = f"/{self.cgroup}/{name}"
        for path, value in json.loads(changes).items():
            place = document
            *parents, last = path.split(".")
            for parent in parents:
                place = place.setdefault(parent, {})
            if value is None:
                place.pop(last, None)
            else:
                place[last] = value
        (self.work / name / "config.json").write_text(json.dumps(document))

    def _do_wait(self, container: str, status: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while f'"status": "{status}"' not in (found := self.run("state", container)[1]):
            assert time.monotonic() < deadline, (container, status, found)
            time.sleep(0.02)

    def _do_cgroup(self, bundle: str, *files: str) -> Answer:
        found = {}
        for file in files:
            paths = sorted(Path("/sys/fs/cgroup").glob(f"*/{self.cgroup}/{bundle}/{file}"))
            found[file] = paths[0].read_text().strip() if paths else None
        return {"files": found}

    def _do_write(self, file: str, text: str) -> None:
        path = self.work / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{work}", str(self.work)))

    def _do_root(self) -> None:
        self.root.mkdir(mode=0o700)


def python_player(work: Path) -> Player:
    """One that asks Python alone, without the front door."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); from pyrunc.oci.main import main; "
    code += "sys.exit(main('', sys.argv[2:]))"
    checkout = str(Path(__file__).parents[2])
    return Player(
        [sys.executable, "-I", "-S", "-c", code, checkout],
        "pyrunc-oci",
        work,
        f"pyrunc-test-{os.getpid()}-{work.name}",
    )


def _clean_row(row: str) -> str:
    """A row of list and ps with one space between columns, and words for pids and times."""
    if row.startswith(("ID ", "UID ")):
        return re.sub(r" +", " ", row.strip()) + "\n"
    if re.match(r"root +\d+ +\d+ ", row):
        return "root {pid} " + row.split(maxsplit=7)[7]
    if re.match(r"\S+ +\d+ +\w+ +\{work\}", row):
        return re.sub(r" [1-9]\d* ", " {pid} ", re.sub(r" +", " ", row), count=1)
    if re.fullmatch(r"\[\d+(,\d+)*\]\n", row):
        return "[{pids}]\n"
    return re.sub(r"^ *\d+ sleep", "{pid} sleep", row)


def outline(text: str) -> str:
    """A help text as its headings and the flags or verbs it lists, sorted: its sentences are each runtime's own."""
    if "NAME:\n" not in text:
        return text
    kept: list[str] = []
    listed: list[str] = []
    section = ""
    for row in text.splitlines():
        if row in _HEADINGS:
            kept += [*sorted(listed), row]
            listed = []
            section = row
        elif not section:
            kept.append(row)
        elif section.endswith(("OPTIONS:", "COMMANDS:")):
            match = re.match(r" {3}((?:-|\w).*?)(?: {2}|$)", row)
            listed += [match[1]] if match else []
    return "\n".join([*kept, *sorted(listed)]) + "\n"
