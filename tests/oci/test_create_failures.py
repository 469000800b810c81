"""What cannot be created is refused in runc's words, and nothing of it is left; recorded from runc 1.1.5."""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc.oci import create
from pyrunc.oci.flags import NAME
from tests.oci.bundles import FRONT_DOOR, Runtime, cgroups, document

Change = Callable[[dict[str, Any]], object]
START = "unable to start container process: "
INIT = f"{START}error during container init: "


def process(**changes: object) -> Change:
    return lambda spec: spec["process"].update(changes)


def linux(**changes: object) -> Change:
    return lambda spec: spec["linux"].update(changes)


def mount(**entry: object) -> Change:
    return lambda spec: spec["mounts"].append(entry)


def without(*path: str) -> Change:
    def change(spec: dict[str, Any]) -> None:
        for name in path[:-1]:
            spec = spec[name]
        del spec[path[-1]]

    return change


# A hook's path and the like are of the test's own, below.
_RELAYED = "a terminal for nobody"
WORDS: dict[str, tuple[Change, str]] = {
    "a program that there is not": (
        process(args=["nothing"]), f'{START}exec: "nothing": executable file not found in $PATH',
    ),
    "a path that there is not": (
        process(args=["/nothing"]), f'{START}exec: "/nothing": stat /nothing: no such file or directory',
    ),
    "a directory": (process(args=["/etc"]), f'{START}exec: "/etc": permission denied'),
    "no executable": (process(args=["/etc/passwd"]), f'{START}exec: "/etc/passwd": permission denied'),
    "a name in PATH that nobody can execute": (
        process(args=["passwd"], env=["PATH=/etc"]), f'{START}exec: "passwd": executable file not found in $PATH',
    ),
    "no name": (process(args=[""]), f'{START}exec: "": executable file not found in $PATH'),
    "a file as working directory": (process(cwd="/etc/passwd"), f"{INIT}mkdir /etc/passwd: not a directory"),
    "a soft limit above the hard one": (
        process(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 3}]),
        f"{INIT}error setting rlimits for ready process: error setting rlimit type 7: invalid argument",
    ),
    "a parameter that there is not": (
        linux(sysctl={"net.nothing": "1"}), f"{INIT}open /proc/sys/net/nothing: no such file or directory",
    ),
    "a parameter that takes no such value": (
        linux(sysctl={"kernel.shmmax": "x"}), f"{INIT}write /proc/sys/kernel/shmmax: invalid argument",
    ),
    "a namespace that there is not": (
        linux(namespaces=[{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "ipc"},
                          {"type": "network", "path": "/nowhere"}]),
        f"{START}namespace path: lstat /nowhere: no such file or directory",
    ),
    "a hook that there is not": (
        lambda spec: spec.update(hooks={"prestart": [{"path": "/nowhere"}]}),
        f"{INIT}error running hook #0: fork/exec /nowhere: no such file or directory",
    ),
    "a hook in the container that there is not": (
        lambda spec: spec.update(hooks={"createContainer": [{"path": "/nowhere"}]}),
        f"{INIT}error running hook #0: fork/exec /nowhere: no such file or directory",
    ),
    _RELAYED: (
        process(terminal=True), f"cannot allocate tty if {NAME} will detach without setting console socket",
    ),
}  # fmt: skip
# What runc words otherwise: here each names the field.
FIELDS: dict[str, tuple[Change, str]] = {
    "no process": (without("process"), "process: process property must not be empty"),
    "no root": (without("root"), "root.path: root must be specified"),
    "no arguments": (without("process", "args"), "process.args: args must not be empty"),
    "no working directory": (without("process", "cwd"), "process.cwd: Cwd property must not be empty"),
    "a relative working directory": (process(cwd="tmp"), "process.cwd: Cwd must be an absolute path"),
    "arguments that are no list": (process(args="x"), "process.args: must be a list"),
    "a negative user": (process(user={"uid": -1}), "process.user.uid: must be an integer"),
    "a variable that is none": (process(env=["FOO"]), "process.env: invalid environment variable"),
    "mounts that are no list": (lambda spec: spec.update(mounts={}), "mounts: must be a list"),
    "a source that there is not": (
        mount(destination="/x", type="bind", source="/nowhere", options=["bind"]),
        "/nowhere: no such file or directory",
    ),
    "a file system that there is not": (
        mount(destination="/tmp", type="nofs", source="x"),
        f'{INIT}error mounting "x" to rootfs at "/tmp": mount x:/tmp',
    ),
    "an unknown namespace": (linux(namespaces=[{"type": "foo"}]), "linux.namespaces[0].type: "),
    "a relative hook": (lambda spec: spec.update(hooks={"poststop": [{"path": "x"}]}), "hooks.poststop[0].path: "),
}  # fmt: skip


