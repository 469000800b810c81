"""Compiled filters in files: used by the next process, never believed if others may have written them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc.runtime import seccomp, seccomp_cache
from pyrunc.runtime.seccomp_cache import Entry

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root stores anything")

KEY = b"(1, 'a profile')"
ENTRY = Entry(b"\x06\x00\x00\x00\x00\x00\xff\x7f", 4, ("no_such_syscall", "another"))
NOBODY = 65534


def read(directory: Path, key: bytes = KEY) -> tuple[bytes, int, tuple[str, ...]] | None:
    entry = seccomp_cache.load(str(directory), key)
    return (entry.bpf, entry.flags, entry.skipped) if entry else None


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    directory = tmp_path / "seccomp"
    seccomp_cache.store(str(directory), KEY, ENTRY)
    assert read(directory) == (ENTRY.bpf, ENTRY.flags, ENTRY.skipped), "or the tests below show nothing"
    return directory


def only(directory: Path) -> Path:
    (path,) = directory.iterdir()
    return path


def test_only_root_can_enter_what_is_made(cache: Path) -> None:
    assert cache.stat().st_mode & 0o7777 == 0o700
    assert only(cache).stat().st_mode & 0o7777 == 0o600


def as_a_symlink(path: Path) -> None:
    target = path.rename(path.with_name("elsewhere"))
    path.symlink_to(target)


def as_a_hard_link(path: Path) -> None:
    os.link(path, path.with_name("another"))


def of_somebody_else(path: Path) -> None:
    os.chown(path, NOBODY, -1)


def writable_by_a_group(path: Path) -> None:
    path.chmod(0o620)


def writable_by_all(path: Path) -> None:
    path.chmod(0o602)


def as_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def as_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "attack",
    [
        as_a_symlink,
        as_a_hard_link,
        of_somebody_else,
        writable_by_a_group,
        writable_by_all,
        as_a_fifo,
        as_a_directory,
    ],
)
def test_a_file_that_others_may_have_written_is_not_used(cache: Path, attack: Callable[[Path], None]) -> None:
    attack(only(cache))
    assert read(cache) is None


@pytest.mark.parametrize(
    "attack", [as_a_symlink, of_somebody_else, lambda path: path.chmod(0o710), lambda path: path.chmod(0o701)]
)
def test_a_directory_that_others_may_enter_is_not_used(cache: Path, attack: Callable[[Path], None]) -> None:
    attack(cache)
    assert read(cache) is None
    path = next(cache.iterdir())
    path.unlink()
    seccomp_cache.store(str(cache), KEY, ENTRY)
    assert not list(cache.iterdir()), "nothing is stored there either"


def test_a_name_is_not_enough(cache: Path) -> None:
    other = b"(1, 'another profile')"
    only(cache).rename(cache / seccomp_cache._name(other))
    assert read(cache, other) is None


def test_every_torn_or_changed_file_is_a_miss(cache: Path) -> None:
    path = only(cache)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert read(cache) is None
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 0x40
        path.write_bytes(changed)
        assert read(cache) is None, position
    path.write_bytes(whole + b"x")
    assert read(cache) is None
    path.write_bytes(whole)
    assert read(cache) is not None


def test_it_does_not_grow_for_ever(cache: Path) -> None:
    for number in range(200):
        seccomp_cache.store(str(cache), f"profile {number}".encode(), ENTRY)
        assert read(cache, f"profile {number}".encode())
        assert len(list(cache.iterdir())) <= 64


def test_a_directory_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    seccomp_cache.store(str(tmp_path / "missing" / "seccomp"), KEY, ENTRY)
    assert read(tmp_path / "missing" / "seccomp") is None
    (tmp_path / "file").write_text("")
    seccomp_cache.store(str(tmp_path / "file"), KEY, ENTRY)
    assert read(tmp_path / "file") is None


def compile_in_a_new_process(directory: Path) -> list[str]:
    code = """
import sys
from pyrunc.runtime.seccomp import compile_profile
from pyrunc.spec.seccomp import docker_profile
program = compile_profile(docker_profile((), "x86_64", (6, 1)), sys.argv[1])
print(program.bpf.hex(), program.flags, program.skipped, sep="\\n")
print("pyrunc.runtime.seccomp_compiler" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(directory)], check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


def test_the_next_process_does_not_compile_and_gets_the_same(tmp_path: Path) -> None:
    first = compile_in_a_new_process(tmp_path / "seccomp")
    second = compile_in_a_new_process(tmp_path / "seccomp")
    assert first[:3] == second[:3]
    assert (first[3], second[3]) == ("True", "False")


def test_a_planted_program_is_used_only_where_root_alone_could_have_planted_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack works if ownership is not looked at: what is planted here allows everything."""
    monkeypatch.setattr(seccomp, "_programs", {})
    directory = tmp_path / "seccomp"
    profile = {"defaultAction": "SCMP_ACT_KILL_PROCESS", "flags": []}
    real = seccomp.compile_profile(profile, str(directory)).bpf
    (key,) = seccomp._programs
    path = directory / seccomp_cache._name(key)

    def compiled_again() -> bytes:
        seccomp._programs.clear()
        return seccomp.compile_profile(profile, str(directory)).bpf

    path.write_bytes(seccomp_cache._encode(key, ENTRY))
    assert compiled_again() == ENTRY.bpf, "root's own file is believed"
    os.chown(path, NOBODY, -1)
    assert compiled_again() == real
