"""The log of a shim: records as dockerd writes them, whatever the program writes and whatever the disk takes."""

import calendar
import json
import os
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc.runtime import shim, spawner
from pyrunc.runtime.attach import STDOUT, AttachClient
from pyrunc.runtime.launcher import Launcher
from tests import rootfs
from tests.runtime.shim_support import Place, ended, eventually, place, small_tmpfs
from tests.runtime.test_shim_attach import ready

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")
RECORD = re.compile(rb'\{"log":".*","stream":"(stdout|stderr)","time":"(.*)"\}')
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d*[1-9])?Z")


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    root = rootfs.make(tmp_path_factory.mktemp("log") / "root")
    for applet in ("dd", "head", "tr", "seq", "printf"):
        (root / "bin" / applet).symlink_to("busybox")
    return Launcher.of_options(root, {"seccomp": "unconfined"})


@pytest.fixture
def here(launcher: Launcher, tmp_path: Path) -> Iterator[Place]:
    with place(launcher, tmp_path) as made:
        yield made


def run(here: Place, script: str, stdin: bytes | None = None, **changes: Any) -> shim.Status:
    """Run *script* to its end, one write of *stdin* a second read; how it ended."""
    process = here.start(script, stdin_open=stdin is not None, stdin_once=True, **changes)
    if stdin is not None:
        client = AttachClient.connect(str(here.state), stdin=True, stdout=False, stderr=False)
        view = memoryview(stdin)
        while view:
            view = view[client.send(view) :]
            time.sleep(0.0005)
        client.close_stdin()
        eventually(client.flush)
    process.wait(60)
    process.finished()
    eventually(lambda: ended(process.running))
    found = shim.status(str(here.state))
    assert found is not None
    return found


def test_records_are_as_dockerd_writes_them(here: Place) -> None:
    before = time.time()
    run(
        here,
        r"""printf 'tab\there "quoted" back\\slash <tag> & \001 \177 caf\303\251 \360\237\230\200\r\n'""",
    )
    (line,) = here.log.read_bytes().splitlines()
    assert line.startswith(
        rb'{"log":"tab\u0009here \"quoted\" back\\slash \u003ctag\u003e \u0026 \u0001 '
        b"\x7f caf\xc3\xa9 \xf0\x9f\x98\x80"
        rb'\r\n","stream":"stdout","time":"'
    )
    match = RECORD.fullmatch(line)
    assert match
    stamp = match[2].decode()
    assert TIME.fullmatch(stamp)
    seconds = time.strptime(stamp.partition(".")[0].rstrip("Z"), "%Y-%m-%dT%H:%M:%S")
    assert before - 2 < calendar.timegm(seconds) < time.time() + 2


def test_separators_that_end_a_line_of_javascript_are_escaped(here: Place) -> None:
    run(here, r"printf '\342\200\250\342\200\251\342\200\252\n'")
    assert here.log.read_bytes().startswith(rb'{"log":"\u2028\u2029' + "\u202a".encode())


INVALID = {
    "a lone byte": (b"a\xffb", "a\ufffdb"),
    "a character without its end": (b"a\xe2\x82b", "a\ufffd\ufffdb"),
    "an overlong one": (b"\xc0\xaf\xe0\x80\xaf", "\ufffd" * 5),
    "a surrogate": (b"\xed\xa0\x80", "\ufffd" * 3),
    "beyond unicode": (b"\xf4\x90\x80\x80", "\ufffd" * 4),
    "cut by the end": (b"x\xf0\x9f\x98", "x\ufffd\ufffd\ufffd"),
    "nul": (b"\0", "\0"),
}


@pytest.mark.parametrize("what", INVALID)
def test_what_is_no_utf_8_is_logged_as_such(here: Place, what: str) -> None:
    data, expected = INVALID[what]
    octal = "".join(f"\\{byte:03o}" for byte in data)
    run(here, f"printf '{octal}'")
    assert here.logged() == expected
    assert b"\\ufffd" in here.log.read_bytes() or "\ufffd" not in expected


def test_a_character_that_reads_cut_is_whole_in_the_log(here: Place) -> None:
    text = "é€😀" * 4
    for pause in (0.05, 0.5):
        here.log.unlink(missing_ok=True)
        run(here, " ".join(f"printf '\\{byte:03o}'; sleep {pause};" for byte in text.encode()))
        assert here.logged() == text
        if len(here.records()) > 3:
            break  # so the reads did cut, and it was not waited for more for long
    else:
        raise AssertionError(here.records())


def test_lines_are_split_at_16_kib_and_joined_again_by_their_readers(here: Place) -> None:
    run(
        here,
        "head -c 40000 /dev/zero | tr '\\0' x; echo; echo short; head -c 16383 /dev/zero | tr '\\0' y; echo",
    )
    lengths = [len(record["log"]) for record in here.records()]
    assert max(lengths) <= 16384
    text = here.logged()
    assert text == "x" * 40000 + "\nshort\n" + "y" * 16383 + "\n"


def test_a_split_never_cuts_a_character(here: Place) -> None:
    data = ("ab" + "€" * 20000 + "\n").encode()
    run(here, "cat", data)
    assert here.logged().encode() == data
    assert "\ufffd" not in here.logged()


