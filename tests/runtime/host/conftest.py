"""Sandboxes in the life of the program that uses them: threads, forks, signals, event loops, the end."""

import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyrunc
from pyrunc.runtime import spawner
from pyrunc.runtime.cgroup_layout import detect
from tests import rootfs as busybox
from tests.runtime.cgroup_support import remove_busy, unique_name
from tests.runtime.host.leftovers import cgroups, eventually, nothing_left

Script = Callable[..., subprocess.Popen[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs root to start containers"))


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox.make(tmp_path_factory.mktemp("host") / "rootfs")


@pytest.fixture
def parent() -> Iterator[str]:
    """A cgroup of the test's own, in which nothing may be left; descriptors neither."""
    name = unique_name()
    spawner.current()  # it stays for the tests that follow
    with nothing_left("/" + name):
        yield "/" + name
    for hierarchy in detect().hierarchies:
        directory = Path(hierarchy.mountpoint) / name
        if directory.exists():
            remove_busy(directory)


@pytest.fixture
def box(rootfs: Path, parent: str) -> Iterator[pyrunc.Sandbox]:
    with pyrunc.Sandbox(rootfs, cgroup_parent=parent) as sandbox:
        yield sandbox


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if before[1] == resource.RLIM_INFINITY else min(4096, before[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, before[0]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def script(rootfs: Path, parent: str, tmp_path: Path) -> Iterator[Script]:
    """Start a program of a few lines that has a Sandbox `box`; warnings are its errors, its group is its own."""
    head = f"""
        import os, signal, sys, threading, time
        import pyrunc
        ROOTFS, PARENT = {str(rootfs)!r}, {parent!r}
        box = pyrunc.Sandbox(ROOTFS, cgroup_parent=PARENT)
    """
    started: list[subprocess.Popen[str]] = []

    def start(body: str, *, strict: bool = True) -> subprocess.Popen[str]:
        path = tmp_path / f"script{len(started)}.py"
        path.write_text(textwrap.dedent(head) + textwrap.dedent(body))
        options = ["-X", "dev", "-W", "error"] if strict else []
        process = subprocess.Popen(
            [sys.executable, *options, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    eventually(lambda: not cgroups(parent), parent)


def finish(process: subprocess.Popen[str]) -> str:
    """What the script printed; it must end well and in silence."""
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, ""), out + err
    return out
