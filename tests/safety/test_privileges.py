"""What a container may do is what it was given: capabilities, ids, devices, kernel parameters, cgroups."""

import ctypes
import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc import Mount, Sandbox, errors
from pyrunc._native import namespaces
from pyrunc.runtime import cgroup_layout, spawner
from pyrunc.runtime.plan import Step
from pyrunc.spec import capabilities
from tests.child import in_child
from tests.safety import support

Make = Callable[..., Sandbox]
_SPEC = {
    "ociVersion": "1.2.0",
    "process": {"cwd": "/"},
    "linux": {"namespaces": [{"type": kind} for kind in ("mount", "pid", "ipc", "uts", "network", "cgroup")]},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
}
_HELD = [f"CAP_{name}" for bit, name in enumerate(capabilities.NAMES) if 0xA80425FB >> bit & 1]
_RW_CGROUPS = Mount("/sys/fs/cgroup", "cgroup", "cgroup", ["rw", "nosuid", "nodev", "noexec"])


def capability_sets(status: bytes | str) -> dict[str, int]:
    text = status.decode() if isinstance(status, bytes) else status
    return {line[:6]: int(line[7:], 16) for line in text.splitlines() if line.startswith("Cap")}


def permitted() -> int:
    return capability_sets(Path("/proc/self/status").read_text())["CapPrm"]


# --- capabilities


def test_inheritable_capabilities_are_empty(sandbox: Make) -> None:
    """CVE-2022-24769, 2022-29162: else a file capability of the image gives them to another user."""

    def attack() -> None:
        spawner._forget()
        # This process has them all: they are what a careless runtime passes on.
        low, high = permitted() & 0xFFFFFFFF, permitted() >> 32
        header = struct.pack("=Ii", 0x20080522, 0)
        support.call(support.libc.capset(header, struct.pack("=6I", low, low, low, high, high, high)))
        assert capability_sets(Path("/proc/self/status").read_text())["CapInh"] != 0
        show = ["/bin/grep", "Cap", "/proc/self/status"]
        for box in (sandbox(), sandbox(cap_add=["ALL"]), sandbox(user="1000:1000", cap_add=["NET_ADMIN"])):
            held = capability_sets(box.run(show).stdout)
            assert held["CapInh"] == held["CapAmb"] == 0

        def keeps(step: Step) -> Step | None:
            return None if step.op == "capabilities" else step

        assert capability_sets(support.patch(sandbox(), keeps).run(show).stdout)["CapInh"] != 0
        spawner.shut_down()

    in_child(attack)


def test_a_document_that_names_no_capabilities_gets_none(rootfs: Path) -> None:
    """As runc and crun have it; else whoever forgets them hands over the host's root."""
    show = ["/bin/grep", "Cap", "/proc/self/status"]
    box = Sandbox.from_spec({**_SPEC, "root": {"path": str(rootfs)}})
    assert set(capability_sets(box.run(show).stdout).values()) == {0}

    def keeps(step: Step) -> Step | None:
        return None if step.op in ("capabilities", "bounding") else step

    careless = support.patch(Sandbox.from_spec({**_SPEC, "root": {"path": str(rootfs)}}), keeps)
    assert capability_sets(careless.run(show).stdout)["CapEff"] == permitted()


@pytest.mark.parametrize(
    "user",
    [
        "0x0",
        "-1",
        "4294967295",
        "4294967296",
        "1000:",
        ":",
        ":0",
        " 0",
        "0 ",
        "0\n",
        "\uff11",
        "+0",
        "0:-1",
        "../0",
    ],
)
def test_user_strings_are_parsed_strictly(sandbox: Make, user: str) -> None:
    """CVE-2022-27650 and its kin: what is no id must not become root by the way it is parsed."""
    with pytest.raises(errors.PyruncError):
        sandbox(user=user).run(["/bin/id", "-u"])
    support.libc.strtoul.restype = ctypes.c_ulong
    careless = support.libc.strtoul(user.partition(":")[0].encode(), None, 0) & 0xFFFFFFFF
    assert careless in (0, 0xFFFFFFFF, 1000) or user == "../0"


