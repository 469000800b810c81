"""A base image from the host's own mirror: made for real, the same twice, and never leaving anything behind."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import pyrunc
from pyrunc.errors import InvalidArgument, NotFound, Unavailable, Unsupported
from pyrunc.image import apt_sources, bootstrap
from tests.image.trees import gnu_extract
from tests.safety.support import descendants

SUITE = "bookworm"


@pytest.fixture(scope="module")
def mirror() -> str:
    """The mirror of this host, if it answers."""
    if not shutil.which("mmdebstrap") and not shutil.which("debootstrap"):
        pytest.skip("needs mmdebstrap or debootstrap")
    try:
        uri = bootstrap.find("debian", SUITE).uri
    except NotFound as exc:
        pytest.skip(str(exc))
    server = apt_sources.proxy(uri)
    handlers = [urllib.request.ProxyHandler({"http": server, "https": server})] if server else []
    try:
        with urllib.request.build_opener(*handlers).open(
            f"{uri}/dists/{SUITE}/Release", timeout=20
        ) as answer:
            answer.read(1)
    except OSError as exc:
        pytest.skip(f"the mirror {uri} cannot be reached: {exc}")
    return uri


@pytest.fixture(scope="module", autouse=True)
def _own_places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trees are made where nobody else makes any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("places")))
        yield


class Cli:
    """`pyrunc` on a root of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, *argv: str) -> tuple[str, str]:
        code = "import sys; from pyrunc.cli.main import main; sys.exit(main())"
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PYRUNC_ROOT": str(self.root),
            "TMPDIR": tempfile.gettempdir(),
        }
        done = subprocess.run(
            [sys.executable, "-c", code, *argv], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done
        return done.stdout, done.stderr


class Made(NamedTuple):
    """An image made by the command: its id, its layer's digest, file and time, and what was said meanwhile."""

    cli: Cli
    id: str
    digest: str
    path: Path
    created_ns: int
    said: list[str]


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """The image, made once, by `pyrunc image bootstrap`."""
    request.getfixturevalue("mirror")
    root = tmp_path_factory.mktemp("bootstrap")
    cli = Cli(root)
    out, err = cli("image", "bootstrap", f"debian:{SUITE}")
    with pyrunc.Engine(root) as engine:
        details = engine.images.inspect(f"debian:{SUITE}")
        (digest,) = details.layers
        yield Made(
            cli, out.strip(), digest, Path(engine._parts.content.path(digest)), details.image.created_ns,
            err.splitlines(),
        )  # fmt: skip
    shutil.rmtree(root)


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def leftovers() -> list[str]:
    return os.listdir(tempfile.gettempdir())


def test_the_command_tells_its_steps_and_prints_the_id(made: Made, mirror: str) -> None:
    assert made.said[-1] == "writing the layer" and len(made.said) > 100
    assert made.cli("images", "-q", "--no-trunc", f"debian:{SUITE}")[0] == f"{made.id}\n"
    created_by = made.cli("history", "--no-trunc", "--format", "{{.CreatedBy}}", made.id)[0]
    assert created_by == f"pyrunc: debian {SUITE} from {mirror}\n"


def test_it_is_debian_and_runs(made: Made, tmp_path: Path) -> None:
    script = (
        ". /etc/os-release; echo $ID $VERSION_CODENAME; dpkg --audit; dpkg-query -W -f '${Package}\\n' apt"
    )
    words = f"debian {SUITE}\napt\n"
    assert made.cli("run", "--rm", f"debian:{SUITE}", "sh", "-ec", script)[0] == words
    gnu_extract(made.path, tmp_path / "root")
    with pyrunc.Sandbox(rootfs=str(tmp_path / "root")) as box:
        ran = box.run(["/bin/sh", "-ec", script], timeout_s=60)
    assert (ran.exit_code, ran.stdout.decode()) == (0, words)


def test_nothing_of_this_host_or_this_hour_is_in_it(made: Made) -> None:
    with open(made.path, "rb") as file:
        assert made.digest == f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    with tarfile.open(made.path) as tar:
        members = {member.name: member for member in tar}
        for name in ("etc/hostname", "etc/resolv.conf", "var/log/wtmp"):
            assert members[name].size == 0
        shadow = tar.extractfile("etc/shadow")
        assert shadow is not None
        days = {line.split(b":")[2] for line in shadow.read().splitlines()}
    assert days == {b"%d" % (made.created_ns // 10**9 // 86400)}
    assert not [member for member in members.values() if member.isdev()]
    assert max(member.mtime for member in members.values()) <= made.created_ns / 10**9
    for name in ("dev", "proc", "sys", "run", "tmp", "var/tmp", "var/log/apt", "var/cache/ldconfig"):
        assert not [other for other in members if other.startswith(f"{name}/")], name
    assert not [
        name for name in members if name.endswith((".deb", "_Packages", "bootstrap.log", "machine-id"))
    ]
    # who owns what, and special bits, are Debian's
    assert (members["etc/shadow"].mode, members["etc/shadow"].gid, members["tmp"].mode) == (0o640, 42, 0o1777)


def test_the_host_is_as_before(made: Made) -> None:
    assert made
    assert "pyrunc-bootstrap" not in mounts()
    assert leftovers() == []


@pytest.mark.soak
def test_a_second_time_makes_the_same(made: Made, tmp_path: Path) -> None:
    again = Cli(tmp_path / "again")
    assert again("image", "bootstrap", "-q", "-t", "other:1", f"debian:{SUITE}") == (f"{made.id}\n", "")
    assert again("images", "--format", "{{.Repository}}:{{.Tag}}")[0] == "other:1\n"
    shutil.rmtree(again.root)


@pytest.mark.usefixtures("mirror")
def test_killed_at_work_it_leaves_no_mount_and_no_process(tmp_path: Path) -> None:
    """SIGKILL, so that nothing can be cleaned up by whom it hits."""
    code = (
        "import sys\nfrom pyrunc.image import bootstrap\n"
        f"bootstrap.bootstrap('debian:{SUITE}', progress=lambda line: print(line, flush=True))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    before = mounts()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        for _ in range(5):
            assert process.stdout.readline()
        family = descendants(process.pid)
        assert len(family) >= 3
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (
        alive := [pid for pid in family if Path(f"/proc/{pid}/exe").exists()]
    ) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive == []
    assert mounts() == before
    # an empty directory is all there is
    assert [list(entry.iterdir()) for entry in tmp_path.iterdir()] == [[]]


@pytest.mark.usefixtures("mirror")
def test_what_progress_raises_ends_it() -> None:
    class Enough(Exception):
        pass

    def stop(line: str) -> None:
        raise Enough(line)

    with pytest.raises(Enough):
        bootstrap.bootstrap(f"debian:{SUITE}", progress=stop)
    assert leftovers() == []


@pytest.mark.parametrize(
    "reference", ["", "debian:", ":bookworm", "debian:book worm", "debian:../etc", "debian:-x"]
)
def test_what_is_no_suite_is_refused(reference: str) -> None:
    with pytest.raises(InvalidArgument, match=r"no distribution and suite"):
        bootstrap.bootstrap(reference)


def test_references() -> None:
    assert bootstrap.parse("debian:bookworm") == ("debian", "bookworm")
    assert bootstrap.parse("docker.io/library/ubuntu:noble") == ("ubuntu", "noble")
    assert bootstrap.parse("trixie")[1] == "trixie"


def test_no_tool_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match=r"^neither debootstrap nor mmdebstrap is installed"):
        bootstrap.bootstrap("debian:bookworm", mirror="http://mirror.example/debian")


@pytest.mark.skipif(
    not shutil.which("debootstrap") or bool(shutil.which("mmdebstrap")), reason="needs debootstrap alone"
)
def test_an_unknown_suite_is_one_clear_error() -> None:
    with pytest.raises(NotFound, match=r"^debootstrap knows no suite nosuch$"):
        bootstrap.bootstrap("debian:nosuch", mirror="http://mirror.example/debian")


@pytest.mark.skipif(not shutil.which("debootstrap"), reason="needs debootstrap")
def test_a_mirror_that_has_nothing_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"debootstrap ended with 1: ") as caught:
        bootstrap.bootstrap("debian:bookworm", mirror=f"file://{tmp_path}")
    assert "\n" not in str(caught.value)
    assert leftovers() == []
