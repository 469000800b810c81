"""podman called by an unprivileged user: it calls the runtime that is tried as it calls runc and crun.

podman makes itself root of a user namespace, with the user's subordinate ids, and stays there: so that is who the
runtime is called by. Names and ids are the test's own, in a mount namespace of its own.
"""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyrunc.runtime.cgroup_layout import detect
from tests.oci.engines import live
from tests.oci.house import House, house
from tests.oci.runtime import OURS, SUBJECT, program
from tests.oci.unprivileged import UID, delegate, install
from tests.vm import needs

IMAGE = "localhost/busybox:test"
FIRST, COUNT = 200000, 65536
pytestmark = [needs.root(), needs.namespace("user")]

# The files are bound, since the host's are not to be changed; where there is none, an empty one is made for that.
_NAMES = """
set -e
cd "$1/etc"
for name in *; do [ -e /etc/$name ] || : >/etc/$name; mount -n --bind $name /etc/$name; done
mkdir -p /run/user/$2 && chown $2:$2 /run/user/$2
mount -n --make-shared /
"""


class Podman:
    """podman of the user `somebody`, with roots below the directory *home*."""

    def __init__(self, inside: House, runtime: str) -> None:
        self.inside = inside
        self.home = inside.place / "home"
        variables = {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "USER": "somebody",
            "XDG_RUNTIME_DIR": f"/run/user/{UID}", "CONTAINERS_CONF": str(inside.place / "containers.conf"),
        }  # fmt: skip
        self.delegated: Path | None = None
        """The cgroup that is the user's, of v2."""
        self.enters: tuple[str, ...] = ()
        self.user = (
            "setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups",
            "env", "-i", "-C", str(self.home), *(f"{name}={value}" for name, value in variables.items()),
        )  # fmt: skip
        self.podman = (
            "podman", "--root", f"{self.home}/root", "--runroot", f"{self.home}/run",
            "--tmpdir", f"{self.home}/tmp", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs",
            "--events-backend", "file", "--runtime", runtime,
        )  # fmt: skip

    @property
    def words(self) -> tuple[str, ...]:
        """A command line of the user's, up to podman's own flags."""
        return (*self.enters, *self.user, *self.podman)

    def delegate(self, place: Path) -> None:
        """Give the user the cgroup *place* with controllers, and have them be in one below it."""
        self.delegated = place
        self.enters = delegate(place)

    def __call__(self, *words: str, code: int | None = 0, given: str = "") -> str:
        return self.inside(*self.words, *words, code=code, given=given).out.strip()

    def run(self, *words: str, code: int | None = 0, given: str = "") -> str:
        """`podman run` of the image, with no network."""
        return self("run", "--network", "none", *words, code=code, given=given)


@pytest.fixture(scope="module", params=["tried", "runc", "crun"])
def podman(
    request: pytest.FixtureRequest,
    make_rootfs: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Podman]:
    program("podman")
    program("newuidmap")
    runtime = program(SUBJECT if request.param == "tried" else request.param)
    root = make_rootfs(tmp_path_factory.mktemp("podman") / "rootfs")
    place = Path(f"/tmp/pyrunc-{os.getpid()}-u{request.param}")
    parent = f"pyrunc-test-{os.getpid()}-podman"
    with house(place, runtime, ("libpod_parent", parent)) as inside:
        place.chmod(0o755)
        subprocess.run(["tar", "-C", root, "-cf", place / "rootfs.tar", "."], check=True)
        (place / "containers.conf").write_text("[engine]\n")
        (place / "etc").mkdir()
        for name, text in (
            ("passwd", f"root:x:0:0::/root:/bin/sh\nsomebody:x:{UID}:{UID}::{place}/home:/bin/sh\n"),
            ("group", f"root:x:0:\nsomebody:x:{UID}:\n"),
            ("subuid", f"somebody:{FIRST}:{COUNT}\n"), ("subgid", f"somebody:{FIRST}:{COUNT}\n"),
        ):  # fmt: skip
            (place / "etc" / name).write_text(text)
        (place / "home").mkdir()
        os.chown(place / "home", UID, UID)
        inside("sh", "-c", _NAMES, "sh", str(place), str(UID))
        engine = Podman(inside, str(install(place)) if runtime == str(OURS) else runtime)
        if {"cpu", "memory", "pids"} <= needs.cgroup_v2_controllers():
            engine.delegate(Path("/sys/fs/cgroup", parent, "user"))
        engine("import", "--change", "ENV PATH=/bin", str(place / "rootfs.tar"), IMAGE)
        try:
            yield engine
        finally:
            engine("rm", "--force", "--all", "--time", "0", code=None)


