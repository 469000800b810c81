"""dockerd with the runtime that is tried, by `--add-runtime`: run, exec, terminal, limits, update, restart policies."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.oci.house import House, house
from tests.oci.runtime import SUBJECT, program
from tests.oci.test_containerd import inner

PARENT = f"pyrunc-test-{os.getpid()}-dockerd"
IMAGE = "busybox:test"


class Docker:
    """A dockerd whose only runtime of use is the one that is tried."""

    def __init__(self, inside: House) -> None:
        self.inside = inside
        self.daemon: subprocess.Popen[bytes] | None = None
        place = inside.place
        inside.environment |= {"DOCKER_HOST": f"unix://{place}/sock", "DOCKER_CONFIG": f"{place}/config"}

    def start(self) -> None:
        place = self.inside.place
        self.daemon = self.inside.start(
            program("dockerd"), "--data-root", f"{place}/data", "--exec-root", f"{place}/exec",
            "--pidfile", f"{place}/pid",
            "-H", f"unix://{place}/sock", "--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false",
            "--storage-driver", "overlay2", "--cgroup-parent", f"/{PARENT}", "--live-restore",
            "--add-runtime", f"tried={program(SUBJECT)}", "--default-runtime", "tried", log=place / "log",
        )  # fmt: skip
        self.inside.until("docker", "version", holds="Server:")

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self.daemon is not None
        self.inside("sh", "-c", f"kill -{number} {inner(self.daemon)}")
        self.daemon.wait(60)

    def __call__(self, *words: str, code: int | None = 0, given: str = "") -> str:
        return self.inside("docker", *words, code=code, given=given).out.strip()

    def run(self, *words: str, code: int | None = 0, given: str = "") -> str:
        return self("run", "--network", "none", *words, code=code, given=given)

    def state(self, name: str, member: str) -> str:
        return self("inspect", "--format", f"{{{{.State.{member}}}}}", name)


@pytest.fixture(scope="module")
def docker(make_rootfs: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    program("docker")
    root = make_rootfs(tmp_path_factory.mktemp("dockerd") / "rootfs")
    archive = root.parent / "rootfs.tar"
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    with house(Path(f"/tmp/pyrunc-{os.getpid()}-d"), SUBJECT, (PARENT,)) as inside:
        engine = Docker(inside)
        engine.start()
        try:
            engine("import", str(archive), IMAGE)
            yield engine
        finally:
            engine("ps", "-aq", code=None)
            engine.stop()


def test_run(docker: Docker) -> None:
    assert docker.run("--rm", IMAGE, "echo", "hello") == "hello"
    docker.run("--rm", IMAGE, "sh", "-c", "exit 42", code=42)
    assert docker.run("--rm", "-i", IMAGE, "cat", given="through a pipe") == "through a pipe"
    assert docker("info", "--format", "{{.DefaultRuntime}}") == "tried"


def test_programs_that_cannot_be_run(docker: Docker) -> None:
    docker.run("--rm", IMAGE, "/no/such", code=127)
    docker.run("--rm", IMAGE, "no-such", code=127)
    docker.run("--rm", IMAGE, "/etc/passwd", code=126)
    docker.run("--rm", IMAGE, "/etc", code=126)
    docker.run("--rm", "--user", "nobody-here", IMAGE, "true", code=125)
    assert docker("ps", "-aq") == ""


def test_exec(docker: Docker) -> None:
    docker.run("-d", "--name", "exec", IMAGE, "sleep", "1000")
    assert docker("exec", "exec", "echo", "inside") == "inside"
    assert docker("exec", "-i", "exec", "cat", given="piped") == "piped"
    out = docker(
        "exec", "-u", "web", "-w", "/tmp", "-e", "X=y", "exec", "sh", "-c", "id -un; id -G; pwd; echo $X"
    )
    assert out.splitlines() == ["web", "1001 29 44", "/tmp", "y"]
    docker("exec", "exec", "sh", "-c", "exit 9", code=9)
    docker("exec", "exec", "/no/such", code=126)
    assert docker("exec", "exec", "grep", "Seccomp:", "/proc/self/status").split() == ["Seccomp:", "2"]
    assert "CapEff:\t00000000a80425fb" in docker("exec", "exec", "cat", "/proc/self/status")
    assert "sleep 1000" in docker("top", "exec")
    docker("exec", "-d", "exec", "touch", "/tmp/by-exec")
    docker.inside.until("docker", "exec", "exec", "ls", "/tmp", holds="by-exec")
    docker("rm", "-f", "exec")


def test_a_terminal(docker: Docker) -> None:
    command = f"docker run --rm -it --network none {IMAGE} sh -c 'tty; stty size; exit 3'"
    found = docker.inside("script", "-qec", command, "/dev/null", code=None)
    assert (found.code, found.out.replace("^@", "").split()[0]) == (3, "/dev/pts/0"), found
    docker.run("-d", "--name", "terminal", IMAGE, "sleep", "1000")
    found = docker.inside(
        "script", "-qec", "docker exec -it terminal sh -c 'tty; exit 4'", "/dev/null", code=None
    )
    assert (found.code, found.out.replace("^@", "").split()[0]) == (4, "/dev/pts/0"), found
    docker("rm", "-f", "terminal")


def test_a_terminal_has_the_size_of_the_callers(docker: Docker) -> None:
    for words in ("run --rm -it --network none " + IMAGE, "exec -it sized"):
        if words.startswith("exec"):
            docker.run("-d", "--name", "sized", IMAGE, "sleep", "1000")
        # docker tells the size when the program runs already
        inner_script = 'until [ "$(stty size)" = "33 77" ]; do sleep 0.1; done; stty size'
        command = f"stty rows 33 cols 77; docker {words} sh -c '{inner_script}'"
        found = docker.inside("script", "-qec", command, "/dev/null")
        assert found.out.replace("^@", "").split()[-2:] == ["33", "77"], found
    docker("rm", "-f", "sized")


def test_a_health_check_is_an_exec(docker: Docker) -> None:
    docker.run(
        "-d", "--name", "health", "--health-cmd", "test -e /tmp/well", "--health-interval", "200ms",
        "--health-retries", "1", IMAGE, "sleep", "1000",
    )  # fmt: skip
    docker.inside.until("docker", "inspect", "-f", "{{.State.Health.Status}}", "health", holds="unhealthy")
    docker("exec", "health", "touch", "/tmp/well")
    docker.inside.until(
        "docker", "inspect", "-f", "is {{.State.Health.Status}}", "health", holds="is healthy"
    )
    docker("rm", "-f", "health")


def test_stop_and_kill(docker: Docker) -> None:
    docker.run(
        "-d",
        "--name",
        "stop",
        IMAGE,
        "sh",
        "-c",
        "trap 'exit 3' TERM; echo began; while :; do sleep 0.1; done",
    )
    docker.inside.until("docker", "logs", "stop", holds="began")
    docker("stop", "-t", "60", "stop")
    assert docker.state("stop", "ExitCode") == "3"
    docker("start", "stop")
    docker("kill", "stop")
    assert docker("wait", "stop") == "137"
    docker("rm", "stop")


def test_pause(docker: Docker) -> None:
    docker.run("-d", "--name", "pause", IMAGE, "sleep", "1000")
    docker("pause", "pause")
    assert docker.state("pause", "Status") == "paused"
    docker("unpause", "pause")
    assert docker("exec", "pause", "echo", "awake") == "awake"
    docker("rm", "-f", "pause")


def limit(name: str, file: str, container: str) -> str:
    """What a file of a container's cgroup says."""
    found = [
        path.read_text().strip()
        for path in Path("/sys/fs/cgroup").glob(f"{name}/{PARENT}/{container}*/{file}")
    ]
    return found[0] if found else "no such cgroup"