def test_what_has_no_newline_yet_is_logged_at_once(here: Place) -> None:
    process = here.start("printf prompt; exec sleep 60")
    eventually(lambda: here.log.exists() and here.log.read_bytes())
    assert here.logged() == "prompt"
    process.kill()
    process.wait(60)
    process.finished()


def test_a_hundred_thousand_lines_are_all_there_in_order(here: Place) -> None:
    run(here, "seq 1 100000; seq 1 1000 >&2")
    assert here.logged() == "".join(f"{n}\n" for n in range(1, 100001))
    assert here.logged("stderr") == "".join(f"{n}\n" for n in range(1, 1001))
    stamps = [record["time"].rstrip("Z").ljust(29, "0") for record in here.records()]
    assert stamps == sorted(stamps)


def test_a_full_disk_costs_records_and_neither_the_program_nor_half_a_record(
    launcher: Launcher, tmp_path: Path
) -> None:
    with small_tmpfs(tmp_path / "full", "256k") as full, place(launcher, tmp_path) as here:
        here.log = full / "log"
        status = run(here, "seq 1 20000; exit 9", log=shim.LogFile(str(here.log)))
        assert status.exit_code == 9
        whole = here.log.read_bytes()
        assert whole.endswith(b"}\n")
        kept = here.records()
        text = here.logged()
        assert text
        assert "".join(f"{n}\n" for n in range(1, 20001)).startswith(text)
        numbers = shim.numbers_of((here.state / "status").read_text())
        # A line that a read has cut is two records.
        assert 20000 - len(kept) <= numbers["log_dropped"] < 20100 - len(kept)


def test_after_a_full_disk_the_log_goes_on(launcher: Launcher, tmp_path: Path) -> None:
    with small_tmpfs(tmp_path / "full", "256k") as full, place(launcher, tmp_path) as here:
        here.log = full / "log"
        (full / "ballast").write_bytes(bytes(256 << 10))
        process = here.start(
            "read x; echo lost; read x; echo kept", stdin_open=True, log=shim.LogFile(str(here.log))
        )
        with AttachClient.connect(str(here.state), stdin=True) as client:
            client.send(b"\n")
            eventually(lambda: (STDOUT, b"lost\n") in client.receive())
            ready(
                AttachClient.connect(str(here.state))
            ).close()  # it is the log's turn before the next client's
        (full / "ballast").unlink()
        with AttachClient.connect(str(here.state), stdin=True) as client:
            client.send(b"\n")
            process.wait(60)
        process.finished()
        assert here.logged() == "kept\n"


def test_a_starter_s_limit_of_file_sizes_costs_records_and_not_the_shim(here: Place) -> None:
    limit = 200_000
    spawner.shut_down()
    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            here.start("seq 1 20000; exit 3").release()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    who = shim.running(str(here.state))
    assert who is not None
    here.processes.append(who)
    eventually(lambda: ended(who))
    status = shim.status(str(here.state))
    assert status is not None
    assert status.exit_code == 3
    assert 0 < here.log.stat().st_size <= limit
    assert here.commands() == 1


def files(here: Place) -> dict[str, list[str]]:
    return {
        path.name.removeprefix(here.log.name): [
            json.loads(line)["log"] for line in path.read_text().splitlines()
        ]
        for path in here.directory.glob(f"{here.log.name}*")
    }


def test_a_log_that_is_full_is_followed_by_the_next(here: Place) -> None:
    run(here, "seq 10001 11000", log=shim.LogFile(str(here.log), 20000, 3))
    found = files(here)  # a line that a read has cut is two records
    assert found.keys() == {"", ".1", ".2"}
    assert all((here.directory / f"{here.log.name}{name}").stat().st_size < 20000 + 200 for name in found)
    numbers = whole([*found[".2"], *found[".1"], *found[""]])
    assert numbers == list(range(numbers[0], 11001))
    # A time ends before its zeros, so that records are not all of one length.
    assert abs(len(found[".1"]) - len(found[".2"])) < 10 and len(found[".2"]) > 200


def test_of_a_single_file_the_latest_records_are_kept_and_a_reader_keeps_the_old_one(here: Place) -> None:
    process = here.start(
        "seq 10001 10100; read x; seq 10101 11000", stdin_open=True, log=shim.LogFile(str(here.log), 20000, 1)
    )
    eventually(lambda: here.log.exists() and b"10100" in here.log.read_bytes())
    with open(here.log) as reader, AttachClient.connect(str(here.state), stdin=True) as client:
        client.send(b"\n")
        process.wait(60)
        process.finished()
        old = whole([json.loads(line)["log"] for line in reader])
    assert files(here).keys() == {""}
    kept = whole(files(here)[""])
    assert kept[-1] == 11000
    assert kept == list(range(kept[0], 11001))
    assert old == list(range(10001, old[-1] + 1))
    assert old[-1] > 10150


def whole(records: list[str]) -> list[int]:
    """The numbers of five digits whose lines are whole in *records*; the first and the last may not be."""
    return [int(line) for line in "".join(records).splitlines() if len(line) == 5]
