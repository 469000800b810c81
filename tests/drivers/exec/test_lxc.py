"""What only LXC as a runtime could get wrong: its words, its filter, its mount points, and what it leaves."""

import ctypes
import errno
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest

import pyrunc
from pyrunc.drivers import registry
from pyrunc.drivers.exec import lxc_config, lxc_seccomp
from pyrunc.errors import InvalidArgument, Unsupported
from pyrunc.runtime import seccomp
from pyrunc.runtime.cgroup_layout import detect
from pyrunc.runtime.options import to_request
from tests.bpf_sim import run as decide
from tests.drivers.exec.conftest import Pyrunc, image, needs
from tests.safety.support import wait_until

ECHO = ["sh", "-c", 'for each; do printf "<%s>" "$each"; done', "sh"]
NATIVE, X86 = 0xC000003E, 0x40000003
X32_BIT = 0x40000000
ALLOW = 0x7FFF0000
_SEIZE, _INTERRUPT, _DETACH, _GET_FILTER = 0x4206, 0x4207, 17, 0x420C
_WALL = 0x40000000


@pytest.fixture(scope="module")
def lxc(busybox: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pyrunc]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    needs("lxc")
    found = Pyrunc(tmp_path_factory.mktemp("lxc"), "lxc")
    found("import", "-", "tools", stdin=image(busybox))
    yield found
    found.end()


@pytest.fixture(autouse=True)
def _nothing_stays(lxc: Pyrunc) -> Iterator[None]:
    before = leftovers(lxc)
    yield
    names = lxc("ps", "-aq").stdout.split()
    if names:
        lxc("rm", "-fv", *names)
    until(lambda: leftovers(lxc) <= before, lambda: str(leftovers(lxc) - before))


def leftovers(lxc: Pyrunc) -> set[str]:
    """What LXC could leave: locks, cgroups, mounts, network devices, processes, states."""
    places = [Path(each.mountpoint) for each in (*detect().hierarchies, *detect().named)]
    found = {str(path) for place in places for path in place.glob("lxc*")}
    for directory, _, files in os.walk("/run/lxc"):  # which passes over what goes away under it
        found |= {directory, *(os.path.join(directory, name) for name in files)}
    found |= {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    found |= {line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]}
    found |= {entry for entry in os.listdir(lxc.state) if len(entry) == 64} if lxc.state.exists() else set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(lxc.state).encode() in words:
            found.add(words.decode(errors="replace"))
    return found


def inside(lxc: Pyrunc, script: str, *flags: str, code: int = 0) -> list[str]:
    return lxc.made("run", "--rm", *flags, "--", "sh", "-c", script, code=code).stdout.splitlines()


@pytest.mark.parametrize("word", [
    "", " ", "a b", '"', "'", '"quoted"', "\\", "$HOME `id`", "-F", "--", "new\nline", "\t", "#", "=", "%n", "\x01",
    "é€", "x" * 100_000,
])  # fmt: skip
def test_an_argument_arrives_as_it_is(lxc: Pyrunc, word: str) -> None:
    assert lxc.made("run", "--rm", "--", *ECHO, word, "last").stdout == f"<{word}><last>"


def test_the_environment_is_what_was_asked_for_and_no_more(lxc: Pyrunc) -> None:
    text = "one two\n'three' \"four\" # = \\"
    found = lxc.made("run", "--rm", "-e", f"TEXT={text}", "--", "busybox", "env", "-0").stdout
    values = dict(line.split("=", 1) for line in found.rstrip("\0").split("\0"))
    assert values.pop("TEXT") == text
    assert values.keys() == {"PATH", "HOSTNAME", "HOME"}  # LXC adds `container`


def test_the_program_is_the_first_process(lxc: Pyrunc) -> None:
    number, name, *processes = inside(lxc, "echo $$; cat /proc/1/comm; busybox ps")
    assert (number, name) == ("1", "sh")
    assert "lxc" not in "".join(processes)
    # The standard ones, and the directory that it reads.
    assert lxc.made("run", "--rm", "--", "ls", "/proc/1/fd").stdout.split() == ["0", "1", "2", "3"]


