"""No path of a bundle leads `create` outside its root: what is tried on Sandbox is tried through a config.json too."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc._native import mount
from tests.oci.observe import places
from tests.oci.runtime import Result, Runtime, unique_id
from tests.safety import support
from tests.safety.test_paths import exchanging, listing, symlinks

Bundle = Callable[..., Path]
HOSTS = ["file the host's"]


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of the host that an attack wants to reach."""
    directory = tmp_path / "victim"
    directory.mkdir()
    (directory / "file").write_text("the host's")
    return directory


def bind(source: Path | str, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "source": str(source), "type": "bind", "options": ["bind", *options]}


def attempt(runtime: Runtime, path: Path) -> Result:
    """Run the bundle; whatever comes of it, neither state nor cgroup is left."""
    name = unique_id()
    runtime.made.append(name)
    document = json.loads((path / "config.json").read_text())
    document["linux"]["cgroupsPath"] = f"/{name}"
    (path / "config.json").write_text(json.dumps(document))
    result = runtime("run", "--bundle", str(path), name, code=None)
    assert "Traceback" not in result.err, result
    assert not (runtime.root / name).exists() and places(name) == [], result
    return result


# --- procfs and sysfs


@pytest.mark.parametrize("kind", ["proc", "sys"])
@pytest.mark.parametrize("target", ["evil", "/evil", "../../evil"])
def test_procfs_needs_a_real_directory(runtime: Runtime, bundle: Bundle, kind: str, target: str) -> None:
    """CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: the image's /proc is a symlink."""
    path = bundle("bundle", "/bin/ls", "/evil", linux__maskedPaths=[], linux__readonlyPaths=[])
    (path / "rootfs" / kind).rmdir()
    (path / "rootfs" / kind).symlink_to(target)
    (path / "rootfs/evil").mkdir()
    result = attempt(runtime, path)
    assert result.code == 1 and "must be mounted on ordinary directory" in result.err, result

    def careless() -> None:
        mount.mount(b"proc", os.fsencode(path / "rootfs/evil"), b"proc")
        assert (path / "rootfs" / kind).exists() or target.startswith(("/", ".."))
        assert (path / "rootfs/evil/self").exists()

    support.in_a_mount_namespace(careless)


@pytest.mark.parametrize(
    "destination", ["/proc", "/proc/self", "/proc/sys/kernel", "/tmp/../proc/1", "//proc//self/attr"]
)
def test_nothing_is_mounted_inside_proc(
    runtime: Runtime, bundle: Bundle, victim: Path, destination: str
) -> None:
    """CVE-2019-16884: a volume in place of procfs takes what is written to /proc/self/attr."""
    path = bundle("bundle", "/bin/true", **{"mounts+": [bind(victim, destination)]})
    result = attempt(runtime, path)
    assert result.code == 1 and "/proc" in result.err, result
    assert listing(victim) == HOSTS


def test_kernel_parameters_are_not_written_to_a_volume(
    runtime: Runtime, bundle: Bundle, victim: Path
) -> None:
    """CVE-2025-52881: a mount over a file of /proc, also by another name, takes what was meant for the kernel."""
    (victim / "catcher").touch()
    for destination in ("/proc/sys/kernel/shm_rmid_forced", "/way/shm_rmid_forced"):
        path = bundle(
            destination[1:4], "/bin/true", linux__sysctl={"kernel.shm_rmid_forced": "1"},
            **{"mounts+": [bind(victim / "catcher", destination)]},
        )  # fmt: skip
        (path / "rootfs/way").symlink_to("/proc/sys/kernel")
        assert attempt(runtime, path).code == 1
        assert (victim / "catcher").read_text() == ""
    # A tmpfs in the place of procfs: nothing is made there to be written to.
    path = bundle("tmpfs", "/bin/true", linux__sysctl={"kernel.shm_rmid_forced": "1"})
    document = json.loads((path / "config.json").read_text())
    document["mounts"][0] |= {"type": "tmpfs", "source": "tmpfs"}
    (path / "config.json").write_text(json.dumps(document))
    attempt(runtime, path)
    assert listing(path / "rootfs/proc") == []

    def careless() -> None:
        mount.mount(b"proc", os.fsencode(path / "rootfs/proc"), b"proc")
        support.bind(victim / "catcher", path / "rootfs/proc/sys/kernel/shm_rmid_forced")
        (path / "rootfs/proc/sys/kernel/shm_rmid_forced").write_text("1")
        assert (victim / "catcher").read_text() == "1"

    support.in_a_mount_namespace(careless)


