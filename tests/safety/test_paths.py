"""No path of an image or a volume leads a mount, a directory or a file outside the container's root."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyrunc import Mount, Sandbox, errors
from pyrunc._native import mount
from pyrunc.runtime import spawner
from tests.safety import support

Make = Callable[..., Sandbox]


def listing(directory: Path) -> list[str]:
    """Everything below *directory*, with what it holds."""
    return sorted(
        f"{path.relative_to(directory)} {path.read_text() if path.is_file() else ''}"
        for path in directory.rglob("*")
    )


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of the host that an attack wants to reach."""
    directory = tmp_path / "victim"
    directory.mkdir()
    (directory / "file").write_text("the host's")
    return directory


# --- procfs and sysfs


@pytest.mark.parametrize("kind", ["proc", "sys"])
@pytest.mark.parametrize("target", ["evil", "/evil", "../../evil", "/tmp/../evil"])
def test_the_kernels_file_systems_need_real_directories(
    rootfs: Path, sandbox: Make, kind: str, target: str
) -> None:
    """CVE-2019-19921, CVE-2023-27561: an image that says where procfs appears goes on to choose what is masked."""
    (rootfs / kind).rmdir()
    (rootfs / kind).symlink_to(target)
    (rootfs / "evil").mkdir()
    with pytest.raises(errors.StartError) as failure:
        sandbox().run(["/bin/ls", "/evil"])
    assert (failure.value.step, failure.value.path) == ("attach", f"/{kind}")

    careless = support.patch(
        sandbox(masked_paths=[], readonly_paths=[]), support.without_flag("attach", "real")
    )
    assert careless.run(["/bin/ls", "/evil"]).stdout != b""


def test_a_parent_of_proc_that_is_a_symlink_is_refused(rootfs: Path, sandbox: Make) -> None:
    (rootfs / "evil").mkdir()
    (rootfs / "a").symlink_to("evil")
    extra = [Mount("/a/proc", "proc", "proc")]
    with pytest.raises(errors.StartError):
        sandbox(mounts=extra).run(["/bin/true"])
    careless = support.patch(sandbox(mounts=extra), support.without_flag("attach", "real", "/a/proc"))
    assert careless.run(["/bin/cat", "/evil/proc/self/comm"]).stdout == b"cat\n"


def test_a_file_in_place_of_proc_is_refused(rootfs: Path, sandbox: Make) -> None:
    (rootfs / "proc").rmdir()
    (rootfs / "proc").write_text("not a directory")
    with pytest.raises(errors.StartError):
        sandbox().run(["/bin/true"])

    def careless() -> None:
        support.bind("/proc/version", rootfs / "proc")
        assert "Linux" in (rootfs / "proc").read_text()

    support.in_a_mount_namespace(careless)


# --- destinations


def symlinks(victim: Path) -> list[tuple[str, str]]:
    """(how the image spells it, the destination that goes through it)"""
    chain = "../" * 20
    return [
        (str(victim), "/link/made"),
        (f"{chain}{str(victim)[1:]}", "/link/made"),
        (f"/proc/self/root{victim}", "/link/made"),
        (str(victim / "file"), "/link"),
        (str(victim), "/link"),
    ]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("writable", ["scratch", "direct"])
def test_a_destination_does_not_leave_the_root(
    rootfs: Path, sandbox: Make, victim: Path, tmp_path: Path, number: int, writable: str
) -> None:
    spelling, destination = symlinks(victim)[number]
    (rootfs / "link").symlink_to(spelling)
    source = tmp_path / "source"
    source.mkdir()
    (source / "flag").write_text("flag")
    if destination == "/link" and spelling.endswith("/file"):
        source = source / "flag"
    before = listing(victim)
    box = sandbox(writable=writable, mounts=[Mount(destination, str(source))])
    failure = support.failure_of(lambda: box.run(["/bin/true"]))
    assert failure is None or failure.path == destination
    assert listing(victim) == before

    def careless() -> None:
        """By path, below the root's own path: the kernel follows the image's symlink to the host."""
        place = Path(f"{rootfs}{destination}")
        if destination == "/link/made":
            place.mkdir(parents=True)
        support.bind(source, place)
        assert str(victim) in Path("/proc/self/mountinfo").read_text() or listing(victim) != before

    support.in_a_mount_namespace(careless)
    for extra in victim.glob("made"):
        extra.rmdir()


