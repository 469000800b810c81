"""`run` and `create` from the outside: exit codes, descriptors, files and words that clients go by, as runc's."""

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.oci.runtime import SUBJECT, Result, Runtime
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root
Make = Callable[[str], Runtime]
Bundle = Callable[..., Path]
PEERS = [peer for peer in ("runc",) if peer != SUBJECT]


@pytest.fixture(params=PEERS)
def pair(request: pytest.FixtureRequest, make_runtime: Make) -> tuple[Runtime, Runtime]:
    """The runtime that is tried, and a peer."""
    return make_runtime(SUBJECT), make_runtime(request.param)


@pytest.mark.parametrize(
    "words",
    [
        ["/bin/sh", "-c", "exit 7"],
        ["/bin/sh", "-c", "sleep 100 & kill -9 $!; wait $!"],
        ["/bin/sh", "-c", "kill -TERM $$; exit 3"],
        ["/no/such"],
        ["no-such"],
        ["/etc/passwd"],
        ["/tmp"],
        [""],
    ],
)
def test_exit_codes(words: list[str], pair: tuple[Runtime, Runtime], bundle: Bundle) -> None:
    results = []
    for number, runtime in enumerate(pair):
        path = bundle(f"bundle{number}", *words)
        (path / "rootfs/etc/passwd").write_text("")
        results.append(runtime.run(path, code=None))
    assert results[0].code == results[1].code, results
    assert core(results[0]) == core(results[1])


def core(result: Result) -> str:
    """What was the matter, in the last words of the message: what clients look for."""
    return re.sub(r'.*(exec: .*|msg=")', r"\1", result.err.strip())


def test_preserved_descriptors(pair: tuple[Runtime, Runtime], bundle: Bundle) -> None:
    """--preserve-fds and LISTEN_FDS: exactly these come along, and the program is told."""
    script = "for fd in 3 4 5 6; do readlink /proc/$$/fd/$fd; done; env | grep LISTEN; true"
    kinds: dict[str, tuple[list[str], dict[str, str]]] = {
        "preserved": (["--preserve-fds", "2"], {}), "listened": ([], {"LISTEN_FDS": "2"}),
        "both": (["--preserve-fds", "1"], {"LISTEN_FDS": "1"}), "none": ([], {}),
    }  # fmt: skip
    found: list[dict[str, str]] = []
    for number, runtime in enumerate(pair):
        path = bundle(f"bundle{number}", "/bin/sh", "-c", script)
        runtime.prefix = ["sh", "-c", f'exec "$0" "$@" 3<{path}/config.json 4<{path}/config.json']
        outs = {}
        for kind, (flags, environment) in kinds.items():
            result = runtime.run(path, *flags, env={**os.environ, **environment})
            outs[kind] = result.out.replace(str(path), "BUNDLE")
        found.append(outs)
    assert found[0] == found[1]
    assert found[0]["preserved"].count("BUNDLE/config.json") == 2


def test_a_pid_file(pair: tuple[Runtime, Runtime], bundle: Bundle) -> None:
    for number, runtime in enumerate(pair):
        path = bundle(f"bundle{number}", "/bin/sleep", "1000")
        name = runtime.create(path, "--pid-file", str(path / "pid"))
        assert (path / "pid").read_text() == str(runtime.state(name)["pid"])
        runtime("delete", "--force", name)


WRONG: dict[str, list[str]] = {
    "a container that is not there": ["state", "nobody"],
    "a kill of nobody": ["kill", "nobody", "KILL"],
    "a delete of nobody": ["delete", "nobody"],
    "a start of nobody": ["start", "nobody"],
    "an exec in nobody": ["exec", "nobody", "true"],
    "a signal that is none": ["kill", "ID", "NONSENSE"],
    "a second start": ["start", "ID"],
    "a delete of what runs": ["delete", "ID"],
    "a resume of what runs": ["resume", "ID"],
    "a name that is taken": ["create", "--bundle", "BUNDLE", "ID"],
    "a bundle that is not there": ["create", "--bundle", "/no/such", "new"],
    "a bundle without a document": ["create", "--bundle", "/tmp", "new"],
}


