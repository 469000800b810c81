"""Where this host gets its packages from: apt's configured repositories, and the proxy in front of one.

    /etc/apt/sources.list, sources.list.d/*.list    deb [option=value ...] URI SUITE COMPONENT...
    /etc/apt/sources.list.d/*.sources               stanzas of Types, URIs, Suites, Components, Signed-By

Source: sources.list(5), apt.conf(5).
"""

import os
import shlex
import subprocess
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

_SCHEMES = ("http", "https", "file", "ftp")


class Repository(NamedTuple):
    """One suite of one repository; *signed_by* is the path of its keyring, or ""."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str


def repositories(directory: str = "/etc/apt") -> list[Repository]:
    """Return the enabled repositories of binary packages in apt's configuration *directory*, in its order.

    What cannot be fetched from by its URI alone (cdrom, mirror lists), and repositories without suites, are left out.
    Raises OSError.
    """
    parts = os.path.join(directory, "sources.list.d")
    paths = [os.path.join(directory, "sources.list")]
    if os.path.isdir(parts):
        paths += [os.path.join(parts, name) for name in sorted(os.listdir(parts))]
    found: list[Repository] = []
    for path in paths:
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read()
            if path.endswith(".list"):
                found += _lines(text)
            elif path.endswith(".sources"):
                found += _stanzas(text)
    return [item for item in found if urlsplit(item.uri).scheme in _SCHEMES and not item.suite.endswith("/")]


def _lines(text: str) -> Iterator[Repository]:
    """Read the one-line form."""
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words or words[0] != "deb":
            continue
        options = {}
        if len(words) > 1 and words[1].startswith("["):
            end = next((i for i, word in enumerate(words) if word.endswith("]")), len(words))
            inside = " ".join(words[1 : end + 1]).strip("[] ")
            options = dict(word.split("=", 1) for word in inside.split() if "=" in word)
            words = [words[0], *words[end + 1 :]]
        if len(words) >= 3:
            yield Repository(words[1], words[2], tuple(words[3:]), options.get("signed-by", ""))


def _stanzas(text: str) -> Iterator[Repository]:
    """Read the deb822 form."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in "\n".join(line if line.strip() else "" for line in lines).split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t"):
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in (
            "no",
            "false",
        ):
            continue
        # A keyring may also stand there in full; only a path is of use to other programs.
        keyring = fields.get("signed-by", "").strip()
        signed_by = keyring if keyring.startswith("/") and " " not in keyring else ""
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Repository(uri, suite, tuple(fields.get("components", "").split()), signed_by)


def proxy(uri: str) -> str | None:
    """Return the proxy that apt uses for *uri*, None for none."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return None
    keys = [
        f"Acquire::{parts.scheme}::Proxy::{parts.hostname}",
        f"Acquire::{parts.scheme}::Proxy",
        "Acquire::http::Proxy",
    ]
    pairs = [word for number, key in enumerate(keys) for word in (f"P{number}", key)]
    said = dict(
        line.split("=", 1) for line in _output(["apt-config", "shell", *pairs]).splitlines() if "=" in line
    )
    for number in range(len(keys)):
        value = "".join(shlex.split(said.get(f"P{number}", "")))
        if value:
            return None if value == "DIRECT" else value
    # A program that apt is told to ask; "Using proxy 'URI' for URL 'URI'".
    asked = _output(["/usr/lib/apt/apt-helper", "auto-detect-proxy", uri]).split("'")
    return asked[1] if len(asked) > 1 and asked[1] not in ("", "DIRECT") else None


def _output(command: list[str]) -> str:
    """Return what a program of apt's prints; "" where it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
