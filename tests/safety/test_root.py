"""Nothing of the host's tree is left to a container, by whichever way its root becomes the root.

Where the host has many tasks that is not pivot_root(2): see `take_off_root`.
"""

import errno
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyrunc import Mount, Sandbox
from pyrunc._native import capability, mount, namespaces
from pyrunc.errors import StartError
from pyrunc.runtime import spawner
from pyrunc.runtime.plan import Step
from tests import confined
from tests.child import in_child
from tests.oci import bundles
from tests.safety import support

Make = Callable[..., Sandbox]
Way = Callable[[Sandbox], Sandbox]
_MS_BIND = 0x1000
_CAP_SYS_CHROOT = 18
_MANY = 400  # more than the number from which on it is done otherwise
_CROWD = f"""
import os, signal
for _ in range({_MANY}):
    if os.fork() == 0:
        signal.pause()
print("there", flush=True)
signal.pause()
"""
# What a program with all capabilities can do to get out of its root; it prints what it finds there.
_WAYS_OUT = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)

def own():
    libc.setns(namespace, 0x00020000)

def climb():
    os.makedirs("/tmp/cell", exist_ok=True)
    up = os.open("/", os.O_RDONLY)
    os.chroot("/tmp/cell")
    os.fchdir(up)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")

def take_off():
    libc.umount2(b"/", 2)
    own()

def told(name, way):
    if os.fork() == 0:
        try:
            way()
            print(name, *sorted(os.listdir("/")), flush=True)
        except OSError as exc:
            print(name, exc, flush=True)
        os._exit(0)
    os.wait()

namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)
told("at first:", lambda: None)
told("its namespace:", own)
told("up:", climb)
told("init:", lambda: os.chroot("/proc/1/root"))
for line in open("/proc/self/mountinfo"):
    fields = line.split()
    print("mount:", *fields[3:], flush=True)
if os.fork() == 0:
    libc.unshare(0x00020000)
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    take_off()
    print("without its root:", os.stat("/").st_dev, flush=True)
    os._exit(0)
os.wait()
"""


@contextmanager
def many_tasks() -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", _CROWD], stdout=subprocess.PIPE, start_new_session=True
    ) as crowd:
        assert crowd.stdout is not None
        try:
            assert crowd.stdout.readline() == b"there\n"
            yield
        finally:
            os.killpg(crowd.pid, signal.SIGKILL)


def by_pivot(step: Step) -> Step:
    """A change for `support.patch`: pivot_root(2), however many tasks the host has."""
    return step._replace(n1=0) if step.op == "pivot_root" else step


@pytest.fixture(params=["pivot", "copy"])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """Lets a sandbox go one of the two ways."""
    if request.param == "pivot":
        yield lambda box: support.patch(box, by_pivot)
    else:
        with many_tasks():
            yield lambda box: box


def ways_out(sandbox: Sandbox) -> dict[str, list[str]]:
    """What the program has found: by each way, and its mounts."""
    done = sandbox.run(support.python(_WAYS_OUT))
    assert done.exit_code == 0, done
    found: dict[str, list[str]] = {}
    for line in done.stdout.decode().splitlines():
        way, _, what = line.partition(": ")
        found.setdefault(way, []).append(what)
    return found


def without_pivot(step: Step) -> Step | None:
    """A change for `support.patch`: the host's root stays."""
    return None if step.op == "pivot_root" else step


def as_if_private(step: Step) -> Step:
    """A change for `support.patch`: the root's tree may be copied, whatever is in it."""
    return step._replace(n1=1) if step.op == "pivot_root" else step


def test_nothing_of_the_hosts_tree_is_left(rootfs: Path, sandbox: Make, way: Way) -> None:
    (rootfs / "the-containers").touch()
    host = set(os.listdir("/")) - set(os.listdir(rootfs)) - {"usr", "lib", "lib32", "lib64"}
    found = ways_out(way(sandbox(mounts=support.python_mounts(), cap_add=["ALL"])))
    inside = found["at first"][0].split()
    assert "the-containers" in inside
    assert not host.intersection(inside)
    for name in ("its namespace", "up", "init"):
        assert set(found[name][0].split()) == {*inside, "tmp"}, (name, found)
    # What its namespace began with, which is below the host's root too: whoever may unmount comes that far.
    assert int(found["without its root"][0]) != os.stat("/").st_dev
    assert [line.split()[1] for line in found["mount"]].count("/") == 1

    careless = support.patch(sandbox(mounts=support.python_mounts(), cap_add=["ALL"]), without_pivot)
    assert "the-containers" not in careless.run(["/bin/busybox", "ls", "/"]).stdout.decode()


def test_the_mounts_are_the_same_by_either_way(sandbox: Make) -> None:
    """Their options, their propagation, and what is masked and read-only."""
    program = ["/bin/cat", "/proc/self/mountinfo"]
    with many_tasks():
        many = sandbox(writable="no").run(program).stdout.decode()
    few = support.patch(sandbox(writable="no"), by_pivot).run(program).stdout.decode()

    def shape(text: str) -> list[list[str]]:
        """Without ids of mounts and devices; each mount by the place of its parent."""
        lines = [line.split() for line in text.splitlines()]
        places = {fields[0]: fields[4] for fields in lines}
        return [[places.get(fields[1], "above"), *fields[3:]] for fields in lines]

    assert sorted(shape(many)) == sorted(shape(few))


