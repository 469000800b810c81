"""A root directory to run containers in, a short way to run shell there, and proof that the host is as before."""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.leftovers"]
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWNS = 0x00020000
_MS_SLAVE_REC = 0x80000 | 0x4000
_HELPERS = Path(__file__).parent / "helpers"

# A shell lets its jobs in the background ignore Ctrl-C and its like, and nohup the end of the terminal; so would what
# they start, and tests send these to themselves and to others.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL), (signal.SIGHUP, signal.SIG_DFL),
):  # fmt: skip
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# How long an example takes, or the making of ten, is the machine's matter: 0.2 s and 1 s pass on a busy one.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# A planner outlives whoever has started it; a test that wants one says where it is to be.
os.environ.setdefault("PYRUNC_OCI_PLANNER", "0")


class Run(Protocol):
    """Run a shell script in a fresh container; it must end with *code*."""

    def __call__(self, script: str, *, code: int = 0, stdin: bytes = b"", **options: Any) -> str: ...


class Host(NamedTuple):
    """What of the host must be the same after a test."""

    mounts: set[str]
    processes: set[int]
    descriptors: int
    device_nodes: set[str]
    cgroups: set[str]


@pytest.fixture(scope="session")
def busybox() -> Path:
    """A static busybox of this system."""
    found = shutil.which("busybox")
    if (
        found is None or b"/ld-" in Path(found).read_bytes()[:4096]
    ):  # the interpreter that a dynamic program names
        pytest.skip("needs a static busybox")
    return Path(found)


