"""Rows about images: what was put is there, what a container uses stays, and nothing names what is not there."""

from pathlib import Path

import pytest

from pyrunc.errors import FailedPrecondition, InvalidArgument, NotFound
from pyrunc.store.content import ContentStore
from pyrunc.store.metadata import ImageRow, Metadata

Kit = tuple[ContentStore, Metadata]
DEBIAN, LATEST = "docker.io/library/debian:bookworm", "docker.io/library/debian:latest"


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return ContentStore(str(tmp_path)), Metadata(str(tmp_path))


def put(
    kit: Kit, name: str, *references: str, chain_ids: tuple[str, ...] = (), created_ns: int = 1
) -> ImageRow:
    """An image whose blobs say *name*."""
    content, metadata = kit
    config, manifest, layer = (
        content.add(f"{name} {what}".encode()).digest for what in ("config", "manifest", "layer")
    )
    row = ImageRow(config, manifest, created_ns, 1234, "linux", "amd64", None, 77)
    blobs = [(manifest, "manifest"), (config, "config"), (layer, "layer"), (layer, "layer")]
    metadata.put_image(row, blobs, references, chain_ids=chain_ids)
    return row


def test_an_image_is_found_by_id_prefix_and_name(kit: Kit) -> None:
    row = put(kit, "one", DEBIAN, chain_ids=("sha256:low", "sha256:high"))
    _, metadata = kit
    assert metadata.get_image(row.id) == row
    assert (
        metadata.find_ids(row.id[7:15]) == metadata.find_ids("") == metadata.find_ids(row.id[7:]) == [row.id]
    )
    assert metadata.find_ids("g") == metadata.find_ids(row.id[7:] + "0") == []
    assert metadata.resolve(DEBIAN) == row.id
    assert metadata.resolve(LATEST) is None
    assert [kind for _, kind in metadata.blobs(row.id)] == ["manifest", "config", "layer", "layer"]
    assert metadata.chain_ids(row.id) == ["sha256:low", "sha256:high"]


def test_what_was_put_is_there_for_another_process(kit: Kit) -> None:
    row = put(kit, "one", DEBIAN)
    again = Metadata(kit[1].root)
    assert again.images() == [row]
    assert again.references() == [(DEBIAN, row.id)]


def test_images_come_latest_first(kit: Kit) -> None:
    rows = [put(kit, name, created_ns=created) for name, created in (("a", 5), ("b", 9), ("c", 7))]
    assert kit[1].images() == [rows[1], rows[2], rows[0]]


def test_a_reference_moves_and_says_from_where(kit: Kit) -> None:
    one, two = put(kit, "one", DEBIAN), put(kit, "two", LATEST)
    _, metadata = kit
    assert metadata.set_reference(DEBIAN, two.id) == one.id
    assert metadata.set_reference("docker.io/library/new:1", two.id) is None
    assert metadata.references(one.id) == []
    assert [name for name, _ in metadata.references(two.id)] == [DEBIAN, LATEST, "docker.io/library/new:1"]
    assert metadata.delete_reference(LATEST) == two.id
    assert metadata.delete_reference(LATEST) is None
    with pytest.raises(NotFound):
        metadata.set_reference(LATEST, "sha256:" + "0" * 64)


def test_digests_are_names_of_their_own(kit: Kit) -> None:
    one = put(kit, "one", DEBIAN)
    _, metadata = kit
    name = f"docker.io/library/debian@{one.manifest}"
    assert metadata.set_digest(name, one.id) is None
    assert metadata.resolve(name) == one.id
    assert metadata.digests() == metadata.digests(one.id) == [(name, one.id)]
    assert metadata.references() == [(DEBIAN, one.id)]
    assert metadata.delete_reference(name) is None
    assert metadata.delete_digest(name) == one.id


def test_put_again_replaces_blobs_and_keeps_names(kit: Kit) -> None:
    row = put(kit, "one", DEBIAN, chain_ids=("a",))
    content, metadata = kit
    other = content.add(b"another manifest").digest
    again = row._replace(manifest=other, added_ns=99)
    metadata.put_image(again, [(other, "manifest"), (row.id, "config")], [LATEST])
    assert metadata.images() == [again]
    assert metadata.blobs(row.id) == [(other, "manifest"), (row.id, "config")]
    assert metadata.chain_ids(row.id) == []
    assert [name for name, _ in metadata.references()] == [DEBIAN, LATEST]


def test_no_row_names_a_blob_that_is_not_there(kit: Kit) -> None:
    row = put(kit, "one")
    content, metadata = kit
    metadata.delete_image(row.id)
    content.remove(row.manifest)
    with pytest.raises(NotFound, match=row.manifest):
        metadata.put_image(row, [(row.manifest, "manifest"), (row.id, "config")], [DEBIAN])
    assert metadata.images() == []
    assert metadata.references() == []


def test_an_image_without_its_own_documents_is_refused(kit: Kit) -> None:
    row = put(kit, "one")
    for blobs in (
        [(row.id, "config")],
        [(row.manifest, "manifest")],
        [(row.manifest, "manifest"), (row.id, "layer")],
    ):
        with pytest.raises(InvalidArgument, match="among its blobs"):
            kit[1].put_image(row, blobs)
    with pytest.raises(InvalidArgument, match="'thing' is no kind"):
        kit[1].put_image(row, [(row.manifest, "manifest"), (row.id, "config"), (row.id, "thing")])


def test_deletion_takes_the_names_along(kit: Kit) -> None:
    one, two = put(kit, "one", DEBIAN), put(kit, "two", LATEST)
    _, metadata = kit
    metadata.delete_image(one.id)
    assert metadata.references() == [(LATEST, two.id)]
    assert metadata.get_image(one.id) is None
    assert metadata.blobs(one.id) == []
    with pytest.raises(NotFound):
        metadata.delete_image(one.id)


def test_deletion_may_be_bound_to_nobody_needing_it(kit: Kit) -> None:
    row = put(kit, "one", DEBIAN)
    _, metadata = kit
    with pytest.raises(FailedPrecondition, match=f"named {DEBIAN}"):
        metadata.delete_image(row.id, if_unnamed=True)
    metadata.delete_reference(DEBIAN)
    metadata.use_image("c1", row.id)
    with pytest.raises(FailedPrecondition, match="used by container c1"):
        metadata.delete_image(row.id, if_unnamed=True, if_unused=True)
    metadata.unuse("c1")
    metadata.delete_image(row.id, if_unnamed=True, if_unused=True)
    assert metadata.images() == []


def test_what_a_container_uses_stays_when_the_image_goes(kit: Kit) -> None:
    row = put(kit, "one", DEBIAN, chain_ids=("chain",))
    _, metadata = kit
    metadata.use_image("c2", row.id)
    metadata.use_image("c1", row.id, snapshot="c1-top")
    assert metadata.users(row.id) == ["c1", "c2"]
    metadata.delete_image(row.id)
    assert metadata.get_image(row.id) is None
    with pytest.raises(NotFound):
        metadata.use_image("c3", row.id)
    metadata.unuse("c1")
    assert metadata.chain_ids(row.id) == ["chain"]
    assert metadata.is_named("blob", row.manifest)
    assert metadata.is_named("snapshot", "c2")
    assert not metadata.is_named("snapshot", "c1-top")
    metadata.unuse("c2")
    metadata.unuse("c2")
    assert metadata.blobs(row.id) == []
    assert metadata.chain_ids(row.id) == []
