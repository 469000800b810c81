"""A real base image without a registry: Debian's own tools make a root, and it becomes one plain layer.

debootstrap (or mmdebstrap) runs as root in namespaces of its own (mounts, processes, host name), and the root is made
on a tmpfs that exists there only: whoever is killed when, the host keeps no mount, no process and no part of the tree.

The layer is the same, byte for byte, as long as the mirror offers the same: logs, caches, ids of a machine, devices
and what the tools copied from this host are removed, and no time is later than the release's own (or than
SOURCE_DATE_EPOCH, where that is set).
"""

import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit

from pyrunc._native import openat2
from pyrunc.errors import InvalidArgument, NotFound, PermissionDenied, PyruncError, Unavailable, Unsupported
from pyrunc.image import apt_sources, diff

_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_SCRIPTS = "/usr/share/debootstrap/scripts"
_MADE = "pyrunc: the root is made"
# The tree lives as long as this shell, or a descriptor of it.
_SHELL = f"""
set -eu
mount -t tmpfs -o mode=0755 pyrunc-bootstrap "$1"
mkdir -m 0755 "$1/tree"
shift
"$@" </dev/null
echo "{_MADE}"
read -r _ || :
"""
# What a running container gets anew, and what only this build knows.
_EMPTY = (
    "dev",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/tmp",
    "var/cache/apt",
    "var/cache/ldconfig",
    "var/lib/apt/lists",
    "var/log",
)
_CONTENTS = ("etc/hostname", "etc/resolv.conf", "etc/machine-id")
_REMOVED = (
    "var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "var/cache/debconf/config.dat-old",
    "var/cache/debconf/passwords.dat-old", "var/cache/debconf/templates.dat-old", "var/lib/dpkg/available-old",
    "var/lib/dpkg/diversions-old", "var/lib/dpkg/statoverride-old", "var/lib/dpkg/status-old",
    "etc/group-", "etc/gshadow-", "etc/passwd-", "etc/shadow-", "etc/subgid-", "etc/subuid-",
)  # fmt: skip
# Directories and empty files that programs expect to be there.
_KEPT = {"var/cache/apt/archives", "var/cache/apt/archives/partial", "var/lib/apt/lists/partial",
         "var/log/btmp", "var/log/faillog", "var/log/lastlog", "var/log/wtmp"}  # fmt: skip

Progress = Callable[[str], object]


class Bootstrapped(NamedTuple):
    """A base image's layer: *stream* is the plain tar, open for reading at its beginning, and gone when it is closed.

    *created_ns* is the latest time in it, nanoseconds since 1970; *mirror* is where the packages came from.
    """

    stream: BinaryIO
    layer: diff.Written
    distribution: str
    suite: str
    mirror: str
    created_ns: int


def bootstrap(
    reference: str, *, mirror: str | None = None, variant: str = "minbase", progress: Progress | None = None
) -> Bootstrapped:
    """Make the layer of a base image: *reference* is ``debian:bookworm``, or a suite of this host's distribution.

    Packages come from *mirror* (a URI), or from the one that apt is configured to use for that suite or else for this
    host's own; through apt's proxy, and signed by the key that is configured there. *variant* is "minbase",
    "buildd" or "" for the tool's usual system. *progress* gets a line for each step; what it raises ends the work.

    Raises InvalidArgument, PermissionDenied without root, Unsupported where neither debootstrap nor mmdebstrap is
    installed, NotFound for a suite that is unknown or has no mirror, Unavailable when the mirror cannot be reached or
    the tool fails otherwise.
    """
    distribution, suite = parse(reference)
    if not re.fullmatch("[a-z]*", variant):
        raise InvalidArgument(f"no variant: {variant!r}")
    if os.geteuid() != 0:
        raise PermissionDenied("a base image is made by root only")
    repository = (
        find(distribution, suite) if mirror is None else apt_sources.Repository(mirror, suite, ("main",), "")
    )
    command = _command(repository, suite, variant)
    place = tempfile.mkdtemp(prefix="pyrunc-bootstrap-")
    try:
        tree = _made(command, place, _environment(repository.uri), progress)
    finally:
        os.rmdir(place)
    try:
        created_ns = _created(tree)
        _clean(tree, created_ns)
        if progress is not None:
            progress("writing the layer")
        # The stream outlives this function: its owner closes it.
        stream = tempfile.TemporaryFile(prefix="pyrunc-bootstrap-")  # noqa: SIM115
        try:
            layer = diff.write_tree(tree, stream.write, clamp_mtime_ns=created_ns)
            stream.seek(0)
        except BaseException:
            stream.close()
            raise
    finally:
        os.close(tree)
    return Bootstrapped(stream, layer, distribution, suite, repository.uri, created_ns)