@pytest.fixture(scope="session")
def make_rootfs(busybox: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Fill a directory with busybox, its applets, passwd and group, and the probe."""
    probe = tmp_path_factory.mktemp("probe") / "probe"
    compiler = shutil.which("musl-gcc") or shutil.which("cc")
    if compiler is not None:
        subprocess.run([compiler, "-static", "-Os", "-o", probe, _HELPERS / "probe.c"], check=True)
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()

    def make(root: Path) -> Path:
        for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "home/web"):
            (root / name).mkdir(parents=True)
        (root / "tmp").chmod(0o1777)
        shutil.copy(busybox, root / "bin/busybox")
        for name in applets:
            if name != "busybox":
                (root / "bin" / name).symlink_to("busybox")
        (root / "etc/passwd").write_text(
            "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:a user:/home/web:/bin/sh\n"
        )
        (root / "etc/group").write_text(
            "root:x:0:\nweb:x:1001:\naudio:x:29:web\nvideo:x:44:web,root\nextra:x:50:\n"
        )
        if probe.exists():
            shutil.copy(probe, root / "bin/probe")
            shutil.copy(probe, root / "bin/probe-root")
            (root / "bin/probe-root").chmod(0o4755)
        return root

    return make


@pytest.fixture(scope="session")
def rootfs(make_rootfs: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root directory that all tests share and none changes."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make namespaces, mounts and cgroups")
    return make_rootfs(tmp_path_factory.mktemp("image") / "rootfs")


@pytest.fixture(scope="session")
def probe(rootfs: Path) -> None:
    """Containers have tests/helpers/probe.c as `probe`, and with the set-user-id bit as `probe-root`."""
    if not (rootfs / "bin/probe").exists():
        pytest.skip("needs a C compiler that links statically")


@pytest.fixture
def run(rootfs: Path) -> Run:
    """Run shell in a container of the shared root; what it wrote to stdout."""
    from pyrunc import Sandbox

    def call(script: str, *, code: int = 0, stdin: bytes = b"", **options: Any) -> str:
        with Sandbox(rootfs, **options) as box:
            result = box.run(["/bin/sh", "-c", script], stdin=stdin, timeout_s=60)
        assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
        return result.stdout.decode()

    return call


@pytest.fixture(scope="session")
def own_mounts() -> None:
    """Move this process into a mount namespace of its own, where no one else's mounts come and go."""
    from pyrunc.runtime import spawner

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(None, b"/", None, ctypes.c_ulong(_MS_SLAVE_REC), None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    spawner.shut_down()  # the next one is born in here
    # What loses its parent becomes ours, so that nothing hides from `descendants`.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@pytest.fixture
def host_unchanged(request: pytest.FixtureRequest, rootfs: Path) -> Iterator[None]:
    """After the test the host has the same mounts, processes, descriptors, devices, cgroups and shared root.

    Half a minute is allowed, in which what others make on the same host goes away too.
    """
    from pyrunc import Sandbox
    from pyrunc.runtime import spawner

    request.getfixturevalue("own_mounts")
    if spawner._current is None:
        with Sandbox(rootfs) as box:  # makes what stays: the spawner, the cgroup above all containers
            box.run(["/bin/true"])
    before, tree = look(), listing(rootfs)
    yield
    deadline = time.monotonic() + 30
    left = difference(before, look())
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        reap(spawner)
        now = difference(before, look())
        left = {key: found for key, value in left.items() if (found := value & now.get(key, set()))}
    assert not left
    assert listing(rootfs) == tree


def difference(before: Host, after: Host) -> dict[str, set[object]]:
    """What there is now and was not before; descriptors count."""
    left: dict[str, set[object]] = {
        "mounts": set(after.mounts - before.mounts), "processes": set(after.processes - before.processes),
        "device nodes": set(after.device_nodes - before.device_nodes), "cgroups": set(after.cgroups - before.cgroups),
        "descriptors": {"more than before"} if after.descriptors > before.descriptors else set(),
    }  # fmt: skip
    return {key: value for key, value in left.items() if value}


def look() -> Host:
    """Take stock of the host."""
    mounts = {line.split(" ", 3)[3] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    nodes = {str(path) for path in Path("/dev").iterdir()}
    children = {pid for pid in descendants(os.getpid()) if not is_spawner(pid)}
    return Host(mounts, children, descriptors(), nodes, ours(children))


def descriptors() -> int:
    """How many are open in this process, but for /dev/null: an exception that is kept keeps one, and shows nothing."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}") != "/dev/null"
        except OSError:
            continue  # the one that the directory was read by
    return count


def is_spawner(pid: int) -> bool:
    """The resident spawner, or the spare that waits with it, both of which stay; or one gone since it was listed."""
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "pyrunc-spawner\n"
    except OSError:
        return True


def descendants(pid: int) -> set[int]:
    """Every process below *pid*, except those that have ended."""
    found: set[int] = set()
    queue = [pid]
    while queue:
        try:
            text = Path(f"/proc/{queue[0]}/task/{queue.pop(0)}/children").read_text()
        except OSError:
            continue
        fresh = [int(child) for child in text.split()]
        found.update(fresh)
        queue.extend(fresh)
    return found


def entries(path: str) -> list[os.DirEntry[str]]:
    """What is in a directory; its iterator is closed whatever happens to what was found."""
    with os.scandir(path) as found:
        return list(found)


def ours(children: set[int]) -> set[str]:
    """Cgroups of pyrunc or of this test process that are empty or hold a process of ours; others' come and go."""
    found = set()
    places = ["/sys/fs/cgroup", *(entry.path for entry in entries("/sys/fs/cgroup") if entry.is_dir())]
    tops = (top for place in places for top in entries(place) if top.is_dir())
    for top in tops:
        if top.name == "pyrunc" or top.name.startswith(f"pyrunc-test-{os.getpid()}"):
            for directory, _, _ in os.walk(top.path):  # which passes over what goes away under it
                try:
                    tasks = {int(pid) for pid in Path(directory, "cgroup.procs").read_text().split()}
                except OSError:
                    continue
                if not tasks or tasks & children:
                    found.add(directory)
    # the one above all containers is everyone's, and comes and goes with the first and the last user
    return {path for path in found if os.path.basename(path) != "pyrunc"}


def reap(spawner: Any) -> None:
    """Collect orphans that became ours, but not the spawner, which Python waits for itself."""
    for pid in descendants(os.getpid()):
        if spawner._current is None or pid != spawner._current.pid:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass  # a grandchild


def listing(root: Path) -> set[tuple[str, int, int]]:
    """Names, kinds and sizes below *root*; times do not count."""
    found = set()
    waiting = [str(root)]
    while waiting:
        for entry in entries(waiting.pop()):
            status = entry.stat(follow_symlinks=False)
            found.add(
                (entry.path, status.st_mode, status.st_size if entry.is_file(follow_symlinks=False) else 0)
            )
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
    return found
