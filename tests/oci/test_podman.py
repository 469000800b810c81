"""podman calls the runtime that is tried, and does not notice which one it is."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.oci.engines import live, state
from tests.oci.house import House, house
from tests.oci.runtime import SUBJECT, program

PAUSE = "localhost/pause:test"
IMAGE = "localhost/busybox:test"
NAME = os.path.basename(SUBJECT)
# As docs/oci.md has it.
SETTINGS = f'''
[engine]
infra_image = "{PAUSE}"
runtime = "{NAME}"
runtime_supports_json = ["crun", "runc", "{NAME}"]
[engine.runtimes]
{NAME} = ["{shutil.which(SUBJECT) or SUBJECT}"]
'''
PARENT = f"pyrunc-test-{os.getpid()}-podman"


class Podman:
    """podman with roots of its own."""

    def __init__(self, inside: House) -> None:
        self.inside = inside
        place = inside.place
        self.words = [
            "podman", "--root", str(place / "root"), "--runroot", str(place / "run"), "--tmpdir", str(place / "tmp"),
            "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "file",
        ]  # fmt: skip
        self.by_path = [*self.words, "--runtime", program(SUBJECT)]

    def __call__(self, *words: str, code: int | None = 0, given: str = "") -> str:
        return self.inside(*self.words, *words, code=code, given=given).out.strip()

    def run(self, *words: str, code: int | None = 0, given: str = "") -> str:
        """`podman run` of the image, with no network."""
        return self("run", "--network", "none", "--cgroup-parent", PARENT, *words, code=code, given=given)


@pytest.fixture(scope="module")
def podman(make_rootfs: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    program("podman")
    root = make_rootfs(tmp_path_factory.mktemp("podman") / "rootfs")
    archive = root.parent / "rootfs.tar"
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    settings = root.parent / "containers.conf"
    settings.write_text(SETTINGS)
    with house(Path(f"/tmp/pyrunc-{os.getpid()}-podman"), SUBJECT, (PARENT, "libpod_parent")) as inside:
        inside.environment["CONTAINERS_CONF"] = str(settings)
        engine = Podman(inside)
        engine("import", "--change", "ENV PATH=/bin", str(archive), IMAGE)
        engine("import", "--change", 'CMD ["/bin/sleep", "1000000"]', str(archive), PAUSE)
        yield engine


def test_output_and_exit_code(podman: Podman) -> None:
    assert podman.run("--rm", IMAGE, "echo", "hello") == "hello"
    podman.run("--rm", IMAGE, "sh", "-c", "exit 42", code=42)
    podman.run("--rm", IMAGE, "sh", "-c", "sleep 100 & kill -9 $!; wait $!", code=137)
    assert podman.run("--rm", "-i", IMAGE, "cat", given="through a pipe") == "through a pipe"


def test_a_program_that_cannot_be_run(podman: Podman) -> None:
    podman.run("--rm", IMAGE, "/no/such", code=127)
    podman.run("--rm", IMAGE, "no-such", code=127)
    podman.run("--rm", IMAGE, "/etc/passwd", code=126)
    assert podman("ps", "-aq") == ""


def test_a_failure_in_the_runtimes_own_words(podman: Podman) -> None:
    """Since podman was told that it logs as JSON; else it shows what stands on standard error."""
    words = ("run", "--rm", "--network", "none", "--cgroup-parent", PARENT, IMAGE, "/no/such")
    told = podman.inside(*podman.words, *words, code=127).err
    assert re.fullmatch(
        rf'Error: {NAME}: runc create failed: unable to start container process: exec: "/no/such": '
        r"stat /no/such: no such file or directory: "
        r"OCI runtime attempted to invoke a command that was not found\n",
        told,
    )
    (podman.inside.place / "untold.conf").write_text("[engine]\n")
    variable = f"CONTAINERS_CONF={podman.inside.place}/untold.conf"
    untold = podman.inside("env", variable, *podman.by_path, *words, code=127).err
    assert "no such file or directory" in untold and untold != told


def test_a_terminal(podman: Podman) -> None:
    assert podman.run("--rm", "-t", IMAGE, "sh", "-c", "tty; echo two").splitlines() == ["/dev/pts/0", "two"]


def test_options_reach_the_program(podman: Podman) -> None:
    script = (
        "id -u; pwd; echo $A; hostname; grep NoNewPrivs /proc/self/status; ulimit -n; cat /mnt/file; touch /x"
    )
    out = podman.run(
        "--rm", "--user", "1000:1001", "--workdir", "/tmp", "--env", "A=b", "--hostname", "marker",
        "--security-opt", "no-new-privileges", "--ulimit", "nofile=100:100", "--ulimit", "nproc=500:500", "--read-only",
        "--volume", f"{podman.inside.place}/volume:/mnt:ro", IMAGE, "sh", "-c", f"{script} || echo no",
    ) if make_volume(podman) else ""  # fmt: skip
    assert out.splitlines() == ["1000", "/tmp", "b", "marker", "NoNewPrivs:\t1", "100", "content", "no"]


def make_volume(podman: Podman) -> bool:
    (podman.inside.place / "volume").mkdir(exist_ok=True)
    (podman.inside.place / "volume/file").write_text("content\n")
    return True


def test_the_life_of_a_container(podman: Podman) -> None:
    live(podman, IMAGE)


def test_logs(podman: Podman) -> None:
    """Both streams, followed to the end, with their times, and the last lines."""
    script = "echo one; echo two >&2; sleep 1; echo three"
    podman.run("-d", "--name", "logs", IMAGE, "sh", "-c", script)
    followed = podman.inside(*podman.words, "logs", "-f", "logs")
    assert (followed.out.split(), followed.err.split()) == (["one", "three"], ["two"])
    assert podman("logs", "--tail", "1", "logs") == "three"
    stamped = podman("logs", "-t", "logs").splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\dT\S+ ", "", line) for line in stamped] == ["one", "three"]
    podman("rm", "-f", "-t", "0", "logs")


def test_programs_in_the_background(podman: Podman) -> None:
    podman.run("-d", "--name", "more", IMAGE, "sleep", "1000")
    podman("exec", "-d", "more", "sh", "-c", "touch /tmp/by-exec; exec sleep 500")
    podman.inside.until(*podman.words, "exec", "more", "ls", "/tmp", holds="by-exec")
    words = ("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "more")
    podman.inside.until(*podman.words, *words, holds="more 2\n")
    assert podman("top", "more", "args").splitlines()[1].rstrip() == "sleep 1000"
    podman("rm", "-f", "-t", "0", "more")


def test_readiness_is_told_by_the_container(podman: Podman) -> None:
    """--sdnotify=container: podman hands NOTIFY_SOCKET to the runtime, whose start waits for the program's word."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
        host.bind(str(podman.inside.place / "systemd"))
        host.settimeout(60)
        words = ("run", "-d", "--name", "ready", "--sdnotify", "container", "--network", "none",
                 "--cgroup-parent", PARENT, IMAGE, "sleep", "1000")  # fmt: skip
        variable = f"NOTIFY_SOCKET={podman.inside.place}/systemd"
        command = subprocess.Popen(
            podman.inside.command("env", variable, *podman.words, *words),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=podman.inside.environment,
        )  # fmt: skip
        podman.inside.until(
            *podman.words, "ps", "--format", "{{.Names}}", "--filter", "status=running", holds="ready"
        )
        pid = state(podman, "ready")["Pid"]
        code = (
            "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM);"
            f"s.sendto(b'READY=1', '/proc/{pid}/root/run/notify/notify.sock')"
        )
        podman.inside("/usr/bin/python3", "-c", code)
        assert command.wait(60) == 0
        told = host.recv(100)
        while not told.startswith(b"READY="):
            told = host.recv(100)
        assert told.strip() == b"READY=1"
    podman("rm", "-f", "-t", "0", "ready")


