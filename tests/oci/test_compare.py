"""The same bundle through runc, crun and ours: what can be observed is the same."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.oci.cases import BELOW_ITSELF, CASES, UNLIKE_CRUN, UNLIKE_PEERS
from tests.oci.observe import differences, observe, settle
from tests.oci.planning import socket_of
from tests.oci.runtime import OURS, SUBJECT, Runtime, unique_id
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root
# When a peer is what is tried, it is not asked for what it does not know.
ROWS = [
    (name, peer)
    for name, case in CASES.items()
    for peer in case.peers or ("nobody",)
    if SUBJECT in (*case.peers, str(OURS)) and peer != SUBJECT
]
Make = Callable[[str], Runtime]


def prepare(path: Path) -> Path:
    """Add what the cases mount and go through."""
    source = path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "file").write_text("content\n")
    (source / "sub/below").write_text("below\n")
    root = path / "rootfs"
    (root / "mnt/x").mkdir(parents=True)
    (root / "etc/file").write_text("content\n")
    (root / "etc/one").write_text("")
    (root / "root/secret").write_text("secret")
    (root / "place").mkdir()
    (root / "link").symlink_to("/place")
    return path


def document(spec_text: str, path: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """The document of a case; SOURCE stands for the bundle's directory of that name."""
    text = json.dumps(changes).replace('"SOURCE', f'"{path}/source')
    spec: dict[str, Any] = json.loads(spec_text)
    spec["linux"]["cgroupsPath"] = f"/{unique_id()}"
    return settle(spec, json.loads(text))


@pytest.mark.parametrize(("name", "peer"), ROWS)
def test_a_feature(
    name: str, peer: str, make_runtime: Make, bundle: Callable[..., Path], spec_text: str, planner: Path
) -> None:
    case = CASES[name]
    subject = make_runtime(SUBJECT)
    if peer != "crun":
        subject.planner = (
            planner  # so that the way with and the way without a planner are both tried with each case
        )
    place = prepare(bundle("ours"))
    found = observe(subject, place, document(spec_text, place, case.changes), case.extra)
    for line in case.seen:
        section, _, text = line.partition(": ")
        assert text in found[section], (line, found[section])
    if peer == "nobody":
        return
    place = prepare(bundle("theirs"))
    theirs = observe(make_runtime(peer), place, document(spec_text, place, case.changes), case.extra)
    ways = (*UNLIKE_CRUN, *case.unlike) if "crun" in (peer, subject.name) else ()
    if subject.path == str(OURS):
        ways = (*ways, *UNLIKE_PEERS, *(BELOW_ITSELF if case.unlike == BELOW_ITSELF else ()))
    unlike = [line for line in differences(found, theirs) if not any(re.match(way, line) for way in ways)]
    assert not unlike, "\n".join(unlike)


def test_a_planner_was_asked(make_runtime: Make, bundle: Callable[..., Path], planner: Path) -> None:
    """What the cases above say of the way with a planner is worth no more than this."""
    if str(OURS) != SUBJECT:
        pytest.skip("a peer is tried, which has no planner")
    subject = make_runtime(SUBJECT)
    subject.planner = planner
    subject.run(bundle("bundle", "/bin/true"))
    assert socket_of(OURS, planner).exists()
