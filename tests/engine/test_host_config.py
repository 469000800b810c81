"""Docker's documents and the options of a Sandbox mean each other, and what Docker refuses is refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Sandbox
from pyrunc.engine import host_config, host_config_shapes
from pyrunc.errors import InvalidArgument, PyruncError, Unsupported
from pyrunc.runtime.options import IdMap, Mount, SandboxOptions
from tests.cli import record_requests

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

OPTIONS: SandboxOptions = {
    "env": {"A": "b=c", "EMPTY": ""}, "cwd": "/tmp", "user": "1000:1000", "groups": ["5", "video"],
    "hostname": "name", "domainname": "example.org", "hosts": {"a": ["1.2.3.4", "::1"]}, "dns": ["1.2.3.4"],
    "dns_search": ["example.org"], "dns_options": ["ndots:1"], "network": "host", "pid": "host", "ipc": "none",
    "cgroupns": "host", "cap_add": ["SYS_ADMIN"], "cap_drop": ["ALL"], "no_new_privileges": True,
    "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}, "masked_paths": (), "readonly_paths": ("/proc/sys",),
    "devices": ["/dev/null:/dev/x:rw"], "device_cgroup_rules": ["c 1:3 r"], "sysctls": {"net.ipv4.ip_forward": "1"},
    "memory_bytes": 64 << 20, "memory_swap_bytes": 96 << 20, "memory_reservation_bytes": 32 << 20,
    "memory_swappiness": 0, "oom_kill_disable": True, "cpus": 1.5, "cpuset_cpus": "0", "cpuset_mems": "0",
    "cpu_shares": 10, "cpu_rt_runtime_us": 10, "cpu_rt_period_us": 100, "pids_limit": 50, "blkio_weight": 10,
    "blkio_weight_devices": {"/dev/x": 20}, "read_bps": {"/dev/x": 1}, "write_bps": {"/dev/x": 2},
    "read_iops": {"/dev/x": 3}, "write_iops": {"/dev/x": 4}, "cgroup_parent": "/x", "oom_score_adj": 5,
    "rlimits": {"nofile": (10, 20)}, "tmpfs": {"/t": "size=1m"}, "writable": "no", "umask": 0o77,
    "scratch_bytes": 1 << 20, "etc_files": False, "idmap_rootfs": False, "privileged": True,
    "mounts": [Mount("/m", "/tmp", "bind", ("ro",)), Mount("/n", "x", "tmpfs")],
    "uid_maps": [IdMap(0, 1000, 1)], "gid_maps": [IdMap(0, 1000, 1)],
}  # fmt: skip


def test_options_survive_the_documents_and_json() -> None:
    documents = json.loads(json.dumps(host_config.documents_of(OPTIONS)))
    config, host, rest = documents
    back = host_config.options_of(config, host, rest=rest)
    assert {**back, "mounts": list(back["mounts"])} == {
        **OPTIONS, "mounts": [Mount("/m", "/tmp", "bind", ("ro",)), Mount("/n", "x", "tmpfs", ())],
    }  # fmt: skip


def test_no_option_is_forgotten() -> None:
    # Each of these excludes one above, or is tried below.
    left_out = {"tty", "console_size", "uts", "shm_bytes", "cpu_quota_us", "cpu_period_us"}
    assert set(SandboxOptions.__annotations__) == set(OPTIONS) | left_out
    more: SandboxOptions = {
        "tty": True, "console_size": (24, 80), "uts": "host", "shm_bytes": 1 << 20, "cpu_quota_us": 1000,
        "cpu_period_us": 2000,
    }  # fmt: skip
    config, host, rest = host_config.documents_of(more)
    assert host_config.options_of(config, host, rest=rest) == {**more, "env": {}}


def test_what_docker_fills_in_means_what_was_not_given() -> None:
    found = host_config.options_of({}, host_config.defaults())
    assert found == {"env": {}, "shm_bytes": 64 << 20}
    assert host_config.filled(host_config.defaults()) == host_config.defaults()


def test_what_docker_fills_in() -> None:
    found = host_config.filled(
        {"Memory": 64 << 20, "NetworkMode": "default", "Privileged": True, "PidsLimit": -1}
    )
    assert (found["MemorySwap"], found["NetworkMode"], found["PidsLimit"]) == (128 << 20, "none", None)
    assert (found["SecurityOpt"], found["MaskedPaths"], found["ReadonlyPaths"]) == (
        ["label=disable"],
        None,
        None,
    )


def test_modes_that_name_a_container_are_the_paths_that_were_passed() -> None:
    modes = dict.fromkeys(("NetworkMode", "PidMode", "IpcMode"), "container:x")
    joined = {key: f"/proc/self/ns/{key}" for key in modes} | {"Shm": "/shm", "Hostname": "there"}
    found = host_config.options_of({}, modes, joined=joined)
    assert [found[key] for key in ("network", "pid", "ipc")] == [joined[key] for key in modes]
    assert found["hostname"] == "there" and found["mounts"][0][:2] == ("/dev/shm", "/shm")
    for key in modes:
        with pytest.raises(Unsupported, match=f"{key}: container:x"):
            host_config.options_of({}, {key: "container:x"})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"PortBindings": {"80/tcp": []}}, "PortBindings: networks do not exist yet"),
        ({"NetworkMode": "bridge"}, "NetworkMode: bridge: networks do not exist yet"),
        ({"NetworkMode": "container:"}, "invalid container format"),
        ({"Init": True}, "Init: there is no init"), ({"StorageOpt": {"size": "1g"}}, "StorageOpt: "),
        ({"IpcMode": "wrong"}, "invalid IPC mode: wrong"),
        ({"PidMode": "container:"}, "invalid PID mode"), ({"UsernsMode": "private"}, "invalid userns mode"),
        ({"LogConfig": {"Type": "syslog"}}, "LogConfig: syslog: only json-file and none exist yet"),
        ({"LogConfig": {"Config": {"tag": "x"}}}, "LogConfig: tag: only max-size and max-file exist yet"),
        ({"LogConfig": {"Config": {"max-size": "0"}}}, "max-size must be a positive number"),
        ({"LogConfig": {"Config": {"max-size": "x"}}}, "invalid size: 'x'"),
        ({"LogConfig": {"Config": {"max-file": "0"}}}, "max-file cannot be less than 1"),
        ({"DeviceRequests": [{}]}, "DeviceRequests: "), ({"Annotations": {"a": "b"}}, "Annotations: "),
    ],
)  # fmt: skip
def test_what_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(PyruncError, match=words):
        host_config.check(given)


def test_a_health_check_is_refused_and_none_is_not() -> None:
    host_config.check({}, {"Healthcheck": {"Test": ["NONE"]}})
    with pytest.raises(Unsupported, match="Healthcheck: "):
        host_config.check({}, {"Healthcheck": {"Test": ["CMD", "x"]}})


def test_every_document_of_dockers_client_is_taken_or_refused_by_name() -> None:
    """What docker's client sends for each flag (tests/cli/record_requests.py) has no key that is passed over."""
    refused = set()
    joined = {"Shm": "/x", "NetworkMode": "/x", "PidMode": "/x", "IpcMode": "/x"}
    for step in record_requests.bodies():
        if "/create" not in step.get("request", ""):
            continue
        host = step["body"].pop("HostConfig")
        try:
            host_config.check(host, step["body"])
            host_config.options_of(step["body"], host_config.filled(host), joined=joined)
        except (Unsupported, InvalidArgument) as exc:
            refused.add(step["line"])
            assert str(exc)
    assert len(refused) > 20