def test_limits_and_update(docker: Docker) -> None:
    if not Path("/sys/fs/cgroup/memory").is_dir():
        pytest.skip("looks at files of cgroup v1")
    made = docker.run(
        "-d", "--name", "limits", "--memory", "64m", "--pids-limit", "50", "--cpus", "0.5", "--cpu-shares", "512",
        "--cpuset-cpus", "0", IMAGE, "sleep", "1000",
    )  # fmt: skip
    assert limit("memory", "memory.limit_in_bytes", made) == str(64 << 20)
    assert limit("pids", "pids.max", made) == "50"
    assert limit("cpu", "cpu.cfs_quota_us", made) == "50000"
    assert limit("cpu", "cpu.shares", made) == "512"
    assert limit("cpuset", "cpuset.cpus", made) == "0"
    docker(
        "update",
        "--memory",
        "32m",
        "--memory-swap",
        "64m",
        "--pids-limit",
        "20",
        "--cpu-shares",
        "256",
        "limits",
    )
    assert limit("memory", "memory.limit_in_bytes", made) == str(32 << 20)
    assert limit("pids", "pids.max", made) == "20"
    assert limit("cpu", "cpu.shares", made) == "256"
    # It shows dashes where the daemon has nothing to say within two seconds.
    words = ("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "limits")
    line = docker.inside.until("docker", *words, holds="/ 32MiB")
    assert line.endswith(" 1\n"), line
    docker("rm", "-f", "limits")


def test_out_of_memory(docker: Docker) -> None:
    """A program's end for want of memory is told at once, and of the container when that ends."""
    # One that outlives it: the word of its own end could overtake that of the kill.
    script = "sh -c 'x=a; while :; do x=$x$x; done'; while :; do sleep 0.1; done"
    limits = ("--memory", "16m", "--memory-swap", "16m")
    docker.run("-d", "--name", "oom", *limits, IMAGE, "sh", "-c", script)
    told = ("events", "--since", "1h", "--until", "0s", "--filter", "container=oom", "--filter", "event=oom")
    docker.inside.until("docker", *told, holds=" oom ")
    docker("kill", "oom")
    assert docker("wait", "oom") == "137"
    assert docker.state("oom", "OOMKilled") == "true"
    docker("rm", "oom")


def test_a_restart_policy(docker: Docker) -> None:
    docker.run("-d", "--name", "again", "--restart", "on-failure:2", IMAGE, "sh", "-c", "echo once; exit 1")
    docker.inside.until("docker", "logs", "again", holds="once\nonce\nonce")
    docker.inside.until(
        "docker", "inspect", "-f", "{{.State.Status}} {{.RestartCount}}", "again", holds="exited 2"
    )
    docker("rm", "-f", "again")


def test_restart(docker: Docker) -> None:
    docker.run("-d", "--name", "restart", IMAGE, "sleep", "1000")
    before = docker.state("restart", "Pid")
    docker("restart", "-t", "0", "restart")
    assert docker.state("restart", "Pid") != before and docker.state("restart", "Running") == "true"
    docker("rm", "-f", "restart")


def test_live_restore(docker: Docker) -> None:
    """A container outlives its dockerd, which finds it again: running, and what ended meanwhile with its exit code."""
    docker.run("-d", "--name", "lives", IMAGE, "sleep", "1000")
    docker.run(
        "-d", "--name", "ends", IMAGE, "sh", "-c", "while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 6"
    )
    pid = docker.state("lives", "Pid")
    ends = docker.state("ends", "Pid")
    docker.stop(signal.SIGKILL)
    docker.inside("touch", f"/proc/{ends}/root/tmp/end")
    docker.inside.until("sh", "-c", f"test -e /proc/{ends} || echo gone", holds="gone")
    docker.start()
    assert (docker.state("lives", "Pid"), docker.state("lives", "Running")) == (pid, "true")
    assert docker("exec", "lives", "echo", "inside") == "inside"
    assert docker("wait", "ends") == "6"
    docker("rm", "-f", "lives", "ends")
    assert docker("ps", "-aq") == ""


def test_namespaces_of_another(docker: Docker) -> None:
    docker.run("-d", "--name", "first", "--ipc", "shareable", IMAGE, "sleep", "1000")
    shared = ("--network", "container:first", "--pid", "container:first", "--ipc", "container:first")
    spaces = "for n in net pid ipc; do readlink /proc/self/ns/$n; done"
    assert docker("run", "--rm", *shared, IMAGE, "sh", "-c", spaces) == docker(
        "exec", "first", "sh", "-c", spaces
    )
    docker("rm", "-f", "first")


def test_mounts_and_devices(docker: Docker) -> None:
    out = docker.run(
        "--rm", "--read-only", "--tmpfs", "/mnt:size=1m,mode=1770", "--device", "/dev/null:/dev/mine:r",
        "-v", "named:/named", "--sysctl", "net.ipv4.ip_default_ttl=77", "--shm-size", "1m", IMAGE, "sh", "-c",
        "stat -c %a /mnt; stat -c %t,%T /dev/mine;"
        " cat /proc/sys/net/ipv4/ip_default_ttl;"
        "touch /x || echo ro; touch /named/x && echo rw",
    )  # fmt: skip
    assert out.split() == ["1770", "1,3", "77", "ro", "rw"]
    assert docker.run("--rm", "-v", "named:/named", IMAGE, "ls", "/named") == "x"
    docker("volume", "rm", "named")