def refused(oci: Runtime, verb: str, *words: object, **more: Any) -> str:
    """The one message of a call that fails, by the log; all is as before."""
    log = oci.root.parent / "log"
    log.unlink(missing_ok=True)
    done = oci.call("--log", log, "--log-format", "json", verb, *words, oci.id, code=1, **more)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["level"] for line in lines] == ["error"], lines
    assert not oci.directory.exists()
    assert not cgroups(oci.id)
    message: str = lines[0]["msg"]
    assert message in done.stderr
    return message


# What run relays, create refuses.
_REFUSED = [(verb, what) for verb in ("create", "run") for what in WORDS if (verb, what) != ("run", _RELAYED)]


@pytest.mark.parametrize(("verb", "what"), _REFUSED)
def test_the_words_are_runcs(oci: Runtime, tmp_path: Path, what: str, verb: str) -> None:
    change, expected = WORDS[what]
    spec = document(oci.rootfs, ["true"])
    change(spec)
    assert refused(oci, verb, "-b", oci.write(tmp_path / "b", spec)) == f"runc {verb} failed: {expected}"


@pytest.mark.parametrize("what", FIELDS)
def test_the_message_names_the_field(oci: Runtime, tmp_path: Path, what: str) -> None:
    change, expected = FIELDS[what]
    spec = document(oci.rootfs, ["true"])
    change(spec)
    message = refused(oci, "create", "-b", oci.write(tmp_path / "b", spec))
    assert message.startswith("runc create failed: ")
    assert expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "JSON specification file config.json not found"),
        ("{", "config.json: "),
        ("{} x", "config.json: "),
        ("[]", "config.json: must be an object, not list"),
        ("null", "config.json: must be an object, not NoneType"),
        ("\0", "config.json: "),
        ("[" * 100_000, "config.json: nested too deeply"),
    ],
)
def test_a_bundle_without_a_document(oci: Runtime, tmp_path: Path, text: str | None, expected: str) -> None:
    bundle = tmp_path / "b"
    bundle.mkdir()
    if text is not None:
        (bundle / "config.json").write_text(text)
    assert expected in refused(oci, "create", "-b", bundle)


