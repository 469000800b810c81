"""Names for containers that were given none: an adjective and a scientist, as Docker makes them."""

import os

_ADJECTIVES = (
    "agile", "amused", "blissful", "bold", "brave", "bright", "calm", "clever", "cool", "crisp", "daring", "dreamy",
    "eager", "earnest", "fair", "fearless", "festive", "fond", "frosty", "gentle", "gifted", "glad", "golden", "happy",
    "honest", "hopeful", "humble", "jolly", "keen", "kind", "lively", "loyal", "lucid", "merry", "mild", "modest",
    "neat", "nimble", "noble", "patient", "peaceful", "plain", "proud", "quick", "quiet", "ready", "serene", "sharp",
    "silent", "sleepy", "smooth", "steady", "sunny", "swift", "tender", "trusting", "upbeat", "vivid", "warm", "wise",
    "witty", "zealous",
)  # fmt: skip
_SURNAMES = (
    "abel", "agnesi", "archimedes", "babbage", "banach", "bell", "bohr", "boole", "cantor", "cauchy", "chandrasekhar",
    "church", "copernicus", "curie", "darwin", "dijkstra", "einstein", "euclid", "euler", "faraday", "fermat", "fermi",
    "feynman", "franklin", "galileo", "galois", "gauss", "germain", "goedel", "goodall", "hamilton", "hilbert",
    "hodgkin", "hopper", "hypatia", "johnson", "kepler", "knuth", "kovalevskaya", "lamarr", "leavitt", "leibniz",
    "lovelace", "maxwell", "mcclintock", "meitner", "mendel", "mirzakhani", "newton", "noether", "pascal", "pasteur",
    "planck", "poincare", "ptolemy", "ramanujan", "riemann", "ritchie", "shannon", "tesla", "thompson", "turing",
    "volta", "wiles", "wu",
)  # fmt: skip


def make() -> str:
    """A name; about 4,000 are possible, so a caller may have to ask again."""
    number = int.from_bytes(os.urandom(4))
    surname = _SURNAMES[number // len(_ADJECTIVES) % len(_SURNAMES)]
    return f"{_ADJECTIVES[number % len(_ADJECTIVES)]}_{surname}"
