"""Documents that make or join each kind of namespace, looked at from inside their containers."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Sandbox
from pyrunc.errors import InvalidSpec, StartError, Unsupported
from pyrunc.spec import defaults
from tests.spec_run import bundle_spec, run_spec

pytestmark = pytest.mark.usefixtures("host_unchanged")

KINDS = {"mount": "mnt", "pid": "pid", "network": "net", "uts": "uts", "ipc": "ipc", "cgroup": "cgroup",
         "user": "user", "time": "time"}  # fmt: skip
LINKS = "".join(f"readlink /proc/self/ns/{link};" for link in KINDS.values())
MAPS = [
    {"containerID": 0, "hostID": 100000, "size": 1000},
    {"containerID": 1000, "hostID": 300000, "size": 5},
]

Spec = dict[str, Any]


def spec_of(**paths: str) -> Spec:
    """The usual document, with the namespaces *paths* besides or instead of its own; "" is for a new one."""
    spec = bundle_spec()
    kept = [{"type": kind} for kind in defaults.NAMESPACES if kind not in paths]
    spec["linux"]["namespaces"] = kept + [
        {"type": kind, "path": path} if path else {"type": kind} for kind, path in paths.items()
    ]
    return spec


def without_kernels(spec: Spec) -> Spec:
    """Without the file systems and the name that are for the owner of the network, the queues and the names."""
    kept = [mount for mount in spec["mounts"] if mount["type"] not in ("sysfs", "mqueue", "cgroup")]
    return {**{key: value for key, value in spec.items() if key != "hostname"}, "mounts": kept}


@contextmanager
def held(*options: str) -> Iterator[int]:
    """A process that util-linux' unshare has put into namespaces of its own; its pid."""
    child = subprocess.Popen(
        ["unshare", *options, "sh", "-c", "echo; read x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == b"\n"
        yield child.pid
    finally:
        child.communicate(b"\n")


@pytest.fixture
def inside(rootfs: Path) -> Callable[[Spec], dict[str, str]]:
    def call(spec: Spec) -> dict[str, str]:
        return dict(zip(KINDS, run_spec(rootfs, spec, LINKS).split(), strict=True))

    return call


def test_a_time_namespace_of_its_own(rootfs: Path, inside: Callable[[Spec], dict[str, str]]) -> None:
    assert inside(spec_of(time=""))["time"] != os.readlink("/proc/self/ns/time")
    spec = spec_of(time="")
    spec["linux"]["timeOffsets"] = {
        "monotonic": {"secs": 172800, "nanosecs": 5}, "boottime": {"secs": 1_000_000, "nanosecs": 999_999_999},
    }  # fmt: skip
    text = run_spec(rootfs, spec, "cat /proc/self/timens_offsets /proc/uptime")
    monotonic, boottime, uptime = (line.split() for line in text.splitlines())
    assert monotonic == ["monotonic", "172800", "5"]
    assert boottime == ["boottime", "1000000", "999999999"]
    host = float(Path("/proc/uptime").read_text().split()[0])
    assert 1_000_000 <= float(uptime[0]) - host < 1_000_100
    # who is born later is in it too, and the host's clocks are what they were
    assert run_spec(rootfs, spec, "sh -c 'cat /proc/self/timens_offsets' | head -1").split() == monotonic
    assert Path("/proc/self/timens_offsets").read_text().split()[1] == "0"


def test_a_clock_before_the_boot(rootfs: Path) -> None:
    spec = spec_of(time="")
    spec["linux"]["timeOffsets"] = {"boottime": {"secs": -(10**9)}}
    with pytest.raises(
        StartError, match=r"cannot set linux.timeOffsets by timens_offsets: numerical result out of range"
    ):
        run_spec(rootfs, spec, "true")


def test_time_by_path(inside: Callable[[Spec], dict[str, str]], rootfs: Path) -> None:
    with held("--time", "--boottime", "5000", "--fork") as parent:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        path = f"/proc/{children[0]}/ns/time"
        assert inside(spec_of(time=path))["time"] == os.readlink(path)
        assert "5000" in run_spec(rootfs, spec_of(time=path), "cat /proc/self/timens_offsets")
        maps = {"uidMappings": MAPS, "gidMappings": MAPS}
        spec = spec_of(time=path, user="")
        spec["linux"].update(maps)
        assert inside(spec)["time"] == os.readlink(path)


@pytest.mark.parametrize(("namespaces", "offsets", "words"), [
    ({}, {"monotonic": {"secs": 1}}, "linux.timeOffsets: time namespace offsets specified, but"),
    ({"time": "/proc/self/ns/time"}, {"monotonic": {"secs": 1}}, "linux.timeOffsets: a time namespace that is joined"),
    ({"time": ""}, {"realtime": {"secs": 1}}, "linux.timeOffsets: unknown clock 'realtime'"),
    ({"time": ""}, {"monotonic": {"nanosecs": 10**9}}, "linux.timeOffsets.monotonic.nanosecs: must be an integer"),
    ({"time": ""}, {"monotonic": {"secs": 1 << 62}}, "linux.timeOffsets.monotonic.secs: must be an integer"),
])  # fmt: skip
def test_offsets_that_cannot_be(rootfs: Path, namespaces: Spec, offsets: Spec, words: str) -> None:
    spec = spec_of(**namespaces)
    spec["linux"]["timeOffsets"] = offsets
    with pytest.raises(InvalidSpec, match=words):
        Sandbox.from_spec(spec, rootfs.parent)


def test_several_mappings_of_a_new_user_namespace(rootfs: Path) -> None:
    spec = spec_of(user="")
    spec["linux"].update(uidMappings=MAPS, gidMappings=MAPS[:1])
    text = run_spec(rootfs, spec, "id -u; cat /proc/self/uid_map /proc/self/gid_map")
    assert [line.split() for line in text.splitlines()] == [
        ["0"], ["0", "100000", "1000"], ["1000", "300000", "5"], ["0", "100000", "1000"],
    ]  # fmt: skip
    spec["process"]["user"] = {"uid": 1004, "gid": 7}
    assert run_spec(rootfs, spec, "id -u; id -g").split() == ["1004", "7"]
    spec["process"]["user"] = {"uid": 1005}
    with pytest.raises(StartError, match="invalid argument"):
        run_spec(rootfs, spec, "true")


@pytest.fixture
def user_namespace() -> Iterator[int]:
    """A process in a user namespace with two rows of mappings, and in a network namespace of that one."""
    with held("-U", "-n", "--keep-caps") as pid:
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text("0 100000 1000\n1000 300000 5\n")
        yield pid


def test_a_user_namespace_by_path(
    rootfs: Path, user_namespace: int, inside: Callable[[Spec], dict[str, str]]
) -> None:
    path = f"/proc/{user_namespace}/ns/user"
    found = inside(spec_of(user=path))
    assert found["user"] == os.readlink(path)
    # all others are new, and nobody else's
    for kind, link in KINDS.items():
        assert (found[kind] == os.readlink(f"/proc/self/ns/{link}")) == (kind == "time"), kind
    text = run_spec(
        rootfs,
        spec_of(user=path),
        "id -u; cat /proc/self/uid_map; hostname other && hostname; ls -ln /dev/null",
    )
    assert text.split()[:8] == ["0", "0", "100000", "1000", "1000", "300000", "5", "other"]
    spec = spec_of(user=path)
    spec["linux"].update(uidMappings=MAPS, gidMappings=MAPS)  # as the kernel has them
    assert inside(spec)["user"] == os.readlink(path)
    spec["linux"]["uidMappings"] = MAPS[:1]
    with pytest.raises(
        InvalidSpec, match=f"linux.uidMappings: differ from those of the user namespace {path}"
    ):
        run_spec(rootfs, spec, "true")
    # what belongs to the joined one is its root's to change
    spec = spec_of(user=path)
    spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    assert run_spec(rootfs, spec, "cat /proc/sys/net/ipv4/ip_forward") == "1\n"


def test_a_user_namespace_with_others_of_it_and_of_the_host(
    user_namespace: int, inside: Callable[[Spec], dict[str, str]]
) -> None:
    """As in a pod: the network is of the joined user namespace, or of the host."""
    path = f"/proc/{user_namespace}/ns"
    found = inside(spec_of(user=f"{path}/user", network=f"{path}/net"))
    assert (found["user"], found["network"]) == (os.readlink(f"{path}/user"), os.readlink(f"{path}/net"))
    with held("-n", "-u", "-i") as pid:
        host = {kind: f"/proc/{pid}/ns/{KINDS[kind]}" for kind in ("network", "uts", "ipc")}
        found = inside(without_kernels(spec_of(user=f"{path}/user", **host)))
        assert all(found[kind] == os.readlink(where) for kind, where in host.items())
        new = without_kernels(spec_of(user="", **host))
        new["linux"].update(uidMappings=MAPS, gidMappings=MAPS)
        found = inside(new)
        assert all(found[kind] == os.readlink(where) for kind, where in host.items())
        assert found["user"] not in (os.readlink(f"{path}/user"), os.readlink("/proc/self/ns/user"))


@pytest.mark.parametrize("user", [False, True])
def test_a_pid_namespace_by_path_is_where_the_program_is_born(rootfs: Path, user: bool) -> None:
    with held("-p", "--fork", *(["-U"] if user else [])) as parent:
        for name in ("uid_map", "gid_map") if user else ():
            Path(f"/proc/{parent}/{name}").write_text("0 100000 1000\n")
        first = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0]
        paths = {kind: f"/proc/{first}/ns/{kind}" for kind in (("pid", "user") if user else ("pid",))}
        script = "readlink /proc/self/ns/pid; echo $$; cat /proc/1/comm"
        link, number, comm = run_spec(rootfs, spec_of(**paths), script).split()
        assert link == os.readlink(paths["pid"])
        assert int(number) > 1 and comm == "sh"
        # the next container does not find itself in there
        assert run_spec(rootfs, spec_of(), "echo $$") == "1\n"


def test_this_processs_own_user_namespace_is_none(rootfs: Path) -> None:
    text = run_spec(
        rootfs, spec_of(user="/proc/self/ns/user"), "readlink /proc/self/ns/user; cat /proc/self/uid_map"
    )
    assert text.split() == [os.readlink("/proc/self/ns/user"), "0", "0", "4294967295"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "mount"])