# --- destinations


@pytest.mark.parametrize("number", range(5))
def test_a_destination_does_not_leave_the_root(
    runtime: Runtime, bundle: Bundle, victim: Path, tmp_path: Path, number: int
) -> None:
    """CVE-2019-18837 and its like: the image's symlinks lead to the host."""
    spelling, destination = symlinks(victim)[number]
    source = tmp_path / "source"
    source.mkdir()
    (source / "flag").write_text("flag")
    if destination == "/link" and spelling.endswith("/file"):
        source = source / "flag"
    path = bundle("bundle", "/bin/true", root__readonly=False, **{"mounts+": [bind(source, destination)]})
    (path / "rootfs/link").symlink_to(spelling)
    attempt(runtime, path)
    assert listing(victim) == HOSTS

    def careless() -> None:
        place = Path(f"{path}/rootfs{destination}")
        if destination == "/link/made":
            place.mkdir(parents=True)
        support.bind(source, place)
        assert str(victim) in Path("/proc/self/mountinfo").read_text() or listing(victim) != HOSTS

    support.in_a_mount_namespace(careless)


def test_what_is_made_is_made_inside(runtime: Runtime, bundle: Bundle, victim: Path) -> None:
    """Devices, working directories, mount points and copies through a symlink to the host."""
    device = {"type": "c", "path": "/link/null", "major": 1, "minor": 3}
    tmpfs = {"destination": "/link/deep/er", "source": "tmpfs", "type": "tmpfs", "options": ["tmpcopyup"]}
    attempts: list[dict[str, Any]] = [
        {"linux.devices": [device]}, {"mounts+": [tmpfs]}, {"process.cwd": "/link/cwd"},
        {"linux.maskedPaths": ["/link/file"]},
    ]  # fmt: skip
    for number, changes in enumerate(attempts):
        path = bundle(f"bundle{number}", "/bin/true", root__readonly=False, **changes)
        (path / "rootfs/link").symlink_to(victim)
        attempt(runtime, path)
        assert listing(victim) == HOSTS, changes
    os.mknod(path / "rootfs/link/null", 0o020666, os.makedev(1, 3))
    assert (victim / "null").exists()


def test_a_source_that_is_relative_stays_what_the_user_named(runtime: Runtime, bundle: Bundle) -> None:
    """It is below the bundle, and not below wherever the runtime was called."""
    path = bundle("bundle", "/bin/cat", "/tmp/file", **{"mounts+": [bind("source", "/tmp")]})
    (path / "source").mkdir()
    (path / "source/file").write_text("the bundle's")
    assert attempt(runtime, path).out == "the bundle's"


