"""The file with the modules of a cold start: used as long as it is right, and never missed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyrunc

CODE = """
import sys
sys.path.append(sys.argv[1])
import pyrunc
from pyrunc.oci import bundled
bundled.install()
from pyrunc.oci import create, log, main
from_file = [name for name, module in sys.modules.items()
             if name.startswith("pyrunc") and isinstance(module.__spec__.loader, bundled.Finder)]
assert all(module.__file__.startswith(sys.argv[1]) for name, module in sys.modules.items() if name in from_file)
print(len(from_file), getattr(log, "CHANGED", 0), "pyrunc.oci.log" in from_file)
bundled.save()
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """An installation of one's own."""
    source = Path(pyrunc.__file__).parent
    leave = shutil.ignore_patterns("*.c", "*.pyx", "*.pxd", "*.map", "images", "__pycache__")
    shutil.copytree(source, tmp_path / "pyrunc", ignore=leave)
    return tmp_path


def start(copy: Path) -> tuple[int, int, bool]:
    """How many modules came from the file, what log.CHANGED is, and whether log came from there."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", CODE, copy], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    count, changed, from_file = done.stdout.split()
    return int(count), int(changed), from_file == "True"


def file_of(copy: Path) -> Path:
    (path,) = (copy / "pyrunc/oci/__pycache__").glob("cold.*")
    return path


def test_the_second_start_finds_its_modules_in_the_file(copy: Path) -> None:
    assert start(copy) == (0, 0, False)
    count, _, from_file = start(copy)
    assert count > 20 and from_file
    before = file_of(copy).stat()
    assert start(copy)[0] == count
    assert file_of(copy).stat().st_mtime_ns == before.st_mtime_ns, "nothing was to be added"


def test_only_its_owner_can_write_to_it(copy: Path) -> None:
    before = os.umask(0)
    try:
        start(copy)
    finally:
        os.umask(before)
    assert file_of(copy).stat().st_mode & 0o777 == 0o644


def test_a_module_whose_source_has_changed_is_not_taken_from_it(copy: Path) -> None:
    start(copy)
    count, _, _ = start(copy)
    log = copy / "pyrunc/oci/log.py"
    log.write_text(log.read_text() + "\nCHANGED = 7\n")
    assert start(copy) == (count - 1, 7, False)
    assert start(copy) == (count, 7, True)
    log.unlink()
    with pytest.raises(AssertionError, match=r"No module named 'pyrunc\.oci\.log'"):
        start(copy)


@pytest.mark.parametrize("content", [b"", b"garbage", b"(\2\0\0\0", b"N", b"directory"])
def test_a_damaged_file_is_replaced(copy: Path, content: bytes) -> None:
    start(copy)
    path = file_of(copy)
    path.unlink()
    if content == b"directory":
        path.mkdir()
    else:
        path.write_bytes(content)
    assert start(copy) == (0, 0, False)
    assert start(copy)[2] is (content != b"directory")
    assert [one.name for one in path.parent.glob("cold*")] == [path.name]