@pytest.mark.parametrize("code", [0, 1, 3, 125, 127, 255])
def test_the_exit_code_is_the_programs(lxc: Pyrunc, code: int) -> None:
    lxc.made("run", "--rm", "--", "sh", "-c", f"exit {code}", code=code)


def test_who_reboots_ends_and_does_not_start_again(lxc: Pyrunc) -> None:
    """LXC's own monitor would start it anew."""
    flags = ("--cap-add", "SYS_BOOT", "--name", "one")
    lxc.made("run", *flags, "--", "sh", "-c", "echo once; busybox reboot -f; sleep 5", code=129)
    assert lxc("logs", "one").stdout == "once\n"


def test_nobody_has_more_than_with_docker(lxc: Pyrunc) -> None:
    script = "busybox grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status"
    docker = "00000000a80425fb"
    found = dict(line.split(":\t") for line in inside(lxc, script))
    assert found == {
        "CapInh": "0" * 16, "CapPrm": docker, "CapEff": docker, "CapBnd": docker, "CapAmb": "0" * 16,
        "NoNewPrivs": "0", "Seccomp": "2",
    }  # fmt: skip
    found = dict(line.split(":\t") for line in inside(lxc, script, "-u", "web"))
    assert (found["CapPrm"], found["CapEff"], found["CapBnd"]) == ("0" * 16, "0" * 16, docker)
    assert "NoNewPrivs:\t1" in inside(lxc, script, "--security-opt", "no-new-privileges")


def test_what_the_filter_forbids_fails(lxc: Pyrunc) -> None:
    script = "busybox unshare -U true; mount -t tmpfs x /bin"
    answer = lxc.made("run", "--rm", "--", "sh", "-c", script, code=1)
    assert "Operation not permitted" in answer.stderr
    assert "permission denied" in answer.stderr
    flags = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined")
    assert inside(lxc, "mount -t tmpfs x /bin && echo it", *flags) == ["it"]


def test_the_filter_allows_nothing_that_the_native_one_refuses(lxc: Pyrunc) -> None:
    """Call by call, for every architecture of the processor: as LXC has loaded it."""
    lxc.made("run", "-d", "--name", "one", "--", "sleep", "100")
    pid = int(lxc("inspect", "-f", "{{.State.Pid}}", "one").stdout)
    found = filters_of(pid)
    if not found:
        pytest.skip("needs PTRACE_SECCOMP_GET_FILTER of the kernel")
    (loaded,) = found
    profile = to_request(["/"], {}).spec["linux"]["seccomp"]
    native = seccomp.compile_profile(profile).bpf
    firsts = (0, 1, 8, 17, 38, 39, 40, 41, 0x10000000, 0x20000, 0x20008, 0x7E020000, 0xFFFFFFFF)
    arches = (
        ((NATIVE, 0), (NATIVE, X32_BIT), (X86, 0)) if os.uname().machine == "x86_64" else ((0xC00000B7, 0),)
    )
    allowed = 0
    for arch, base in arches:
        for number in range(600):
            for first in firsts:
                ours, theirs = (decide(each, arch, base + number, (first,)) for each in (native, loaded))
                allowed += theirs == ALLOW
                assert theirs == ours or theirs != ALLOW, (hex(arch), number, first)
    assert allowed > 600 * len(firsts) // 2
    unknown = 0xC00000F3
    assert decide(loaded, unknown, 1) != ALLOW