def test_the_images_passwd_is_parsed_strictly(rootfs: Path, sandbox: Make) -> None:
    lines = {
        "spaces": " 0",
        "hex": "0x3e8",
        "negative": "-1",
        "huge": "4294967296",
        "empty": "",
        "text": "root",
    }
    passwd = "".join(f"{name}:x:{uid}:1000::/:/bin/sh\n" for name, uid in lines.items())
    (rootfs / "etc" / "passwd").write_text(passwd)
    support.libc.strtoul.restype = ctypes.c_ulong
    for name, uid in lines.items():
        with pytest.raises(errors.PyruncError):
            sandbox(user=name).run(["/bin/id", "-u"])
        assert support.libc.strtoul(uid.encode(), None, 10) & 0xFFFFFFFF in (
            0,
            0xFFFFFFFF,
        )  # root, or "do not change"


def test_the_passwd_of_an_image_does_not_lead_to_the_hosts(
    rootfs: Path, sandbox: Make, tmp_path: Path
) -> None:
    secret = tmp_path / "passwd"
    secret.write_text("someone:x:1234:1234::/:/bin/sh\n")
    (rootfs / "etc" / "passwd").symlink_to(secret)
    with pytest.raises(errors.NotFound):
        sandbox(user="someone")
    assert "someone" in Path(f"{rootfs}/etc/passwd").read_text()  # what open(2) makes of it


# --- non-dumpable


@pytest.mark.parametrize("what", ["mem", "environ", "exe", "fd/0", "maps", "cwd", "root"])
def test_nobody_looks_into_our_processes(sandbox: Make, what: str) -> None:
    """Another process of the same uid, without CAP_SYS_PTRACE: the spawner, a spare, a supervisor."""
    with sandbox().start(["/bin/sleep", "60"]) as process:
        spawner_pid = support.spawner_pid()
        # the supervisor and the last spare, which stays
        assert support.wait_until(lambda: len(support.children(spawner_pid)) == 2)
        ours = [spawner_pid, *support.children(spawner_pid)]
        assert support.supervisor_of(process.pid) in ours

        def attack() -> None:
            drop_ptrace()
            for pid in ours:
                with pytest.raises(PermissionError):
                    peek(pid, what)

        in_child(attack)

    def all_the_same() -> None:
        drop_ptrace()

    with support.forked(all_the_same) as careless:  # the same capabilities as the attacker, and dumpable

        def attack_careless() -> None:
            drop_ptrace()
            peek(careless, what)

        in_child(attack_careless)


def drop_ptrace() -> None:
    """All capabilities but CAP_SYS_PTRACE, and CAP_PERFMON and CAP_SYS_ADMIN, which do since Linux 6.13."""
    rest = permitted() & ~(1 << 19 | 1 << 38 | 1 << 21)
    low, high = rest & 0xFFFFFFFF, rest >> 32
    header = struct.pack("=Ii", 0x20080522, 0)
    support.call(support.libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)))
    support.call(support.libc.prctl(support.PR_SET_DUMPABLE, 1, 0, 0, 0))


def peek(pid: int, what: str) -> None:
    place = f"/proc/{pid}/{what}"
    if what in ("exe", "cwd", "root", "fd/0"):
        os.readlink(place)
    else:
        with open(place, "rb") as file:
            if what != "mem":
                file.read(1)


# --- kernel parameters, devices, cgroups


