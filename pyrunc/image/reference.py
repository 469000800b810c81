"""What an image is called: Docker's references, their short and their full form.

    debian                      docker.io/library/debian
    someone/tool:1.2            docker.io/someone/tool:1.2
    localhost:5000/a/b@sha256:… localhost:5000/a/b@sha256:…
    └──── domain ──┘└path┘└ digest

One thing that Docker takes is refused: a first component that has a dot and an underscore, which is neither a host
nor a namespace. Without `re`, whose import alone would cost a cold start milliseconds.
Source: the grammar of the distribution project's reference package, and Docker's rules for short names.
"""

from pyrunc.errors import InvalidArgument
from pyrunc.records import NamedTuple

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_MAX_PATH = 255
_MAX_TAG = 128
_DIGITS = frozenset("0123456789")
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz") | _DIGITS
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_ALNUM = _LETTERS | _DIGITS
_TAG = _ALNUM | frozenset("_.-")
_HEX = frozenset("0123456789abcdef")
_ANY_HEX = _HEX | frozenset("ABCDEF")
_VALUE = _ALNUM | frozenset("=_-")
# Hexadecimal digits of each algorithm's digest.
_ALGORITHMS = {"sha256": 64, "sha384": 96, "sha512": 128}


class Reference(NamedTuple):
    """A full name: *domain* and *path*, then a *tag*, a *digest* (``sha256:…``), both or neither."""

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """``docker.io/library/debian``."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """``debian``: the shortest name that means the same."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(_OFFICIAL)
        if "/" in short:
            short = self.path
        # A path that looks like a domain would be read as one.
        return short if _split(short) == (self.domain, self.path) else self.name

    @property
    def canonical(self) -> str:
        """``docker.io/library/debian:bookworm``."""
        return self.name + self._rest()

    @property
    def familiar(self) -> str:
        """``debian:bookworm``."""
        return self.familiar_name + self._rest()

    def _rest(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def tagged(self) -> "Reference":
        """The same with the tag ``latest``, if it has neither tag nor digest."""
        return self if self.tag or self.digest else self._replace(tag=DEFAULT_TAG)

    def __str__(self) -> str:
        return self.canonical


def parse(text: str) -> Reference:
    """Read a reference as Docker does; no tag is added.

    Raises InvalidArgument with Docker's words.
    """
    if not isinstance(text, str):
        raise InvalidArgument(f"a reference must be a text, not {text!r:.100}")
    if is_id(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, rest = _split(text)
    bare = rest.partition(":")[0]
    if bare.lower() != bare:
        raise InvalidArgument(f"invalid reference format: repository name ({bare}) must be lowercase")
    rest, at, digest = rest.partition("@")
    path, colon, tag = rest.partition(":")
    if not (
        _is_domain(domain)
        and _is_path(path)
        and (not colon or is_tag(tag))
        and (not at or _looks_like_digest(digest))
    ):
        raise InvalidArgument("invalid reference format")
    if len(path) > _MAX_PATH:
        raise InvalidArgument(f"repository name must not be more than {_MAX_PATH} characters")
    if at:
        check_digest(digest)
    return Reference(domain, path, tag or None, digest or None)


def is_id(text: str) -> bool:
    """Whether *text* is 64 hexadecimal digits: an image's id, and no name."""
    return len(text) == 64 and _HEX.issuperset(text)


def is_tag(text: str) -> bool:
    """Whether *text* may be a tag."""
    return 0 < len(text) <= _MAX_TAG and text[0] not in ".-" and _TAG.issuperset(text)


def check_digest(text: str) -> None:
    """Raise InvalidArgument, with Docker's words, unless *text* is a digest such as ``sha256:…``."""
    algorithm, colon, value = text.partition(":")
    if not colon or not algorithm or not value:
        raise InvalidArgument("invalid checksum digest format")
    if algorithm not in _ALGORITHMS:
        words = algorithm.translate({ord(sign): "-" for sign in ".+_"}).split("-")
        if all(word and _LOWER.issuperset(word) for word in words) and _VALUE.issuperset(value):
            raise InvalidArgument("unsupported digest algorithm")
        raise InvalidArgument("invalid checksum digest format")
    if len(value) != _ALGORITHMS[algorithm]:
        raise InvalidArgument("invalid checksum digest length")
    if not _HEX.issuperset(value):
        raise InvalidArgument("invalid checksum digest format")


def _split(text: str) -> tuple[str, str]:
    """The domain, and all after it; a first component is a domain if it could not be of a path."""
    first, slash, rest = text.partition("/")
    if not slash or not (first == "localhost" or "." in first or ":" in first or first.lower() != first):
        domain, rest = DEFAULT_DOMAIN, text
    else:
        domain = DEFAULT_DOMAIN if first == _LEGACY_DOMAIN else first
    if domain == DEFAULT_DOMAIN and "/" not in rest:
        rest = _OFFICIAL + rest
    return domain, rest


def _is_domain(text: str) -> bool:
    """A host name, an IPv4 address or an IPv6 one in brackets, and perhaps a port."""
    if text.startswith("["):
        address, closing, port = text[1:].partition("]")
        if not closing or not address or not (_ANY_HEX | {":"}).issuperset(address):
            return False
        return not port or (port[0] == ":" and _is_port(port[1:]))
    host, colon, port = text.partition(":")
    if colon and not _is_port(port):
        return False
    return all(
        label and _ALNUM.issuperset(label[0] + label[-1]) and (_ALNUM | {"-"}).issuperset(label)
        for label in host.split(".")
    )


def _is_port(text: str) -> bool:
    return bool(text) and _DIGITS.issuperset(text)


def _is_path(text: str) -> bool:
    return all(_is_component(component) for component in text.split("/"))


def _is_component(text: str) -> bool:
    """Words of lower case letters and digits, with one dot, one or two underscores, or dashes between them."""
    if not text or text[0] not in _LOWER or text[-1] not in _LOWER:
        return False
    between = ""
    for character in text:
        if character in _LOWER:
            if between not in ("", ".", "_", "__") and between.strip("-"):
                return False
            between = ""
        else:
            between += character
    return True


def _looks_like_digest(text: str) -> bool:
    """An algorithm's name of words that begin with a letter, and 32 hexadecimal digits or more."""
    algorithm, _, value = text.partition(":")
    words = algorithm.translate({ord(sign): "-" for sign in ".+_"}).split("-")
    return (
        all(word and word[0] in _LETTERS and _ALNUM.issuperset(word) for word in words)
        and len(value) >= 32
        and _ANY_HEX.issuperset(value)
    )