def parse(reference: str) -> tuple[str, str]:
    """Return distribution and suite of ``debian:bookworm`` or ``bookworm``; raises InvalidArgument."""
    name, colon, suite = reference.rpartition(":")
    distribution = name.rpartition("/")[2] if colon else _this_host()[0]
    if not _NAME.fullmatch(suite) or not _NAME.fullmatch(distribution):
        raise InvalidArgument(f"no distribution and suite, such as debian:bookworm: {reference!r}")
    return distribution, suite


def find(distribution: str, suite: str, directory: str = "/etc/apt") -> apt_sources.Repository:
    """Return the repository that apt's configuration has for *suite*, or else for this host's own suite.

    Where several have it, the one is preferred whose URI or key bears the distribution's name. Raises NotFound.
    """
    known = [item for item in apt_sources.repositories(directory) if "main" in item.components]
    host, codename = _this_host()
    wanted = [item for item in known if item.suite == suite]
    if not wanted and host == distribution:
        wanted = [item for item in known if item.suite == codename]
    if not wanted:
        raise NotFound(
            f"apt has no mirror for {distribution}:{suite} in {directory}/sources.list and sources.list.d"
        )

    def rank(item: apt_sources.Repository) -> tuple[bool, bool]:
        last = urlsplit(item.uri).path.rstrip("/").rpartition("/")[2]
        return last != distribution, not os.path.basename(item.signed_by).startswith(
            f"{distribution}-archive"
        )

    return min(wanted, key=rank)


def _this_host() -> tuple[str, str]:
    """Return id and codename of this host's distribution; "" for what is not said. Source: os-release(5)."""
    fields = {}
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(path, encoding="utf-8") as file:
                fields = dict(line.strip().split("=", 1) for line in file if "=" in line)
            break
        except OSError:
            continue
    return fields.get("ID", "").strip('"'), fields.get("VERSION_CODENAME", "").strip('"')


def _command(repository: apt_sources.Repository, suite: str, variant: str) -> list[str]:
    """Return the command that makes the tree, whose directory is the word TREE.

    debootstrap first: it knows each suite's layout, where mmdebstrap takes the first alternative that apt finds, and
    so has half again as much in a "minbase" of bookworm.
    """
    chosen = [f"--variant={variant}"] if variant else []
    known = os.path.exists(os.path.join(_SCRIPTS, suite))
    if shutil.which("debootstrap") and (known or not shutil.which("mmdebstrap")):
        if not known:
            raise NotFound(f"debootstrap knows no suite {suite}")
        keyring = [f"--keyring={repository.signed_by}"] if repository.signed_by else []
        return ["debootstrap", "--force-check-gpg", *keyring, *chosen, suite, "TREE", repository.uri]
    if not shutil.which("mmdebstrap"):
        raise Unsupported(
            "neither debootstrap nor mmdebstrap is installed; on Debian: apt-get install debootstrap"
        )
    signed = f"[signed-by={repository.signed_by}] " if repository.signed_by else ""
    source = f"deb {signed}{repository.uri} {suite} main"
    kept = ["--mode=root", "--format=directory", "--skip=cleanup/apt/lists"]
    return ["mmdebstrap", *kept, *chosen, suite, "TREE", source]


def _environment(uri: str) -> dict[str, str]:
    """Return what the tools may know of this process: how to reach the mirror, and no more."""
    found = {
        name: value
        for name, value in os.environ.items()
        if name.lower() in ("http_proxy", "https_proxy", "no_proxy")
    }
    server = apt_sources.proxy(uri)
    if server is not None:
        found.update(http_proxy=server, https_proxy=server)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    found.update(PATH=path, LC_ALL="C", HOME="/root", DEBIAN_FRONTEND="noninteractive")
    if "SOURCE_DATE_EPOCH" in os.environ:
        found["SOURCE_DATE_EPOCH"] = os.environ["SOURCE_DATE_EPOCH"]
    return found


