"""process.execCPUAffinity: for the programs that join a container, and not for its first."""

import os
from pathlib import Path

import pytest

from tests.oci.bundles import Runtime, document

SHOW = "grep Cpus_allowed_list /proc/self/status"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
@pytest.mark.parametrize(("affinity", "seen"), [
    ({"final": "0"}, "0"), ({"initial": "0", "final": "1"}, "1"), ({"initial": "1"}, None), ({}, None),
])  # fmt: skip
def test_the_programs_that_join(
    oci: Runtime, tmp_path: Path, affinity: dict[str, str], seen: str | None
) -> None:
    """The last word has `final`; with `initial` alone the program ends as its cgroup has it."""
    spec = document(oci.rootfs, ["sh", "-c", f"{SHOW} > /dev/shm/first; sleep 100"], execCPUAffinity=affinity)
    oci.call("run", "--detach", "--bundle", oci.write(tmp_path / "b", spec), oci.id)
    first = oci.call(
        "exec", oci.id, "sh", "-c", "until grep . /dev/shm/first; do sleep 0.02; done"
    ).stdout.split()[-1]
    assert first == Path("/proc/self/status").read_text().partition("Cpus_allowed_list:")[2].split()[0]
    joined = oci.call("exec", oci.id, "sh", "-c", SHOW).stdout.split()[-1]
    assert joined == seen or (seen is None and joined in (first, affinity.get("initial")))
