"""Every flag that docs/cli.md does not refuse is seen to do what it says: inside, or in what is told of it."""

import glob
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrunc.cli import reference
from pyrunc.cli.verb import Verb
from tests.cli.flag_rows import CREATE, OTHERS
from tests.cli.shell import Answer, Shell, begins
from tests.cli.test_interactive import Person

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.usefixtures("host_unchanged"),
]  # fmt: skip
# Flags with a test of their own below, or elsewhere.
_OWN = {
    *(
        (verb, flag)
        for verb in ("run", "create")
        for flag in ("--attach", "--cidfile", "--cpu-rt-runtime", "--platform", "--pull", "--rm", "--runtime")
    ),
    *((verb, "--detach-keys") for verb in ("run", "start", "attach", "exec")),
    *(("run", flag) for flag in ("--allow-host-image", "--detach", "--sig-proxy")),
    ("attach", "--sig-proxy"),
    *(("image bootstrap", flag) for flag in ("--mirror", "--quiet", "--tag", "--variant")),  # tests/image
}
# Those that are taken, and of which nothing can be seen: there is nothing to pull, and no signature.
_SILENT = {
    *((verb, flag) for verb in ("run", "create") for flag in ("--disable-content-trust", "--quiet")),
}


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, busybox: Path) -> Iterator[Shell]:
    with Shell.opened(tmp_path_factory.mktemp("flags"), busybox) as opened:
        (opened.directory / "variables").write_text("FROM_FILE=a file\n")
        _furnish(opened)
        yield opened


def _furnish(shell: Shell) -> None:
    """What every line may name."""
    assert shell.run("load -q -i beta.tar").code == 0
    other = shell.run("run --name other -v kept:/shared beta sh -c 'echo from another > /shared/file'")
    assert other.code == 0, other


@pytest.fixture
def made(shell: Shell) -> Iterator[Shell]:
    yield shell
    shell.run("rm -fv made called")
    shell.run("volume rm held mine")
    shell.run("rmi -f grown alpha:1 linked gamma:1 gamma:2 delta")


def test_no_flag_is_forgotten() -> None:
    works = {
        (path, flag.long) for path, command in _verbs() for flag in command.flags
        if not flag.refused and flag.long != "--help"
    }  # fmt: skip
    rows = {*OTHERS, *((verb, flag) for verb in ("run", "create") for flag in CREATE), *_OWN, *_SILENT}
    assert works == rows


def _verbs() -> Iterator[tuple[str, Verb]]:
    """Each command once, by the shortest way to say it."""
    seen = set()
    for path, command in reference._commands():
        if isinstance(command, Verb) and (key := (command.function, command.name)) not in seen:
            seen.add(key)
            yield path, command


def _asked(shell: Shell, verb: str, flags: str, question: str) -> str:
    """The answer to *question* of a container that *verb* makes with *flags*."""
    name = "" if "--name" in flags else "--name made"
    if question.startswith("{{"):
        line = "sleep 600" if verb == "run" else "true"
        first = shell.run(f"{verb} {'-d' if verb == 'run' else ''} {name} {flags} beta {line}")
        assert first.code == 0, first
        answer = shell.run(f"inspect -f '{question}' {first.stdout.strip()}")
        assert answer.code == 0, answer
    elif verb == "run":
        answer = shell.run(f'run {name} {flags} beta sh -c "{_quoted(question)}" < yes')
    else:
        first = shell.run(f'create {name} {flags} beta sh -c "{_quoted(question)}"')
        assert first.code == 0, first
        answer = shell.run(f"start -a {'-i' if '-i' in flags.split() else ''} {first.stdout.strip()} < yes")
    assert "pyrunc" not in answer.stderr, answer
    shell.run("rm -fv made called")
    return answer.stdout


def _quoted(text: str) -> str:
    return re.sub(r'(["\\])', r"\\\1", text)


@pytest.mark.parametrize("verb", ["run", "create"])
@pytest.mark.parametrize("flag", CREATE)
def test_a_flag_of_create_and_run(made: Shell, verb: str, flag: str) -> None:
    row = CREATE[flag]
    if row.needs and not any(glob.glob(f"/sys/fs/cgroup/{name}") for name in row.needs):
        # Never in silence: this kernel cannot do it, and so it is refused, with a word that names it.
        answer = made.run(f"{verb} {row.flags} --name made beta true")
        if verb == "create" and not answer.code:
            answer = made.run("start made")
        assert answer.code, answer
        pytest.skip(f"refused, since this kernel lacks it: {answer.stderr.splitlines()[0]}")
    seen = _asked(made, verb, row.flags, row.asked)
    assert re.search(row.pattern, seen, re.MULTILINE), seen
    assert not re.search(row.pattern, _asked(made, verb, "", row.asked), re.MULTILINE), (
        "it is so without the flag"
    )


