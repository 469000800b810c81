"""Under the same profile, runc's containers and ours refuse the same syscalls."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyrunc._native import seccomp as libseccomp
from pyrunc.runtime.seccomp import compile_profile
from pyrunc.spec.seccomp import docker_profile

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="runc needs root"),
    pytest.mark.skipif(shutil.which("runc") is None, reason="needs runc"),
]

# Each syscall in a child of its own, with arguments that do nothing, and its errno as the child's status.
# Not tried: what would sleep for ever (select, pause, pselect6, ppoll), or answers with a signal
# (rt_sigreturn, uretprobe, uprobe).
MACHINE = platform.machine()
LEFT_OUT = {"x86_64": {15, 23, 34, 270, 271, 335, 336}, "aarch64": {72, 73, 139}}[MACHINE]
NUMBERS = sorted(set(range(480)) - LEFT_OUT)
SECCOMP = {"x86_64": "317", "aarch64": "277"}[MACHINE]
PROBE = """
import ctypes, json, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
program = bytes.fromhex(sys.argv[1])
def attempt(number, value):
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        if program:
            class Filter(ctypes.Structure):
                _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))
            prog = Filter(len(program) // 8, program)
            if libc.prctl(38, 1, 0, 0, 0) or libc.syscall(SECCOMP, 1, 0, ctypes.byref(prog)):
                os.abort()
        result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(value)] * 6)
        os._exit(ctypes.get_errno() if result == -1 else 0)
    return os.waitpid(pid, 0)[1]
print(json.dumps([[attempt(number, value) for value in (0, -1)]
                  for number in json.loads(sys.argv[2])]))
""".replace("SECCOMP", SECCOMP)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    subprocess.run(["runc", "spec", "--bundle", tmp_path], check=True)
    root = tmp_path / "rootfs"
    root.mkdir()
    (root / "probe.py").write_text(PROBE)
    config = json.loads((tmp_path / "config.json").read_text())
    config["process"]["terminal"] = False
    for name in {"/usr", "/lib", "/lib64", sys.base_prefix}:
        if os.path.exists(name):
            config["mounts"].append(
                {
                    "destination": name,
                    "source": os.path.realpath(name),
                    "type": "bind",
                    "options": ["rbind", "ro"],
                }
            )
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def probe(bundle: Path, profile: dict[str, Any] | None, program: bytes) -> list[list[int]]:
    """Return wait statuses in a container confined by runc with *profile*, or by itself with *program*."""
    config = json.loads((bundle / "config.json").read_text())
    python = os.path.realpath(sys.executable)
    config["process"]["args"] = [python, "-I", "-S", "/probe.py", program.hex(), json.dumps(NUMBERS)]
    config["linux"].pop("seccomp", None)
    if profile:
        config["linux"]["seccomp"] = profile
    (bundle / "config.json").write_text(json.dumps(config))
    name = f"seccomp-test-{os.getpid()}"
    done = subprocess.run(
        ["runc", "--root", bundle / "state", "run", "--bundle", bundle, name],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    statuses: list[list[int]] = json.loads(done.stdout)
    return statuses


@pytest.mark.parametrize("capabilities", [("CAP_KILL",), ("CAP_KILL", "CAP_SYS_ADMIN", "CAP_SYS_CHROOT")])
def test_runc_and_we_refuse_the_same(bundle: Path, capabilities: tuple[str, ...]) -> None:
    profile = docker_profile(capabilities, MACHINE, (6, 1))
    # runc leaves out what its libseccomp does not know, which makes them newer than the profile for it.
    for rule in profile["syscalls"]:
        rule["names"] = [
            name
            for name in rule["names"]
            if libseccomp.resolve_syscall(libseccomp.native_arch(), name.encode()) is not None
        ]
    theirs = probe(bundle, profile, b"")
    ours = probe(bundle, None, compile_profile(profile).bpf)
    differences = {
        number: (their, our) for number, their, our in zip(NUMBERS, theirs, ours, strict=True) if their != our
    }
    assert not differences
    assert ours.count([0x100, 0x100]) > 30, "or nothing was compared"
