"""What docker was asked for is asked of pyrunc, line by line, and the answers are the same: output, errors, exit codes.

Ids and fresh times are compared by their place; "docker" and its daemon are called by pyrunc's own name. What differs
on purpose stands in DIFFERENT with the reason.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc.cli import units
from tests.cli import differences, differences_mounts, record
from tests.cli.shell import Shell, begins

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

_OTHER_WORDS = "pyrunc has its own words for it; they name what is wrong in one line"
_NEWER = "Docker's daemon was of version 20.10; newer ones, and pyrunc, know it"
_ANONYMOUS = "Docker's daemon was of version 20.10; newer ones, and pyrunc, prune volumes without a name only"
_LINKS = "Docker's overlay2 counts the lengths of symbolic links"
# line -> the reason why what is said differs; the exit code is compared in any case.
DIFFERENT = {
    "history -H=false alpha:1": _LINKS,
    "image inspect -f '{{.Os}}/{{.Architecture}} {{.Size}} {{.Created}} {{.Author}}' alpha:1": _LINKS,
    "image inspect -f '{{printf \"%s %q %v %d\" .Os .Os .Size .Size}}' alpha:1": _LINKS,
    "images -f until=2021-01-01": _NEWER,
    "images --tree": "refused by name",
    "image inspect -f json alpha:1": "keys of the API v1.51; see test_inspect.py",
    "image inspect alpha:1": "keys of the API v1.51; see test_inspect.py",
    "inspect alpha:1": "keys of the API v1.51; see test_inspect.py",
    "inspect --type image beta": "keys of the API v1.51; see test_inspect.py",
    "inspect --type wrong beta": _OTHER_WORDS,
    "load -i noise.tar": _OTHER_WORDS,
    "load -i empty.tar": _OTHER_WORDS,
    "load -i short.tar": _OTHER_WORDS,
    "load < noise.tar": _OTHER_WORDS,
    "import noise.tar": _OTHER_WORDS,
    "volume wrong": "the usage line of the group",
    "volume ls --format '{{.Label \"a\"}}' -f name=two": "a template calls no method",
    "volume prune < no": _ANONYMOUS,
    "volume prune < yes": _ANONYMOUS,
    "": "the commands that there are",
    "image": "the commands that there are",
    "--wrong": "the usage line of the root",
}
# Of exec: newer daemons answer 127 too. This host does not let the daemon give all capabilities.
_NOT_FOUND = ("exec one nothing", "exec one /nothing", "exec -t one nothing")
_ALL_CAPABILITIES = tuple(
    f"exec {flags}--privileged one sh -c 'busybox grep CapEff /proc/self/status'" for flags in ("", "-u 7 ")
)
DIFFERENT |= dict.fromkeys(_NOT_FOUND, _OTHER_WORDS) | dict.fromkeys(
    _ALL_CAPABILITIES, "see _ALL_CAPABILITIES"
)
DIFFERENT |= dict.fromkeys(
    (
        "exec one /etc/passwd", "exec one /etc", "exec -d one nothing", "exec -w /nowhere one /bin/busybox pwd",
        "exec --workdir relative one /bin/busybox pwd", "attach --detach-keys wrong one",
    ),
    _OTHER_WORDS,
)  # fmt: skip
DIFFERENT |= dict.fromkeys(
    (
        "exec --user nobody one /bin/busybox true", "exec -u 0:nobody one /bin/busybox true",
        "exec -u 0x7 one /bin/busybox true",
    ),
    "Docker's daemon says it among the program's output, with a carriage return",
)  # fmt: skip
DIFFERENT["attach three < yes"] = "Docker's client has missed what the program wrote"
_OWN_CODES = {
    "volume ls --format '{{.Label \"a\"}}' -f name=two": 1,
    "images -f until=2021-01-01": 0,
    "images --tree": 125,
    **dict.fromkeys(_NOT_FOUND, 127), **dict.fromkeys(_ALL_CAPABILITIES, 0),
}  # fmt: skip
_KNOWN = differences.CONTAINERS | differences_mounts.MOUNTS
_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{12}(?:[0-9a-f]{52}|[0-9a-f]{2}(?=…))?(?![0-9a-f])")
_FRESH = re.compile(r"(Up )?(?:Less than a second|\d+ seconds?|About a minute)(?(1)| ago)")


class Ids:
    """Gives each id a number, the same whether it is written short or long."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def hide(self, text: str) -> str:
        def one(match: re.Match[str]) -> str:
            number = self._known.setdefault(match[0][:12], len(self._known))
            return f"{number:x}".rjust(len(match[0]), "i")

        return _ID.sub(one, text)