def test_a_bundle_and_a_root_that_there_are_not(oci: Runtime, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert (
        refused(oci, "create", "-b", gone) == f"runc create failed: chdir {gone}: no such file or directory"
    )
    spec = document(gone, ["true"])
    message = refused(oci, "create", "-b", oci.write(tmp_path / "b", spec))
    assert message == f"runc create failed: invalid rootfs: stat {gone}: no such file or directory"


def test_cgroups_of_systemd_are_not_made_behind_its_back(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["true"])
    done = oci.call("--systemd-cgroup", "create", "-b", bundle, oci.id, code=1)
    assert "systemd not running on this host" in done.stderr or "--systemd-cgroup: " in done.stderr
    assert not oci.directory.exists()


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a b", "ü", "a:b", ""])
def test_a_name_that_is_no_id(oci: Runtime, tmp_path: Path, name: str) -> None:
    bundle = oci.bundle(tmp_path / "b", ["true"])
    done = oci.call("create", "-b", bundle, name, code=1)
    assert ("invalid container ID format" if name else "container id cannot be empty") in done.stderr


def test_an_id_that_is_taken_is_refused_and_its_container_untouched(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["sleep", "100"])
    oci.call("create", "-b", bundle, oci.id)
    before = oci.state()
    done = oci.call("create", "-b", bundle, oci.id, code=1)
    assert "runc create failed: container with given ID already exists" in done.stderr
    assert oci.state() == before


def test_sockets_and_files_that_cannot_be_reached(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["true"])
    nowhere = tmp_path / "nowhere/x"
    message = refused(oci, "create", "-b", bundle, "--pid-file", nowhere)
    assert message == f"runc create failed: open {nowhere.parent}/.x: no such file or directory"
    assert f"dial unix {nowhere}: connect: no such file or directory" in refused(
        oci, "create", "-b", bundle, "--pidfd-socket", nowhere
    )
    terminal = oci.bundle(tmp_path / "c", ["true"], terminal=True)
    message = refused(oci, "create", "-b", terminal, "--console-socket", nowhere)
    assert message == f"runc create failed: dial unix {nowhere}: connect: no such file or directory"
    assert "cannot use console socket" in refused(oci, "create", "-b", bundle, "--console-socket", nowhere)
    assert "open /dev/tty: " in refused(oci, "run", "-b", terminal, start_new_session=True)


def test_descriptors_that_are_not_open(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["true"])
    message = refused(oci, "create", "-b", bundle, "--preserve-fds", "2")
    assert (
        message == "runc create failed: unable to stat preserved-fd 3 (of 2 fds): no such file or directory"
    )


@pytest.mark.parametrize("script", ["#!/nonexistent\n", "garbage\n"])
def test_a_program_that_cannot_be_executed_after_all_says_so_itself(
    oci: Runtime, tmp_path: Path, make_rootfs: Callable[[Path], Path], script: str
) -> None:
    oci.rootfs = make_rootfs(tmp_path / "root")
    program = oci.rootfs / "program"
    program.write_text(script)
    program.chmod(0o755)
    done = oci.call("run", "-b", oci.bundle(tmp_path / "b", ["/program"]), oci.id, code=1)
    why = "no such file or directory" if script.startswith("#") else "exec format error"
    assert done.stderr == f"exec /program: {why}\n"
    assert not oci.directory.exists()


def test_a_limit_that_no_process_fits_into(oci: Runtime, tmp_path: Path) -> None:
    spec = document(oci.rootfs, ["true"])
    spec["linux"]["resources"]["memory"] = {"limit": 4096}
    message = refused(oci, "create", "-b", oci.write(tmp_path / "b", spec))
    assert message.endswith("container init was OOM-killed (memory limit too low?)")


def test_the_terminal_and_the_pidfd_go_to_who_asked_for_them(oci: Runtime, tmp_path: Path) -> None:
    found: dict[str, tuple[bytes, int]] = {}

    def listen(name: str) -> tuple[Path, threading.Thread]:
        path = tmp_path / name
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.listen(1)

        def serve() -> None:
            with server, server.accept()[0] as peer:
                text, fds, _, _ = socket.recv_fds(peer, 64, 1)
                found[name] = text, fds[0]

        thread = threading.Thread(target=serve)
        thread.start()
        return path, thread

    console, first = listen("console")
    pidfd, second = listen("pidfd")
    bundle = oci.bundle(tmp_path / "b", ["sh", "-c", "tty; read line; echo got $line"], terminal=True)
    oci.call("create", "-b", bundle, "--console-socket", console, "--pidfd-socket", pidfd, oci.id)
    first.join()
    second.join()
    assert found["console"][0] == b"/dev/ptmx"
    assert f"Pid:\t{oci.state()['pid']}\n" in Path(f"/proc/self/fdinfo/{found['pidfd'][1]}").read_text()
    oci.call("start", oci.id)
    with open(found["console"][1], "r+b", buffering=0) as master:
        assert master.read(100) == b"/dev/pts/0\r\n"
        master.write(b"this\n")
        text = b""
        while b"got this" not in text:
            text += master.read(100)
    os.close(found["pidfd"][1])
    oci.wait("stopped")


@pytest.mark.skipif(
    shutil.which("strace") is None, reason="needs strace, which kills at a chosen system call"
)
@pytest.mark.parametrize("verb", ["create", "run"])
def test_killed_at_any_system_call_it_leaves_only_what_delete_clears(
    oci: Runtime, tmp_path: Path, verb: str
) -> None:
    bundle = oci.bundle(tmp_path / "b", ["true"])
    plan = create.prepare(["--root", str(oci.root), verb, "-b", str(bundle), oci.id])
    calls = 0
    while True:
        calls += 1
        fd = os.memfd_create("plan", os.MFD_ALLOW_SEALING)
        os.write(fd, plan)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 15)
        inject = f"inject=all:signal=KILL:when={calls}"
        done = subprocess.run(
            ["strace", "-o", "/dev/null", "-e", inject, FRONT_DOOR, ":plan", str(fd)], check=False, pass_fds=(fd,),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=oci.environment,
        )  # fmt: skip
        os.close(fd)
        oci.call("delete", "--force", oci.id)
        assert not oci.directory.exists(), calls
        assert not cgroups(oci.id), calls
        if done.returncode == 0:
            break
    assert calls > 30


def test_a_filter_that_refuses_even_the_end_is_no_container_that_never_ends(
    oci: Runtime, tmp_path: Path
) -> None:
    spec = document(oci.rootfs, ["true"])
    rule = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
    spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 99, "syscalls": [rule]}
    done = oci.call("run", "-b", oci.write(tmp_path / "b", spec), oci.id, code=1)
    assert "container init was killed by signal" in done.stderr
    assert not cgroups(oci.id)
