"""New limits for a container, in the files of its cgroups; what is refused changes nothing."""

import json
from pathlib import Path

import pytest

from pyrunc.oci.update import size
from pyrunc.runtime.cgroup_layout import detect
from tests.oci.live import Live, live
from tests.oci.test_verbs import log_of
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root


def value(box: Live, v1: str, v2: str) -> str:
    """What the file *v1* has, or *v2* where that is the version of its hierarchy."""
    try:
        return box.file(v1).read_text().strip()
    except StopIteration:
        return box.file(v2).read_text().strip()


@pytest.mark.vm
def test_each_flag_reaches_its_file(tmp_path: Path) -> None:
    with live(tmp_path) as box:
        words = ["--memory", "64m", "--memory-swap", "134217728", "--pids-limit", "20"]
        assert box.run("update", *words) == (0, "", "")
        assert value(box, "memory.limit_in_bytes", "memory.max") == str(64 << 20)
        assert value(box, "memory.memsw.limit_in_bytes", "memory.swap.max") in (str(128 << 20), str(64 << 20))
        assert value(box, "pids.max", "pids.max") == "20"
        words = ["--cpu-period", "50000", "--cpu-quota", "20000", "--cpu-share", "200"]
        assert box.run("update", *words) == (0, "", "")
        assert value(box, "cpu.cfs_quota_us", "cpu.max") in ("20000", "20000 50000")
        assert box.run("update", "--cpu-burst", "1000") == (0, "", "")
        assert value(box, "cpu.cfs_burst_us", "cpu.max.burst") == "1000"
        assert box.run("update", "--memory-reservation", "1m", "--pids-limit", "-1")[0] == 0
        assert value(box, "memory.soft_limit_in_bytes", "memory.low") == str(1 << 20)
        assert value(box, "pids.max", "pids.max") == "max"
        assert box.run("update", "--cpu-idle", "1") == (0, "", "")
        assert value(box, "cpu.idle", "cpu.idle") == "1"


def needs_cpusets() -> None:
    if detect().of("cpuset") is None:
        pytest.skip("needs the controller cpuset")


def test_cpus_and_memory_nodes_are_changed(tmp_path: Path) -> None:
    needs_cpusets()
    with live(tmp_path) as box:
        assert box.run("update", "--cpuset-cpus", "0", "--cpuset-mems", "0") == (0, "", "")
        assert (box.file("cpuset.cpus").read_text(), box.file("cpuset.mems").read_text()) == ("0\n", "0\n")


@pytest.mark.vm
def test_a_document_replaces_the_flags_and_unnamed_limits_stay(tmp_path: Path) -> None:
    with live(tmp_path) as box:
        assert box.run("update", "--pids-limit", "20", "--memory", "64m")[0] == 0
        text = json.dumps({"pids": {"limit": 11}, "cpu": {"quota": 30000}, "unknown": {"x": 1}})
        assert box.run("update", "--resources", "-", "--pids-limit", "7", text=text) == (0, "", "")
        assert value(box, "pids.max", "pids.max") == "11"
        assert value(box, "memory.limit_in_bytes", "memory.max") == str(64 << 20)
        path = tmp_path / "resources.json"
        path.write_text('{"pids": {"limit": 12}}')
        assert box.run("update", "-r", str(path)) == (0, "", "")
        assert value(box, "pids.max", "pids.max") == "12"
        assert box.run("update", "-r", "-", text="{}") == (0, "", "")


@pytest.mark.vm
def test_files_of_cgroup_v2_are_set_by_their_names(tmp_path: Path) -> None:
    v2 = detect().v2
    if v2 is None or "memory" not in v2.controllers:
        pytest.skip("needs the controller memory in cgroup v2")
    with live(tmp_path) as box:
        text = json.dumps({"unified": {"memory.high": "67108864", "pids.max": "9"}})
        assert box.run("update", "-r", "-", text=text) == (0, "", "")
        assert (box.file("memory.high").read_text(), box.file("pids.max").read_text()) == (
            "67108864\n",
            "9\n",
        )
        code, _, err = box.run("update", "-r", "-", text='{"unified": {"cgroup.procs": "1"}}')
        assert code == 1 and "linux.resources.unified['cgroup.procs']: is not a resource" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "EOF"),
        ("[]", "resources: must be an object"),
        ('{"cpu": {"shares": "x"}}', "linux.resources.cpu.shares"),
        ('{"memory": [1]}', "linux.resources.memory"),
        ("{", "resources: "),
    ],
)
def test_a_wrong_document_names_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    with live(tmp_path) as box:
        code, out, err = box.run("update", "-r", "-", text=text)
        assert (code, out) == (1, "") and message in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--cpu-share", "x"],
            'invalid value for cpu-share: strconv.ParseUint: parsing \\"x\\": invalid syntax',
        ),
        (
            ["--cpu-share", "-5"],
            'invalid value for cpu-share: strconv.ParseUint: parsing \\"-5\\": invalid syntax',
        ),
        (
            ["--cpu-quota", "x"],
            'invalid value for cpu-quota: strconv.ParseInt: parsing \\"x\\": invalid syntax',
        ),
        (["--memory", "x"], "invalid value for memory: invalid size: 'x'"),
        (["-r", "/nonexistent"], "open /nonexistent: no such file or directory"),
        (["--l3-cache-schema", "L3:0=f"], "Intel RDT/CAT: l3 cache schema is not enabled"),
    ],
)
def test_a_wrong_flag_is_refused_in_runcs_words(words: list[str], message: str, tmp_path: Path) -> None:
    with live(tmp_path) as box:
        assert log_of(box.run("update", *words)) == message


def test_limits_before_a_refused_one_are_put_back(tmp_path: Path) -> None:
    needs_cpusets()
    with live(tmp_path) as box:
        assert box.run("update", "--pids-limit", "20", "--cpu-quota", "50000")[0] == 0
        code, _, err = box.run("update", "--cpu-quota", "20000", "--pids-limit", "9", "--cpuset-cpus", "99")
        assert code == 1 and "cpuset.cpus: " in err and "failed to write" in err
        assert value(box, "pids.max", "pids.max") == "20"
        assert value(box, "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"


def test_a_memory_limit_below_what_is_used_says_how_much_that_is(tmp_path: Path) -> None:
    with live(
        tmp_path, "x=$(head -c 8000000 /dev/zero | tr '\\0' x); echo; while :; do sleep 1000; done"
    ) as box:
        if not box.file("memory.stat").with_name("memory.limit_in_bytes").exists():
            pytest.skip("cgroup v2 reclaims or kills instead")
        message = log_of(box.run("update", "--memory", "4096"))
        assert message.startswith("unable to set memory limit to 4096 (current usage: ")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("64", 64),
        ("64b", 64),
        ("1k", 1024),
        ("64M", 64 << 20),
        ("1.5g", 3 << 29),
        ("2 kb", 2048),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes_are_read_as_docker_reads_them(text: str, number: int) -> None:
    assert size(text) == number


@pytest.mark.parametrize("text", ["", "x", "-1", "1x", "1kx", "1.2.3", "1 2", "0x10", "inf", "nan"])
def test_what_is_no_size_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        size(text)