def test_a_path_that_is_no_such_namespace(rootfs: Path, kind: str) -> None:
    for path, words in (("/etc/hostname", "invalid argument"), ("/no/such", "no such file or directory"),
                        (f"/proc/self/ns/{'net' if kind != 'network' else 'uts'}", "invalid argument")):  # fmt: skip
        with pytest.raises((InvalidSpec, StartError), match=words):
            run_spec(rootfs, spec_of(**{kind: path}), "true")


@pytest.mark.parametrize(("linux", "words"), [
    ({"uidMappings": MAPS}, "linux.uidMappings: user namespace mappings specified, but a user namespace is not"),
    ({"namespaces": [{"type": "mount"}, {"type": "user"}], "uidMappings": MAPS}, "a new user namespace needs both"),
    ({"namespaces": [{"type": "mount"}, {"type": "mount"}]}, r"linux.namespaces\[1\]: mount is listed twice"),
    ({"namespaces": [{"type": "mount"}, {"type": "nix"}]}, r"linux.namespaces\[1\].type: unknown namespace 'nix'"),
])  # fmt: skip
def test_documents_that_contradict_themselves(rootfs: Path, linux: Spec, words: str) -> None:
    spec = bundle_spec()
    spec["linux"].update(linux)
    with pytest.raises(InvalidSpec, match=words):
        Sandbox.from_spec(spec, rootfs.parent)