@pytest.mark.parametrize(
    "path", ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity"]
)
def test_kernel_parameters_cannot_be_written(sandbox: Make, path: str) -> None:
    """Opened for writing only: nothing is ever written, since a careless runtime's container could."""
    touch = ["/bin/sh", "-c", f": >> {path} && echo opened"]
    if not os.path.exists(path):
        pytest.skip(f"this kernel has no {path}")
    result = sandbox().run(touch)
    assert (result.stdout, b"ead-only file system" in result.stderr) == (b"", True), result
    assert sandbox(readonly_paths=[]).run(touch).stdout == b"opened\n"


@pytest.mark.parametrize("path", ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"])
def test_masked_paths_tell_nothing(sandbox: Make, path: str) -> None:
    if not os.path.exists(path):
        pytest.skip(f"this kernel has no {path}")
    if os.path.isdir(path):
        if not os.listdir(path):
            pytest.skip(f"{path} is empty")
        assert sandbox().run(["/bin/ls", path]).stdout == b""
        assert sandbox(masked_paths=[]).run(["/bin/ls", path]).stdout != b""
    else:
        show = ["/bin/ls", "-l", path]
        assert sandbox().run(show).stdout.startswith(b"c")
        assert sandbox(masked_paths=[]).run(show).stdout.startswith(b"-")


def forbidden_device() -> str:
    """A device that this host opens without a special capability, as "major minor"."""
    # The log needs a capability where kernel.dmesg_restrict says so.
    log = ("/dev/kmsg",) if Path("/proc/sys/kernel/dmesg_restrict").read_text() == "0\n" else ()
    for path in ("/dev/loop-control", "/dev/net/tun", "/dev/fuse", *log):
        try:
            os.close(os.open(path, os.O_RDONLY))
        except OSError:
            continue
        number = os.stat(path).st_rdev
        return f"{os.major(number)} {os.minor(number)}"
    pytest.skip("none of the devices that this attack wants is on the host")


def test_devices_that_were_not_given_cannot_be_opened(sandbox: Make) -> None:
    """mknod(2) is allowed by default, as in Docker; the cgroup is what keeps the host's disks away."""
    script = f"mknod /tmp/node c {forbidden_device()} && exec 3< /tmp/node && echo opened"
    result = sandbox().run(["/bin/sh", "-c", script])
    assert (result.stdout, b"Operation not permitted" in result.stderr) == (b"", True), result

    def keeps(step: Step) -> Step | None:
        return None if step.op == "device_bpf" or (step.s0 or "").startswith("devices.") else step

    assert support.patch(sandbox(), keeps).run(["/bin/sh", "-c", script]).stdout == b"opened\n"


def test_a_containers_nodes_do_not_work_outside(sandbox: Make, tmp_path: Path) -> None:
    """A node that a container makes in a shared directory is a node on the host; not by a volume that is nodev."""
    volume = tmp_path / "volume"
    volume.mkdir()
    numbers = forbidden_device()
    rules = [f"c {numbers.replace(' ', ':')} r"]
    box = sandbox(mounts=[Mount("/v", str(volume), options=["rbind", "nodev"])], device_cgroup_rules=rules)
    assert box.run(["/bin/mknod", "/v/node", "c", *numbers.split()]).exit_code == 0
    assert b"denied" in box.run(["/bin/sh", "-c", "exec 3< /v/node"]).stderr
    careless = sandbox(mounts=[Mount("/v", str(volume))], device_cgroup_rules=rules)
    assert careless.run(["/bin/sh", "-c", "exec 3< /v/node && echo opened"]).stdout == b"opened\n"


def one_hierarchy() -> cgroup_layout.Hierarchy:
    layout = cgroup_layout.detect()
    return layout.of("pids") or layout.hierarchies[0]


def inside(hierarchy: cgroup_layout.Hierarchy) -> str:
    """Where a container sees its own cgroup of a hierarchy."""
    return (
        "/sys/fs/cgroup"
        if hierarchy.version == 2
        else f"/sys/fs/cgroup/{os.path.basename(hierarchy.mountpoint)}"
    )


def test_cgroups_are_read_only(sandbox: Make) -> None:
    place = inside(one_hierarchy())
    attack = ["/bin/sh", "-c", f"mount -o remount,rw {place}; mkdir {place}/mine && echo made"]
    assert sandbox().run(attack).stdout == b""

    def writable(step: Step) -> Step:
        return step._replace(n0=step.n0 & ~1) if step.op == "mount_attr" else step

    assert support.patch(sandbox(), writable).run(attack).stdout == b"made\n"


def test_cgroups_show_nothing_above_the_containers_own(sandbox: Make) -> None:
    """release_agent is in the root of a hierarchy only; who can write it runs a program on the host."""
    hierarchy = one_hierarchy()
    place = inside(hierarchy)
    script = ["/bin/sh", "-c", f"ls {place}; cat /proc/self/cgroup"]
    text = sandbox().run(script).stdout.decode()
    assert "pyrunc" not in text
    assert hierarchy.version == 2 or "release_agent" not in text

    def whole(step: Step) -> Step:
        """The hierarchy, not the container's directory of it."""
        mine = step.op == "open_tree" and (step.s0 or "").startswith(hierarchy.mountpoint + "/")
        return step._replace(s0=hierarchy.mountpoint) if mine else step

    assert "pyrunc" in support.patch(sandbox(), whole).run(script).stdout.decode()


@pytest.mark.parametrize(
    "path", ["/", "..", "/../x", "/a/../../b", "/a/..", "/./x", "//", "/x\ny", "/x\0y", "/" + "x" * 256]
)
def test_a_cgroup_path_stays_in_its_hierarchy(rootfs: Path, tmp_path: Path, path: str) -> None:
    spec = {**_SPEC, "root": {"path": str(rootfs)}, "linux": {**_SPEC["linux"], "cgroupsPath": path}}  # type: ignore[dict-item]
    with pytest.raises(errors.InvalidArgument):
        Sandbox.from_spec(spec).run(["/bin/true"])
    # Careless: the kernel walks wherever it says.
    root = tmp_path / "hierarchy"
    (root / "a").mkdir(parents=True)
    careless = os.path.normpath(f"{root}/{path}".replace("\0", ""))
    assert not careless.startswith(f"{root}/") or not os.path.isdir(careless)


@pytest.mark.parametrize("parent", ["/../x", "/a/../../b", "x", "/x\0y"])
def test_a_cgroup_parent_stays_in_its_hierarchy(sandbox: Make, parent: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        sandbox(cgroup_parent=parent).run(["/bin/true"])


def test_cgroups_made_inside_are_removed(sandbox: Make) -> None:
    name = f"/pyrunc-safety-{os.getpid()}"
    script = (
        "for d in /sys/fs/cgroup/*/ /sys/fs/cgroup/; do mkdir -p $d/a/b/c $d/d 2>/dev/null && echo made; done"
    )
    result = sandbox(mounts=[_RW_CGROUPS], cgroup_parent=name).run(["/bin/sh", "-c", script])
    assert b"made" in result.stdout
    assert not support.cgroups(name)


# --- seccomp


def test_the_filter_holds_by_default(rootfs: Path) -> None:
    """keyctl(2), which Docker's policy refuses; its error tells whether the kernel was asked at all."""
    source = (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
        f"print(libc.syscall({support.KEYCTL}, 0, -4, 0), ctypes.get_errno())"
    )
    command = support.python(source)
    assert Sandbox(rootfs, mounts=support.python_mounts()).run(command).stdout == b"-1 1\n"
    careless = Sandbox(rootfs, mounts=support.python_mounts(), seccomp="unconfined")
    assert careless.run(command).stdout != b"-1 1\n"


def test_a_program_does_not_gain_privileges_where_it_must_not(rootfs: Path, sandbox: Make) -> None:
    program = rootfs / "bin" / "su"  # an applet that keeps setuid
    program.write_bytes(Path("/bin/busybox").read_bytes())
    program.chmod(0o4755)
    (rootfs / "etc" / "passwd").write_text("root::0:0::/:/bin/sh\nuser::1000:1000::/:/bin/sh\n")
    command = ["/bin/su", "root", "-c", "id -u"]
    assert sandbox(user="1000:1000", no_new_privileges=True).run(command).stdout != b"0\n"
    assert sandbox(user="1000:1000").run(command).stdout == b"0\n"


def test_namespaces_are_not_the_hosts(sandbox: Make) -> None:
    kinds = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
    script = ["/bin/sh", "-c", "ls -l /proc/self/ns"]
    ours = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}
    text = sandbox().run(script).stdout.decode()
    assert not [kind for kind in kinds if ours[kind] in text]
    open_one = (
        sandbox(network="host", pid="host", ipc="host", uts="host", cgroupns="host")
        .run(script)
        .stdout.decode()
    )
    assert [kind for kind in kinds if ours[kind] in open_one] == list(kinds[1:])


def test_a_container_of_the_hosts_pids_cannot_end_up_in_our_processes(sandbox: Make) -> None:
    """With the host's pids it sees spawner and supervisors; it gets no look into them, nor at their program."""
    source = (
        "import os, sys\n"
        "for pid in sys.argv[1:]:\n"
        "    for name, flags in (('exe', os.O_RDWR), ('exe', os.O_RDONLY), ('mem', os.O_RDWR), ('root', os.O_PATH)):\n"
        "        try: os.open(f'/proc/{pid}/{name}', flags); print('opened', pid, name)\n"
        "        except OSError: pass\n"
    )
    with sandbox().start(["/bin/sleep", "60"]) as process:
        ours = [
            support.spawner_pid(),
            *support.children(support.spawner_pid()),
            support.supervisor_of(process.pid),
        ]
        box = sandbox(pid="host", mounts=support.python_mounts())
        result = box.run(support.python(source, *map(str, ours)))
        assert (result.stdout, result.stderr) == (b"", b"")

    def like_the_container() -> None:
        low, high = 0xA80425FB, 0
        header = struct.pack("=Ii", 0x20080522, 0)
        support.call(support.libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)))
        support.call(support.libc.prctl(support.PR_SET_DUMPABLE, 1, 0, 0, 0))

    with support.forked(like_the_container) as careless:
        assert b"opened" in box.run(support.python(source, str(careless))).stdout


