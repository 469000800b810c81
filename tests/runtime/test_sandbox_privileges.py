"""Capabilities, users, groups and what a set-user-id program gains, as the kernel reports them inside."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Sandbox
from pyrunc.errors import InvalidArgument, InvalidSpec, NotFound, StartError, Unsupported
from pyrunc.spec import capabilities
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("host_unchanged")

DOCKER = {
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
}  # fmt: skip


def names(bits: int) -> set[str]:
    return {name for number, name in enumerate(capabilities.NAMES) if bits >> number & 1}


def own() -> set[str]:
    status = Path("/proc/self/status").read_text()
    return names(int(re.findall(r"CapPrm:\s*(\w+)", status)[0], 16))


def held(run: Run, **options: Any) -> dict[str, set[str]]:
    rows = re.findall(r"Cap(\w+):\s*(\w+)", run("cat /proc/self/status", **options))
    return {kind: names(int(bits, 16)) for kind, bits in rows}


def test_dockers_capabilities_and_no_other(run: Run) -> None:
    found = held(run)
    assert found["Prm"] == found["Eff"] == found["Bnd"] == DOCKER
    assert found["Inh"] == found["Amb"] == set()


@pytest.mark.parametrize(("add", "drop", "expected"), [
    (["SYS_ADMIN", "cap_net_admin"], [], DOCKER | {"SYS_ADMIN", "NET_ADMIN"}),
    ([], ["CAP_KILL", "chown"], DOCKER - {"KILL", "CHOWN"}),
    ([], ["ALL"], set()),
    (["KILL", "SYS_TIME"], ["all"], {"KILL", "SYS_TIME"}),
    (["ALL"], [], None),
    (["ALL"], ["SYS_ADMIN"], None),
    (["ALL"], ["ALL"], None),  # in Docker to add wins
    (["CHOWN"], ["CHOWN"], DOCKER),  # first what is dropped, then what is added
])  # fmt: skip
def test_capabilities_added_and_dropped(
    run: Run, add: list[str], drop: list[str], expected: set[str] | None
) -> None:
    wanted = own() - set(drop) if expected is None else expected
    found = held(run, cap_add=add, cap_drop=drop)
    assert found["Eff"] == found["Prm"] == found["Bnd"] == wanted


def test_a_capability_does_what_it_says(run: Run) -> None:
    assert run("chown 5 /tmp && echo yes") == "yes\n"
    run("chown 5 /tmp 2>/dev/null", code=1, cap_drop=["CHOWN"])
    run("mount -t tmpfs none /tmp 2>/dev/null", code=1)
    run("mount -t tmpfs none /tmp", cap_add=["SYS_ADMIN"])


def test_capabilities_that_cannot_be_given(run: Run) -> None:
    with pytest.raises(InvalidArgument, match="cap_add: unknown capability 'FLY'"):
        run("true", cap_add=["FLY"])
    with pytest.raises(InvalidArgument, match="cap_drop: unknown capability"):
        run("true", cap_drop=["FLY"])
    missing = sorted(set(capabilities.NAMES) - own())
    if not missing:
        pytest.skip("this process has every capability, so none can be missing")
    with pytest.raises(Unsupported, match=f"cap_add: CAP_{missing[0]} is not among this process's own"):
        run("true", cap_add=[missing[0]])


def test_another_user_than_root_holds_none(run: Run) -> None:
    found = held(run, user="1234", cap_add=["SYS_ADMIN"])
    assert found["Prm"] == found["Eff"] == found["Amb"] == found["Inh"] == set()
    assert found["Bnd"] == DOCKER | {"SYS_ADMIN"}


@pytest.mark.usefixtures("probe")
def test_set_user_id_programs_and_no_new_privileges(run: Run) -> None:
    assert run("probe-root ids", user="web") == "1000 0 0\n"
    assert run("probe-root ids", user="web", no_new_privileges=True) == "1000 1000 1\n"
    assert run("id -u", no_new_privileges=True) == "0\n"


@pytest.mark.parametrize(("user", "groups", "expected"), [
    ("", [], "0 0 0 44"),  # as in Docker, root has the groups that the image gives it
    ("web", [], "1000 1001 29 44 1001"),
    ("1000", [], "1000 1001 29 44 1001"),
    ("web:audio", [], "1000 29 29"),
    ("web:4242", [], "1000 4242 4242"),
    ("4242", [], "4242 0 0"),
    ("4242:17", ["extra", "99"], "4242 17 17 50 99"),
    ("root:root", [], "0 0 0"),
])  # fmt: skip
def test_users_and_groups(run: Run, user: str, groups: list[str], expected: str) -> None:
    script = "echo $(id -u) $(id -g) $(grep Groups: /proc/self/status)"
    uid, gid, _, *listed = run(script, user=user, groups=groups).split()
    assert (uid, gid) == tuple(expected.split()[:2])
    assert {gid, *listed} == set(expected.split()[2:])


@pytest.mark.parametrize(
    ("user", "home"), [("", "/root"), ("web", "/home/web"), ("1000", "/home/web"), ("77", "/")]
)
def test_home_is_what_passwd_says(run: Run, user: str, home: str) -> None:
    assert run("echo $HOME", user=user) == f"{home}\n"
    assert run("echo $HOME", user=user, env={"HOME": "/own"}) == "/own\n"


def test_a_root_without_passwd(make_rootfs: Callable[[Path], Path], tmp_path: Path) -> None:
    root = make_rootfs(tmp_path / "root")
    (root / "etc/passwd").unlink()
    with Sandbox(root, user="5:6") as box:
        assert box.run(["/bin/sh", "-c", "echo $(id -u) $(id -g) $HOME"]).stdout == b"5 6 /\n"


def test_users_that_do_not_exist(run: Run) -> None:
    with pytest.raises(NotFound, match=r"^unable to find user foo: no matching entries in passwd file$"):
        run("true", user="foo")
    with pytest.raises(NotFound, match=r"^unable to find group bar: no matching entries in group file$"):
        run("true", user="web:bar")
    with pytest.raises(NotFound, match="unable to find group bar"):
        run("true", groups=["bar"])
    for user in ("-1", "4294967295", "99999999999999999999", "a/b", ":", "web:", ":web", "web\n", "we b"):
        with pytest.raises((InvalidArgument, NotFound)):
            run("true", user=user)
    with pytest.raises(InvalidSpec, match="a process is in at most 65536 groups"):
        run("true", groups=[str(number) for number in range(65537)])


def test_a_user_writes_to_its_own_standard_streams_by_name(run: Run) -> None:
    assert run("echo out > /dev/stdout; cat /dev/stdin", user="web", stdin=b"in\n") == "out\nin\n"


def test_a_fifo_on_the_host_keeps_its_owner(rootfs: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "fifo", "r+b", buffering=0) as fifo, Sandbox(rootfs, user="5:6") as box:
        with box.start(["/bin/sh", "-c", "echo hello"], stdout=fifo.fileno()) as process:
            assert process.wait() == 0
        assert fifo.readline() == b"hello\n"
        assert (os.fstat(fifo.fileno()).st_uid, os.fstat(fifo.fileno()).st_gid) == (0, 0)


def test_umask(run: Run) -> None:
    assert run("umask; touch /tmp/x; stat -c %a /tmp/x").split() == ["0022", "644"]
    assert run("umask; touch /tmp/x; stat -c %a /tmp/x", umask=0o077).split() == ["0077", "600"]


@pytest.mark.usefixtures("probe")
def test_low_ports_and_ping_need_no_capability_on_a_network_of_its_own(run: Run) -> None:
    assert run("probe port 80; probe ping", user="web", cap_drop=["ALL"]) == "ok\nok\n"
    sysctls = {"net.ipv4.ip_unprivileged_port_start": "1024", "net.ipv4.ping_group_range": "1 0"}
    assert (
        run("probe port 80; probe ping", user="web", cap_drop=["ALL"], sysctls=sysctls)
        == "Permission denied\n" * 2
    )


def test_a_capability_set_that_the_kernel_refuses_is_named(rootfs: Path) -> None:
    missing = sorted(set(capabilities.NAMES) - own())
    if not missing:
        pytest.skip("this process has every capability")
    wanted = [f"CAP_{missing[0]}"]
    spec = {
        "ociVersion": "1.2.0", "root": {"path": str(rootfs)},
        "mounts": [{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}],
        "process": {"args": ["true"], "cwd": "/", "capabilities": dict.fromkeys(("permitted", "effective"), wanted)},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    }  # fmt: skip
    with (
        Sandbox.from_spec(spec, str(rootfs.parent)) as box,
        pytest.raises(StartError, match="cannot hold the capabilities"),
    ):
        box.run(["/bin/true"])