@pytest.mark.parametrize("name", WRONG)
def test_words_for_what_is_wrong(name: str, pair: tuple[Runtime, Runtime], bundle: Bundle) -> None:
    """Clients look for them: code and message, on stderr and in a JSON log."""
    found = []
    for number, runtime in enumerate(pair):
        path = bundle(f"bundle{number}", "/bin/sleep", "1000")
        container = runtime.create(path)
        runtime("start", container)
        words = [word.replace("ID", container).replace("BUNDLE", str(path)) for word in WRONG[name]]
        log = path / "log"
        result = runtime(*words, code=None)
        logged = runtime("--log", str(log), "--log-format", "json", *words, code=None)
        assert logged.code == result.code
        entry = json.loads(log.read_text().splitlines()[-1])
        assert entry["level"] == "error" and set(entry) == {"level", "msg", "time"}
        message = re.sub(r'.*msg="?(.*?)"?$', r"\1", result.err.strip()).replace('\\"', '"')
        found.append(
            (
                result.code,
                *(
                    text.replace(container, "ID").replace(str(path), "BUNDLE")
                    for text in (message, entry["msg"])
                ),
            )
        )
        runtime.end(container)
    assert found[0] == found[1]


PROGRAMS: dict[str, tuple[bytes, list[str]]] = {
    "no program's format": (b"\x7fELFgarbage", ["/tmp/program"]),
    "without its interpreter": (b"#!/nonexistent\n", ["/tmp/program"]),
    "empty": (b"", ["/tmp/program"]),
    "found by its name": (b"#!/nonexistent\n", ["program"]),
    "in a file": (b"", ["/tmp/program/x"]),
    "not there": (b"", ["/tmp/none"]),
    "a directory": (b"", ["/tmp"]),
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_a_program_that_cannot_be_executed(what: str, pair: tuple[Runtime, Runtime], bundle: Bundle) -> None:
    """Found in time it is the runtime's error; what only execve(2) finds is the program's, in exec too."""
    content, words = PROGRAMS[what]
    found = []
    for number, runtime in enumerate(pair):
        path = bundle(f"bundle{number}", *words, process__env=["PATH=/bin:/tmp"])
        program = path / "rootfs/tmp/program"
        program.write_bytes(content)
        program.chmod(0o755)
        results = [runtime.run(path, code=None)]
        spec = json.loads((path / "config.json").read_text())
        spec["process"]["args"] = ["/bin/sleep", "1000"]
        (path / "config.json").write_text(json.dumps(spec))
        container = runtime.create(path)
        runtime("start", container)
        results += [runtime("exec", *flags, container, *words, code=None) for flags in ([], ["--detach"])]
        runtime.end(container)
        found.append([(result.code, re.sub(r'time="[^"]*" ', "", result.err)) for result in results])
    assert [code for code, _ in found[0]] in ([1, 1, 0], [1, 255, 255])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "words", [["state", "nobody"], ["--log", "/dev/stderr", "state", "nobody"], ["run", "-b", "/no/such", "x"],
              ["--log-format", "json", "state", "nobody"], ["exec", "nobody", "true"]],
)  # fmt: skip
def test_what_a_terminal_is_shown(words: list[str], pair: tuple[Runtime, Runtime]) -> None:
    found = []
    for runtime in pair:
        master, slave = os.openpty()
        subprocess.run(
            runtime.command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=slave,
            check=False, timeout=60,
        )  # fmt: skip
        os.close(slave)
        text = b""
        with contextlib.suppress(OSError):
            while chunk := os.read(master, 4096):
                text += chunk
        os.close(master)
        found.append(re.sub(rb'"time":"[^"]*"', b"", text))
    assert found[0] == found[1]
    assert (b"\x1b[31mERRO" in found[0]) == ("json" not in words)


def test_a_source_that_is_missing_is_a_start_that_failed(
    pair: tuple[Runtime, Runtime], bundle: Bundle, tmp_path: Path
) -> None:
    """So poststop hooks take down what others have set up."""
    found = []
    mount = {"destination": "/mnt", "type": "bind", "source": "/no/such", "options": ["bind"]}
    for number, runtime in enumerate(pair):
        log = tmp_path / f"hook{number}"
        hook = {"path": "/bin/sh", "args": ["sh", "-c", f"echo ran > {log}"]}
        path = bundle(f"bundle{number}", "/bin/true", **{"mounts+": [mount], "hooks": {"poststop": [hook]}})
        result = runtime.run(path, code=1)
        assert log.read_text() == "ran\n"
        found.append(re.sub(r'time="[^"]*" ', "", result.err))
    assert found[0] == found[1]
