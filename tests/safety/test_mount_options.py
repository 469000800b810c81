"""Options of a mount that name paths, owners or other mounts lead nowhere outside either."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc import Mount, Sandbox, errors
from pyrunc._native import mount
from pyrunc.runtime.plan import Step
from tests.safety import support

Make = Callable[..., Sandbox]


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of the host that an attack wants to reach."""
    directory = tmp_path / "victim"
    directory.mkdir()
    (directory / "secret").write_text("the host's")
    return directory


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A directory that a container writes to: what is in there is the attacker's."""
    directory = tmp_path / "volume"
    directory.mkdir()
    return directory


def spellings(victim: Path) -> list[str]:
    chain = "../" * 20
    return [str(victim), f"{chain}{str(victim)[1:]}", f"/proc/self/root{victim}", f"/proc/{os.getpid()}/cwd"]


# --- X-mount.subdir


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("inner", ["", "/secret"])
def test_a_subdirectory_does_not_leave_the_volume(
    sandbox: Make, volume: Path, victim: Path, number: int, inner: str
) -> None:
    """CVE-2023-3676's kind: a volume's own symlink in place of the directory that is asked for."""
    (volume / "link").symlink_to(spellings(victim)[number])
    script = ["/bin/sh", "-c", "cat /m/secret; ls -A /m"]
    options = [f"X-mount.subdir=link{inner}"]
    box = sandbox(mounts=[Mount("/m", str(volume), options=options)])
    failure = support.failure_of(lambda: box.run(script))
    assert failure is not None
    assert failure.path == str(volume)

    if number == 0 and not inner:
        # By path, as if the subdirectory were a part of the source's: the host's directory is shown.
        careless = support.patch(box, by_path)
        assert careless.run(script).stdout.startswith(b"the host's")


def by_path(step: Step) -> Step:
    return step._replace(s0=f"{step.s0}{step.s1}", s1=None) if step.op == "open_tree" and step.s1 else step


def test_a_subdirectory_that_is_exchanged_meanwhile(sandbox: Make, volume: Path, victim: Path) -> None:
    """Now a directory, now a symlink to the host's: whichever a start finds, it shows the volume's or fails."""
    (volume / "directory").mkdir()
    (volume / "other").symlink_to(victim)
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            support.exchange(volume / "directory", volume / "other")

    box = sandbox(mounts=[Mount("/m", str(volume), options=["X-mount.subdir=directory"])])
    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        outcomes: set[bool] = set()
        for count in range(1000):
            try:
                assert box.run(["/bin/ls", "/m"]).stdout == b""
                outcomes.add(True)
            except errors.StartError:
                outcomes.add(False)
            if count > 60 and len(outcomes) == 2:
                break
    finally:
        stop.set()
        thread.join()
    assert outcomes == {True, False}


def test_a_plan_names_no_parent_of_a_volume(sandbox: Make, volume: Path) -> None:
    """Not even a plan that was written by hand: the validator refuses it, and the kernel keeps it in the volume."""
    with pytest.raises(errors.InvalidSpec, match=r"needs a path without '\.\.'"):
        sandbox(mounts=[Mount("/m", str(volume), options=["X-mount.subdir=../victim"])])
    (volume / "victim").mkdir()
    box = sandbox(mounts=[Mount("/m", str(volume), options=["X-mount.subdir=victim"])])
    evil = support.patch(box, lambda step: step._replace(s1="/../victim") if step.s1 == "/victim" else step)
    with pytest.raises(errors.PyruncError):
        evil.run(["/bin/true"])


# --- X-mount.mkdir, X-mount.owner, X-mount.mode


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("writable", ["scratch", "direct"])
def test_nothing_is_made_or_given_away_outside(
    rootfs: Path, sandbox: Make, victim: Path, number: int, writable: str
) -> None:
    (rootfs / "link").symlink_to(spellings(victim)[number])
    before = (victim.stat().st_uid, victim.stat().st_mode)
    options = ["X-mount.mkdir=0777", "X-mount.owner=1000", "X-mount.mode=0777"]
    for destination in ("/link", "/link/made/deep"):
        for kind in ("tmpfs", "bind"):
            source = rootfs / "tmp"
            mounts = [Mount(destination, str(source), kind, options)]
            box = sandbox(writable=writable, mounts=mounts)
            support.failure_of(lambda box=box: box.run(["/bin/true"]))  # type: ignore[misc]
    assert os.listdir(victim) == ["secret"]
    assert (victim.stat().st_uid, victim.stat().st_mode) == before

    def careless() -> None:
        """By path, below the root's own path."""
        os.makedirs(f"{rootfs}/link/made/deep", exist_ok=True)
        os.chown(f"{rootfs}/link", 1000, 1000)

    if number == 0:
        careless()
        assert victim.stat().st_uid == 1000


def test_an_owner_is_looked_up_in_the_image_only(rootfs: Path, sandbox: Make, tmp_path: Path) -> None:
    """The image's passwd may be a symlink to the host's."""
    fake = tmp_path / "passwd"
    fake.write_text("hostuser:x:4242:4242::/:/bin/sh\n")
    (rootfs / "etc/passwd").unlink(missing_ok=True)
    (rootfs / "etc/passwd").symlink_to(fake)
    with pytest.raises(errors.InvalidSpec, match="unable to find user hostuser"):
        sandbox(mounts=[Mount("/m", kind="tmpfs", options=["X-mount.owner=hostuser"])]).run(["/bin/true"])
    assert "hostuser" in (rootfs / "etc/passwd").read_text()  # what a careless lookup would have read


# --- remount


@pytest.mark.parametrize("shared", [False, True])
def test_a_remount_changes_no_mount_of_the_host(
    rootfs: Path, sandbox: Make, tmp_path: Path, shared: bool
) -> None:
    """Neither the source of a bind, nor one that a symlink of the image points at, nor a shared peer."""
    host = tmp_path / "host"
    (host / "below").mkdir(parents=True)
    (rootfs / "link").symlink_to(host / "below")

    def inside() -> None:
        for path in (host, host / "below"):
            mount.mount(b"none", os.fsencode(path), fstype=b"tmpfs")
            (host / "below").mkdir(exist_ok=True)
        mount.mount(None, os.fsencode(host), flags=0x4000 | (1 << 20 if shared else 1 << 18))
        before = Path("/proc/self/mountinfo").read_text()
        options = ["remount", "rro", "rnoexec", "ro", "noatime"]
        propagation = "rshared" if shared else "rprivate"
        script = ["/bin/sh", "-c", "grep -c ' /m.* ro,.*noexec' /proc/self/mountinfo"]
        with sandbox(
            mounts=[Mount("/m", str(host), options=[propagation]), Mount("/m", options=options)]
        ) as box:
            assert box.run(script).stdout == b"2\n"
        with pytest.raises(errors.StartError, match="cannot remount /link"):
            sandbox(mounts=[Mount("/link", options=options)]).run(["/bin/true"])
        assert Path("/proc/self/mountinfo").read_text() == before

        # mount(2) by path follows the symlink to the host's mount.
        mount.mount(None, os.fsencode(rootfs / "link"), flags=0x1000 | 0x20 | 1)
        assert Path("/proc/self/mountinfo").read_text() != before

    support.in_a_mount_namespace(inside)
