"""Documents of images are read only when there is one way to read them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrunc.errors import InvalidSpec, NotFound, PyruncError, Unsupported
from pyrunc.spec import image

DIGEST = "sha256:" + "a" * 64


def pointer(media_type: str = image.OCI_CONFIG, **changed: Any) -> dict[str, Any]:
    found = {"mediaType": media_type, "digest": DIGEST, "size": 1, **changed}
    return {key: value for key, value in found.items() if value is not ...}


def manifest(**changed: Any) -> bytes:
    layers = [pointer("application/vnd.oci.image.layer.v1.tar+gzip")]
    return json.dumps({"schemaVersion": 2, "config": pointer(), "layers": layers, **changed}).encode()


def config(**changed: Any) -> bytes:
    return json.dumps({"rootfs": {"type": "layers", "diff_ids": [DIGEST]}, **changed}).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "x: not JSON"),
        (b"[]", "x: must be an object"),
        (b"null", "x: must be an object"),
        (b'{"a":1,"a":2}', "the key 'a' is there twice"),
        (b'{"b":{"a":1,"a":1}}', "the key 'a' is there twice"),
        (b'{"a":NaN}', "NaN is no number"),
        (b'{"a":' + b"9" * 5000 + b"}", "x: not JSON"),
        (b'{"a":"\xff"}', "x: not JSON"),
        ('{"a":"b"}'.encode("utf-16"), "x: not JSON"),
        (b"\xef\xbb\xbf{}", "x: not JSON"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "x: nested deeper than 100 levels"),
        (b'{"a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", "x: nested deeper than 100 levels"),
        (b'{"a":"' + b"b" * (4 << 20) + b'"}', "x: 4194312 bytes, and at most 4194304 are read"),
    ],
)
def test_a_document_that_could_mislead_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        image.decode(data, "x")


def test_a_document_as_deep_as_allowed_is_read() -> None:
    assert image.decode(b'{"a":' * 100 + b"1" + b"}" * 100, "x")


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"schemaVersion": 1}, Unsupported, "schema 1"),
        ({"mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"}, Unsupported, "schema 1"),
        ({"schemaVersion": 3}, InvalidSpec, r"m\.schemaVersion: must be 2"),
        ({"mediaType": image.OCI_INDEX}, Unsupported, "index"),
        ({"manifests": []}, InvalidSpec, "manifests does not belong"),
        ({"fsLayers": []}, InvalidSpec, "fsLayers does not belong"),
        ({"config": None}, InvalidSpec, r"m\.config: must be an object"),
        ({"config": pointer("application/vnd.wasm.config.v0+json")}, Unsupported, "is not an image"),
        ({"layers": {}}, InvalidSpec, r"m\.layers: must be a list"),
        ({"layers": [1]}, InvalidSpec, r"m\.layers\[0\]: must be an object"),
        ({"layers": [pointer("x")]}, Unsupported, r"m\.layers\[0\]\.mediaType: x"),
        ({"layers": [pointer(size=...)]}, InvalidSpec, r"m\.layers\[0\]\.size: missing"),
        ({"layers": [pointer(size=True)]}, InvalidSpec, r"m\.layers\[0\]\.size"),
        ({"layers": [pointer(size=1 << 63)]}, InvalidSpec, r"m\.layers\[0\]\.size"),
        ({"layers": [pointer(digest="sha256:../../../etc/passwd")]}, InvalidSpec, "64 hex"),
        ({"layers": [pointer(digest="sha256:" + "A" * 64)]}, InvalidSpec, "64 hex"),
        ({"layers": [pointer(digest="sha512:" + "a" * 128)]}, Unsupported, "only sha256"),
        ({"layers": [pointer(image.OCI_CONFIG)] * 4097}, InvalidSpec, "at most 4096"),
        ({"layers": [pointer(annotations={"a": 1})]}, InvalidSpec, r"annotations\['a'\]"),
    ],
)
def test_a_wrong_manifest_is_refused_by_field(
    changed: dict[str, Any], error: type[PyruncError], words: str
) -> None:
    with pytest.raises(error, match=words):
        image.read_manifest(manifest(**changed), "m")


def test_a_manifest_is_what_its_descriptor_says() -> None:
    docker = manifest(mediaType=image.DOCKER_MANIFEST)
    assert image.read_manifest(docker, "m").media_type == image.DOCKER_MANIFEST
    assert image.read_manifest(manifest(), "m", image.DOCKER_MANIFEST).media_type == image.DOCKER_MANIFEST
    assert image.read_manifest(manifest(), "m").media_type == image.OCI_MANIFEST
    with pytest.raises(InvalidSpec, match="what points at it says"):
        image.read_manifest(docker, "m", image.OCI_MANIFEST)


def test_an_index_that_is_a_manifest_too_is_refused() -> None:
    index = {"schemaVersion": 2, "manifests": [pointer(image.OCI_MANIFEST)]}
    assert image.read_index(json.dumps(index).encode(), "i").manifests[0].digest == DIGEST
    for key in ("layers", "config", "fsLayers"):
        with pytest.raises(InvalidSpec, match=f"{key} does not belong"):
            image.read_index(json.dumps({**index, key: []}).encode(), "i")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rootfs": None}, r"c\.rootfs: missing"),
        ({"rootfs": {"type": "tree"}}, r"c\.rootfs\.type"),
        ({"rootfs": {"diff_ids": "x"}}, r"c\.rootfs\.diff_ids: must be a list"),
        ({"rootfs": {"diff_ids": ["sha256:x"]}}, r"c\.rootfs\.diff_ids\[0\]"),
        ({"config": []}, r"c\.config: must be an object"),
        ({"config": {"Env": "A=b"}}, r"c\.config\.Env: must be a list"),
        ({"config": {"Cmd": [1]}}, r"c\.config\.Cmd\[0\]: must be a string"),
        ({"config": {"Cmd": ["a\0b"]}}, r"c\.config\.Cmd\[0\]: must be text without NUL"),
        ({"config": {"Cmd": ["\ud800"]}}, r"c\.config\.Cmd\[0\]: must be text"),
        ({"config": {"User": "\udc80"}}, r"c\.config\.User: must be text"),
        ({"config": {"Labels": {"\udc80": "a"}}}, r"c\.config\.Labels: must be text"),
        ({"config": {"Volumes": {"/a": 1}}}, r"c\.config\.Volumes\['/a'\]"),
        ({"config": {"Labels": {"a": None}}}, r"c\.config\.Labels\['a'\]"),
        ({"config": {"Healthcheck": {"Interval": "5s"}}}, r"c\.config\.Healthcheck\.Interval"),
        ({"history": [{"created": "yesterday"}]}, r"c\.history\[0\]\.created: must be a time"),
        ({"os": 1}, r"c\.os: must be a string"),
    ],
)
def test_a_wrong_config_is_refused_by_field(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        image.read_config(config(**changed), "c")


def test_null_is_a_field_that_is_left_out() -> None:
    found = image.read_config(
        config(
            config={"Env": None, "Volumes": {"/a": None}, "Healthcheck": None}, history=None, created=None
        ),
        "c",
    )
    assert image.diff_ids(found) == (DIGEST,)


def test_chain_ids_are_those_of_the_specification() -> None:
    a, b, c = ("sha256:" + letter * 64 for letter in "abc")
    ab = image.digest_of(f"{a} {b}".encode())
    assert image.chain_ids([a, b, c]) == (a, ab, image.digest_of(f"{ab} {c}".encode()))
    assert image.chain_id([a]) == a
    assert image.chain_id([]) is None


def descriptor(os: str, architecture: str, variant: str = "") -> image.Descriptor:
    return image.Descriptor(
        "x", f"{os}/{architecture}/{variant}", 1, image.Platform(os, architecture, variant)
    )


def test_the_platform_that_fits_is_selected() -> None:
    amd64 = image.Platform("linux", "amd64")
    arm, plain, v3 = (
        descriptor("linux", "arm64", "v8"),
        descriptor("linux", "amd64"),
        descriptor("linux", "amd64", "v3"),
    )
    windows = descriptor("windows", "amd64")
    nowhere = image.Descriptor("x", DIGEST, 1)
    assert image.select([windows, arm, v3, plain], amd64, "i") == plain
    assert image.select([windows, arm, v3, plain], image.Platform("linux", "arm64"), "i") == arm
    assert image.select([v3, plain], image.Platform("linux", "amd64", "v3"), "i") == v3
    assert image.select([nowhere], amd64, "i") == nowhere
    for there in ([arm, windows], [v3], [nowhere, nowhere], []):
        with pytest.raises(NotFound, match="i: no image for linux/amd64"):
            image.select(there, amd64, "i")


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.000000001Z", 1_000_000_001),
        ("1970-01-01T01:00:00.5+01:00", 500_000_000),
        ("2024-02-29T12:00:00.123456789123Z", 1_709_208_000_123_456_789),
        ("0001-01-01T00:00:00Z", -62_135_596_800 * 10**9),
    ],
)
def test_times_are_read_to_the_nanosecond(text: str, ns: int) -> None:
    assert image.nanoseconds(text, "t") == ns


@pytest.mark.parametrize(
    "text",
    [
        "", "2024-02-30T00:00:00Z", "2024-01-01", "2024-01-01T00:00:00", "2024-01-01 00:00:00Z",
        "2024-01-01T00:00:00.Z", "2024-01-01T00:00:00.5", "20240101T000000Z00000",
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="t: must be a time"):
        image.nanoseconds(text, "t")


@given(st.integers(-62_135_596_800 * 10**9, 253_402_300_799 * 10**9))
def test_times_are_written_as_they_are_read(ns: int) -> None:
    text = image.timestamp(ns)
    assert image.nanoseconds(text, "t") == ns
    assert not text.endswith(("0Z", ".Z")) or "." not in text


def test_a_manifest_that_is_written_is_read() -> None:
    layer = image.Descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", DIGEST, 5)
    data = image.manifest_document(image.Descriptor(image.DOCKER_CONFIG, DIGEST, 7), [layer])
    found = image.read_manifest(data, "m", image.OCI_MANIFEST)
    assert found.config == image.Descriptor(image.OCI_CONFIG, DIGEST, 7)
    assert found.layers == (layer._replace(media_type=image.layer_type("gzip")),)
