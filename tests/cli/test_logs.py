"""`pyrunc logs -f` and `pyrunc events` as processes: what ends them, and what then is their exit code."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.shell import Shell

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def shell(tmp_path: Path, busybox: Path) -> Iterator[Shell]:
    with Shell.opened(tmp_path, busybox) as opened:
        assert opened.run("load -q -i beta.tar").code == 0
        yield opened


def _process(shell: Shell, *argv: str, stdout: int = subprocess.PIPE) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "pyrunc", "--root", str(shell.root), *argv]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, env=environment)


def _line(process: "subprocess.Popen[bytes]") -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def test_following_goes_on_until_it_is_interrupted(shell: Shell) -> None:
    assert shell.run("run -d --name one beta sh -c 'echo begun; sleep 100'").code == 0
    process = _process(shell, "logs", "-f", "one")
    assert _line(process) == b"begun\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == (b"", b"") and process.returncode == 130


def test_following_ends_with_the_container(shell: Shell) -> None:
    assert shell.run("run -d --name one beta sh -c 'echo begun; sleep 1; echo over >&2; exit 4'").code == 0
    process = _process(shell, "logs", "--follow", "one")
    assert process.communicate(timeout=60) == (b"begun\n", b"over\n") and process.returncode == 0


def test_nobody_reads_any_more(shell: Shell) -> None:
    endless = "while echo words; do :; done"
    assert shell.run(f"run -d --name one --log-opt max-size=1m beta sh -c '{endless}'").code == 0
    process = _process(shell, "logs", "-f", "one")
    assert _line(process) == b"words\n"
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE and process.stderr.read() == b""
    process.stderr.close()


def test_events_come_as_they_happen(shell: Shell) -> None:
    process = _process(shell, "events", "--since", "1", "-f", "type=image", "--format", "{{.Action}}")
    assert _line(process) == b"load\n"
    assert shell.run("tag beta other:1").code == 0
    assert _line(process) == b"tag\n"
    assert shell.run("rmi other:1").code == 0
    assert _line(process) == b"untag\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == (b"", b"") and process.returncode == 130


def test_a_field_that_events_do_not_have_is_refused_before_anything_happens(shell: Shell) -> None:
    process = _process(shell, "events", "-f", "type=volume", "--format", "{{.Nope}}")
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (64, b"")
    assert stderr.startswith(b"Error parsing format: ") and b"Nope" in stderr


def test_a_damaged_log_is_shown_but_for_the_damage(shell: Shell) -> None:
    assert shell.run("create --name one beta true").code == 0
    container_id = shell.run("inspect -f {{.Id}} one").stdout.strip()
    log = shell.root / "containers" / container_id / f"{container_id}-json.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    record = '{"log":"a\\n","stream":"stdout","time":"2026-01-02T03:04:05Z"}\n'
    log.write_text(record + "nonsense\n" + record)
    answer = shell.run("logs one")
    assert (answer.code, answer.stdout) == (0, "a\na\n")
    assert answer.stderr == f"{{root}}/{log.relative_to(shell.root)}: 1 damaged record was skipped\n"
