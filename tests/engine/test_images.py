"""The images of an engine: names, removal, history and what goes in and out; Docker's answers are in tests/cli."""

import gzip
import io
import os
import tarfile
import threading
from pathlib import Path

import pytest

from pyrunc import Engine, errors
from pyrunc.api import Progress
from pyrunc.engine.image_filters import match
from pyrunc.engine.times import moment_ns


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("b*", "beta:old", True), ("*", "a/b", False), ("*/*", "a/b", True), ("b?ta", "beta", True), ("?", "/", False),
        ("[a-c]x", "bx", True), ("[^a-c]x", "bx", False), ("[^a-c]x", "dx", True), ("a\\*", "a*", True),
        ("a\\*", "ab", False), ("beta", "beta:old", False), ("a.c", "abc", False), ("[.]", ".", True),
    ],
)  # fmt: skip
def test_patterns_are_gos(pattern: str, text: str, matches: bool) -> None:
    assert match(pattern, text) == matches


@pytest.mark.parametrize("pattern", ["[", "a\\", "[z-a]"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="syntax error in pattern"):
        match(pattern, "a")


def test_a_moment_is_a_time_or_so_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrunc.engine.times.time.time_ns", lambda: 10_000 * 10**9)
    assert moment_ns("1h30m") == (10_000 - 5400) * 10**9
    assert moment_ns("500ms") == 9_999_500_000_000
    assert moment_ns("1577836800") == moment_ns("2020-01-01T00:00:00Z") == 1577836800 * 10**9
    assert moment_ns("2020-01-01T02:00:00.5+02:00") == 1577836800_500_000_000
    with pytest.raises(ValueError, match=r'^failed to parse value as time or duration: "x"$'):
        moment_ns("x")


def test_images_that_were_committed_have_parents_and_children(loaded: Engine) -> None:
    loaded.run("beta", ["touch", "/1"], name="one", remove=False)
    first = loaded.containers.get("one").commit("first:1")
    loaded.run("first:1", ["touch", "/2"], name="two", remove=False)
    second = loaded.containers.get("two").commit("second:1")
    beta = loaded.images.get("beta").id
    assert [loaded.images.get(name).parent for name in ("first:1", "second:1")] == [beta, first]
    assert [entry.id for entry in loaded.images.history("second:1")] == [second, first, beta]
    for name in ("one", "two"):
        loaded.containers.get(name).remove()
    # Not by its only name either: what was committed from it needs it.
    with pytest.raises(
        errors.FailedPrecondition, match=r"\(cannot be forced\) - image has dependent child images"
    ):
        loaded.images.remove(first, force=True)
    assert [step.kind for step in loaded.images.remove("first:1")] == ["untagged"]
    hidden = {image.id for image in loaded.images.list(everything=True)} - {
        image.id for image in loaded.images.list()
    }
    assert hidden == {first}
    steps = [(step.kind, step.name) for step in loaded.images.remove("second:1")]
    assert steps[:2] == [("untagged", "second:1"), ("deleted", second)]
    assert ("deleted", first) in steps and ("deleted", beta) not in steps
    assert {image.id for image in loaded.images.list(everything=True)} == {
        beta,
        loaded.images.get("alpha:1").id,
    }


def test_parents_stay_if_that_is_asked_for(loaded: Engine) -> None:
    loaded.run("beta", ["touch", "/1"], name="one", remove=False)
    first = loaded.containers.get("one").commit()
    loaded.run(first, ["touch", "/2"], name="two", remove=False)
    second = loaded.containers.get("two").commit("second:1")
    for name in ("one", "two"):
        loaded.containers.get(name).remove()
    steps = loaded.images.remove("second:1", prune=False)
    assert ("deleted", second) in [(step.kind, step.name) for step in steps]
    assert loaded.images.get(first).dangling
    assert loaded.images.prune().removed[0].name == first


def test_a_commit_without_a_change_has_no_layer(loaded: Engine) -> None:
    loaded.run("beta", ["true"], name="one", remove=False)
    made = loaded.containers.get("one").commit(changes=["LABEL a=b"])
    details = loaded.images.inspect(made)
    assert details.layers == loaded.images.inspect("beta").layers
    assert details.config["history"][-1]["empty_layer"] is True
    assert loaded.run(made, ["true"]).exit_code == 0


def test_a_running_container_is_committed_while_it_is_paused(loaded: Engine) -> None:
    script = "while true; do echo x >> /a; echo x >> /b; done"
    with loaded.start("beta", ["sh", "-c", script], name="one"):
        while len(loaded.containers.get("one").diff()) < 2:
            pass
        for turn in range(3):
            loaded.containers.get("one").commit(f"made:{turn}")
    for turn in range(3):
        read = loaded.run(f"made:{turn}", ["busybox", "wc", "-l", "/a", "/b"])
        a, b = (int(line.split()[0]) for line in read.stdout.splitlines()[:2])
        assert a > 0 and a - b in (0, 1), read


def test_an_archive_that_is_no_good_leaves_no_image(loaded: Engine, archives: Path) -> None:
    before = loaded.images.list(everything=True)
    blobs = list(loaded._parts.content.walk())
    snapshots = list(loaded._parts.snapshotter.walk())
    for name in ("noise.tar", "empty.tar", "short.tar", "root.tar"):
        with pytest.raises(errors.PyruncError):
            loaded.images.load(archives / name)
    # A layer that is a tar to who reads it quickly, and leads outside for who unpacks it.
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("much")
        member.size = 2 << 20
        tar.addfile(member, io.BytesIO(os.urandom(2 << 20)))
        member = tarfile.TarInfo("../../escaped")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(errors.InvalidSpec):
        loaded.images.import_(io.BytesIO(out.getvalue()), "bad:1")
    assert loaded.images.list(everything=True) == before
    assert list(loaded._parts.content.walk()) == blobs
    assert list(loaded._parts.snapshotter.walk()) == snapshots


def test_what_is_saved_comes_back_the_same(loaded: Engine, archives: Path, tmp_path: Path) -> None:
    before = {image.id: image for image in loaded.images.list()}
    for layout in ("docker", "oci"):
        path = tmp_path / f"{layout}.tar.gz"
        with gzip.open(path, "wb") as file:
            loaded.images.save(["alpha", "beta"], file.write, layout=layout)
        for image in loaded.images.list():
            loaded.images.remove(image.id, force=True)
        assert loaded.images.list() == []
        found = loaded.images.load(path)
        assert {each.id for each in found} == set(before)
        loaded.images.load(archives / "beta.tar")  # whose other name was not saved
        assert {image.id: image for image in loaded.images.list()} == before


def test_an_import_is_one_layer_with_what_was_changed(loaded: Engine, archives: Path) -> None:
    image_id = loaded.images.import_(
        archives / "root.tar", "made:1", changes=["CMD a b", "ENV X=y"], message="words"
    )
    details = loaded.images.inspect("made:1")
    assert details.image.id == image_id and len(details.layers) == 1
    assert details.config["config"]["Env"] == ["X=y"]
    assert [entry.comment for entry in loaded.images.history("made:1")] == ["words"]
    assert details.image.size == 1234


def test_progress_is_told(engine: Engine, archives: Path) -> None:
    told: list[Progress] = []
    engine.images.load(archives / "alpha.tar", progress=told.append)
    assert {each.step for each in told} == {"load", "unpack"}
    assert max(each.done for each in told) > 4_000_000
    assert all(each.done <= each.total for each in told if each.total)
    told.clear()
    engine.images.save(["alpha:1"], lambda _: None, progress=told.append)
    assert {each.step for each in told} == {"save"}
    assert max(each.done for each in told) > 4_000_000


def test_loading_and_removing_at_once_breaks_nothing(engine: Engine, archives: Path) -> None:
    problems: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for _ in range(5):
                engine.images.load(archives / f"{name}.tar")
                assert (
                    engine.run(
                        f"{name}:{'1' if name == 'alpha' else 'old'}",
                        ["-c", "true"] if name == "alpha" else ["true"],
                    ).exit_code
                    == 0
                )
                engine.images.remove(
                    engine.images.get(f"{name}:{'1' if name == 'alpha' else 'old'}").id, force=True
                )
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the test must fail of it
            problems.append(exc)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("alpha", "beta")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert engine.images.list(everything=True) == []


def test_an_image_that_was_removed_meanwhile_is_not_one_without_layers(loaded: Engine) -> None:
    row = loaded._parts.images.get("beta")
    blobs = [digest for digest, _ in loaded._parts.metadata.blobs(row.id)]
    with loaded._parts.metadata.lease() as lease:  # as of another who reads its documents
        for digest in blobs:
            lease.protect(digest)
        loaded.images.remove(row.id, force=True)
        with pytest.raises(errors.NotFound, match=f"No such image: {row.id}"):
            loaded.images.unpack(row, lease)


def test_an_archive_for_another_platform_is_refused(engine: Engine, archives: Path) -> None:
    words = r"its image is for linux/amd64, and linux/s390x was asked for"
    with pytest.raises(errors.NotFound, match=words):
        engine.images.load(archives / "alpha.tar", platform="linux/s390x")
    assert engine.images.list() == []
    assert engine.images.load(archives / "alpha.tar", platform="linux/amd64")