@pytest.mark.parametrize("command", OTHERS, ids=" ".join)
def test_a_flag_of_another_command(made: Shell, command: tuple[str, str]) -> None:
    lines, pattern = OTHERS[command]
    answers = []
    for line in lines:
        answers.append(_joined(made, line) if line.startswith("joined ") else made.run(line))
        if begins(line):
            made.settle()
    if any(" prune" in line for line in lines):
        made.run("rm -f other")
        _furnish(made)  # what may have been pruned
    said = answers[-1].stdout + answers[-1].stderr
    assert re.search(pattern, said, re.MULTILINE), answers


def _joined(shell: Shell, line: str) -> Answer:
    """The files that *line* names, one behind the other, as an answer."""
    found = b"".join((shell.directory / name).read_bytes() for name in line.split()[1:])
    return Answer(0, found.decode("utf-8", "replace"), "")


def test_what_has_nothing_to_do_is_taken(made: Shell) -> None:
    for line in (
        "run --rm -q --disable-content-trust beta true",
        "create -q --disable-content-trust --name made beta",
    ):
        assert made.run(line).code == 0


@pytest.mark.parametrize("verb", ["run", "create"])
def test_flags_about_the_image_and_the_row(made: Shell, verb: str) -> None:
    assert made.run(f"{verb} --rm --cidfile cid-{verb} --name made beta sh -c 'sleep 0'").code == 0
    assert "nobody" in made.run(f"{verb} --runtime nobody beta true").stderr
    made.run("create -a stderr --cpu-rt-runtime 100 --name called beta true")
    seen = made.run("inspect -f '{{.Config.AttachStdout}} {{.HostConfig.CpuRealtimeRuntime}}' called").stdout
    assert seen == "false 100\n"
    assert re.fullmatch("[0-9a-f]{64}", (made.directory / f"cid-{verb}").read_text())
    if verb == "create":
        assert made.run("start -a made").code == 0
    assert made.run("ps -aq -f name=made").stdout == ""
    assert "s390x" in made.run(f"{verb} --platform linux/s390x beta true").stderr
    assert "--pull" in made.run(f"{verb} --pull always beta true").stderr
    assert made.run(f"{verb} --pull never --name made beta true").code == 0


def test_the_host_as_an_image(made: Shell) -> None:
    assert made.run("run --rm host cat /etc/hostname").code == 125
    assert made.run("run --rm --allow-host-image host sh -c 'echo here'").stdout == "here\n"


def test_detach(made: Shell) -> None:
    answer = made.run("run -d --name made beta sleep 600")
    assert re.fullmatch("[0-9a-f]{64}\n", answer.stdout)
    assert made.run("ps --format {{.State}} -f name=made").stdout == "running\n"


_TYPED = {
    "run": ([], "run -it --name made --detach-keys ctrl-b,x beta sh"),
    "start": (["create -it --name made beta sh"], "start -ai --detach-keys ctrl-b,x made"),
    "attach": (["run -dit --name made beta sh"], "attach --detach-keys ctrl-b,x made"),
    "exec": (["run -d --name made beta sleep 600"], "exec -it --detach-keys ctrl-b,x made sh"),
}


@pytest.mark.parametrize("verb", _TYPED)
def test_detach_keys(made: Shell, verb: str) -> None:
    before, line = _TYPED[verb]
    for step in before:
        assert made.run(step).code == 0
    person = Person(["-m", "pyrunc", "--root", str(made.root), *line.split()])
    try:
        person.type(b"echo $((40+2))\r")
        person.sees(b"42")
        person.type(b"\x10\x11")  # docker's own keys, which are the program's now
        person.type(b"echo $((50+3))\r")
        person.sees(b"53")
        person.type(b"\x02x")
        assert person.waits() == (1 if verb in ("exec", "attach") else 0)
        assert person.is_as_before()
    finally:
        person.close()
    assert made.run("ps --format {{.State}} -f name=made").stdout == "running\n"


_TRAP = "trap 'echo told; exit 7' TERM; while :; do echo up; sleep 0.1; done"


@pytest.mark.parametrize("verb", ["run", "attach"])
@pytest.mark.parametrize("passes", [True, False])
def test_sig_proxy(made: Shell, verb: str, passes: bool) -> None:
    argv = [
        sys.executable,
        "-m",
        "pyrunc",
        "--root",
        str(made.root),
        verb,
        f"--sig-proxy={str(passes).lower()}",
    ]
    if verb == "run":
        argv += ["--name", "made", "beta", "sh", "-c", _TRAP]
    else:
        assert made.run(f'run -d --name made beta sh -c "{_TRAP}"').code == 0
        argv.append("made")
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": os.getcwd()}
        | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    try:
        assert process.stdout and process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    running = made.run("ps --format {{.State}} -f name=made").stdout
    if passes:
        assert (b"told" in out, process.returncode, running) == (True, 7, "")
    else:
        assert (b"told" in out, running) == (False, "running\n")
