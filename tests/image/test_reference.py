"""Names of images mean what they mean to Docker, and are refused in its words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrunc.errors import InvalidArgument
from pyrunc.image.reference import Reference, parse

A = "a" * 64
LOWER = "invalid reference format: repository name ({}) must be lowercase"
FORMAT = "invalid reference format"


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("debian", "docker.io/library/debian", "debian"),
        ("debian:Bookworm", "docker.io/library/debian:Bookworm", "debian:Bookworm"),
        ("docker.io/debian", "docker.io/library/debian", "debian"),
        ("index.docker.io/debian:1", "docker.io/library/debian:1", "debian:1"),
        ("docker.io/library/debian", "docker.io/library/debian", "debian"),
        ("someone/tool:_1.2-x", "docker.io/someone/tool:_1.2-x", "someone/tool:_1.2-x"),
        ("a/b/c", "docker.io/a/b/c", "a/b/c"),
        ("library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("docker.io/b.c/d", "docker.io/b.c/d", "docker.io/b.c/d"),
        ("localhost/a", "localhost/a", "localhost/a"),
        ("localhost:5000/a:1", "localhost:5000/a:1", "localhost:5000/a:1"),
        ("[fe80::1]:5000/a", "[fe80::1]:5000/a", "[fe80::1]:5000/a"),
        ("HOST/tool", "HOST/tool", "HOST/tool"),
        ("example.com:80", "docker.io/library/example.com:80", "example.com:80"),
        ("a__b--c.d", "docker.io/library/a__b--c.d", "a__b--c.d"),
        ("a:" + "t" * 128, "docker.io/library/a:" + "t" * 128, "a:" + "t" * 128),
        ("x.y/" + "n" * 255, "x.y/" + "n" * 255, "x.y/" + "n" * 255),
        (f"a@sha256:{A}", f"docker.io/library/a@sha256:{A}", f"a@sha256:{A}"),
        (f"a:t@sha256:{A}", f"docker.io/library/a:t@sha256:{A}", f"a:t@sha256:{A}"),
        (f"sha256:{A}", f"docker.io/library/sha256:{A}", f"sha256:{A}"),
    ],
)
def test_a_name_has_a_long_and_a_short_form(text: str, canonical: str, familiar: str) -> None:
    reference = parse(text)
    assert (str(reference), reference.canonical, reference.familiar) == (canonical, canonical, familiar)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", FORMAT),
        ("Debian", LOWER.format("library/Debian")),
        ("user/Tool:1", LOWER.format("user/Tool")),
        ("host.example/Tool", LOWER.format("Tool")),
        ("a/É", LOWER.format("a/É")),
        (f"a@SHA256:{A}", LOWER.format("library/a@SHA256")),
        *((text, FORMAT) for text in (
            "/a", "a/", "a//b", "-a", "a-", "a..b", "a.-b", "a___b", "a b", " a", "a\n", "é", "a:é", "a:", "a:-x",
            "a:.x", "a:b:c", "a@", "a@sha256:abc", "[::1/a", "[]/a", "[::1]x/a", "a-.example/x", "h.x:/a", "h.x:p/a",
            "http://a/b", f"a@x+1:{A}", "a_b.example/x", "a:" + "t" * 129,
        )),
        (A, f"invalid repository name ({A}), cannot specify 64-byte hexadecimal strings"),
        ("n" * 248, "repository name must not be more than 255 characters"),
        (f"a@sha256:{A}a", "invalid checksum digest length"),
        (f"a@sha512:{A}", "invalid checksum digest length"),
        (f"a@sha256:{A.upper()}", "invalid checksum digest format"),
        (f"a:t@SHA256:{A}", "invalid checksum digest format"),
        (f"a@md5:{A}", "unsupported digest algorithm"),
        (f"a@x+y:{A}", "unsupported digest algorithm"),
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused_in_dockers_words(text: str, words: str) -> None:
    """The words are what Docker 28's client says before it asks any daemon."""
    with pytest.raises(InvalidArgument) as caught:
        parse(text)
    assert str(caught.value) == words


def test_latest_is_added_only_where_nothing_is_said() -> None:
    assert parse("a").tagged().familiar == "a:latest"
    assert parse("a:1").tagged().familiar == "a:1"
    assert parse(f"a@sha256:{A}").tagged().familiar == f"a@sha256:{A}"


# The grammar as it is published, as one expression.
_WORD = "[a-z0-9]+"
_COMPONENT = rf"{_WORD}(?:(?:[._]|__|-+){_WORD})*"
_LABEL = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_GRAMMAR = re.compile(
    rf"({_DOMAIN})/({_COMPONENT}(?:/{_COMPONENT})*)(?::([A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?(?:@({_DIGEST}))?"
)


@given(
    st.one_of(
        st.text("abAZ09._-:/@[] é", max_size=24),
        st.from_regex(_GRAMMAR, fullmatch=True),
        st.from_regex(_GRAMMAR, fullmatch=True).map(lambda text: text.partition("/")[2]),
    )
)
def test_what_is_read_is_in_the_published_grammar_and_means_the_same_when_written(text: str) -> None:
    try:
        reference = parse(text)
    except InvalidArgument:
        return
    found = _GRAMMAR.fullmatch(reference.canonical)
    assert found is not None
    assert Reference(*found.groups()) == reference
    assert parse(reference.canonical) == reference
    assert parse(reference.familiar) == reference


@given(st.from_regex(_GRAMMAR, fullmatch=True))
def test_what_is_in_the_grammar_is_read(text: str) -> None:
    domain, path, _, digest = (_GRAMMAR.fullmatch(text) or pytest.fail(text)).groups()
    if digest or len(path) > 247 or not ("." in domain or ":" in domain):
        return
    assert parse(text).path in (path, f"library/{path}")