def test_what_is_shared_with_the_host_stays_mounted_there(tmp_path: Path, sandbox: Make, way: Way) -> None:
    """To unmount a tree that is shared would unmount the host's, wherever it is copied to before."""
    source = tmp_path / "shared"
    source.mkdir()

    def inside() -> None:
        spawner._forget()  # the parent's spawner has other mounts
        mount.mount(b"tmpfs", os.fsencode(source), b"tmpfs", 0, None)
        mount.mount(b"", os.fsencode(source), None, mount.MS_SHARED)
        for name in ("one", "one/two"):
            (source / name).mkdir()
            mount.mount(b"tmpfs", os.fsencode(source / name), b"tmpfs", 0, None)
        (source / "one/two/file").write_text("the host's")
        shared = [Mount("/shared", str(source), options=["rbind", "rshared"])]
        try:
            done = way(sandbox(mounts=shared)).run(["/bin/cat", "/shared/one/two/file"])
            assert done.stdout == b"the host's", done
            assert (source / "one/two/file").read_text() == "the host's"

            # Nor where the plan says that all is private.
            done = support.patch(sandbox(mounts=shared), as_if_private).run(
                ["/bin/cat", "/shared/one/two/file"]
            )
            assert done.stdout == b"the host's", done
            assert (source / "one/two/file").read_text() == "the host's"
        finally:
            spawner.shut_down()

    in_child(inside, namespaces.CLONE_NEWNS)


def own_mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def test_a_root_on_a_mount_that_the_host_shares_stays_there(sandbox: Make) -> None:
    """No path leads to what a root is mounted on, and to mount or unmount there would be to do so on the host."""

    def inside() -> None:
        spawner._forget()
        upper = mount.open_tree(-100, b"/", mount.OPEN_TREE_CLONE | mount.AT_RECURSIVE)
        place = os.open("/", os.O_PATH)
        mount.mount(None, b"/", None, mount.MS_SHARED)
        mount.move_mount(upper, place)
        os.fchdir(upper)
        os.chroot(".")
        before = own_mounts()
        try:
            with many_tasks(), pytest.raises(StartError, match="pivot_root: invalid argument"):
                sandbox().run(["/bin/true"])
            assert own_mounts() == before
        finally:
            spawner.shut_down()

    in_child(inside, namespaces.CLONE_NEWNS)


@pytest.mark.parametrize("flags", [(), ("--no-pivot",)], ids=["pivot", "no-pivot"])
def test_in_a_chroot_that_is_a_mount_the_hosts_mounts_stay(
    flags: tuple[str, ...], tmp_path: Path, rootfs: Path
) -> None:
    """The front door stays in the chroot that it was called in; behind its root is then the host's."""
    if not bundles.FRONT_DOOR.exists():
        pytest.skip("needs bin/pyrunc-oci")
    place = tmp_path / "chroot"
    place.mkdir()
    oci = bundles.Runtime(tmp_path / "state", rootfs)
    bundle = oci.bundle(tmp_path / "bundle", ["/bin/echo", "said"])

    def chrooted() -> None:
        os.chroot(place)
        os.chdir("/")
        done = oci.call("run", *flags, "--bundle", bundle, oci.id, code=None)
        # Without the flag it is pivot_root(2) that refuses, where what is behind the chroot is shared in there too.
        refused = not flags and "pivot_root: invalid argument" in done.stderr
        assert refused or done.stdout == "said\n", done
        oci.call("delete", "--force", oci.id)

    def inside() -> None:
        mount.mount(b"/", os.fsencode(place), None, _MS_BIND | mount.MS_REC)
        mount.mount(None, b"/", None, mount.MS_SHARED)
        before = own_mounts()
        with many_tasks():
            in_child(chrooted)
        assert own_mounts() == before

    in_child(inside, namespaces.CLONE_NEWNS)


def test_who_may_not_chroot_starts_containers(sandbox: Make, way: Way) -> None:
    """pivot_root(2) does not ask for CAP_SYS_CHROOT, and setns(2) and chroot(2) do."""

    def inside() -> None:
        spawner._forget()
        effective, permitted, inheritable = capability.capget()
        kept = ~(1 << _CAP_SYS_CHROOT)
        capability.bounding_keep(capability.bounding() & kept)
        capability.capset(effective & kept, permitted & kept, inheritable & kept)
        with pytest.raises(PermissionError):
            os.chroot("/")
        try:
            box = way(sandbox(cap_drop=["SYS_CHROOT"]))
            assert box.run(["/bin/echo", "said"]).stdout == b"said\n"
        finally:
            spawner.shut_down()

    in_child(inside)


@pytest.mark.parametrize("name", ["setns", "chroot"])
def test_where_a_call_is_refused_it_is_by_pivot_root(name: str, rootfs: Path) -> None:
    number = {"x86_64": {"setns": 308, "chroot": 161}, "aarch64": {"setns": 268, "chroot": 51}}
    call = number[os.uname().machine][name]
    program = [
        (0x20, 0, 0, 0),
        (0x15, 0, 1, call),
        (0x06, 0, 0, 0x50000 | errno.EPERM),
        (0x06, 0, 0, 0x7FFF0000),
    ]

    def inside() -> None:
        spawner._forget()
        confined.install(b"".join(struct.pack("=HBBI", *line) for line in program), 0)
        try:
            with many_tasks(), Sandbox(rootfs) as box:
                assert box.run(["/bin/echo", "said"]).stdout == b"said\n"
        finally:
            spawner.shut_down()

    in_child(inside)


def test_the_name_of_the_terminal_leads_to_it(sandbox: Make, way: Way) -> None:
    """musl's ttyname(3) goes by what /proc/self/fd/0 says."""
    done = way(sandbox(tty=True)).run(["/bin/busybox", "readlink", "/proc/self/fd/0"])
    assert done.stdout.decode().strip() == "/dev/pts/0", done