def test_logs() -> None:
    assert host_config.log_of(host_config.defaults()) == (0, 1)
    assert host_config.log_of({"LogConfig": {"Type": "none"}}) is None
    both = {"max-size": "1.5m", "max-file": "3"}
    assert host_config.log_of({"LogConfig": {"Type": "json-file", "Config": both}}) == (1_500_000, 3)


@needs_root
def test_the_kernel_sees_what_the_documents_say(rootfs: Path) -> None:
    host = host_config.filled(
        {
            "Memory": 64 << 20, "PidsLimit": 20, "ReadonlyRootfs": True, "ShmSize": 1 << 20,
            "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}], "CapDrop": ["ALL"], "CapAdd": ["CAP_CHOWN"],
            "SecurityOpt": ["no-new-privileges", "seccomp=unconfined"], "Tmpfs": {"/tmp": "size=4k"},
            "DnsSearch": ["a.example"], "ExtraHosts": ["there:1.2.3.4"], "IpcMode": "private",
        }
    )  # fmt: skip
    config = {"Hostname": "box", "Env": ["A=b"], "WorkingDir": "/tmp", "User": "0"}
    script = (
        "cat /proc/self/status /etc/hosts /etc/resolv.conf /proc/mounts; ulimit -n; pwd; echo $A $(cat /etc/hostname);"
        " cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; echo > /no"
    )
    with Sandbox(rootfs, **host_config.options_of(config, host)) as box:
        told = box.run(["sh", "-c", script]).stdout.decode()
    for words in (
        "CapEff:\t0000000000000001", "NoNewPrivs:\t1", "Seccomp:\t0", "1.2.3.4\tthere", "search a.example", "\n10\n",
        "/tmp\nb box\n", str(64 << 20), "size=1024k", "tmpfs /tmp tmpfs",
    ):  # fmt: skip
        assert words in told, words