def test_who_the_program_is(podman: Podman) -> None:
    script = "id -u; id -g; cat /proc/self/uid_map; grep -E '^(NoNewPrivs|Seccomp|CapEff):' /proc/self/status"
    assert podman.run("--rm", IMAGE, "sh", "-c", script).split() == [
        "0", "0", "0", str(UID), "1", "1", str(FIRST), str(COUNT),
        "CapEff:", "00000000a80425fb", "NoNewPrivs:", "0", "Seccomp:", "2",
    ]  # fmt: skip
    out = podman.run("--rm", "--user", "1000:1001", IMAGE, "sh", "-c", "id -u; id -g; touch /x || echo no")
    assert out.split() == ["1000", "1001", "no"]
    assert podman.run("--rm", "--userns", "keep-id", IMAGE, "id", "-u") == str(UID)


def test_output_and_exit_code(podman: Podman) -> None:
    podman.run("--rm", IMAGE, "sh", "-c", "exit 42", code=42)
    podman.run("--rm", IMAGE, "sh", "-c", "sleep 100 & kill -9 $!; wait $!", code=137)
    assert podman.run("--rm", "-i", IMAGE, "cat", given="through a pipe") == "through a pipe"
    assert podman.run("--rm", "-t", IMAGE, "tty") == "/dev/pts/0"
    podman.run("--rm", IMAGE, "/no/such", code=127)
    podman.run("--rm", IMAGE, "/etc/passwd", code=126)
    assert podman("ps", "-aq") == ""


def test_options_reach_the_program(podman: Podman) -> None:
    (podman.home / "volume").mkdir(exist_ok=True)
    os.chown(podman.home / "volume", UID, UID)
    script = "pwd; echo $A; hostname; ulimit -n; touch /volume/x; stat -c %u /volume/x; touch /y || echo no"
    out = podman.run(
        "--rm", "--workdir", "/tmp", "--env", "A=b", "--hostname", "marker", "--ulimit", "nofile=100:100",
        "--read-only", "--volume", f"{podman.home}/volume:/volume", "--tmpfs", "/mnt:size=1m",
        "--shm-size", "1m", "--cap-drop", "all", IMAGE, "sh", "-c", script,
    )  # fmt: skip
    assert out.split() == ["/tmp", "b", "marker", "100", "0", "no"]
    assert (podman.home / "volume/x").stat().st_uid == UID


def test_the_life_of_a_container(podman: Podman) -> None:
    live(podman, IMAGE)


def test_namespaces_of_another(podman: Podman) -> None:
    podman.run("-d", "--name", "first", IMAGE, "sleep", "1000")
    shared = ("--network", "container:first", "--pid", "container:first", "--ipc", "container:first")
    spaces = "for n in net pid ipc user; do readlink /proc/self/ns/$n; done"
    found = podman("run", "--rm", *shared, IMAGE, "sh", "-c", spaces).split()
    assert found[:3] == podman("exec", "first", "sh", "-c", spaces).split()[:3] and len(found) == 4
    podman("rm", "-f", "-t", "0", "first")


