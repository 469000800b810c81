"""Namespaces of other containers, user namespaces, and mounts that no runtime knows, with each runtime."""

import os
from collections.abc import Iterator

import pytest

from tests.drivers.exec.conftest import Pyrunc
from tests.drivers.exec.test_runtimes import logged


@pytest.fixture(autouse=True)
def _nothing_stays(pyrunc: Pyrunc) -> Iterator[None]:
    yield
    pyrunc.end()
    assert [entry for entry in os.listdir(pyrunc.state) if len(entry) == 64] == []


@pytest.mark.parametrize("kind", ["net", "pid", "ipc"])
def test_of_another_container(pyrunc: Pyrunc, kind: str) -> None:
    flag = {"net": "--network", "pid": "--pid", "ipc": "--ipc"}[kind]
    donor = ("--ipc", "shareable") if kind == "ipc" else ()
    pyrunc.made(
        "run", "-d", "--name", "one", *donor, "--", "sh", "-c", "echo x > /dev/shm/x; echo up; exec sleep 601"
    )
    logged(pyrunc, "one", "up")
    look = ("busybox", "readlink", f"/proc/self/ns/{kind}")
    script = f"busybox readlink /proc/self/ns/{kind}; busybox ps; cat /dev/shm/x 2>&1; echo end; sleep 600"
    pyrunc.made("run", "-d", "--name", "two", flag, "container:one", "--", "sh", "-c", script)
    theirs = pyrunc("exec", "one", *look).stdout
    assert pyrunc("exec", "two", *look).stdout == theirs
    seen = logged(pyrunc, "two", "end\n").removesuffix("end\n")
    assert seen.splitlines()[0] == theirs.strip()
    assert ("sleep 601" in seen) == (kind == "pid")
    assert seen.endswith("x\n") == (kind == "ipc")
    assert pyrunc("inspect", "-f", "{{.State.Status}}", "one").stdout == "running\n"
    pyrunc("rm", "-f", "two")
    assert pyrunc("exec", "one", *look).stdout == theirs
    pyrunc("rm", "-f", "one")
    answer = pyrunc.made("create", flag, "container:one", "--", "true", code=None)
    assert "No such container: one" in answer.stderr


def test_that_does_not_run(pyrunc: Pyrunc) -> None:
    pyrunc.made("create", "--name", "one", "--", "true")
    answer = pyrunc.made("run", "--network", "container:one", "--", "true", code=125)
    assert "cannot join network of a non running container" in answer.stderr


def test_a_user_namespace(pyrunc: Pyrunc) -> None:
    pyrunc.python("""
    from pathlib import Path
    maps = [pyrunc.IdMap(0, 100000, 65536)]
    script = "id -u; busybox stat -c %u:%g /bin/busybox; touch /file; busybox cat /proc/self/uid_map; exec sleep 600"
    with engine.start("tools", ["sh", "-c", script], name="one", host_config=runtime, uid_maps=maps, gid_maps=maps,
                      tmpfs={"/tmp": ""}) as box:
        until(lambda: b"".join(entry.data for entry in box.logs()).count(b"\\n") == 3)
        said = b"".join(entry.data for entry in box.logs()).split()
        assert said == [b"0", b"0:0", b"0", b"100000", b"65536"], said
        status = Path(f"/proc/{box.record().pid}/status").read_text()
        assert "Uid:\\t100000\\t100000\\t100000\\t100000" in status, status
        result = box.exec(["sh", "-c", "id -u; touch /tmp/x && echo ok; busybox stat -c %u /file"])
        assert result.stdout == b"0\\nok\\n0\\n", result
        result = box.exec(["id", "-u"], user="web")
        assert result.stdout == b"1000\\n", result
        sized = "until stty size | busybox grep -v '^0 0'; do sleep 0.05; done"
        result = box.exec(["sh", "-c", sized], tty=True, size=(20, 70))
        assert b"20 70" in result.stdout, result
        assert ("A", "/file") in box.diff()
        box.commit("mapped")
    assert engine.run("mapped", ["busybox", "stat", "-c", "%u", "/file"]).stdout == b"0\\n"
    engine.images.remove("mapped")
    """)


def test_mounts_that_no_runtime_knows(pyrunc: Pyrunc) -> None:
    pyrunc.made(
        "run",
        "--rm",
        "-v",
        "data:/data",
        "--",
        "sh",
        "-c",
        "busybox mkdir -p /data/a/b; echo 1 > /data/a/b/x",
    )
    mount = "type=volume,src=data,dst=/there,volume-subpath=a/b"
    assert pyrunc.made("run", "--rm", "--mount", mount, "--", "cat", "/there/x").stdout == "1\n"
    answer = pyrunc.made("run", "--rm", "--mount", f"{mount},readonly", "--", "touch", "/there/y", code=1)
    assert answer.stderr == "touch: /there/y: Read-only file system\n"
    pyrunc("volume", "rm", "data")