@pytest.mark.parametrize("path", ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"])
def test_the_files_that_a_container_gets_do_not_leave_the_root(
    rootfs: Path, sandbox: Make, victim: Path, path: str
) -> None:
    for spelling in (victim / "file", victim / "new", Path("../" * 20) / victim.relative_to("/") / "new"):
        (rootfs / path[1:]).unlink(missing_ok=True)
        (rootfs / path[1:]).symlink_to(spelling)
        for writable in ("scratch", "direct"):
            box = sandbox(writable=writable, hostname="marker")
            failure = support.failure_of(lambda box=box: box.run(["/bin/true"]))  # type: ignore[misc]
            assert failure is None or failure.path == path
            assert listing(victim) == ["file the host's"]

    with open(rootfs / path[1:], "w") as careless:  # a runtime that writes the file where the image has it
        careless.write("127.0.0.1 marker")
    assert listing(victim) != ["file the host's"]


def test_devices_and_directories_are_not_made_outside(rootfs: Path, sandbox: Make, victim: Path) -> None:
    (rootfs / "link").symlink_to(victim)
    for options in (
        {"devices": ["/dev/null:/link/null"]},
        {"tmpfs": {"/link/deep/er": ""}},
        {"cwd": "/link/cwd"},
    ):
        for writable in ("scratch", "direct"):
            box = sandbox(writable=writable, **options)
            support.failure_of(lambda box=box: box.run(["/bin/true"]))  # type: ignore[misc]
            assert listing(victim) == ["file the host's"], options
    os.mknod(rootfs / "link" / "null", 0o020666, os.makedev(1, 3))
    assert (victim / "null").exists()


def test_a_root_that_is_the_hosts_is_not_written_to(victim: Path) -> None:
    """The whole host as an image: mount points must be made in the scratch above it."""
    place = victim / "made"
    try:
        Sandbox("/", seccomp="unconfined", tmpfs={str(place): ""}).run(["/bin/true"])
    except errors.PyruncError:
        pass
    assert listing(victim) == ["file the host's"]
    place.mkdir()  # what a mount point needs, where there is nothing above
    assert listing(victim) != ["file the host's"]


# --- races


@contextmanager
def exchanging(one: Path, other: Path) -> Iterator[list[int]]:
    """Swap two paths for as long as it lasts; gives a list whose one number says how often."""
    count = [0]
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            support.exchange(one, other)
            count[0] += 1

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("duration_s", [5.0, pytest.param(120.0, marks=pytest.mark.soak)])
@pytest.mark.parametrize("below", ["", "/made"])
def test_exchanged_mount_targets(
    sandbox: Make, victim: Path, tmp_path: Path, below: str, duration_s: float
) -> None:
    """CVE-2021-30465: who shares a volume swaps the directory that is to be mounted on with a symlink."""
    volume = tmp_path / "volume"
    source = tmp_path / "source"
    for directory in (volume / "place", source):
        directory.mkdir(parents=True)
    (source / "flag").write_text("flag")
    (volume / "link").symlink_to(victim)
    box = sandbox(mounts=[Mount("/volume", str(volume)), Mount(f"/volume/place{below}", str(source))])
    begun = time.monotonic()
    outcomes = {"mounted": 0, "elsewhere": 0, "refused": 0}
    steps = set()
    lock = threading.Lock()
    # What is met between two steps of one start is refused; on one processor nobody swaps there.
    met = "refused" if len(os.sched_getaffinity(0)) > 1 else "elsewhere"

    def goes_on() -> bool:
        """For a while, and on a machine that has other work until each outcome was seen."""
        seconds = time.monotonic() - begun
        seen = outcomes["mounted"] and outcomes[met] and sum(outcomes.values()) > 20
        return seconds < duration_s or (not seen and seconds < 60)

    def starts() -> None:
        while goes_on():
            try:
                text = box.run(["/bin/cat", f"/volume/place{below}/flag"]).stdout
                outcome = "mounted" if text == b"flag" else "elsewhere"
            except errors.StartError as failure:
                outcome = "refused"
                steps.add(failure.step)
            with lock:
                outcomes[outcome] += 1

    with exchanging(volume / "place", volume / "link") as swaps:
        threads = [threading.Thread(target=starts) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(f"{sum(outcomes.values())} starts, {swaps[0]} swaps: {outcomes}")
    assert sum(outcomes.values()) > 20
    assert steps <= {"attach"}
    assert outcomes["mounted"] > 0, "never did anything"
    assert outcomes[met] > 0, "the symlink was never met"
    assert listing(victim) == ["file the host's"]

    def careless() -> None:
        """Check, then use: what every runtime did before 2021."""
        root = tmp_path / "root"
        (root / "volume").mkdir(parents=True)
        support.bind(volume, root / "volume")
        place = Path(f"{root}/volume/place")
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if os.path.islink(place):
                continue
            try:
                if below:
                    os.makedirs(f"{place}{below}", exist_ok=True)
                support.bind(source, f"{place}{below}")
            except OSError:
                continue
            if any(str(victim) in line for line in Path("/proc/self/mountinfo").read_text().splitlines()):
                return
            try:
                mount.umount2(os.fsencode(f"{place}{below}"), 2)
            except OSError:
                pass  # swapped again: another mount more
        raise AssertionError("the race was never won")

    with exchanging(volume / "place", volume / "link"):  # outside, as a container that shares the volume is
        support.in_a_mount_namespace(careless)


# --- masks


def test_masks_use_the_hosts_null(rootfs: Path, victim: Path) -> None:
    """CVE-2025-31133: an image whose /dev/null is something else, and no /dev of ours over it."""
    (rootfs / "secret").write_text("secret")
    spec = {
        "ociVersion": "1.2.0", "root": {"path": str(rootfs)}, "process": {"cwd": "/"},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}], "maskedPaths": ["/secret"]},
    }  # fmt: skip
    null = rootfs / "dev" / "null"

    def fakes() -> Iterator[None]:
        null.write_text("the attacker's")
        yield
        null.unlink()
        null.symlink_to(victim / "file")
        yield
        null.unlink()
        os.mknod(null, 0o020666, os.makedev(1, 5))
        yield

    for _ in fakes():
        box = Sandbox.from_spec(spec)
        assert box.run(["/bin/cat", "/secret"]).stdout == b""
        assert box.run(["/bin/ls", "-l", "/secret"]).stdout.split()[4:6] == [b"1,", b"3"]

    def careless() -> None:
        null.unlink()
        null.symlink_to(victim / "file")
        support.bind(null, rootfs / "secret")
        assert (rootfs / "secret").read_text() == "the host's"

    support.in_a_mount_namespace(careless)


