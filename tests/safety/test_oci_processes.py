"""What a container's process gets, sees and can do to the runtime that creates it or executes another in it."""

import hashlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.oci.observe import seen_cgroup
from tests.oci.runtime import Result, Runtime, unique_id
from tests.safety import support

Bundle = Callable[..., Path]
_UP = "/.." * 16


@pytest.fixture
def container(runtime: Runtime, bundle: Bundle) -> Iterator[tuple[Runtime, str, Path]]:
    """A container that sleeps: its runtime, id and bundle."""
    path = bundle("sleeping", "/bin/sleep", "1000", root__readonly=False)
    name = runtime.create(path)
    runtime("start", name)
    yield runtime, name, path
    runtime("delete", "--force", name)


def run(runtime: Runtime, path: Path, **options: Any) -> Result:
    name = unique_id()
    runtime.made.append(name)
    return runtime("run", "--bundle", str(path), name, code=None, **options)


# --- descriptors and working directories: CVE-2024-21626


def test_a_working_directory_is_no_descriptor_of_the_runtimes(runtime: Runtime, bundle: Bundle) -> None:
    path = bundle("bundle", "/bin/cat", "etc/hostname", root__readonly=False)
    document = json.loads((path / "config.json").read_text())
    directory = os.open("/", os.O_RDONLY)
    try:
        for fd in range(40):
            for spelling in (f"/proc/self/fd/{fd}", f"/proc/self/fd/{fd}{_UP}", f"/link{fd}"):
                document["process"]["cwd"] = spelling
                (path / "config.json").write_text(json.dumps(document))
                link = path / f"rootfs/link{fd}"
                if spelling.startswith("/link"):
                    link.symlink_to(f"/proc/self/fd/{fd}")
                if fd % 8 and not spelling.startswith("/proc/self/fd/7"):
                    continue  # each descriptor is tried by exec, where it costs less
                result = run(runtime, path, pass_fds=(directory,))
                assert result.code != 0 and result.out == "", (spelling, result)
    finally:
        os.close(directory)

    def careless() -> None:
        leaked = os.open("/etc", os.O_RDONLY)
        os.chroot(path / "rootfs")
        os.fchdir(leaked)
        assert os.path.exists("passwd"), "the host's /etc"

    support.in_a_mount_namespace(careless)


def test_execs_working_directory_is_no_descriptor(container: tuple[Runtime, str, Path]) -> None:
    runtime, name, path = container
    for fd in range(24):
        (path / f"rootfs/link{fd}").symlink_to(f"/proc/self/fd/{fd}")
        for spelling in (f"/proc/self/fd/{fd}", f"/link{fd}"):
            result = runtime("exec", "--cwd", spelling, name, "/bin/cat", "etc/hostname", code=None)
            assert result.code != 0 and result.out == "", (spelling, result)


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_no_descriptor_of_the_host_comes_along(
    container: tuple[Runtime, str, Path], bundle: Bundle, verb: str
) -> None:
    """What the caller has left open, and what the runtime has opened itself."""
    runtime, name, _ = container
    words = ("/bin/sh", "-c", "echo /proc/self/fd/*")
    leaked = [os.open("/etc/passwd", os.O_RDONLY) for _ in range(3)]
    try:
        if verb == "exec":
            result = runtime("exec", name, *words, pass_fds=leaked)
        else:
            result = run(runtime, bundle("descriptors", *words), pass_fds=leaked)
    finally:
        for fd in leaked:
            os.close(fd)
    # the shell's own directory is open while it lists
    assert {int(entry.rpartition("/")[2]) for entry in result.out.split()} - {0, 1, 2} <= {3}, result


# --- the runtime's own file: CVE-2019-5736


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


OVERWRITE = """
for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    for p in /proc/[0-9]*; do
        (echo overwritten >$p/exe) 2>/dev/null && echo "wrote $p"
        for f in $p/fd/*; do (echo overwritten >$f) 2>/dev/null; done
    done
done
exit 0
"""


