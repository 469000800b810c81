"""The unit that a cgroupsPath names for systemd."""

import pytest

from pyrunc.errors import InvalidSpec
from pyrunc.runtime.cgroup_systemd import SystemdPath, expand_slice, parse


@pytest.mark.parametrize(("text", "unit", "path"), [
    ("machine.slice:libpod:abc", "libpod-abc.scope", "/machine.slice/libpod-abc.scope"),
    ("kubepods-burstable-pod1.slice:cri-containerd:abc", "cri-containerd-abc.scope",
     "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-abc.scope"),
    ("::abc", "abc.scope", "/system.slice/abc.scope"),
    ("-.slice:a:b", "a-b.scope", "/a-b.scope"),
    ("user.slice:x:my.slice", "my.slice", "/user.slice/my.slice"),
    ("", "runc-box.scope", "/system.slice/runc-box.scope"),
])  # fmt: skip
def test_a_unit_and_its_place(text: str, unit: str, path: str) -> None:
    found = parse(text, "box")
    assert (found.unit, found.path) == (unit, path)


def test_without_privileges_it_is_the_users() -> None:
    assert parse("", "box", rootless=True) == SystemdPath("user.slice", "runc-box.scope")


@pytest.mark.parametrize(("text", "words"), [
    ("/a/b", 'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "/a/b" instead'),
    ("a.slice:b", "expected cgroupsPath"), ("a:b:c:d", "expected cgroupsPath"),
    ("a:b:c", "invalid slice name: a"), ("a--b.slice:b:c", "invalid slice name: a--b.slice"),
    ("-a.slice:b:c", "invalid slice name"), (".slice:b:c", "invalid slice name"), ("a.slice:b:", "names no unit"),
    ("a.slice:../b:c", "no part of the name of a unit"), ("a.slice:b:x/y", "no part of the name"),
    ("a.slice:b:c-.slice", "invalid slice name: c-.slice"),
])  # fmt: skip
def test_what_no_unit_can_be(text: str, words: str) -> None:
    with pytest.raises(InvalidSpec, match=f"linux.cgroupsPath: .*{words}"):
        parse(text, "box")


def test_slices_are_below_each_other() -> None:
    assert expand_slice("a-b-c.slice") == "/a.slice/a-b.slice/a-b-c.slice"
