"""The file with the modules of a cold start: used as long as it is right, and never missed."""

import marshal
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyrunc

CODE = """
import sys
place = sys.argv[1]
sys.path.append(place)
from marshal import loads
taken = False
try:
    with open(f"{place}/pyrunc/__pycache__/oci.{sys.implementation.cache_tag}.bin", "rb") as file:
        content = loads(file.read())
    own = type(sys)("pyrunc.bundled")
    exec(content[1], own.__dict__)
    taken = own.take(own, "oci", content)
except (OSError, EOFError, ValueError, TypeError, IndexError):
    pass
at_once = {name for name in sys.modules if name.startswith("pyrunc")}
if not taken:
    from pyrunc import bundled
    bundled.begin("oci")
from pyrunc.oci import create, log, main
for name in sys.argv[2:]:
    __import__(name)
ours = {name: module for name, module in sys.modules.items() if name.startswith("pyrunc")}
for name, module in ours.items():
    assert module.__file__.startswith(place) and module.__spec__.origin == module.__file__, name
    assert module.__spec__.name == module.__name__ == name and module.__package__ == module.__spec__.parent, name
    parent, _, leaf = name.rpartition(".")
    assert not parent or getattr(sys.modules[parent], leaf) is module, name
assert len(at_once) <= 2 or sys.argv[2:] or set(ours) == at_once, set(ours) ^ at_once
late = [name for name in ours if hasattr(ours[name].__spec__.loader, "code")]
print(len(at_once), getattr(log, "CHANGED", 0), len(late))
sys.modules["pyrunc.bundled"].save()
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """An installation of one's own."""
    source = Path(pyrunc.__file__).parent
    leave = shutil.ignore_patterns("*.c", "*.pyx", "*.pxd", "*.map", "images", "__pycache__")
    shutil.copytree(source, tmp_path / "pyrunc", ignore=leave)
    return tmp_path


def start(copy: Path, *more: str) -> tuple[int, int, int]:
    """How many modules were made at once, what log.CHANGED is, and how many were read late; *more* are imported too."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", CODE, copy, *more],
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    count, changed, late = map(int, done.stdout.split())
    return count, changed, late


def thrice(copy: Path) -> int:
    """Start until a further one has all modules at once: how many."""
    start(copy)
    start(copy)
    count, _, late = start(copy)
    assert count > 40 and late == 0
    return count


def file_of(copy: Path) -> Path:
    (path,) = (copy / "pyrunc/__pycache__").glob("oci.*.bin")
    return path


def test_what_two_starts_import_the_third_has_at_once(copy: Path) -> None:
    assert start(copy) == (0, 0, 0)
    count, _, late = start(copy)
    assert count == 2 and late > 40, "the package and the module that reads the file; the rest one by one"
    count, _, late = start(copy)
    assert count > 40 and late == 0
    before = file_of(copy).stat()
    assert start(copy) == (count, 0, 0)
    assert file_of(copy).stat().st_mtime_ns == before.st_mtime_ns, "nothing was to be added"


def test_what_few_starts_import_is_read_by_these_alone(copy: Path) -> None:
    more = ("pyrunc.oci.list", "pyrunc.oci.kill")
    start(copy, "pyrunc.oci.kill", "pyrunc.oci.ps")
    start(copy)
    count, _, _ = start(copy)
    _, _, known = start(copy, *more)
    _, _, late = start(copy, *more)
    assert late > known > 0
    assert start(copy, *more) == (count, 0, late)
    assert start(copy) == (count, 0, 0)
    listing = copy / "pyrunc/oci/list.py"
    listing.write_text(listing.read_text() + "\n")
    assert start(copy, *more) == (count, 0, late - 1)
    assert start(copy, *more) == (count, 0, late)


def test_a_package_that_imports_its_own_modules(copy: Path) -> None:
    for _ in range(3):
        start(copy, "json")
    (path,) = (copy / "pyrunc/__pycache__").glob("oci.*.bin")
    names = [entry[0] for entry in marshal.loads(path.read_bytes())[2]]
    assert names.index("json.decoder") < names.index("json")
    assert start(copy, "json")[2] == 0


def test_another_python_does_not_take_it(copy: Path) -> None:
    count = thrice(copy)
    path = file_of(copy)
    whose, own, taken = marshal.loads(path.read_bytes())
    path.write_bytes(marshal.dumps(((whose[0], "3.11.0 of somebody else", *whose[2:]), own, taken)))
    assert start(copy) == (0, 0, 0)
    start(copy)
    assert start(copy)[0] == count


def test_nothing_is_written_where_python_shall_not(copy: Path) -> None:
    code = CODE.replace("import sys\n", "import sys\nsys.dont_write_bytecode = True\n", 1)
    subprocess.run([sys.executable, "-I", "-S", "-c", code, copy], check=True, stdout=subprocess.DEVNULL)
    assert not [*copy.rglob("oci*.bin")]


def test_only_its_owner_can_write_to_it(copy: Path) -> None:
    before = os.umask(0)
    try:
        start(copy)
    finally:
        os.umask(before)
    assert file_of(copy).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("changed", ["oci/log.py", "bundled.py", "__init__.py", "_native/plan.abi3.so"])
def test_once_a_file_has_changed_all_is_imported_and_written_anew(copy: Path, changed: str) -> None:
    count = thrice(copy)
    path = copy / "pyrunc" / changed
    if path.suffix == ".py":
        path.write_text(path.read_text() + "\nCHANGED = 7\n")
    else:
        os.utime(path, ns=(0, 0))
    seven = 7 if changed == "oci/log.py" else 0
    assert start(copy) == (0, seven, 0)
    start(copy)
    assert start(copy) == (count, seven, 0)


def test_a_module_that_is_gone_is_missed(copy: Path) -> None:
    thrice(copy)
    (copy / "pyrunc/oci/log.py").unlink()
    with pytest.raises(AssertionError, match=r"cannot import name 'log'|No module named 'pyrunc\.oci\.log'"):
        start(copy)


def test_a_file_whose_modules_cannot_be_made_is_replaced(copy: Path) -> None:
    count = thrice(copy)
    path = file_of(copy)
    whose, own, taken = marshal.loads(path.read_bytes())
    fails = (*taken[-1][:5], compile("1 / 0", "module", "exec"))
    path.write_bytes(marshal.dumps((whose, own, [*taken[:-1], fails])))
    assert start(copy) == (0, 0, 0)
    start(copy)
    assert start(copy)[0] == count


@pytest.mark.parametrize("content", [b"", b"garbage", b"(\2\0\0\0", b"N", b"directory"])
@pytest.mark.parametrize("which", ["oci", "oci-late"])
def test_a_damaged_file_is_replaced(copy: Path, content: bytes, which: str) -> None:
    start(copy)
    (path,) = (copy / "pyrunc/__pycache__").glob(f"{which}.*.bin")
    path.unlink()
    if content == b"directory":
        path.mkdir()
    else:
        path.write_bytes(content)
    start(copy)
    start(copy)
    start(copy)
    assert (start(copy)[0] > 40) is (content != b"directory")
    assert len([*path.parent.glob("oci*")]) == 2
