"""Commands as processes: whatever happens to them is one line and an exit code, and what they began is undone."""

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli import samples
from tests.image.archive import making

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
_PROGRAM = [sys.executable, "-c", "import sys; from pyrunc.cli.main import main; sys.exit(main())"]
_CHECKOUT = str(Path(__file__).parents[2])


class Cli:
    """`pyrunc` on a root of its own, in a directory with the archives of samples.py."""

    def __init__(self, directory: Path, root: Path) -> None:
        self.directory = directory
        self.root = root
        self.env = {**os.environ, "PYTHONPATH": _CHECKOUT, "PYRUNC_ROOT": str(root)}

    def start(self, *argv: str, **options: object) -> "subprocess.Popen[bytes]":
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        found: subprocess.Popen[bytes] = subprocess.Popen(
            [*_PROGRAM, *argv], cwd=self.directory, env=self.env, **{**streams, **options}  # type: ignore[call-overload]
        )  # fmt: skip
        return found

    def __call__(self, *argv: str, stdin: bytes = b"", **options: object) -> tuple[int, str, str]:
        with self.start(*argv, **options) as process:
            out, err = process.communicate(stdin, timeout=120)
        return process.returncode, (out or b"").decode(), (err or b"").decode()

    def good(self, *argv: str, stdin: bytes = b"") -> str:
        code, out, err = self(*argv, stdin=stdin)
        assert (code, err) == (0, ""), (argv, code, out, err)
        return out


@pytest.fixture
def cli(tmp_path: Path, busybox: Path) -> Cli:
    work = tmp_path / "work"
    work.mkdir()
    samples.write(work, busybox)
    return Cli(work, tmp_path / "root")


@pytest.fixture
def loaded(cli: Cli) -> Cli:
    cli.good("load", "-q", "-i", "beta.tar")
    return cli


def one_line(text: str, *words: str) -> None:
    assert text.count("\n") == 1 and text.endswith("\n"), text
    assert "Traceback" not in text
    for word in words:
        assert word in text, text


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_reader_that_leaves_is_no_traceback(loaded: Cli) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = loaded.start("images", stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + signal.SIGPIPE, b"")


def test_a_full_device_is_one_line(loaded: Cli) -> None:
    with open("/dev/full", "wb") as full:
        code, _, err = loaded("images", stdout=full)
        assert code == 1
        one_line(err, "no space left on device")
        code, _, err = loaded("save", "beta", stdout=full)
        assert code == 1
        one_line(err, "no space left on device")
        assert loaded("images", "--wrong", stderr=full)[0] == 125


def test_interrupted_is_130_and_undone(loaded: Cli) -> None:
    process = loaded.start("load")
    assert process.stdin is not None
    process.stdin.write((loaded.directory / "alpha.tar").read_bytes()[:1_000_000])
    process.stdin.flush()
    until(lambda: list((loaded.root / "content/ingest").iterdir()))
    process.send_signal(signal.SIGINT)
    process.stdin.close()
    process.stdin = None
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + signal.SIGINT, b"")
    assert list((loaded.root / "content/ingest").iterdir()) == []
    assert "alpha" not in loaded.good("images")


