"""Whatever the caller has otherwise than the planner: the container is as it would be without one.

Where a plan, or what it is made from, could depend on it, the planner declines. ARCHITECTURE.md has the table.
"""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrunc._native import standing
from pyrunc.oci import resident
from pyrunc.runtime import caller, compile_rootless
from tests.oci import bundles
from tests.oci.native import PYTHON, call
from tests.oci.planning import await_end, forget_cgroups, planner, served
from tests.oci.starting import CODE, start_planner
from tests.oci.waiting import until
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}
# One instruction of BPF: allow (linux/seccomp.h); then execute.
_FILTER = (
    "import ctypes, os, struct, sys; "
    "code = ctypes.create_string_buffer(struct.pack('=HBBI', 6, 0, 0, 0x7fff0000)); "
    "program = struct.pack('@HP', 1, ctypes.addressof(code)); libc = ctypes.CDLL(None, use_errno=True); "
    "assert libc.prctl(22, 2, program) == 0, ctypes.get_errno(); os.execv(sys.argv[1], sys.argv[1:])"
)
_KEYRING = (
    "import ctypes, os, sys; ctypes.CDLL(None).syscall(int(sys.argv[1]), 1, b'mine'); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)
OTHERS: dict[str, tuple[str, ...]] = {
    "fewer capabilities": ("setpriv", "--bounding-set=-net_raw", "--inh-caps=-all"),
    "inheritable capabilities": ("setpriv", "--inh-caps=+net_raw"),
    "no new privileges": ("setpriv", "--no-new-privs"),
    "a filter": (sys.executable, "-c", _FILTER),
    "another real user": ("setpriv", "--ruid=1", "--keep-groups"),
    "another group": ("setpriv", "--regid=1", "--keep-groups"),
    "other groups": ("setpriv", "--groups=1,2,3"),
    "another personality": ("setarch", "--uname-2.6"),
    "another machine": ("setarch", "i686"),
}
"""What makes the planner decline, by a command that executes another so."""
ALIKE: dict[str, tuple[str, ...]] = {
    "a umask": ("sh", "-c", 'umask 0777; exec "$@"', "sh"),
    "a low limit": ("sh", "-c", 'ulimit -n 100; ulimit -s 1000; ulimit -c 7; exec "$@"', "sh"),
    "priorities": ("nice", "-n", "5", "chrt", "--batch", "0"),
    "processors": ("taskset", "1"),
    "a mask of signals": ("env", "--block-signal=USR1", "--ignore-signal=HUP"),
    "another directory": ("env", "-C", "/usr"),
    "other variables": ("env", "PATH=/nonexistent", "HOME=/nonexistent", "USER=nobody", "LC_ALL=C", "TZ=X"),
    "a keyring": (sys.executable, "-c", _KEYRING, str(_SYS_KEYCTL.get(os.uname().machine, 0))),
}  # fmt: skip
"""What is the front door's own when it acts: a plan says the same."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "planners"


def resolved(before: tuple[str, ...]) -> tuple[str, ...]:
    found = shutil.which(before[0])
    if found is None:
        pytest.skip(f"needs {before[0]}")
    return (found, *before[1:])


@pytest.mark.parametrize("which", [*OTHERS, *ALIKE])
def test_who_is_served(front_door: Path, directory: Path, plan: Path, which: str) -> None:
    before = resolved(OTHERS.get(which) or ALIKE[which])
    words = ("create", "-b", str(front_door.parents[2] / "bundle"), "x")

    def create() -> str:
        done = call(front_door, *words, planner=directory, before=before)
        assert done.returncode == PYTHON, done
        return done.stdout

    with planner(front_door, directory, plan):
        if which in OTHERS:
            assert create().startswith("create ")
        else:
            served(create)


@pytest.mark.parametrize("kind", ["--cgroup", "--user"])
def test_callers_of_other_namespaces_are_not(
    front_door: Path, directory: Path, plan: Path, kind: str
) -> None:
    before = ("unshare", kind, *(["--map-root-user"] if kind == "--user" else []))
    with planner(front_door, directory, plan):
        done = call(
            front_door, "create", "-b", str(front_door.parents[2]), "x", planner=directory, before=before
        )
        assert done.stdout.startswith("create ")


def test_the_same_directory_by_another_mount_is_another_root(
    front_door: Path, directory: Path, plan: Path, tmp_path: Path
) -> None:
    """Its number is the same, and whatever is mounted below it is not there."""
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["mount", "--bind", "/", root], check=True)
    try:
        subprocess.run(["mount", "--rbind", "/proc", root / "proc"], check=True)
        if str(front_door.stat().st_dev) != str(os.stat("/").st_dev):
            subprocess.run(["mount", "--bind", "/tmp", root / "tmp"], check=True)
        assert os.path.samestat(root.stat(), os.stat("/"))
        with planner(front_door, directory, plan):
            words = ("create", "-b", str(front_door.parents[2] / "bundle"), "x")
            served(lambda: call(front_door, *words, planner=directory).stdout)
            done = call(front_door, *words, planner=directory, before=("/usr/sbin/chroot", str(root)))
            assert (done.returncode, done.stdout.split()[0]) == (PYTHON, "create")
    finally:
        subprocess.run(["umount", "--recursive", "--lazy", root], check=True)


# Real ones

LOOK = (
    "grep -E '^(Cap|NoNewPrivs|Seccomp|Umask|SigBlk|SigIgn|Groups|Uid|Gid|Cpus_allowed:)' /proc/self/status;"
    "cat /proc/self/limits /proc/self/cgroup /proc/self/oom_score_adj;"
    "cut -d' ' -f18,19,41 /proc/self/stat; env; uname -mr"
)


@pytest.fixture
def real(oci: bundles.Runtime, tmp_path: Path) -> Iterator[bundles.Runtime]:
    """With a planner that root has started, with all of root's rights."""
    directory = tmp_path / "planner"
    pid = start_planner(bundles.FRONT_DOOR, directory)
    oci.environment["PYRUNC_OCI_PLANNER"] = str(directory)
    yield oci
    oci.environment["PYRUNC_OCI_PLANNER"] = "0"
    os.kill(pid, 9)
    await_end(pid)
    forget_cgroups()


@pytest.mark.parametrize("which", [*OTHERS, *ALIKE])
def test_both_paths_make_the_same_container(real: bundles.Runtime, tmp_path: Path, which: str) -> None:
    before = resolved(OTHERS.get(which) or ALIKE[which])
    path = real.bundle(tmp_path / "b", ["/bin/sh", "-c", LOOK])
    found = []
    for planner_at in ("0", real.environment["PYRUNC_OCI_PLANNER"]):
        words = [*before, *real.command("run", "--pid-file", str(tmp_path / "pid"), "-b", path, real.id)]
        done = subprocess.run(
            words, env=real.environment | {"PYRUNC_OCI_PLANNER": planner_at}, cwd="/", stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        mode = (tmp_path / "pid").stat().st_mode if (tmp_path / "pid").exists() else None
        (tmp_path / "pid").unlink(missing_ok=True)
        found.append((done.returncode, done.stdout, re.sub(r'time="[^"]*"', "", done.stderr), mode))
    assert found[0] == found[1]


ATTACK = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")


def test_root_without_its_rights_is_told_no_more_than_it_may_read(
    front_door: Path, oci: bundles.Runtime, tmp_path: Path
) -> None:
    """A plan holds what is in config.json. Without the comparison the planner would read it for whoever may not."""
    path = oci.bundle(tmp_path / "b", ["/bin/echo", "secret"])
    os.chown(path / "config.json", 12345, 12345)
    (path / "config.json").chmod(0o600)
    for safe in (True, False):
        directory = tmp_path / f"planner{safe}"
        code = CODE if safe else f"{CODE} resident.Planner._is_alike = lambda *_: True;"
        words = ("--root", str(oci.root), "run", "-b", str(path), oci.id)
        pid = start_planner(front_door, directory, code)

        def run(directory: Path = directory, words: tuple[str, ...] = words) -> str:
            return call(front_door, *words, planner=directory, before=ATTACK).stdout

        try:
            if safe:
                assert run() == " ".join(words) + "\n"
            else:
                until(lambda: not run().startswith("--root"), "it has no plan")
        finally:
            os.kill(pid, 9)
            await_end(pid)
            forget_cgroups()


def test_a_caller_is_what_the_kernel_says() -> None:
    """What is compared is read of the process that has connected, not sent by it."""
    mine = resident.rights_of("self", labelled=resident.has_label())
    assert resident.rights_of(os.getpid(), labelled=resident.has_label()) == mine
    names = {line.split(b":")[0] for line in mine}
    assert names >= {
        b"Uid",
        b"Gid",
        b"Groups",
        b"CapPrm",
        b"CapEff",
        b"CapBnd",
        b"CapAmb",
        b"NoNewPrivs",
        b"Seccomp",
    }
    with pytest.raises(OSError):
        resident.rights_of(0, labelled=False)


def test_the_cgroup_of_the_caller_counts_and_not_the_planners() -> None:
    top = next(
        (
            Path(place)
            for place in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
            if Path(place, "cgroup.procs").exists()
        ),
        None,
    )
    if top is None:
        pytest.skip("needs cgroup v2")
    place = top / f"pyrunc-test-{os.getpid()}-caller"
    place.mkdir()
    try:
        with subprocess.Popen(
            ["sh", "-c", f"echo $$ >{place}/cgroup.procs; echo; exec sleep 100"], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None and child.stdout.readline() == b"\n"
            before = compile_rootless.own_cgroup()
            caller.serve(child.pid)
            try:
                assert compile_rootless.own_cgroup() == f"/{place.name}" != before
            finally:
                caller.serve(0)
                child.kill()
    finally:
        place.rmdir()


def test_a_planner_leaves_its_starters_keyring() -> None:
    """Else it could read by keys of the starter's session what others may not."""
    number = _SYS_KEYCTL.get(os.uname().machine)
    libc = ctypes.CDLL(None, use_errno=True)
    if (
        number is None or libc.syscall(number, 0, -3, 0) < 0
    ):  # KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING
        pytest.skip("no keyrings here")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            before = libc.syscall(number, 0, -3, 0)
            standing.leave_keyring()
            code = int(libc.syscall(number, 0, -3, 0) in (before, -1))
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
