"""`pyrunc cp` and what it does on the host, beyond what docker was asked (tests/fixtures/docker/copy.txt)."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.shell import Shell

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def shell(tmp_path: Path, busybox: Path) -> Iterator[Shell]:
    with Shell.opened(tmp_path, busybox) as found:
        assert found.run("load -q -i beta.tar").code == 0
        yield found


def _made(shell: Shell, script: str) -> None:
    assert shell.run(f"run --network none --name one beta sh -c '{script}'").code == 0


def test_a_link_that_was_copied_before_leads_nothing_to_the_host(shell: Shell, tmp_path: Path) -> None:
    """The container's tree is a link first, and a directory of the same name at the next copy."""
    host = tmp_path / "host"
    host.mkdir()
    _made(shell, f"mkdir -p /a /b/x; busybox ln -s {host} /a/x; echo planted > /b/x/file")
    assert shell.run("cp one:/a/. copied").code == 0
    place = shell.directory / "copied"
    assert os.readlink(place / "x") == str(host)
    answer = shell.run("cp one:/b/. copied")
    assert answer.code == 1 and "cannot overwrite non-directory" in answer.stderr
    assert os.listdir(host) == []
    answer = shell.run("cp one:/b/x/file copied/x/file")  # this link is the user's own word
    assert answer.code == 0 and os.listdir(host) == ["file"]


def test_a_followed_link_keeps_its_own_name(shell: Shell) -> None:
    _made(
        shell,
        "mkdir -p /tree/dir; echo a > /tree/dir/a; busybox ln -s dir /tree/link; busybox ln -s a /tree/dir/l",
    )
    for line in (
        "cp -L one:/tree/link .",
        "cp -L one:/tree/link named",
        "cp -L one:/tree/dir/l .",
        "cp -L one:/tree/dir/l f",
    ):
        assert shell.run(line) == (0, "", "")
    for name in ("link/a", "named/a", "l", "f"):
        assert (shell.directory / name).read_text() == "a\n" and not (shell.directory / name).is_symlink()
    assert os.readlink(shell.directory / "link/l") == "a"


def test_hard_links_and_odd_names_are_copied_under_a_new_name(shell: Shell) -> None:
    place = shell.directory / "here"
    place.mkdir()
    (place / "first").write_text("x")
    os.link(place / "first", place / "here")
    (place / os.fsdecode(b"\xff")).write_text("y")
    assert shell.run("create --network none --name two beta true").code == 0
    assert shell.run("cp here two:/there").code == 0
    assert shell.run("cp two:/there back").code == 0
    assert sorted(os.listdir(os.fsencode(shell.directory / "back"))) == [b"first", b"here", b"\xff"]
    assert os.path.samefile(shell.directory / "back/first", shell.directory / "back/here")


def test_what_is_copied_out_belongs_to_the_caller_and_keeps_its_mode(shell: Shell) -> None:
    _made(shell, "echo x > /f; busybox chown 1000:1001 /f; busybox chmod 2741 /f")
    assert shell.run("cp one:/f f").code == 0
    status = os.stat(shell.directory / "f")
    assert (status.st_uid, status.st_gid, oct(status.st_mode)) == (os.geteuid(), os.getegid(), "0o102741")


def test_a_consumer_that_stops_is_no_error_of_ours(shell: Shell) -> None:
    """A refusal in the middle of a large archive ends both sides."""
    _made(shell, "busybox dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null")
    (shell.directory / "big").mkdir()
    (shell.directory / "big/big").mkdir()
    answer = shell.run("cp one:/big big")
    assert answer.code == 1 and "cannot overwrite directory" in answer.stderr


def test_flags_of_volumes_that_are_for_clusters_are_refused_by_name(shell: Shell) -> None:
    for flag in ("--availability active", "--group x", "--scope single", "--type mount", "--sharing none"):
        answer = shell.run(f"volume create {flag} one")
        assert answer.code == 125 and answer.stderr.startswith(flag.split()[0])
    assert shell.run("volume ls --cluster").code == 125
    assert shell.run("volume update").code == 125
    assert shell.run("volume ls -q") == (0, "", "")


def test_prune_takes_names_only_with_all(shell: Shell) -> None:
    assert shell.run("volume create named").code == 0
    anonymous = shell.run("volume create").stdout.strip()
    assert (
        shell.run("volume prune -f").stdout == f"Deleted Volumes:\n{anonymous}\n\nTotal reclaimed space: 0B\n"
    )
    assert "all local volumes" in shell.run("volume prune -a").stdout
    assert shell.run("volume prune -a -f").stdout == "Deleted Volumes:\nnamed\n\nTotal reclaimed space: 0B\n"
    answer = shell.run("volume prune -a --filter all=1")
    assert answer.code == 1 and "conflicting options" in answer.stderr
