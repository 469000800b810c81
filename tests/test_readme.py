"""The README's section about images, and the page about them, do what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import samples

README = Path(__file__).parents[1] / "README.md"
PAGE = README.parent / "docs/images.md"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start containers")


def section(name: str = "Images") -> str:
    return README.read_text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def block(language: str, section: str) -> str:
    """The first block of *language* in the section."""
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def place(tmp_path: Path, busybox: Path) -> Path:
    """A directory with images.tar, whose image is called tools."""
    samples.write(tmp_path, busybox)
    environment = {**os.environ, "PYTHONPATH": str(README.parent), "PYRUNC_ROOT": str(tmp_path / "first")}
    code = (
        "from pyrunc import Engine; e = Engine(); e.images.load('beta.tar'); e.images.tag('beta', 'tools');"
        "e.images.save(['tools'], open('images.tar', 'wb').write)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    return tmp_path


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, busybox: Path) -> Path:
    """A directory with the README's shell session behind it, and what that said in `told`."""
    place = tmp_path_factory.mktemp("readme")
    programs = place / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "busybox").symlink_to(busybox)
    (programs / "pyrunc").write_text(f'#!/bin/sh\nexec {sys.executable} -m pyrunc "$@"\n')
    (programs / "pyrunc").chmod(0o755)
    (place / "told").write_text(run(place, "sh", "-euc", block("sh", section())))
    return place


def run(place: Path, *command: str) -> str:
    root = place / f"root-{Path(command[0]).name}"
    environment = {**os.environ, "PYTHONPATH": str(README.parent), "PYRUNC_ROOT": str(root)}
    environment["PYRUNC_STATE"] = str(place / "state")
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_the_shell_session(checkout: Path) -> None:
    told = (checkout / "told").read_text()
    assert "Hello from a container" in told
    assert "A /greeting\nsha256:" in told and "\nhello\nsha256:" in told
    assert re.search(r"^greeting:1 [0-9.]+MB$", told, re.MULTILINE)
    assert re.search(r"^flat:1 [0-9.]+MB$", told, re.MULTILINE)
    assert '["busybox","cat","/greeting"]\nfirst\nUntagged: greeting:1\n' in told
    assert (checkout / "both.tar.gz").stat().st_size > 1000


def test_the_session_about_containers(place: Path) -> None:
    program = f'pyrunc() {{ {sys.executable} -m pyrunc "$@"; }}; pyrunc load -q -i images.tar > /dev/null\n'
    told = run(place, "sh", "-euc", program + block("sh", section("Containers"))).splitlines()
    said = ["web running", "web", "134217728", "web", "web", "web", "web exited", "web", "web", "137"]
    assert told[1:-4] == said and told[-4] == "Deleted Containers:"


def test_the_python_session(checkout: Path) -> None:
    told = run(checkout, sys.executable, "-W", "error", "-c", block("python", section())).splitlines()
    assert told[:2] == [r"0 b'1000\nhello\n'", "[('A', '/file')]"]
    assert told[2:] == ["[('made:1',), ('tools:latest',)]", "paused"]


def test_the_python_session_about_streams(checkout: Path) -> None:
    code = (
        f"import pyrunc; pyrunc.Engine().images.load('images.tar')\n{block('python', section('Containers'))}"
    )
    told = run(checkout, sys.executable, "-W", "error", "-c", code).splitlines()
    assert told == [
        "(b'hello', b'')", "True ['image', 'create', 'request']", "False []", "[('stdout', b'one\\n')] 3", "run", "190",
    ]  # fmt: skip


def test_the_pages_shell_session(place: Path) -> None:
    program = f"{sys.executable} -c 'import sys; from pyrunc.cli.main import main; sys.exit(main())'"
    told = run(place, "sh", "-euc", f'pyrunc() {{ {program} "$@"; }}\n{block("sh", PAGE.read_text())}')
    assert "Untagged: base:1\n" in told and "Loaded image: base:1\n" in told
    assert "\nbase:1\ntools:latest\n" in told or "\ntools:latest\nbase:1\n" in told
    assert "Total reclaimed space: 0B\n" in told
    assert told.endswith("are whole; nothing is lost\n")


def test_the_pages_python_session(place: Path) -> None:
    told = run(place, sys.executable, "-W", "error", "-c", block("python", PAGE.read_text())).splitlines()
    assert told == ["[('load', True), ('unpack', True)]", "['/bin/sh']", "[]"]


def test_the_page_and_the_readme_name_what_the_host_image_exposes() -> None:
    for text in (section(), PAGE.read_text()):
        for place in (
            "/etc",
            "/usr",
            "/var",
            "/opt",
            "/run",
            "/tmp",
            "password hashes",
            "--allow-host-image",
        ):
            assert place in text
