"""`create` and `run`: a container that waits, one that runs, and what is told of each."""

import json
import os
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.oci.bundles import Runtime, cgroups, document
from tests.oci.waiting import PATIENCE_S, executed, until


def test_a_container_is_created_started_killed_and_deleted(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["sleep", "100"])
    pid_file = tmp_path / "pid"
    oci.call("create", "--bundle", bundle, "--pid-file", pid_file, oci.id)
    state = oci.state()
    assert state["status"] == "created"
    assert pid_file.read_text() == str(state["pid"])
    assert state["bundle"] == str(bundle)
    # Nothing runs yet but init, and it waits where the program will be.
    assert os.readlink(f"/proc/{state['pid']}/cwd") == "/"
    assert "sleep" not in Path(f"/proc/{state['pid']}/cmdline").read_text()
    assert cgroups(oci.id)
    oci.call("start", oci.id)
    assert oci.wait("running")["pid"] == state["pid"]
    executed(state["pid"], "sleep", "100")
    oci.call("kill", oci.id, "KILL")
    assert oci.wait("stopped")["pid"] == 0
    oci.call("delete", oci.id)
    assert not oci.directory.exists()
    assert not cgroups(oci.id)


def test_the_state_is_as_runc_prints_it_and_its_file_says_the_rest(oci: Runtime, tmp_path: Path) -> None:
    spec = document(oci.rootfs, ["sleep", "100"])
    spec["annotations"] = {"b": "<&>", "a": 'quoted " \u2028'}
    bundle = oci.write(tmp_path / "b", spec)
    oci.call("create", "--bundle", bundle, oci.id)
    shown = oci.call("state", oci.id).stdout
    document_ = json.loads(shown)
    assert list(document_) == [
        "ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner",
    ]  # fmt: skip
    assert document_["annotations"] == spec["annotations"]
    assert '    "a": "quoted \\" \\u2028",\n    "b": "\\u003c\\u0026\\u003e"\n' in shown
    assert (
        time.time() - 60
        < time.mktime(time.strptime(document_["created"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
        < time.time() + 60
    )
    own = oci.saved()["pyrunc"]
    assert own["spec"]["annotations"] == spec["annotations"]
    stat = Path(f"/proc/{document_['pid']}/stat").read_text().rpartition(")")[2].split()
    assert own["start_time"] == int(stat[19])
    assert {Path(found["path"]) for found in own["cgroups"]} == set(cgroups(oci.id))


def test_run_gives_the_exit_code_and_leaves_nothing(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["sh", "-c", "echo out; echo err >&2; cat; exit 7"])
    done = oci.call("run", "-b", bundle, oci.id, code=7, stdin=None, input="in\n")
    assert (done.stdout, done.stderr) == ("out\nin\n", "err\n")
    assert not oci.directory.exists()


def test_run_of_a_program_that_is_killed_gives_128_and_the_signal(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["sleep", "100"])
    with subprocess.Popen(oci.command("run", "-b", bundle, oci.id), cwd="/", env=oci.environment) as run:
        until((oci.directory / "state.json").exists, "it does not begin")
        oci.wait("running")
        os.kill(oci.state()["pid"], signal.SIGKILL)
        assert run.wait(PATIENCE_S) == 128 + 9


def test_run_passes_signals_on(oci: Runtime, tmp_path: Path) -> None:
    script = "trap 'echo got TERM; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    bundle = oci.bundle(tmp_path / "b", ["sh", "-c", script])
    with subprocess.Popen(
        oci.command("run", "-b", bundle, oci.id),
        cwd="/",
        env=oci.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGTERM)
        assert run.stdout.readline() == "got TERM\n"
        assert run.wait(PATIENCE_S) == 5
    assert not oci.directory.exists()


def test_run_detached_ends_when_the_program_runs_and_keep_keeps_the_state(
    oci: Runtime, tmp_path: Path
) -> None:
    bundle = oci.bundle(tmp_path / "b", ["sleep", "100"])
    oci.call("run", "-d", "-b", bundle, oci.id, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert oci.state()["status"] == "running"
    oci.end()
    quick = oci.bundle(tmp_path / "c", ["true"])
    oci.call("run", "--keep", "-b", quick, oci.id)
    assert oci.state()["status"] == "stopped"


def test_the_bundle_is_the_working_directory_where_none_is_named(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["true"])
    oci.call("run", oci.id, cwd=bundle)


def test_init_waits_with_nothing_open_but_what_the_program_gets(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["sleep", "100"])
    secret = os.memfd_create("secret", 0)
    oci.call("create", "-b", bundle, oci.id, pass_fds=(secret,))
    os.close(secret)
    pid = oci.state()["pid"]
    found = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd") if int(entry.name) > 2}
    assert len(found) == 2  # the socket of the start, and the one to the front door that has ended
    assert all(name.startswith("socket:") for name in found)


def test_preserved_descriptors_and_no_others_reach_the_program(oci: Runtime, tmp_path: Path) -> None:
    script = "cat <&3; cat <&4; ls /proc/self/fd | sort -n | tr '\\n' ' '"
    bundle = oci.bundle(tmp_path / "b", ["sh", "-c", script])
    third, fourth, fifth = (os.memfd_create(name, 0) for name in ("a", "b", "c"))
    for fd, text in ((third, b"three"), (fourth, b"four")):
        os.write(fd, text)
        os.lseek(fd, 0, os.SEEK_SET)
    call = f'exec 3<&{third} 4<&{fourth} 9<&{fifth}; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", call, "-", *oci.command("run", "--preserve-fds", "2", "-b", bundle, oci.id)],
        pass_fds=(third, fourth, fifth), cwd="/", capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        env=oci.environment,
    )  # fmt: skip
    assert done.stdout == "threefour0 1 2 3 4 5 ", done.stderr  # 5 is the directory that ls reads


def test_nobody_but_the_owner_can_start_it_and_only_once(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["sleep", "100"])
    oci.call("create", "-b", bundle, oci.id)
    assert (oci.directory / "start").stat().st_mode & 0o777 == 0o600
    assert oci.directory.stat().st_mode & 0o777 == 0o711
    assert oci.root.stat().st_mode & 0o777 == 0o700
    oci.call("start", oci.id)
    oci.call("start", oci.id, code=1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client, pytest.raises(OSError):
        client.connect(str(oci.directory / "start"))


def test_sockets_of_systemd_are_passed_on(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; cat <&3"])
    third = os.memfd_create("socket", 0)
    os.write(third, b"three")
    os.lseek(third, 0, os.SEEK_SET)
    call = f'exec 3<&{third}; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", call, "-", *oci.command("run", "-b", bundle, oci.id)], pass_fds=(third,), cwd="/",
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=oci.environment,
    )  # fmt: skip
    assert done.stdout == "1 1\nthree", done.stderr
    # Sockets that are another's are none of ours.
    stranger = {**oci.environment, "LISTEN_FDS": "1", "LISTEN_PID": "1"}
    assert oci.call("run", "-b", bundle, oci.id, code=1, env=stranger).stdout == "\n"


def test_readiness_is_told_by_a_socket_of_the_containers_own(oci: Runtime, tmp_path: Path) -> None:
    script = "echo $NOTIFY_SOCKET; ls -d /run/notify; touch /run/notify/x || echo read-only"
    bundle = oci.bundle(tmp_path / "b", ["sh", "-c", script])
    notify = {**oci.environment, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    out = tmp_path / "out"
    with out.open("w") as file:
        oci.call("create", "-b", bundle, oci.id, env=notify, stdout=file, stderr=file)
    assert (oci.directory / "notify").is_dir()
    oci.call("start", oci.id)
    oci.wait("stopped")
    assert out.read_text().splitlines()[:2] == ["/run/notify/notify.sock", "/run/notify"]
    assert out.read_text().endswith("read-only\n")


def test_without_pivot_the_root_is_the_bundles_too(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["sh", "-c", "ls -d /bin /usr; ls /../bin/sh; pwd"])
    done = oci.call("run", "--no-pivot", "-b", bundle, oci.id, code=None)
    assert done.stdout.splitlines()[-2:] == ["/../bin/sh", "/"], done.stderr


def test_the_programs_user_owns_its_pipes(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(
        tmp_path / "b", ["sh", "-c", "echo again > /dev/stdout"], user={"uid": 1000, "gid": 1000}
    )
    done = subprocess.run(
        oci.command("run", "-b", bundle, oci.id), cwd="/", env=oci.environment, capture_output=True, text=True,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stdout == "again\n", done.stderr


def test_a_working_directory_that_there_is_not_is_made(oci: Runtime, tmp_path: Path) -> None:
    spec = document(oci.rootfs, ["pwd"], cwd="/tmp/new/directory")
    spec["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
    done = oci.call("run", "-b", oci.write(tmp_path / "b", spec), oci.id)
    assert done.stdout == "/tmp/new/directory\n"


def test_of_a_variable_that_is_there_twice_the_last_counts(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["env"], env=["A=1", "PATH=/bin", "A=2"])
    assert sorted(oci.call("run", "-b", bundle, oci.id).stdout.split()) == ["A=2", "HOME=/root", "PATH=/bin"]


def test_a_cgroup_that_was_left_is_taken_over(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["true"])
    for hierarchy in ("memory", "pids"):
        Path(f"/sys/fs/cgroup/{hierarchy}/pyrunc-test/{oci.id}").mkdir(parents=True)
    oci.call("run", "-b", bundle, oci.id)
    assert not cgroups(oci.id)


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT"])
def test_a_container_that_waits_can_be_told_to_end(oci: Runtime, tmp_path: Path, name: str) -> None:
    bundle = oci.bundle(tmp_path / "b", ["sleep", "100"])
    oci.call("create", "-b", bundle, oci.id)
    oci.call("kill", oci.id, "USR1")
    assert oci.state()["status"] == "created"
    oci.call("kill", oci.id, name)
    oci.wait("stopped")


def test_signals_are_the_programs_own_again_once_it_runs(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["cat", "/proc/self/status"])
    out = tmp_path / "out"
    with out.open("w") as file:
        oci.call("create", "-b", bundle, oci.id, stdout=file, stderr=file)
    oci.call("start", oci.id)
    oci.wait("stopped")
    shown = dict(line.split(":\t", 1) for line in out.read_text().splitlines() if ":\t" in line)
    assert {shown[name].strip("0") for name in ("SigBlk", "SigIgn", "SigCgt")} == {""}


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_pid_file_is_a_file_of_its_own(oci: Runtime, tmp_path: Path, kind: str) -> None:
    hidden, other = tmp_path / ".pid", tmp_path / "other"
    other.write_text("precious")
    os.link(other, hidden) if kind == "link" else os.mkfifo(hidden)
    oci.call("create", "-b", oci.bundle(tmp_path / "b", ["true"]), "--pid-file", tmp_path / "pid", oci.id)
    assert other.read_text() == "precious"
    assert (tmp_path / "pid").is_file()
    assert (tmp_path / "pid").read_text() == str(oci.saved()["pid"])
    assert not hidden.exists()


@pytest.mark.parametrize("words", [["--preserve-fds", "99999999999"], ["--preserve-fds=-1"], []])
def test_more_descriptors_than_there_can_be_are_refused(
    oci: Runtime, tmp_path: Path, words: list[str]
) -> None:
    bundle = oci.bundle(tmp_path / "b", ["true"])
    listen = "" if words else f"export LISTEN_PID=$$ LISTEN_FDS={'9' * 5000}; "
    command = oci.command("create", "-b", bundle, *words, oci.id)
    done = subprocess.run(
        ["bash", "-c", f'{listen}exec "$@"', "-", *command], capture_output=True, text=True, check=False,
        env=oci.environment,
    )  # fmt: skip
    assert done.returncode == 1
    assert "invalid number of descriptors to preserve: " in done.stderr
    assert not oci.directory.exists()


def test_a_thousand_mounts(oci: Runtime, tmp_path: Path) -> None:
    spec = document(
        oci.rootfs, ["sh", "-c", "ulimit -Sn; while read -r line; do echo; done < /proc/self/mounts"]
    )
    del spec["process"]["rlimits"]
    spec["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
    spec["mounts"] += [
        {"destination": f"/tmp/{i}", "type": "bind", "source": str(tmp_path), "options": ["bind", "ro"]}
        for i in range(1000)
    ]
    bundle = oci.write(tmp_path / "b", spec)
    command = shlex.join(oci.command("run", "-b", bundle, oci.id))
    done = subprocess.run(
        ["sh", "-c", f"ulimit -Hn 4096; ulimit -Sn 200; exec {command}"], env=oci.environment, check=True, timeout=120,
        capture_output=True, text=True,
    )  # fmt: skip
    shown = done.stdout.split("\n")
    assert shown[0] == "200"  # the caller's, though it took more to make them
    assert len(shown) > 1000


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_caller_has_closed_are_empty(oci: Runtime, tmp_path: Path, closed: str) -> None:
    numbers = [number for number, sign in enumerate(("<&-", " >&-", "2>&-")) if sign in f" {closed}"]
    script = "".join(
        f'[ "$(stat -L -c %t:%T /proc/$$/fd/{number})" = 1:3 ] || exit 9{number};' for number in numbers
    )
    bundle = oci.bundle(tmp_path / "b", ["sh", "-c", script + "exit 7"])
    command = shlex.join(oci.command("run", "-b", bundle, oci.id))
    done = subprocess.run(["sh", "-c", f"{command} {closed}"], env=oci.environment, check=False, timeout=120)
    assert done.returncode == 7


def test_masked_and_readonly_paths_as_a_document_may_write_them(oci: Runtime, tmp_path: Path) -> None:
    spec = document(
        oci.rootfs, ["sh", "-c", "while read -r line; do echo $line; done < /proc/self/mountinfo"]
    )
    spec["linux"]["maskedPaths"] = ["proc/timer_list", "/proc//timer_list", "/nonexistent"]
    spec["linux"]["readonlyPaths"] = ["proc/sys", "/proc/bus/../bus"]
    shown = oci.call("run", "-b", oci.write(tmp_path / "b", spec), oci.id).stdout
    assert [shown.count(f" {path} r") for path in ("/proc/timer_list", "/proc/sys", "/proc/bus")] == [1, 1, 1]


def test_a_working_directory_that_is_gone_is_named_as_runc_does(oci: Runtime, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = 'cd "$0" && rmdir "$0" && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, tmp_path / "gone", *oci.command("create", oci.id)],
        env=oci.environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.endswith('no such file or directory"\n') and "Errno" not in done.stderr