@pytest.mark.parametrize("duration_s", [6.0, pytest.param(120.0, marks=pytest.mark.soak)])
@pytest.mark.parametrize("below", ["", "/made"])
def test_exchanged_mount_targets(
    runtime: Runtime, bundle: Bundle, victim: Path, tmp_path: Path, below: str, duration_s: float
) -> None:
    """CVE-2021-30465, CVE-2024-45310: who shares a volume swaps the target with a symlink while `run` goes on."""
    volume, source = tmp_path / "volume", tmp_path / "source"
    for directory in (volume / "place", source):
        directory.mkdir(parents=True)
    (source / "flag").write_text("flag")
    (volume / "link").symlink_to(victim)
    mounts = [bind(volume, "/volume"), bind(source, f"/volume/place{below}")]
    path = bundle(
        "bundle", "/bin/cat", f"/volume/place{below}/flag", root__readonly=False, **{"mounts+": mounts}
    )
    (path / "rootfs/volume").mkdir()
    begun = time.monotonic()
    outcomes = {"mounted": 0, "elsewhere": 0, "refused": 0}
    lock = threading.Lock()

    def goes_on() -> bool:
        """For a while, and on a machine that has other work until each outcome was seen."""
        seconds = time.monotonic() - begun
        seen = outcomes["mounted"] and outcomes["refused"]
        return seconds < duration_s or (not seen and seconds < 60)

    def starts() -> None:
        while goes_on():
            name = unique_id()
            result = runtime("run", "--bundle", str(path), name, code=None)
            outcome = "mounted" if result.out == "flag" else "refused" if result.err else "elsewhere"
            with lock:
                outcomes[outcome] += 1

    with exchanging(volume / "place", volume / "link"):
        threads = [threading.Thread(target=starts) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(outcomes)
    assert outcomes["mounted"] > 0 and outcomes["refused"] > 0, outcomes
    assert listing(victim) == HOSTS
    assert str(victim) not in Path("/proc/self/mountinfo").read_text()


# --- masks and the console


def test_masks_use_the_hosts_null(runtime: Runtime, bundle: Bundle, victim: Path) -> None:
    """CVE-2025-31133: /dev is the image's own, and its null is something else."""
    path = bundle(
        "bundle", "/bin/sh", "-c", "head -c 20 /secret; ls -l /secret", linux__maskedPaths=["/secret"]
    )
    document = json.loads((path / "config.json").read_text())
    document["mounts"] = [
        entry for entry in document["mounts"] if not entry["destination"].startswith("/dev")
    ]
    (path / "config.json").write_text(json.dumps(document))
    (path / "rootfs/secret").write_text("secret")
    null = path / "rootfs/dev/null"
    for fake in ("text", "link", "zero"):
        null.unlink(missing_ok=True)
        if fake == "text":
            null.write_text("the attacker's")
        elif fake == "link":
            null.symlink_to(victim / "file")
        else:
            os.mknod(null, 0o020666, os.makedev(1, 5))
        result = attempt(runtime, path)
        assert result.code == 1 or (result.out.startswith("c") and "1,   3" in result.out), (fake, result)
        assert listing(victim) == HOSTS

    def careless() -> None:
        null.unlink()
        null.symlink_to(victim / "file")
        support.bind(null, path / "rootfs/secret")
        assert (path / "rootfs/secret").read_text() == "the host's"

    support.in_a_mount_namespace(careless)


def test_a_console_is_the_containers_own(runtime: Runtime, bundle: Bundle, victim: Path) -> None:
    """CVE-2025-52565: the image's /dev/console and /dev/pts are symlinks to what the host has."""
    path = bundle("bundle", "/bin/sh", "-c", "tty", process__terminal=True, root__readonly=False)
    document = json.loads((path / "config.json").read_text())
    document["mounts"] = [
        entry for entry in document["mounts"] if not entry["destination"].startswith("/dev")
    ]
    (path / "config.json").write_text(json.dumps(document))
    (path / "rootfs/dev/console").symlink_to(victim / "file")
    (path / "rootfs/dev/pts").symlink_to("/proc/self/fd")
    before = (victim / "file").stat()
    attempt(runtime, path)
    after = (victim / "file").stat()
    assert listing(victim) == HOSTS
    assert (before.st_mode, before.st_uid, before.st_gid) == (after.st_mode, after.st_uid, after.st_gid)
    assert str(victim) not in Path("/proc/self/mountinfo").read_text()


# --- the state directory


@pytest.mark.parametrize(
    "name", ["../victim", "..", ".", "a/b", "/abs", "a\nb", "a b", "", "-x", "ä", "a" * 2000]
)
@pytest.mark.parametrize(
    "verb", ["create", "run", "state", "start", "kill", "delete", "delete --force", "exec", "pause"]
)
def test_an_id_names_nothing_else(
    runtime: Runtime, bundle: Bundle, victim: Path, name: str, verb: str
) -> None:
    """A container's id becomes a directory's name, which `delete` removes."""
    runtime.root.mkdir(parents=True)
    (runtime.root.parent / "victim").symlink_to(victim)
    (victim / "state.json").write_text("{}")
    words = verb.split()
    if verb in ("create", "run"):
        words += ["--bundle", str(bundle("bundle", "/bin/true"))]
    words.append(name)
    words += {"kill": ["KILL"], "exec": ["/bin/true"]}.get(verb, [])
    result = runtime(*words, code=None)
    assert "Traceback" not in result.err
    assert result.code != 0 or (verb == "delete --force" and "/" not in name), (name, result)
    assert listing(victim) == [*HOSTS, "state.json {}"]
    assert list(runtime.root.iterdir()) == []
