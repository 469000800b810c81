"""What is no document under a document's name: nobody hangs, and a damaged state can be deleted by force."""

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.oci.bundles import Runtime, cgroups, document
from tests.oci.test_rivals import removed
from tests.oci.waiting import until
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root
HUGE = 1 << 40


def place(path: Path, kind: str) -> None:
    """Put something of *kind* where a document is looked for."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "huge":
        with open(path, "wb") as file:
            file.truncate(HUGE)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    elif kind == "deep":
        path.write_text("[" * 100_000)
    else:
        path.symlink_to(kind)


KINDS = {
    "fifo": "not a regular file", "directory": "is a directory", "huge": "more than", "socket": "no such device",
    "/dev/zero": "not a regular file", "/dev/null": "not a regular file", "/dev/ptmx": "not a regular file",
    "deep": "nested too deeply",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_whose_document_is_none(oci: Runtime, tmp_path: Path, kind: str) -> None:
    bundle = tmp_path / "b"
    bundle.mkdir()
    place(bundle / "config.json", kind)
    done = oci.call("create", "-b", bundle, oci.id, code=1)
    assert done.stderr.count("\n") == 1
    assert KINDS[kind] in done.stderr
    assert not oci.directory.exists()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "fifo"])
def test_documents_of_exec_and_update_that_are_none(oci: Runtime, tmp_path: Path, kind: str) -> None:
    oci.call("create", "-b", oci.bundle(tmp_path / "b", ["sleep", "100"]), oci.id)
    path = tmp_path / "document"
    place(path, kind)
    for words, code in ((["exec", "--process", path, oci.id], 255), (["update", "-r", path, oci.id], 1)):
        done = oci.call(*words, code=code)
        assert done.stderr.count("\n") == 1
        assert KINDS[kind] in done.stderr


def test_a_document_may_come_through_a_pipe_but_not_never(oci: Runtime, tmp_path: Path) -> None:
    oci.call("create", "-b", oci.bundle(tmp_path / "b", ["sleep", "100"]), oci.id)
    process = json.dumps(
        {"args": ["sh", "-c", "echo from a pipe"], "cwd": "/", "env": ["PATH=/bin:/usr/bin"]}
    )
    line = ["bash", "-c", '"$@" < /dev/null --process <(sleep 0.2; echo "$DOCUMENT") "$ID"', "bash"]
    oci.call("start", oci.id)
    done = subprocess.run(
        [*line, *oci.command("exec")], env={**oci.environment, "DOCUMENT": process, "ID": oci.id},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "from a pipe\n", "")
    os.mkfifo(tmp_path / "nobody")
    done = oci.call("update", "-r", tmp_path / "nobody", oci.id, code=1)
    assert "nobody has written to it" in done.stderr


def clear(pid: int, groups: list[Path]) -> None:
    """Remove what nobody knows of any more."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for group in groups:
        until(functools.partial(removed, group), "busy")