def _made(command: list[str], place: str, environment: dict[str, str], progress: Progress | None) -> int:
    """Run *command* in namespaces of its own, with a tmpfs at *place*; return a descriptor of the tree."""
    tree = os.path.join(place, "tree")
    words = [tree if word == "TREE" else word for word in command]
    # The death of this thread ends unshare, whose death ends the first process of the pid namespace, and so all.
    isolated = [
        "setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--uts", "--ipc", "--pid",
        "--fork", "--kill-child", "--mount-proc", "sh", "-c", _SHELL, "sh", place, *words,
    ]  # fmt: skip
    said: deque[str] = deque(maxlen=200)
    with subprocess.Popen(
        isolated, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
        encoding="utf-8", errors="replace",
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for line in process.stdout:
                text = line.rstrip()
                if text == _MADE:
                    fd = os.open(
                        f"/proc/{process.pid}/root{tree}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                    )
                    break
                said.append(text)
                if progress is not None and text:
                    progress(text.removeprefix("I: "))
            else:
                process.wait()
                raise _failure(command[0], said, process.returncode)
        except BaseException:
            process.kill()
            raise
        # The shell ends, the namespaces with it; the descriptor keeps the file system.
        process.stdin.close()
        process.wait()
    return fd


def _failure(tool: str, said: deque[str], code: int) -> PyruncError:
    """Return the error that the tool's words amount to."""
    reasons = [line.removeprefix("E: ").strip() for line in said if line.startswith("E: ")]
    words = "; ".join(dict.fromkeys(reasons[-3:])) or (said[-1] if said else "without a word")
    return Unavailable(f"{tool} ended with {code}: {words}")


def _created(tree: int) -> int:
    """Return the time of the release that the packages are of, in nanoseconds since 1970."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is not None:
        if not epoch.isdecimal():
            raise InvalidArgument(f"SOURCE_DATE_EPOCH is no number of seconds: {epoch!r}")
        return int(epoch) * 10**9
    lists = _open(tree, "var/lib/apt/lists", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in sorted(os.listdir(lists)):
            if name.endswith(("InRelease", "_Release")):
                with open(_open(lists, name, os.O_RDONLY), encoding="utf-8", errors="replace") as file:
                    for line in file:
                        if line.startswith("Date: "):
                            return int(parsedate_to_datetime(line[6:].strip()).timestamp()) * 10**9
    finally:
        os.close(lists)
    raise Unavailable("the tool left no release file, whose date the image would have")


def _open(root: int, path: str, flags: int) -> int:
    """Open *path* inside the tree, on its own file system."""
    return openat2.open_in_root(root, os.fsencode(path), flags, resolve=openat2.RESOLVE_NO_XDEV)


def _clean(tree: int, created_ns: int) -> None:
    """Remove from the tree what differs between two makings of it, and what it has of this host."""
    for path in _EMPTY:
        _empty(tree, path)
    for path in _CONTENTS:
        _truncate(tree, path, 0o644)
    for path in _REMOVED:
        directory, _, name = path.rpartition("/")
        try:
            parent = _open(tree, directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        finally:
            os.close(parent)
    # The days on which passwords were last changed are that of the making.
    with open(_open(tree, "etc/shadow", os.O_RDWR | os.O_NOFOLLOW), "r+", encoding="ascii") as file:
        days = str(created_ns // 10**9 // 86400)
        lines = [line.split(":") for line in file.read().splitlines()]
        file.seek(0)
        file.truncate()
        file.writelines(
            ":".join([*fields[:2], days if fields[2] else "", *fields[3:]]) + "\n" for fields in lines
        )


def _truncate(tree: int, path: str, mode: int | None = None) -> None:
    """Leave the file *path* empty, if it is there, and with *mode* where that is given."""
    try:
        fd = _open(tree, path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        os.ftruncate(fd, 0)
        if mode is not None:
            os.fchmod(fd, mode)
    finally:
        os.close(fd)


def _empty(tree: int, path: str) -> None:
    """Remove what is in the directory *path*, but what is to be kept of it."""
    try:
        directory = _open(tree, path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        for name in os.listdir(directory):
            below = f"{path}/{name}"
            is_directory = stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
            if is_directory and below in _KEPT:
                _empty(tree, below)
            elif is_directory:
                shutil.rmtree(name, dir_fd=directory)
            elif below in _KEPT:
                _truncate(tree, below)
            else:
                os.unlink(name, dir_fd=directory)
    finally:
        os.close(directory)