def test_the_runtime_is_not_overwritten_from_inside(
    container: tuple[Runtime, str, Path], runtime: Runtime
) -> None:
    """The container's shell is a symlink to /proc/self/exe, and others wait for whoever comes in by exec."""
    _, name, path = container
    before = digest(runtime.path)
    (path / "rootfs/bin/again").symlink_to("/proc/self/exe")
    (path / "rootfs/bin/script").write_text("#!/proc/self/exe\n")
    (path / "rootfs/bin/script").chmod(0o755)
    watcher = subprocess.Popen(
        runtime.command("exec", name, "/bin/sh", "-c", OVERWRITE), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    ends = time.monotonic() + 60
    while watcher.poll() is None and time.monotonic() < ends:
        for program in ("/bin/again", "/bin/script", "/bin/true"):
            runtime("exec", name, program, code=None)
    watcher.kill()
    out, _ = watcher.communicate()
    assert digest(runtime.path) == before
    assert "wrote" not in out


def test_who_joins_cannot_be_looked_into(container: tuple[Runtime, str, Path]) -> None:
    """A process of the container's never gets to read memory or descriptors of what comes in by exec.

    Which numbers its descriptors have is no secret to one with CAP_DAC_OVERRIDE (procfs lists them without asking
    ptrace's rules); what they are is. Who has become the container's program meanwhile does not count.
    """
    runtime, name, _ = container
    look = (
        "n=0; while [ $n -lt 2000 ]; do for p in /proc/[0-9]*; do c=$(cat $p/comm 2>/dev/null); case $c in "
        "pyrunc*|runc*|crun*) "
        "o=$(readlink $p/exe $p/cwd $p/fd/* 2>/dev/null; head -c 1 $p/mem $p/environ 2>/dev/null); "
        '[ -n "$o" ] && [ "$(cat $p/comm 2>/dev/null)" = "$c" ] && echo "$c: $o";; esac; done; n=$((n+1)); done'
    )
    watcher = subprocess.Popen(
        runtime.command("exec", name, "/bin/sh", "-c", look), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    stop = threading.Event()

    def come_in() -> None:
        while not stop.is_set():
            runtime("exec", name, "/bin/true", code=None)

    threads = [threading.Thread(target=come_in) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        out, _ = watcher.communicate(timeout=300)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert out == ""


# --- capabilities and users: CVE-2022-29162, CVE-2022-27650, CVE-2026-30892


def test_inheritable_capabilities_are_as_the_document_says(container: tuple[Runtime, str, Path]) -> None:
    """exec --cap must not make them inheritable, from where a program of the image with file capabilities gets them."""
    runtime, name, _ = container
    for flags in (
        (),
        ("--cap", "CAP_SYS_ADMIN"),
        ("--user", "1000:1000"),
        ("--user", "1000", "--cap", "CAP_KILL"),
    ):
        out = runtime("exec", *flags, name, "/bin/grep", "CapInh", "/proc/self/status").out
        assert out.split() == ["CapInh:", "0" * 16], (flags, out)


@pytest.mark.parametrize(
    "user",
    [
        "-1",
        "4294967296",
        "0x10",
        "1000:",
        ":",
        "1000:1000:1000",
        "1e3",
        " 1000",
        "1000 ",
        "99999999999999999999",
        "1000:-1",
    ],
)
def test_execs_user_is_parsed_strictly(container: tuple[Runtime, str, Path], user: str) -> None:
    """What is no number must not become 0."""
    runtime, name, _ = container
    result = runtime("exec", "--user", user, name, "/bin/id", "-u", code=None)
    assert result.code != 0 and result.out == "", result


# --- cgroups: CVE-2023-25809 and delegation


@pytest.mark.parametrize("path", ["/../../../{}", "/a/../../{}", "../../../{}", "/{}/../../../../etc"])
def test_a_cgroups_path_stays_in_its_hierarchy(runtime: Runtime, bundle: Bundle, path: str) -> None:
    name = unique_id()
    made = bundle("bundle", "/bin/sleep", "1000", linux__cgroupsPath=path.format(name))
    result = runtime("create", "--bundle", str(made), name, code=None)
    runtime.made.append(name)
    if result.code == 0:
        assert ".." not in seen_cgroup(runtime.state(name)["pid"])
    runtime("delete", "--force", name)
    assert not Path("/etc/cgroup.procs").exists()


def test_cgroups_show_and_give_nothing_above(runtime: Runtime, bundle: Bundle) -> None:
    """With the host's cgroup namespace too: what is mounted is the container's own, and read-only."""
    kinds = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]
    script = (
        "mkdir /sys/fs/cgroup/*/evil 2>/dev/null && echo made; for d in /sys/fs/cgroup/*; do"
        " (echo $$ >$d/cgroup.procs) 2>/dev/null && echo wrote; ls $d | grep -c process_api; done"
    )
    result = run(runtime, bundle("bundle", "/bin/sh", "-c", script, linux__namespaces=kinds))
    assert set(result.out.split()) <= {"0"} and result.out, result