def test_masks_use_the_hosts_null_below_a_dev_of_the_users(
    rootfs: Path, sandbox: Make, tmp_path: Path
) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "null").write_text("the attacker's")
    (rootfs / "secret").write_text("secret")
    mounts = [Mount("/dev", str(tmp_path / "dev"))]
    box = sandbox(mounts=mounts, masked_paths=["/secret"])
    assert box.run(["/bin/cat", "/secret"]).stdout == b""

    def careless() -> None:
        support.bind(tmp_path / "dev", rootfs / "dev")
        support.bind(rootfs / "dev" / "null", rootfs / "secret")
        assert (rootfs / "secret").read_text() == "the attacker's"

    support.in_a_mount_namespace(careless)


def test_a_host_whose_null_is_not_null_is_refused(rootfs: Path, sandbox: Make) -> None:
    """Also on the host it is checked, on the descriptor."""
    (rootfs / "secret").write_text("secret")

    def attack() -> None:
        spawner.shut_down()
        os.unlink("/dev/null")
        os.mknod("/dev/null", 0o020666, os.makedev(1, 5))
        with pytest.raises(errors.StartError) as failure:
            sandbox(masked_paths=["/secret"]).run(["/bin/true"])
        assert failure.value.step == "mask"
        careless = rootfs / "secret"
        support.bind("/dev/null", careless)
        with open(careless, "rb") as file:
            assert file.read(4) == b"\0" * 4  # not the end of the file: it is /dev/zero

    support.on_a_host_of_its_own(attack)


def test_kernel_parameters_are_written_to_procfs_and_nowhere_else(
    rootfs: Path, sandbox: Make, victim: Path
) -> None:
    """CVE-2025-52881: a mount over a file of /proc takes what was meant for the kernel."""
    catcher = victim / "catcher"
    catcher.touch()
    with pytest.raises(errors.InvalidArgument, match="cannot be mounted because it is inside /proc"):
        sandbox(mounts=[Mount("/proc/sys/kernel/shm_rmid_forced", str(catcher))])
    # By another name too; and should one get there, it is not what is written to.
    (rootfs / "way").symlink_to("/proc/sys/kernel")
    mounts = [Mount("/way/shm_rmid_forced", str(catcher))]
    with pytest.raises(errors.StartError, match="cannot be mounted because it is inside /proc") as failure:
        sandbox(mounts=mounts).run(["/bin/true"])
    assert failure.value.step == "attach"
    into_procfs = support.with_flag("attach", "proc", "/way/shm_rmid_forced")
    box = support.patch(sandbox(mounts=mounts, sysctls={"kernel.shm_rmid_forced": "1"}), into_procfs)
    with pytest.raises(errors.StartError) as failure:
        box.run(["/bin/true"])
    assert failure.value.step == "write_procfs"
    assert catcher.read_text() == ""
    # Another file of procfs has the right file system, and is the host's all the same.
    hosts = Path(f"/proc/{os.getpid()}/coredump_filter")
    content = hosts.read_text()
    mounts = [Mount("/way/shm_rmid_forced", str(hosts))]
    box = support.patch(sandbox(mounts=mounts, sysctls={"kernel.shm_rmid_forced": "1"}), into_procfs)
    with pytest.raises(errors.StartError) as failure:
        box.run(["/bin/true"])
    assert failure.value.step == "write_procfs"
    assert hosts.read_text() == content

    def careless() -> None:
        mount.mount(b"proc", os.fsencode(rootfs / "proc"), b"proc")
        support.bind(catcher, rootfs / "proc/sys/kernel/shm_rmid_forced")
        (rootfs / "proc/sys/kernel/shm_rmid_forced").write_text("1")
        assert catcher.read_text() == "1"

    support.in_a_mount_namespace(careless)