def test_what_a_user_cannot_have_is_as_with_the_others(podman: Podman) -> None:
    """Without cgroups of their own: limits are ignored by podman, pausing is refused by it."""
    if detect().mode == "v2":
        pytest.skip("where there is v2 alone, users have cgroups of their own")
    limits = ("--memory", "64m", "--pids-limit", "50")
    assert podman.run("--rm", *limits, IMAGE, "echo", "ran") == "ran"
    podman.run("-d", "--name", "pause", IMAGE, "sleep", "1000")
    podman("pause", "pause", code=125)
    podman("rm", "-f", "-t", "0", "pause")


@pytest.mark.vm
@needs.cgroup_v2("cpu", "memory", "pids")
@pytest.mark.parametrize("podman", ["tried", "runc"], indirect=True)  # crun makes none for such a podman
def test_limits_that_a_user_can_have(podman: Podman) -> None:
    """In a cgroup that is the user's, beside the one that podman was called in, as with runc."""
    assert podman.delegated is not None
    limits = ("--memory", "64m", "--pids-limit", "50", "--cpus", "0.5")
    name = podman.run("-d", "--name", "limits", *limits, IMAGE, "sleep", "1000")
    own = podman.delegated / name
    assert [(own / file).read_text().strip() for file in ("memory.max", "pids.max", "cpu.max")] == [
        str(64 << 20), "50", "50000 100000",
    ]  # fmt: skip
    line = podman("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "limits")
    assert "/ 67.11MB" in line and line.endswith(" 1"), line
    podman("pause", "limits")
    assert podman("ps", "-a", "--filter", "name=limits", "--format", "{{.Status}}").startswith("Paused")
    podman("unpause", "limits")
    assert podman("exec", "limits", "cat", "/proc/self/cgroup") == "0::/"
    out = podman.run("--name", "oom", "--memory", "16m", "--memory-swap", "16m", IMAGE,
                     "sh", "-c", "x=a; while :; do x=$x$x; done", code=137)  # fmt: skip
    assert out == ""
    podman("rm", "oom")
    podman("rm", "-f", "-t", "0", "limits")
    assert not (podman.delegated / name).exists()
    # What podman and the planner are in is the user's too, and keeps nothing of root's busy.
    assert {path.name for path in podman.delegated.iterdir() if path.is_dir()} <= {
        "session",
        "pyrunc-planner",
    }


def test_many_at_once(podman: Podman) -> None:
    running = [
        subprocess.Popen(
            podman.inside.command(*podman.words, "run", "--rm", "--network", "none", IMAGE, "echo", str(number)),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=podman.inside.environment,
        )
        for number in range(6)
    ]  # fmt: skip
    assert [process.communicate(timeout=240)[0].strip() for process in running] == [str(n) for n in range(6)]
    assert podman("ps", "-aq") == ""


@pytest.mark.skipif(str(OURS) != SUBJECT, reason="only ours has a planner")
@pytest.mark.parametrize("podman", ["tried"], indirect=True)
def test_a_planner_serves_all_of_a_users_commands(podman: Podman) -> None:
    """It is where the user's alone are, made of nothing that podman waits for."""
    podman.run("--rm", IMAGE, "true")
    place = f"/run/user/{UID}/pyrunc-planner"
    listed = ("sh", "-c", f'names=$(ls {place}) && set -- $names && echo $# "$@"')
    _, *names = podman.inside.until(*listed, holds="2 ").split()  # the socket comes behind the lock
    assert names[1] == f"{names[0]}.lock"
    assert podman.inside("stat", "-c", "%u %a", place).out == f"{UID} 700\n"
    podman.run("--rm", IMAGE, "true")
    assert podman.inside("ls", place).out.split() == names


def test_nothing_of_it_is_roots(podman: Podman) -> None:
    """All that a user's podman and runtime have made is the user's, or their subordinate ids'."""
    podman.run("--rm", IMAGE, "true")
    owners = set()
    for place, _, names in os.walk(podman.home):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # podman's own commands end behind the program
                owners.add(os.lstat(Path(place) / name).st_uid)
    assert all(owner == UID or FIRST <= owner < FIRST + COUNT for owner in owners), owners