def test_a_save_that_fails_leaves_no_file(loaded: Cli) -> None:
    before = set(loaded.directory.iterdir())
    code, _, err = loaded("save", "-o", "out.tar", "beta", "unknown")
    assert code == 1
    one_line(err, "No such image: unknown")
    blobs = sorted((loaded.root / "content/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blobs[-1].chmod(0o644)
    data = bytearray(blobs[-1].read_bytes())
    data[1000] ^= 1
    blobs[-1].write_bytes(data)
    code, _, err = loaded("save", "-o", "out.tar", "beta")
    assert code == 1
    one_line(err, "damaged", blobs[-1].name)
    assert set(loaded.directory.iterdir()) == before


def test_output_goes_to_a_device_as_it_is(loaded: Cli) -> None:
    loaded.good("save", "-o", "/dev/null", "beta")
    assert Path("/dev/null").is_char_device()


def test_without_privileges_it_is_one_line(busybox: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as top:
        os.chmod(top, 0o755)
        cli = Cli(Path(top), Path(top) / "root")
        samples.write(cli.directory, busybox)
        nobody: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []}
        for program in (sys.executable, "/usr/bin/python3"):
            try:
                found = subprocess.run(
                    [program, "-c", "import pyrunc.cli"], env=cli.env, check=False, **nobody
                )
            except OSError:
                continue
            if found.returncode == 0:
                break
        else:
            pytest.skip("nobody can reach a Python with pyrunc")
        cli.good("load", "-q", "-i", "beta.tar")
        for argv, code in (
            (["images"], 1),
            (["load", "-i", "beta.tar"], 1),
            (["run", "--rm", "beta", "true"], 125),
        ):
            told, _, err = cli(*argv, executable=program, **nobody)
            assert told == code, err
            assert "Traceback" not in err
            assert "permission denied" in err.lower() or "root" in err, err


def test_a_damaged_database_is_one_line(loaded: Cli) -> None:
    (loaded.root / "images.db").write_bytes(b"this is no database" * 1000)
    code, _, err = loaded("images")
    assert code == 1
    one_line(err, "images.db is damaged")


def test_a_full_disk_is_one_line_and_what_was_begun_is_undone(cli: Cli) -> None:
    script = """
    mkdir "$PYRUNC_ROOT" && mount -t tmpfs -o size=3m tmpfs "$PYRUNC_ROOT"
    "$@" load -i beta.tar; echo "code $?"
    "$@" images -q; "$@" import root.tar small:1 >/dev/null; "$@" images -q | wc -l
    """
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *_PROGRAM],
        cwd=cli.directory, env=cli.env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "code 1\n1\n", done
    one_line(done.stderr, "no space left")


def test_signals_reach_the_program(loaded: Cli) -> None:
    script = "trap 'echo got it; exit 7' USR1; echo ready; while true; do sleep 0.1; done"
    process = loaded.start("run", "--rm", "beta", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == b"got it\n"
    process.communicate(timeout=60)
    assert process.returncode == 7
    assert loaded.good("ps", "-aq") == ""


@pytest.mark.parametrize(
    ("flags", "script", "output"),
    [
        (["--read-only"], "touch /x 2>/dev/null || echo refused", "refused\n"),
        (["--read-only", "--tmpfs", "/tmp:size=1m"], "touch /tmp/x && echo made", "made\n"),
        (["-v", "{dir}:/mnt:ro"], "ls /mnt/noise.tar; touch /mnt/x 2>/dev/null || echo refused",
         "/mnt/noise.tar\nrefused\n"),
        (["--mount", "type=bind,source={dir},target=/mnt,readonly"], "ls /mnt/noise.tar", "/mnt/noise.tar\n"),
        (["-v", "/data"], "ls /data; mkdir /data/x && echo made", "seed\nmade\n"),
        (["-h", "me", "--env-file", "{dir}/variables"], "busybox hostname; echo $A-$B", "me\n1-two words\n"),
        (["-e", "INHERITED"], "echo $INHERITED", "from outside\n"),
        (["--cap-drop", "ALL"], "busybox grep CapEff /proc/self/status", "CapEff:\t0000000000000000\n"),
        (["--pids-limit", "7", "-m", "64m"], "busybox cat /sys/fs/cgroup/pids/pids.max", "7\n"),
        (["--ulimit", "nofile=64:128"], "ulimit -n", "64\n"),
        (["--add-host", "there:10.1.2.3"], "busybox grep there /etc/hosts", "10.1.2.3\tthere\n"),
        (["--group-add", "77", "-u", "1000:1001"], "busybox id -G", "1001 77\n"),
        (["--sysctl", "kernel.msgmax=1234"], "busybox cat /proc/sys/kernel/msgmax", "1234\n"),
        (["--security-opt", "no-new-privileges"], "busybox grep NoNew /proc/self/status", "NoNewPrivs:\t1\n"),
        (["-a", "stderr"], "echo out; echo err >&2", ""),
    ],
)  # fmt: skip
def test_flags_of_run_do_what_they_say(loaded: Cli, flags: list[str], script: str, output: str) -> None:
    if "/sys/fs/cgroup/pids" in script and not Path("/sys/fs/cgroup/pids").exists():
        pytest.skip("the pids controller is not on cgroup v1 here")
    (loaded.directory / "variables").write_text("# words\nA=1\nB=two words\n")
    loaded.env["INHERITED"] = "from outside"
    flags = [flag.replace("{dir}", str(loaded.directory)) for flag in flags]
    code, out, _ = loaded("run", "--rm", *flags, "beta", "sh", "-c", script)
    assert (code, out) == (0, output)


def test_a_file_of_variables_is_read_whole_or_not_at_all(loaded: Cli) -> None:
    (loaded.directory / "long").write_text("A=1\n" + "#" * (4 << 20) + "\nB=2\n")
    for path in ("long", "/dev/zero"):
        code, _, err = loaded("run", "--rm", "--env-file", path, "beta", "true")
        assert code == 125 and f"{path}: more than 4194304 characters" in err


def test_the_id_is_written_to_a_file(loaded: Cli) -> None:
    loaded.good("run", "--cidfile", "id", "--name", "one", "beta", "true")
    written = (loaded.directory / "id").read_text()
    assert loaded.good("ps", "-aq", "--no-trunc") == f"{written}\n"
    code, _, err = loaded("run", "--cidfile", "id", "beta", "true")
    assert code == 125 and "container ID file found" in err


def test_the_hosts_root_needs_its_flag(cli: Cli) -> None:
    code, _, err = cli("run", "--rm", "host", "true")
    assert code == 125 and "only for who allows it" in err
    assert (
        cli.good("run", "--rm", "--allow-host-image", "host", "sh", "-c", "cat /etc/os-release")
        == Path("/etc/os-release").read_text()
    )


def test_hello_needs_nothing(cli: Cli) -> None:
    assert "Hello from a container" in cli.good("run", "--rm", "hello")


def read_to_its_end(terminal: int) -> bytes:
    """What is written to a terminal until its other end is closed."""
    told = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            return told
        if not data:
            return told
        told += data


def drawn_by(cli: Cli, *argv: str) -> tuple[str, str]:
    """What a command writes to stdout, and to a terminal that is its stderr."""
    ours, theirs = pty.openpty()
    cli.env["TERM"] = "xterm"
    process = cli.start(*argv, stderr=theirs)
    os.close(theirs)
    drawn = read_to_its_end(ours)
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0, drawn
    return out.decode(), drawn.decode()


def test_progress_is_drawn_for_a_terminal_only(cli: Cli) -> None:
    out, drawn = drawn_by(cli, "load", "-i", "alpha.tar")
    assert out == "Loaded image: alpha:1\n"
    assert "\x1b[" in drawn and "load " in drawn
    assert cli("load", "-i", "alpha.tar")[2] == ""
    out, drawn = drawn_by(cli, "save", "-o", "saved.tar", "alpha:1")
    layer = cli.good("inspect", "-f", "{{index .RootFS.Layers 0}}", "alpha:1").removeprefix("sha256:")
    assert out == "" and f"save {layer[:12]}" in drawn


def test_names_in_an_archive_do_nothing_to_the_terminal_as_progress(cli: Cli) -> None:
    made = making.image([making.tar([(making.member("file"), bytes(1 << 20))])], "it:1")
    files = making.docker_1_10([made])
    (name,) = [name for name in files if name.endswith("/layer.tar")]
    evil = "\x1b]0;x\x07[b]/layer.tar"
    files[evil] = files.pop(name)
    manifest = files["manifest.json"]
    assert isinstance(manifest, bytes)
    files["manifest.json"] = manifest.replace(name.encode(), json.dumps(evil)[1:-1].encode())
    (cli.directory / "evil.tar").write_bytes(making.archive(files))
    _, drawn = drawn_by(cli, "load", "-i", "evil.tar")
    assert "\x1b]0;" not in drawn
    assert r"load \x1b]0;x\x07[b]/la" in drawn


def test_an_archive_is_not_written_to_a_terminal(loaded: Cli) -> None:
    ours, theirs = pty.openpty()
    code, _, err = loaded("save", "beta", stdout=theirs)
    os.close(theirs)
    os.close(ours)
    assert code == 1
    one_line(err, "refusing to save to a terminal")


def test_streams_compressed_or_not_go_through_pipes(loaded: Cli) -> None:
    for command in ("cat", "gzip -c", "zstd -c", "xz -c"):
        if subprocess.run(
            ["sh", "-c", f"command -v {command.split()[0]}"], capture_output=True, check=False
        ).returncode:
            continue
        line = f'"$@" save beta | {command} >archive; "$@" rmi beta:latest >&2; cat archive | "$@" load'
        done = subprocess.run(
            ["sh", "-ec", line, "sh", *_PROGRAM], cwd=loaded.directory, env=loaded.env, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "Untagged: beta:latest\n"), (command, done)
        assert "Loaded image: beta:latest" in done.stdout


def test_names_of_files_are_bytes(loaded: Cli) -> None:
    loaded.good("run", "--name", "one", "beta", "sh", "-c", "touch $(busybox printf '/\\377\\303\\274')")
    with loaded.start("diff", "one") as process:
        assert process.communicate(timeout=60) == (b"A /\xff\xc3\xbc\n", b"")


def test_help_imports_no_engine() -> None:
    code = (
        "import sys; from pyrunc.cli.main import main; main(['--help']);"
        "print([m for m in sys.modules if m in ('sqlite3', 'rich', 'json', 'subprocess') or m.startswith("
        "('pyrunc.engine', 'pyrunc.runtime', 'pyrunc.store', 'pyrunc.image', 'pyrunc._native'))], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": _CHECKOUT}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stderr == "[]\n"


def on_a_terminal(cli: Cli, *argv: str) -> bytes:
    ours, theirs = pty.openpty()
    process = cli.start(*argv, stdout=theirs)
    os.close(theirs)
    shown = read_to_its_end(ours)
    assert process.communicate(timeout=60)[1] == b""
    os.close(ours)
    return shown


def test_what_an_image_says_does_nothing_to_the_terminal(loaded: Cli) -> None:
    script = "touch $(busybox printf '/a\\033[2Jb\\233')"
    loaded.good("run", "--name", "one", "beta", "sh", "-c", script)
    with loaded.start("diff", "one") as process:
        assert process.communicate(timeout=60)[0] == b"A /a\x1b[2Jb\x9b\n"  # a script gets what it is
    assert on_a_terminal(loaded, "diff", "one") == b"A /a\\x1b[2Jb\\x9b\r\n"
    template = "\x1b[1m{{.Names}}\x1b[0m"  # the user's own
    assert on_a_terminal(loaded, "ps", "-a", "--format", template) == b"\x1b[1mone\x1b[0m\r\n"
    code, _, err = loaded("run", "--rm", "-u", "web:\x1b]0;title\x07", "beta", "true")
    assert code == 125
    assert "unable to find group \\x1b]0;title\\x07:" in err
    assert "\x1b" not in err


def test_a_root_that_others_could_replace_is_refused(cli: Cli, tmp_path: Path) -> None:
    top = tmp_path / "top"
    cli.root = top / "root"
    cli.env["PYRUNC_ROOT"] = str(cli.root)
    cli.root.mkdir(parents=True)

    def refused(*words: str) -> None:
        before = os.stat(cli.root).st_mode
        code, _, err = cli("images")
        assert code == 1
        one_line(err, str(top), *words)
        assert os.listdir(cli.root) == ["theirs"]
        assert os.stat(cli.root).st_mode == before

    (cli.root / "theirs").touch()
    os.chown(cli.root, 65534, 0)
    refused("/root belongs to user 65534")
    os.chown(cli.root, 0, 0)
    for mode in (0o777, 0o1777, 0o770):
        cli.root.chmod(mode)
        refused("/root can be written by others")
    cli.root.chmod(0o755)
    top.chmod(0o777)
    refused("top can be written by others")
    top.chmod(0o1777)
    assert cli.good("images", "-q") == ""


def test_a_root_that_is_empty_and_ours_is_taken_from_others(cli: Cli) -> None:
    cli.root.mkdir()
    cli.root.chmod(0o1777)  # a new tmpfs
    assert cli.good("images", "-q") == ""
    assert cli.root.stat().st_mode & 0o022 == 0


def test_nobody_else_reaches_what_an_image_brought(cli: Cli) -> None:
    cli.root.mkdir(mode=0o755)  # as by whoever made it before
    cli.good("load", "-q", "-i", "alpha.tar")
    script = "umask 0; busybox cp /bin/busybox /data/own; busybox chmod 4755 /data/own"
    with cli.start(
        "run", "--name", "one", "-u", "root", "alpha:1", "-c", script, preexec_fn=lambda: os.umask(0)
    ) as run:
        assert run.wait(timeout=60) == 0
    for each in cli.root.iterdir():
        assert not each.stat().st_mode & 0o077, each


def test_a_checkout_knows_its_version_and_is_a_program(cli: Cli) -> None:
    assert cli.good("--version").startswith("pyrunc version 0.")
    done = subprocess.run(
        [sys.executable, "-m", "pyrunc", "-v"], env=cli.env, capture_output=True, text=True, check=True
    )
    assert done.stdout == cli.good("-v")


def test_streams_that_are_closed_are_like_the_null_device(loaded: Cli) -> None:
    script = """
    "$@" images <&- >&- 2>&-; echo $?
    "$@" run --rm beta sh -c '[ -c /proc/self/fd/0 ] && echo unheard && exit 7' <&- >&-; echo $?
    "$@" load <&-; echo $?
    "$@" system check
    """
    done = subprocess.run(
        ["sh", "-c", script, "sh", *_PROGRAM], cwd=loaded.directory, env=loaded.env, capture_output=True, text=True,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    *lines, last = done.stdout.splitlines()
    assert lines == ["0", "7", "1"], done
    assert last.endswith("nothing is lost")
    assert "Traceback" not in done.stderr
