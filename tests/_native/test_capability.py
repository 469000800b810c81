"""Capability sets of a child, compared with what the kernel shows in procfs."""

import errno
import os
from pathlib import Path

import pytest

from pyrunc._native import capability
from tests.child import in_child, refused

CHOWN, SETUID, SETPCAP, NET_BIND_SERVICE = (1 << number for number in (0, 7, 8, 10))


def status(pid: str = "self") -> dict[str, int]:
    """The sets in /proc/<pid>/status by their names there."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line[:6]: int(line[7:], 16) for line in lines if line.startswith("Cap")}


def test_the_sets_are_those_that_procfs_shows() -> None:
    shown = status()
    assert capability.capget() == (shown["CapEff"], shown["CapPrm"], shown["CapInh"])
    assert capability.bounding() == shown["CapBnd"]
    assert capability.ambient() == shown["CapAmb"]
    parent = status(str(os.getppid()))
    assert capability.capget(os.getppid()) == (parent["CapEff"], parent["CapPrm"], parent["CapInh"])


def test_the_last_capability() -> None:
    assert capability.last_capability() == int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def test_what_is_given_up_does_not_come_back() -> None:
    def child() -> None:
        capability.capset(CHOWN, CHOWN | SETPCAP, SETPCAP)
        assert capability.capget() == (CHOWN, CHOWN | SETPCAP, SETPCAP)
        assert status()["CapPrm"] == CHOWN | SETPCAP
        with refused(errno.EPERM, "capset"):
            capability.capset(SETUID, CHOWN | SETUID, 0)
        with pytest.raises(PermissionError):
            os.setuid(1)
        capability.capset(0, 0, 0)
        with refused(errno.EPERM, "prctl"):
            capability.bounding_keep(0)

    in_child(child)


def test_high_capabilities_are_in_the_second_word() -> None:
    high = 1 << capability.last_capability()
    if not capability.capget()[1] & high:
        pytest.skip("the highest capability is not permitted here")

    def child() -> None:
        capability.capset(high, high, 0)
        assert capability.capget() == (high, high, 0)

    in_child(child)


def test_the_bounding_set_shrinks_to_what_is_kept() -> None:
    def child() -> None:
        kept = (CHOWN | SETUID) & capability.bounding()
        capability.bounding_keep(CHOWN | SETUID)
        assert capability.bounding() == kept == status()["CapBnd"]
        capability.bounding_keep(CHOWN | NET_BIND_SERVICE)
        assert capability.bounding() == kept & CHOWN

    in_child(child)


def test_ambient_capabilities_are_replaced_and_survive_execve() -> None:
    def child() -> None:
        with refused(errno.EPERM, "prctl"):
            capability.ambient_set(CHOWN)  # not inheritable
        capability.capset(CHOWN | SETUID, CHOWN | SETUID, CHOWN | SETUID)
        capability.ambient_set(SETUID)
        assert capability.ambient() == SETUID
        capability.ambient_set(CHOWN)
        assert capability.ambient() == status()["CapAmb"] == CHOWN

    in_child(child)


def test_no_such_process() -> None:
    with refused(errno.ESRCH, "capget"):
        capability.capget(2**22 + 1)  # above the kernel's highest pid