def test_ten_staged_starts_leave_nothing(rootfs: Path) -> None:
    """Of those that fail in the stage too; `host_unchanged` looks."""
    spec = spec_of(time="")
    spec["linux"]["timeOffsets"] = {"boottime": {"secs": 5}}
    bad = spec_of(time="")
    bad["linux"]["timeOffsets"] = {"boottime": {"secs": -(10**9)}}
    with Sandbox.from_spec(spec, rootfs.parent) as good, Sandbox.from_spec(bad, rootfs.parent) as wrong:
        for _ in range(10):
            assert good.run(["/bin/true"], timeout_s=30).exit_code == 0
            with pytest.raises(StartError, match="timens_offsets"):
                wrong.run(["/bin/true"], timeout_s=30)


def test_a_mount_namespace_by_path_becomes_the_containers(inside: Callable[[Spec], dict[str, str]]) -> None:
    """As runc has it: whoever is in it has the container's root from then on."""
    with held("-m", "--propagation", "private") as pid:
        path = f"/proc/{pid}/ns/mnt"
        assert inside(spec_of(mount=path))["mount"] == os.readlink(path)
        assert "busybox" in os.listdir(f"/proc/{pid}/root/bin")
        assert len(os.listdir(f"/proc/{pid}/root/etc")) == 2


@pytest.mark.parametrize("path", [None, "/proc/self/ns/mnt"])
def test_the_hosts_mount_namespace_is_refused(rootfs: Path, path: str | None) -> None:
    spec = spec_of(mount=path or "")
    if path is None:
        spec["linux"]["namespaces"] = [row for row in spec["linux"]["namespaces"] if row["type"] != "mount"]
    with pytest.raises(
        Unsupported, match=r"linux\.namespaces: a container needs a mount namespace of its own"
    ):
        Sandbox.from_spec(spec, rootfs.parent)


def test_a_further_program_joins_them_all(rootfs: Path, user_namespace: int) -> None:
    spec = spec_of(user=f"/proc/{user_namespace}/ns/user", network=f"/proc/{user_namespace}/ns/net", time="")
    spec["linux"]["timeOffsets"] = {"boottime": {"secs": 12345}}
    with (
        Sandbox.from_spec({**spec, "root": {"path": str(rootfs)}}, rootfs.parent) as box,
        box.start(["sleep", "60"]) as first,
    ):
        result = first.exec(["/bin/sh", "-c", f"{LINKS} cat /proc/self/timens_offsets; id -u"], timeout_s=30)
        *links, _, _, _, _, seconds, _, uid = result.stdout.decode().split()
        assert links == [os.readlink(f"/proc/{first.pid}/ns/{link}") for link in KINDS.values()]
        assert (seconds, uid) == ("12345", "0")
