"""Nothing of the host's tree is left to a container, by whichever way its root becomes the root.

Where the host has many tasks that is not pivot_root(2): see `take_off_root`.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyrunc import Mount, Sandbox
from pyrunc._native import mount, namespaces
from pyrunc.runtime import spawner
from pyrunc.runtime.plan import Step
from tests.child import in_child
from tests.safety import support

Make = Callable[..., Sandbox]
Way = Callable[[Sandbox], Sandbox]
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