def without(*names: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        found = json.loads(text)
        for name in names:
            above, _, last = name.rpartition(".")
            del (found[above] if above else found)[last]
        return json.dumps(found)

    return change


DAMAGES: dict[str, tuple[Callable[[str], str] | None, bool]] = {
    # What becomes of the text, and whether processes and cgroups can still be found.
    "gone": (None, False),
    "empty": (lambda _: "", False),
    "zeros": (lambda text: "\0" * len(text), False),
    "no object": (lambda _: "[]", False),
    "nothing": (lambda _: "{}", False),
    "torn": (lambda text: text[: text.index('"freezer":')], True),
    "without its beginning": (lambda text: text[text.index('  "bundle"') :], True),
    "no document": (without("pyrunc.spec"), True),
    "no id": (without("id"), True),
    "another version": (lambda text: text.replace('"version":1,"start', '"version":9,"start'), True),
    "no status": (without("status", "ociVersion"), True),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_deleted_by_force(oci: Runtime, tmp_path: Path, damage: str) -> None:
    """With runc it stays for ever, unless the file is gone; then what runs stays, of which nobody knows."""
    change, known = DAMAGES[damage]
    oci.call("create", "-b", oci.bundle(tmp_path / "b", ["sleep", "100"]), oci.id)
    pid, groups = oci.saved()["pid"], cgroups(oci.id)
    path = oci.directory / "state.json"
    text = path.read_text()
    if change is None:
        path.unlink()
    else:
        path.write_text(change(text))
    for words in (["state"], ["delete"], ["start"], ["kill"], ["pause"], ["ps"]):
        done = oci.call(*words, oci.id, code=1)
        assert done.stderr.count("\n") == 1
        assert "state" in done.stderr or "does not exist" in done.stderr
        assert "internal error" not in done.stderr
    assert oci.call("list").returncode == 0
    done = oci.call("delete", "--force", oci.id)
    assert ("what it does not name may be left" in done.stderr) == (change is not None)
    assert not oci.directory.exists()
    if known:
        assert not cgroups(oci.id)
    else:
        clear(pid, groups)
    oci.call("delete", "--force", oci.id)


@pytest.mark.parametrize("kind", ["fifo", "directory", "huge", "/dev/zero"])
def test_a_state_that_is_no_file(oci: Runtime, kind: str) -> None:
    oci.directory.mkdir(parents=True)
    place(oci.directory / "state.json", kind)
    for words in (["state"], ["delete"], ["exec", "true"], ["start"], ["kill"]):
        verb, *more = words
        assert oci.call(verb, oci.id, *more, code=None).returncode in (1, 255)
    assert oci.call("list").returncode == 0
    oci.call("delete", "--force", oci.id)
    assert not oci.directory.exists()


def test_what_a_damaged_state_seems_to_name_is_not_touched(oci: Runtime, tmp_path: Path) -> None:
    """A bundle may hold whatever it likes; and a cgroup is named plainly."""
    oci.call("create", "-b", oci.bundle(tmp_path / "b", ["sleep", "100"]), oci.id)
    other = Runtime(tmp_path / "other", oci.rootfs)
    other.id = f"{oci.id}-other"
    entries = oci.saved()["pyrunc"]["cgroups"]
    spec = document(oci.rootfs, ["sleep", "100"])
    spec["annotations"] = {
        "x": '\n  "pyrunc": {"version":1,"start_time":1,"native":true,"own_pids":true,"cgroups":['
    }
    spec["cgroups"] = entries
    other.call("create", "-b", other.write(tmp_path / "c", spec), other.id)
    path = other.directory / "state.json"
    own = other.saved()
    top = os.path.dirname(os.path.dirname(entries[0]["path"]))
    for bad in (f"{top}/x/../{os.path.relpath(entries[0]['path'], top)}", top, "/etc", f"{top}/"):
        own["pyrunc"]["cgroups"] = [{"path": bad, "version": 1, "controllers": ["cpu"]}]
        path.write_text(json.dumps({**own, "id": 7}))
        groups = cgroups(other.id)
        other.call("delete", "--force", other.id)
        assert oci.state()["status"] == "created"
        clear(own["pid"], groups)
        other.call("create", "-b", other.write(tmp_path / "c", spec), other.id)
        own = other.saved()
    text = path.read_text()
    path.write_text(text[: text.index('"start_time"')] + text[text.index(',"spec"') :][:-5])
    pid, groups = own["pid"], cgroups(other.id)
    other.call("delete", "--force", other.id)
    assert oci.state()["status"] == "created"
    clear(pid, groups)


def test_nothing_is_removed_beyond_a_link_in_the_state(oci: Runtime, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/file").touch()
    (oci.directory / "deep").mkdir(parents=True)
    for place in (oci.directory / "link", oci.directory / "deep/link", oci.directory / "state.json"):
        place.symlink_to(tmp_path / "theirs")
    oci.call("delete", "--force", oci.id)
    assert not oci.directory.exists()
    (oci.root / oci.id).symlink_to(tmp_path / "theirs")
    for words in (["delete", "--force"], ["delete"], ["state"], ["kill"]):
        oci.call(*words, oci.id, code=None)
    assert (tmp_path / "theirs/file").exists()
    (oci.root / oci.id).unlink()
