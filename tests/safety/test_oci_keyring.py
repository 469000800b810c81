"""Keys: a container has a session keyring that nobody has prepared for it, and shares it with nobody but its own."""

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.oci.runtime import OURS, Runtime, unique_id
from tests.runtime.cgroup_support import needs_root
from tests.safety.support import wait_until

pytestmark = needs_root
_KEYCTL = 250 if os.uname().machine == "x86_64" else 219
_JOIN_SESSION, _SETPERM = 1, 5
_NOBODY = 65534
_ATTACKER = f"""
import ctypes, os, signal, sys
libc = ctypes.CDLL(None)
os.setgroups([]); os.setresgid({_NOBODY}, {_NOBODY}, {_NOBODY}); os.setresuid({_NOBODY}, {_NOBODY}, {_NOBODY})
key = libc.syscall({_KEYCTL}, {_JOIN_SESSION}, sys.argv[1].encode())
libc.syscall({_KEYCTL}, {_SETPERM}, key, 0x3F3F3F3F)
print(key, flush=True)
signal.pause()
"""


@pytest.fixture
def attack() -> Iterator[Callable[[str], int]]:
    """Makes a keyring of a name as an unprivileged user of the host, who lets everybody use it; its number."""
    children = []

    def make(name: str) -> int:
        child = subprocess.Popen([sys.executable, "-c", _ATTACKER, name], stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdout is not None
        return int(child.stdout.readline())

    yield make
    for child in children:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def keys(runtime: Runtime, bundle: Callable[..., Path], name: str) -> tuple[str, str]:
    """What a container called *name* and a further program in it see of keys, in /proc/keys."""
    path = bundle(
        name, "/bin/sh", "-c", "cat /proc/keys; echo end; sleep 1000", linux__maskedPaths=[],
        linux__cgroupsPath=f"/{name}",
    )  # fmt: skip
    output = path / "out"
    runtime.create(path, name=name, output=output)
    runtime("start", name)
    assert wait_until(lambda: "end" in output.read_text())
    joined = runtime("exec", name, "/bin/cat", "/proc/keys").out
    return output.read_text(), joined


def session(text: str, name: str) -> str:
    """The one line of the session keyring that is the container's."""
    (line,) = [line for line in text.splitlines() if re.search(rf"keyring +_ses\.{name}\.[0-9a-f]+:", line)]
    return line


def test_nobody_can_make_a_containers_keyring_first(
    make_runtime: Callable[[str], Runtime], bundle: Callable[..., Path], attack: Callable[[str], int]
) -> None:
    name = unique_id()
    theirs = attack(f"_ses.{name}")
    # What a name that is known is worth: root joins what an unprivileged user has made, as runc does.
    join = f"import ctypes; print(ctypes.CDLL(None).syscall({_KEYCTL}, {_JOIN_SESSION}, b'_ses.{name}'))"
    assert int(subprocess.run([sys.executable, "-c", join], capture_output=True, check=True).stdout) == theirs
    first, joined = keys(make_runtime(str(OURS)), bundle, name)
    for text in (first, joined):
        number, _, _, _, _, uid = session(text, name).split()[:6]
        assert int(number, 16) != theirs
        assert uid == "0"


def test_a_further_program_has_the_containers_keyring_and_no_other_container_has(
    make_runtime: Callable[[str], Runtime], bundle: Callable[..., Path]
) -> None:
    runtime = make_runtime(str(OURS))
    seen = []
    for _ in range(2):
        name = unique_id()
        first, joined = keys(runtime, bundle, name)
        assert session(first, name).split()[0] == session(joined, name).split()[0]
        seen.append(session(first, name).split()[8])
        runtime.end(name)
    assert len(set(seen)) == 2
    assert ctypes.CDLL(None).syscall(_KEYCTL, 0, -3, 0) > 0  # ours is still there