@needs_root
def test_a_privileged_container_sees_and_may_all_that_the_host_has(rootfs: Path) -> None:
    options = host_config.options_of({}, host_config.filled({"Privileged": True}))
    script = (
        "cat /proc/self/status; ls /dev; cat /proc/mounts;"
        " cat /proc/sys/net/ipv4/ip_forward > /proc/sys/net/ipv4/ip_forward"
        " && echo written; cat /sys/fs/cgroup/devices/devices.list"
    )
    with Sandbox(rootfs, **options) as box:
        told = box.run(["sh", "-c", script]).stdout.decode()
    own = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapPrm")
    )
    assert own.replace("Prm", "Eff") in told and "Seccomp:\t0" in told and "written" in told
    assert "sysfs /sys sysfs rw" in told and "masked" not in told
    assert {name for name in ("kmsg", "loop-control", "fuse") if Path("/dev", name).exists()} <= set(
        told.split()
    )
    if Path("/sys/fs/cgroup/devices").exists():
        assert "a *:* rwm" in told


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"RestartPolicy": "always"}, "RestartPolicy must be an object, not 'always'"),
        ({"StopTimeout": "abc"}, "StopTimeout must be an integer, not 'abc'"),
        ({"Labels": ["x"]}, r"Labels must be an object of texts, not \['x'\]"),
        ({"Labels": {"a": 5}}, "Labels must be an object of texts"),
        ({"Env": "A=b"}, "Env must be a list of texts, not 'A=b'"),
        ({"Env": [5]}, "Env must be a list of texts"),
        ({"Entrypoint": "/bin/sh"}, "Entrypoint must be a list of texts"),
        ({"Memory": True}, "Memory must be an integer, not True"),
        ({"ConsoleSize": [1]}, "ConsoleSize must be two integers"),
        ({"User": "\udcff"}, "User must be UTF-8 without NUL characters"),
        ({"Volumes": {"/\udcff": {}}}, "Volumes must be UTF-8"),
        ({"Volumes": {"/a\0b": {}}}, "Volumes must be UTF-8 without NUL"),
        ({"Binds": ["\udcffx:/x"]}, "Binds must be UTF-8"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_name(document: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        host_config_shapes.check(document)


def test_all_that_there_may_be_is_of_its_kind() -> None:
    host_config_shapes.check(host_config.defaults())
    host_config_shapes.check(
        {"Env": ["A=\udcff"], "Cmd": ("a",), "ConsoleSize": [0, 0], "Labels": {}, "User": ""}
    )