def filters_of(pid: int) -> list[bytes]:
    """The filters of a process, the last one first; see ptrace(2), PTRACE_SECCOMP_GET_FILTER."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes, libc.ptrace.restype = [ctypes.c_long] * 4, ctypes.c_long
    assert libc.ptrace(_SEIZE, pid, 0, 0) == 0
    try:
        libc.ptrace(_INTERRUPT, pid, 0, 0)
        os.waitpid(pid, _WALL)
        found: list[bytes] = []
        while (count := libc.ptrace(_GET_FILTER, pid, len(found), 0)) > 0:
            room = ctypes.create_string_buffer(count * 8)
            libc.ptrace(_GET_FILTER, pid, len(found), ctypes.addressof(room))
            found.append(room.raw)
        return found
    finally:
        libc.ptrace(_DETACH, pid, 0, 0)


@pytest.mark.parametrize(("profile", "words"), [
    ({"defaultAction": "SCMP_ACT_NOTIFY"}, "defaultAction: LXC cannot honour it: it has no SCMP_ACT_NOTIFY"),
    ({"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}, "flags: LXC cannot honour it"),
    ({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG"}]},
     r"syscalls\[0\]: LXC cannot honour it: it has no SCMP_ACT_LOG"),
    ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"]}, "architectures: LXC cannot"),
    ({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [
        {"index": 0, "value": 1 << 63, "op": "SCMP_CMP_EQ"}]}]}, "numbers of 63 bits"),
])  # fmt: skip
def test_what_lxc_cannot_filter_is_refused(profile: dict[str, object], words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        lxc_seccomp.profile(profile)


def test_a_profile_of_ones_own(lxc: Pyrunc, tmp_path: Path) -> None:
    denied = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 33}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [denied], "architectures": [
        "SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]}  # fmt: skip
    (tmp_path / "profile").write_text(json.dumps(profile))
    flags = ("--security-opt", f"seccomp={tmp_path}/profile")
    found = inside(lxc, "busybox grep Seccomp: /proc/self/status; busybox mkdir /x 2>&1 || echo no", *flags)
    assert found[0] == "Seccomp:\t2"
    assert found[-1] == "no"
    assert "out of domain" in found[1]  # EDOM is 33
    (tmp_path / "profile").write_text(json.dumps({"defaultAction": "SCMP_ACT_LOG"}))
    answer = lxc.made("run", "--rm", *flags, "--", "true", code=125)
    assert (
        "--runtime lxc: seccomp: defaultAction: LXC cannot honour it: it has no SCMP_ACT_LOG" in answer.stderr
    )


def test_what_is_masked_shows_nothing_and_what_is_read_only_takes_nothing(lxc: Pyrunc) -> None:
    script = "cat /proc/interrupts /proc/keys /proc/timer_list; ls /proc/acpi /sys/firmware; echo end"
    assert [line for line in inside(lxc, script) if line and not line.endswith(":")] == ["end"]
    script = "echo x > /proc/sys/kernel/domainname; touch /sys/x /sys/fs/cgroup/x /proc/interrupts;"
    script += "busybox chmod 0 /proc/keys"
    answer = lxc.made("run", "--rm", "--cap-add", "SYS_ADMIN", "--", "sh", "-c", script, code=1)
    assert answer.stderr.count("Read-only file system") == 5


def test_devices_of_the_host_are_out_of_reach(lxc: Pyrunc) -> None:
    device = os.stat("/").st_dev
    script = f"busybox mknod /d b {os.major(device)} {os.minor(device)} && cat /d; busybox mknod /m c 1 1 && cat /m"
    answer = lxc.made("run", "--rm", "--", "sh", "-c", script, code=1)
    assert answer.stdout == ""
    assert answer.stderr.count("Operation not permitted") == 2
    before = os.stat("/dev/null")
    assert (
        inside(lxc, "busybox chmod 0 /dev/null /proc/keys; busybox stat -c %a /dev/null", code=0)[-1] == "0"
    )
    assert os.stat("/dev/null").st_mode == before.st_mode
    if os.path.exists("/dev/fuse"):
        script = "busybox stat -c '%t:%T' /dev/fuse; : < /dev/fuse && echo opened"
        assert inside(lxc, script, "--device", "/dev/fuse") == ["a:e5", "opened"]


def test_streams_are_the_users_and_no_file_of_the_hosts_is_given_to_anybody(
    lxc: Pyrunc, tmp_path: Path
) -> None:
    (tmp_path / "input").write_text("text\n")
    places = ("/dev/null", str(tmp_path / "input"))
    before = [os.stat(path) for path in places]
    script = "cat; echo out > /dev/stdout; echo err > /dev/stderr; : < /dev/stdin"
    for path in places:
        with open(path, "rb") as stdin, open(tmp_path / "output", "wb") as output:
            command = [
                *lxc._begin,
                "run",
                "--rm",
                "-i",
                "--runtime",
                "lxc",
                "-u",
                "web",
                "tools",
                "sh",
                "-c",
                script,
            ]
            subprocess.run(command, env=lxc._env, stdin=stdin, stdout=output, stderr=output, check=True)
        assert sorted((tmp_path / "output").read_text().split()) == sorted(
            ["out", "err", *(["text"] if "input" in path else [])]
        )
        assert os.stat(tmp_path / "output").st_uid == os.geteuid()
    lxc.made("run", "-d", "-u", "web", "--name", "one", "--", "sleep", "100")
    after = [os.stat(path) for path in places]
    assert [(s.st_uid, s.st_gid, s.st_mode) for s in after] == [
        (s.st_uid, s.st_gid, s.st_mode) for s in before
    ]


def test_no_mount_of_the_host_is_seen(lxc: Pyrunc, tmp_path: Path) -> None:
    found = inside(lxc, "busybox awk '{print $5}' /proc/self/mountinfo")
    allowed = ("/proc", "/sys", "/dev", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
    assert all(path == "/" or path.startswith(allowed) for path in found)
    (tmp_path / "file").touch()
    script = "ls /v; touch /v/x; busybox awk '$5 == \"/v\" {print $6}' /proc/self/mountinfo"
    answer = lxc.made("run", "--rm", "-v", f"{tmp_path}:/v:ro", "--", "sh", "-c", script)
    assert answer.stdout.split()[0] == "file"
    assert answer.stdout.split()[1].startswith("ro,")
    assert "Read-only" in answer.stderr


def test_flags_of_a_mount_hold(lxc: Pyrunc) -> None:
    """LXC passes over these on a bind."""
    (flags,) = inside(lxc, "busybox awk '$5 == \"/dev/shm\" {print $6}' /proc/self/mountinfo")
    assert {"nosuid", "nodev", "noexec"} <= set(flags.split(","))


def hostile(busybox: Path, links: dict[str, str], directory: Path = Path("/")) -> bytes:
    """An image with symlinks, and a *directory*."""
    buffer = BytesIO(image(busybox))
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        for path in reversed([directory, *directory.parents][:-1]):
            entry = tarfile.TarInfo(str(path)[1:])
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return buffer.getvalue()


def test_a_mount_point_of_any_name_is_a_mount_point_and_no_setting(lxc: Pyrunc, tmp_path: Path) -> None:
    """An image names its volumes itself: a line of LXC's configuration could be a command of the host's."""
    harm = tmp_path / "harm"
    for number, name in enumerate((
        "a b", "tab\there", f"new\nlxc.hook.pre-start = /bin/touch {harm}", "hash#x", "#", "back\\slash",
        'quo"te', "\\040",
    )):  # fmt: skip
        source = tmp_path / str(number)
        source.mkdir()
        (source / "file").write_text(str(number))
        found = lxc("run", "--rm", "-v", f"{source}:/{name}", "tools", "cat", f"/{name}/file")
        assert found.stdout == str(number), (name, found)
    assert not harm.exists()


def test_a_source_that_would_be_a_comment_is_refused() -> None:
    with pytest.raises(Unsupported, match="mounts: /x: LXC takes a source that begins with # for a comment"):
        lxc_config.Config().mount("#", "x", "ramfs", ())


def test_a_mount_point_behind_a_symlink_stays_inside(lxc: Pyrunc, busybox: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    links = {"abs": str(victim), "rel": f"../../../../../..{victim}"}
    lxc("import", "-", "hostile", stdin=hostile(busybox, links, victim))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/seen").touch()
    for link in ("abs", "rel"):
        flags = ("--rm", "-v", f"{tmp_path}/data:/{link}/made")
        found = lxc.made("run", *flags, "--", "ls", f"{victim}/made", image="hostile").stdout
        assert found == "seen\n"
        assert os.listdir(victim) == []
    lxc("rmi", "hostile")
    raw = Raw(tmp_path, busybox)
    (raw.root / "abs").symlink_to(victim)
    raw(f"lxc.mount.entry = {tmp_path}/data abs/made none bind,create=dir 0 0")
    assert os.listdir(victim) == ["made"]  # what LXC's own making of mount points does


def test_a_mount_point_in_proc_is_refused(lxc: Pyrunc, busybox: Path, tmp_path: Path) -> None:
    lxc("import", "-", "hostile", stdin=hostile(busybox, {"way": "/proc/sys"}))
    for target in ("/proc/sys/x", "/proc/1/root", "/way"):
        answer = lxc.made(
            "run", "--rm", "-v", f"{tmp_path}:{target}", "--", "true", image="hostile", code=125
        )
        assert "cannot be mounted because it is inside /proc" in answer.stderr
    lxc("rmi", "hostile")


def test_a_working_directory_outside_is_refused(lxc: Pyrunc, busybox: Path, tmp_path: Path) -> None:
    """CVE-2024-21626: LXC enters it while directories of the host are open."""
    for number in range(3, 24):
        answer = lxc.made("run", "--rm", "-w", f"/proc/self/fd/{number}", "--", "ls", "..", code=None)
        assert "usr" not in answer.stdout.split()
    raw = Raw(tmp_path, busybox)
    seen = [
        raw(f"lxc.init.cwd = /proc/self/fd/{number}", "ls", "../../../../../..") for number in range(3, 24)
    ]
    assert any("\nproc\n" in text and "\nusr\n" in text for text in seen)  # with LXC's own


def test_no_socket_of_lxcs_can_be_reached_on_the_hosts_network(lxc: Pyrunc) -> None:
    """Whoever has it can change the container, devices too, and it listens where all share its names."""
    script = "cat /proc/net/unix; busybox readlink /proc/self/ns/net"
    *sockets, network = inside(lxc, script, "--network", "host")
    assert network == os.readlink("/proc/self/ns/net")
    assert not [line for line in sockets if str(lxc.state) in line or "/command" in line]


class Raw:
    """LXC as it is, with a root of its own; for what would happen without us."""

    def __init__(self, top: Path, busybox: Path) -> None:
        self.top = top
        self.root = top / "raw"
        for name in ("bin", "proc", "dev"):
            (self.root / name).mkdir(parents=True)
        (self.root / "bin/busybox").write_bytes(busybox.read_bytes())
        (self.root / "bin/busybox").chmod(0o755)
        (top / "mount").mkdir()

    def __call__(self, line: str, *command: str) -> str:
        name = f"pyrunc-raw-{os.getpid()}"
        (self.top / "config").write_text(
            f"lxc.rootfs.path = dir:{self.root}\nlxc.rootfs.mount = {self.top}/mount\nlxc.autodev = 0\n"
            "lxc.net.0.type = empty\nlxc.console.path = none\nlxc.tty.max = 0\nlxc.apparmor.profile = unconfined\n"
            f"lxc.mount.entry = proc proc proc defaults 0 0\nlxc.cgroup.dir.container = {name}-payload\n"
            f"lxc.cgroup.dir.monitor = {name}-monitor\nlxc.cgroup.dir.monitor.pivot = {name}-pivot\n{line}\n"
        )
        script = 'mkdir -p /run/lxc && mount -t tmpfs none /run/lxc && exec "$@"'
        start = [
            "lxc-start",
            "-F",
            "-q",
            "-n",
            "raw",
            "-P",
            str(self.top),
            "-f",
            str(self.top / "config"),
            "-o",
        ]
        start += [str(self.top / "log"), "--", "/bin/busybox", *(command or ("true",))]
        there = os.path.exists("/run/lxc")
        try:
            return subprocess.run(
                ["unshare", "-m", "sh", "-c", script, "sh", *start],
                capture_output=True,
                text=True,
                check=False,
            ).stdout
        finally:
            for place in {each.mountpoint for each in (*detect().hierarchies, *detect().named)}:
                for top in Path(place).glob(f"{name}-*"):
                    for group, _, _ in os.walk(top, topdown=False):
                        until(lambda group=group: removed(group))  # type: ignore[misc]
            if not there:
                with suppress(OSError):  # others may have begun to use it
                    os.rmdir("/run/lxc")


def test_who_is_killed_while_it_starts_leaves_nothing(lxc: Pyrunc) -> None:
    """The command, at any moment; the next look at its container sees to the rest."""
    for step in range(12):
        command = [*lxc._begin, "run", "-d", "--name", "one", "--runtime", "lxc", "tools", "sleep", "100"]
        process = subprocess.Popen(
            command, env=lxc._env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(0.12 + step * 0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if lxc("ps", "-aq").stdout:
            lxc("rm", "-f", "one")
    until(lambda: not Path("/run/lxc").exists())


def until(holds: Callable[[], bool], told: Callable[[], str] = str) -> None:
    assert wait_until(holds), f"it does not come true: {told()}"


def removed(cgroup: str) -> bool:
    """Remove a cgroup, from which the last process may be just going; whether it is gone."""
    try:
        os.rmdir(cgroup)
    except FileNotFoundError:
        pass
    except OSError as exc:
        assert exc.errno == errno.EBUSY
        return False
    return True


def test_what_is_not_done_is_refused_by_name(tmp_path: Path) -> None:
    spec = to_request(["/"], {"mounts": [pyrunc.Mount("/m", str(tmp_path), options=["rshared"])]}).spec
    with pytest.raises(
        Unsupported, match="mounts: /m: the option shared, slave or unbindable is not done for LXC"
    ):
        lxc_config.check(spec)
    for option in ("idmap", "X-mount.owner=1"):
        spec["mounts"][-1]["options"] = ["bind", option]
        with pytest.raises(
            Unsupported, match=f"mounts: /m: the option {option.partition('.')[0]}.* not done for LXC"
        ):
            lxc_config.check(spec)
    maps = [pyrunc.IdMap(0, 100000, 65536)]
    with pytest.raises(Unsupported, match="groups: in a user namespace LXC drops all further ones"):
        lxc_config.check(to_request(["/"], {"uid_maps": maps, "gid_maps": maps, "groups": ["44"]}).spec)
    with pytest.raises(Unsupported, match="network: in a user namespace LXC mounts no sysfs"):
        lxc_config.check(to_request(["/"], {"uid_maps": maps, "gid_maps": maps, "network": "host"}).spec)
    spec["mounts"][-1] = {"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}
    with pytest.raises(Unsupported, match="mounts: /m: the option tmpcopyup"):
        lxc_config.check(spec)


def test_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "_exec", {})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "lxc" not in registry.exec_names()
    with pytest.raises(InvalidArgument, match="Unknown runtime specified lxc: lxc-start is not in PATH"):
        registry.exec_driver("lxc")


def test_info_lists_it(lxc: Pyrunc) -> None:
    found = json.loads(lxc("info", "--format", "{{json .Runtimes}}").stdout)
    assert os.path.basename(found["lxc"]["path"]) == "lxc-start"