def test_a_joined_network_of_the_host_keeps_its_parameters(sandbox: Make) -> None:
    """A sysctl of a network namespace by path, which is the host's own: what runc refuses."""
    before = Path("/proc/sys/net/ipv4/ip_default_ttl").read_text()
    wanted = "64" if before.strip() != "64" else "65"

    def attack() -> None:
        spawner._forget()
        refused = False
        try:
            box = sandbox(network=f"/proc/{os.getpid()}/ns/net", sysctls={"net.ipv4.ip_default_ttl": wanted})
            box.run(["/bin/true"])
        except errors.PyruncError:
            refused = True
        spawner.shut_down()
        assert refused
        assert Path("/proc/sys/net/ipv4/ip_default_ttl").read_text() == before

    # In a network namespace that stands for the host's, so that nothing is changed in earnest.
    in_child(attack, namespaces.CLONE_NEWNET | namespaces.CLONE_NEWNS)


def test_no_namespace_of_one_container_is_left_for_the_next(rootfs: Path, sandbox: Make) -> None:
    """A supervisor that has joined a pid namespace for one container must not clone another's init there."""
    spawner.shut_down()  # so that few supervisors wait
    show = ["/bin/grep", "NSpid", "/proc/self/status"]
    others = [entry for entry in _SPEC["linux"]["namespaces"] if entry["type"] != "pid"]  # type: ignore[index]
    with sandbox().start(["/bin/sleep", "60"]) as first:
        path = f"/proc/{first.pid}/ns/pid"
        spec = {
            **_SPEC, "root": {"path": str(rootfs)},
            "linux": {"namespaces": [*others, {"type": "pid", "path": path}]},
        }  # fmt: skip
        joined = Sandbox.from_spec(spec)
        inside = os.readlink(path)
        for _ in range(5):
            assert joined.run(["/bin/ls", "-l", "/proc/self/ns/pid"]).stdout.split()[-1].decode() == inside
            host = sandbox(pid="host").run(["/bin/ls", "-l", "/proc/self/ns/pid"]).stdout.split()[-1].decode()
            assert host == os.readlink("/proc/self/ns/pid")
            with sandbox().start(["/bin/sleep", "60"]) as nested:
                levels = (
                    Path(f"/proc/{nested.pid}/status")
                    .read_text()
                    .partition("NSpid:")[2]
                    .split("\n")[0]
                    .split()
                )
                assert len(levels) == 2, "born below another container's"
    for _ in range(10):  # and none is broken by the end of that namespace
        assert sandbox().run(show).exit_code == 0