def _plain(text: str, ids: Ids) -> str:
    text = (
        text.replace("Error response from daemon: ", "Error: ")
        .replace("SRun", "Run")
        .replace("docker", "pyrunc")
    )
    text = text.replace("pyrunc: Error: ", "pyrunc: ").replace("pyrunc.io", "docker.io")
    text = re.sub(
        r"^(WARNING: )?(IPv4 forwarding is disabled|Your kernel does not).*\n", "", text, flags=re.MULTILINE
    )
    text = re.sub(
        r"Error: container (\w+ is not running)", r"Error: Container \1", text
    )  # where it ends meanwhile
    text = re.sub(r"(command: .*\ncreated_at: ).*", r"\1now", text)
    text = re.sub(r'"CreatedAt":"[^"]*"', '"CreatedAt":"now"', text)
    text = re.sub(r"Error: no such image: \S+: ", "Error: ", text)
    text = text.replace(
        "failed to create shim task: OCI runtime create failed: runc create failed: unable to start", ""
    )
    text = text.replace(" container process: ", "").replace("stat /nothing: no", "no")
    text = re.sub(r"(exec: .*): unknown$", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"(No such image: \w+)$", r"\1:latest", text, flags=re.MULTILINE)
    text = re.sub(r"repository name \(\S+\) must", "repository name must", text)
    if _FRESH.search(text):
        text = re.sub(" {2,}", "  ", _FRESH.sub(lambda match: "Up now" if match[1] else "now", text))
    return ids.hide(text)


@pytest.fixture
def shell(tmp_path: Path, busybox: Path) -> Iterator[Shell]:
    with Shell.opened(tmp_path, busybox) as found:
        yield found


@pytest.mark.parametrize("name", record.SCENARIOS)
def test_pyrunc_answers_as_docker_does(name: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: dict[str, Any] = json.loads((record.FIXTURES / f"{name}.json").read_text())
    ids = shell.ids
    theirs, ours = Ids(), Ids()
    wanted = {reference for line in record.lines(name) for reference in record.named(line)}
    problems = []
    assert [step["line"] for step in recorded["steps"]] == record.lines(name)
    for step in recorded["steps"]:
        line = step["line"]
        monkeypatch.setattr(units, "now", lambda step=step: step["now"])
        for reference in wanted - ids.keys():
            found = shell.run(f"image inspect -f {{{{.Id}}}} {reference}")
            if not found.code:
                ids[reference] = found.stdout.strip()
        if line.startswith("rm ") and " parent " in line:
            shell.run("wait parent")  # docker's start takes longer than its program
        answer = shell.run(record.filled(line, ids))
        if begins(line):
            shell.settle()
        code, _ = _KNOWN.get(line, (_OWN_CODES.get(line, step["code"]), ""))
        assert "Traceback" not in answer.stderr, answer.stderr
        if line in DIFFERENT or line in _KNOWN:
            if answer.code != code:
                problems.append(f"$ {line} -> {answer.code}, docker {code}\n{answer.stderr}")
            continue
        stdout, expected = _plain(answer.stdout, ours), _plain(step["stdout"], theirs)
        if line.startswith("images"):  # Docker has the names of one image in any order
            stdout, expected = (
                "\n".join(sorted(stdout.splitlines())),
                "\n".join(sorted(expected.splitlines())),
            )
        stderr, expected_error = _plain(answer.stderr, ours), _plain(step["stderr"], theirs)
        if (answer.code, stdout, stderr) != (code, expected, expected_error):
            problems.append(
                f"$ {line} -> {answer.code}, docker {code}\n{stdout}{stderr}--- docker\n{expected}{expected_error}"
            )
    assert not problems, "\n\n".join(problems)
