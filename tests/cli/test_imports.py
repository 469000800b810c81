"""What a command imports is most of what it takes; a cold one of those that scripts call often imports little."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_RUN = """
import sys
from pyrunc.cli.main import main
code = main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(" ".join(sys.modules))
sys.exit(code)
"""
# Of the standard library nothing but this, and what it imports itself.
_ALLOWED = (
    "__future__", "_collections_abc", "_json", "_sha2" if sys.version_info >= (3, 12) else "_sha256", "_socket",
    "_sqlite3", "_weakref", "atexit", "binascii", "errno", "fcntl", "pyrunc._native.plan", "select", "struct",
    "time",
)  # fmt: skip
# What few commands need, or none of these.
_SELDOM = (
    "cli.format", "cli.template", "cli.usage", "engine.images", "engine.mount_specs", "engine.restarting",
    "engine.unpack", "engine.updating", "engine.volumes", "image.layer", "runtime.sandbox", "spec.document",
)  # fmt: skip
# These start nothing.
_STARTING = ("engine.creating", "engine.starting", "runtime.compile", "runtime.launcher", "runtime.options")


def _modules(code: str, *argv: str, env: dict[str, str] | None = None) -> set[str]:
    report = Path(argv[0])
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(report.read_text().split())


@pytest.fixture(scope="module")
def allowed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    report = str(tmp_path_factory.mktemp("allowed") / "modules")
    code = f"import sys, {', '.join(_ALLOWED)}\nopen(sys.argv[1], 'w').write(' '.join(sys.modules))"
    return _modules(code, report)


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose root has the image that ships, unpacked, and a container of it."""
    top = tmp_path_factory.mktemp("cold")
    found = {**os.environ, "PYRUNC_ROOT": str(top / "root"), "PYRUNC_STATE": str(top / "state")}
    for line in ("run --rm hello", "create --name kept hello"):
        subprocess.run(
            [sys.executable, "-m", "pyrunc", *line.split()], env=found, stdout=subprocess.DEVNULL, check=True
        )
    return found


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="annotations that nobody asks for cost nothing there")
@pytest.mark.parametrize(
    ("line", "seldom"),
    [
        ("run --rm --network none hello", _SELDOM),
        ("run -d --rm hello", _SELDOM),
        ("start kept", _SELDOM),
        ("wait kept", (*_SELDOM, *_STARTING)),
        ("ps -a", (*_SELDOM, *_STARTING)),
        ("ps -q", (*_SELDOM, *_STARTING, "image.images")),
        ("rm kept", (*_SELDOM, *_STARTING)),
    ],
)  # fmt: skip
def test_a_cold_command_imports_little(
    line: str, seldom: tuple[str, ...], env: dict[str, str], allowed: set[str], tmp_path: Path
) -> None:
    found = _modules(_RUN, str(tmp_path / "modules"), *line.split(), env=env)
    own = {name.removeprefix("pyrunc.") for name in found if name.startswith("pyrunc.")}
    others = {name for name in found if name.partition(".")[0] != "pyrunc"}
    assert others - allowed == set()
    assert own & set(seldom) == set()