_WATCHER = """
import os, sys
print('ready', flush=True)
seen = set()
while True:
    for name in os.listdir('/proc'):
        if not name.isdigit() or int(name) <= os.getpid():
            continue
        try:
            program = os.readlink(f'/proc/{name}/exe')
            if 'pyrunc-init' in program or os.path.exists(f'/proc/{name}/root{sys.argv[1]}'):
                print('inside', name, program, flush=True)
            elif name not in seen:
                seen.add(name)
                print('program', flush=True)
        except OSError:
            pass
"""


def test_who_shares_a_pid_namespace_does_not_get_into_an_init(
    rootfs: Path, sandbox: Make, tmp_path: Path
) -> None:
    """A container joins the pid namespace of a hostile one: until execve its init holds the host's root."""
    marker = tmp_path / "marker"
    marker.touch()
    watcher = sandbox(mounts=support.python_mounts())
    namespaces_of = [entry for entry in _SPEC["linux"]["namespaces"] if entry["type"] != "pid"]  # type: ignore[index]
    reading, writing = os.pipe()
    command = support.python(_WATCHER, str(marker))
    with watcher.start(command, stdout=writing, stderr=writing) as hostile, open(reading) as told:
        os.close(writing)
        assert told.readline() == "ready\n"
        spec = {
            **_SPEC, "root": {"path": str(rootfs)},
            "linux": {"namespaces": [*namespaces_of, {"type": "pid", "path": f"/proc/{hostile.pid}/ns/pid"}]},
            "process": {"cwd": "/", "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _HELD)},
        }  # fmt: skip
        box = Sandbox.from_spec(spec)
        for _ in range(100):
            box.run(["/bin/sleep", "0.01"])

        def careless() -> None:
            """Joins the pid namespace with the host's root, dumpable, with what the container may hold."""
            fd = os.open(f"/proc/{hostile.pid}/ns/pid", os.O_RDONLY)
            namespaces.setns(fd, namespaces.CLONE_NEWPID)
            child = os.fork()
            if child == 0:
                header = struct.pack("=Ii", 0x20080522, 0)
                support.call(
                    support.libc.capset(header, struct.pack("=6I", 0xA80425FB, 0xA80425FB, 0, 0, 0, 0))
                )
                support.call(support.libc.prctl(support.PR_SET_DUMPABLE, 1, 0, 0, 0))
                time.sleep(600)
                os._exit(0)
            signal.alarm(60)
            seen = [told.readline()]
            while not seen[-1].startswith("inside"):
                seen.append(told.readline())
            os.kill(child, signal.SIGKILL)
            os.wait()
            assert "program\n" in seen, "it never met a container's program"
            assert all("pyrunc-init" not in line for line in seen)
            assert "python" in seen[-1]

        in_child(careless)
        hostile.kill()
        assert all("pyrunc-init" not in line for line in told)
