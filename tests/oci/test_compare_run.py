"""`run` and `create` from the outside: exit codes, descriptors, files and words that clients go by, as runc's."""

import json
import os
import re
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