def test_pause(podman: Podman) -> None:
    podman.run("-d", "--name", "pause", IMAGE, "sleep", "1000")
    podman("pause", "pause")
    assert podman("ps", "-a", "--filter", "name=pause", "--format", "{{.Status}}").startswith("Paused")
    podman("unpause", "pause")
    assert podman("exec", "pause", "echo", "awake") == "awake"
    podman("rm", "-f", "-t", "0", "pause")


def test_restart_and_init(podman: Podman) -> None:
    podman.run("-d", "--name", "again", IMAGE, "sleep", "1000")
    first = state(podman, "again")["Pid"]
    podman("restart", "-t", "0", "again")
    second = state(podman, "again")["Pid"]
    assert first != second
    podman("rm", "-f", "-t", "0", "again")


def test_limits_and_stats(podman: Podman) -> None:
    podman.run(
        "-d",
        "--name",
        "limits",
        "--memory",
        "64m",
        "--pids-limit",
        "50",
        "--cpus",
        "0.5",
        IMAGE,
        "sleep",
        "1000",
    )
    line = podman("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "limits")
    assert "/ 67.11MB" in line and line.endswith(" 1"), line
    podman("rm", "-f", "-t", "0", "limits")


def test_out_of_memory(podman: Podman) -> None:
    podman.run(
        "--name",
        "oom",
        "--memory",
        "16m",
        "--memory-swap",
        "16m",
        IMAGE,
        "sh",
        "-c",
        "x=a; while :; do x=$x$x; done",
        code=137,
    )
    # conmon has seen it; Debian's writes so where it happens to be, and podman looks in the bundle
    oom = state(podman, "oom")
    assert oom["OOMKilled"] or (podman.inside.place / "oom").exists()
    podman("rm", "oom")


def test_a_healthcheck(podman: Podman) -> None:
    podman.run(
        "-d",
        "--name",
        "health",
        "--health-cmd",
        "test -e /tmp/well",
        "--health-interval",
        "disable",
        IMAGE,
        "sleep",
        "1000",
    )
    podman("healthcheck", "run", "health", code=1)
    podman("exec", "health", "touch", "/tmp/well")
    podman("healthcheck", "run", "health")
    found = state(podman, "health")["Health"]
    assert (found["Status"], [entry["ExitCode"] for entry in found["Log"]]) == ("healthy", [1, 0])
    podman("rm", "-f", "-t", "0", "health")


def test_a_pod(podman: Podman) -> None:
    podman(
        "pod",
        "create",
        "--name",
        "pod",
        "--network",
        "none",
        "--cgroup-parent",
        PARENT,
        "--share",
        "net,ipc,uts,pid",
    )
    podman("run", "-d", "--pod", "pod", "--name", "one", IMAGE, "sleep", "1000")
    podman("run", "-d", "--pod", "pod", "--name", "two", IMAGE, "sleep", "1000")
    spaces = [
        podman("exec", name, "sh", "-c", "for n in net ipc; do readlink /proc/self/ns/$n; done")
        for name in ("one", "two")
    ]
    assert spaces[0] == spaces[1] and len(spaces[0].split()) == 2
    assert podman("exec", "two", "sh", "-c", "ps | grep -c '[s]leep 1000$'") == "2"
    podman("pod", "pause", "pod")
    states = podman("ps", "--pod", "--filter", "pod=pod", "-a", "--format", "{{.Status}}").splitlines()
    assert len(states) == 3 and all(state.startswith("Paused") for state in states)
    podman("pod", "unpause", "pod")
    assert podman("exec", "one", "echo", "awake") == "awake"
    stats = podman("pod", "stats", "--no-stream", "--format", "{{.Name}} {{.PIDS}}", "pod").splitlines()
    assert sorted(line.split()[0] for line in stats)[-2:] == ["one", "two"]
    assert {line.split()[1] for line in stats} <= {"1", "PIDS"}
    podman("pod", "restart", "pod")
    assert podman("exec", "one", "echo", "again") == "again"
    podman("pod", "stop", "-t", "0", "pod")
    podman("pod", "rm", "-f", "-t", "0", "pod")
    assert podman("ps", "-aq") == ""


PLAY = f"""
apiVersion: v1
kind: Pod
metadata:
  name: played
spec:
  hostNetwork: true
  containers:
  - name: main
    image: {IMAGE}
    command: [sh, -c, "echo $GREETING; sleep 1000"]
    env: [{{name: GREETING, value: played}}]
    resources: {{limits: {{memory: 32Mi}}}}
    securityContext: {{runAsUser: 1000}}
"""


def test_play_kube(podman: Podman) -> None:
    (podman.inside.place / "pod.yaml").write_text(PLAY)
    podman("play", "kube", str(podman.inside.place / "pod.yaml"))
    podman.inside.until(*podman.words, "logs", "played-main", holds="played")
    assert podman("exec", "played-main", "id", "-u") == "1000"
    podman("play", "kube", "--down", str(podman.inside.place / "pod.yaml"))
    podman("pod", "rm", "-f", "-a", "-t", "0", code=None)
    assert podman("ps", "-aq") == ""


def test_a_user_namespace(podman: Podman) -> None:
    out = podman.run(
        "--rm",
        "--uidmap",
        "0:100000:65536",
        "--gidmap",
        "0:200000:65536",
        IMAGE,
        "sh",
        "-c",
        "id -u; cat /proc/self/uid_map; stat -c %u /etc/passwd",
    )
    assert out.split() == ["0", "0", "100000", "65536", "0"]


def test_tmpfs_devices_and_sysctls(podman: Podman) -> None:
    out = podman.run(
        "--rm", "--tmpfs", "/mnt:size=1m,mode=1770", "--device", "/dev/null:/dev/mine:r",
        "--sysctl", "net.ipv4.ip_default_ttl=77",
        "--shm-size", "1m", "--mount", "type=tmpfs,destination=/etc,tmpcopyup", IMAGE, "sh", "-c",
        "stat -c %a /mnt; stat -c %t,%T /dev/mine; cat /proc/sys/net/ipv4/ip_default_ttl;"
        "grep -c root /etc/passwd; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d ' ' -f 2",
    )  # fmt: skip
    assert out.split() == ["1770", "1,3", "77", "1", "1024"]


def test_many_at_once(podman: Podman) -> None:
    running = [
        subprocess.Popen(
            podman.inside.command(*podman.words, "run", "--rm", "--network", "none", "--cgroup-parent", PARENT, IMAGE,
                                  "echo", str(number)),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=podman.inside.environment,
        )
        for number in range(6)
    ]  # fmt: skip
    assert [process.communicate(timeout=240)[0].strip() for process in running] == [str(n) for n in range(6)]
    assert podman("ps", "-aq") == ""
