"""apt's configuration in both of its forms, and the proxy that it uses."""

from pathlib import Path

import pytest

from pyrunc.errors import NotFound
from pyrunc.image import bootstrap
from pyrunc.image.apt_sources import Repository, proxy, repositories

LINES = """\
# deb http://commented.example/debian bookworm main
deb http://one.example/debian bookworm main contrib # a remark
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] https://two.example/debian trixie main
deb [ trusted=yes ] file:/srv/debian sid main
deb-src http://one.example/debian bookworm main
deb cdrom:[Debian]/ bookworm main
deb http://flat.example/ ./
deb mirror+file:/etc/apt/mirrors.txt bookworm main
deb
"""
STANZAS = """\
Types: deb deb-src
# a remark
URIs: http://one.example/debian http://three.example/debian/
Suites: bookworm bookworm-updates
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://four.example/prod
Suites: trixie
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----

types: deb-src
URIs: http://source.example/debian
Suites: bookworm
"""
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    (tmp_path / "sources.list").write_text(LINES)
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "a.sources").write_text(STANZAS)
    (parts / "b.list").write_text("deb http://five.example/debian forky main\n")
    (parts / "c.list.save").write_text("deb http://old.example/debian bookworm main\n")
    return tmp_path


def test_both_forms(apt: Path) -> None:
    assert repositories(str(apt)) == [
        Repository("http://one.example/debian", "bookworm", ("main", "contrib"), ""),
        Repository("https://two.example/debian", "trixie", ("main",), KEYRING),
        Repository("file:/srv/debian", "sid", ("main",), ""),
        Repository("http://one.example/debian", "bookworm", ("main", "contrib"), KEYRING),
        Repository("http://one.example/debian", "bookworm-updates", ("main", "contrib"), KEYRING),
        Repository("http://three.example/debian/", "bookworm", ("main", "contrib"), KEYRING),
        Repository("http://three.example/debian/", "bookworm-updates", ("main", "contrib"), KEYRING),
        Repository("https://four.example/prod", "trixie", ("main",), ""),
        Repository("http://five.example/debian", "forky", ("main",), ""),
    ]


def test_nothing_is_configured(tmp_path: Path) -> None:
    assert repositories(str(tmp_path / "none")) == []
    with pytest.raises(NotFound, match=r"^apt has no mirror for debian:bookworm in .*/none/sources.list"):
        bootstrap.find("debian", "bookworm", str(tmp_path / "none"))


def test_the_distributions_own_mirror_is_preferred(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_this_host", lambda: ("debian", "bookworm"))
    # of two with the suite, the one whose address and key are Debian's
    assert bootstrap.find("debian", "trixie", str(apt)).uri == "https://two.example/debian"
    assert bootstrap.find("debian", "bookworm", str(apt)).signed_by == KEYRING
    # one that is not configured comes from where this host's own does
    assert bootstrap.find("debian", "bullseye", str(apt)).uri == "http://one.example/debian"
    # but not that of another distribution
    with pytest.raises(NotFound, match=r"^apt has no mirror for ubuntu:noble"):
        bootstrap.find("ubuntu", "noble", str(apt))


def test_the_proxy_is_apts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "apt.conf"
    monkeypatch.setenv("APT_CONFIG", str(config))
    config.write_text(
        'Acquire::http::Proxy "http://proxy.example:3142/"; Acquire::http::Proxy::direct.example "DIRECT";'
        'Acquire::https::Proxy::secure.example "http://other.example:1/";'
    )
    assert proxy("http://one.example/debian") == "http://proxy.example:3142/"
    assert proxy("http://direct.example/debian") is None
    assert proxy("https://secure.example/debian") == "http://other.example:1/"
    assert proxy("file:/srv/debian") is None
    config.write_text("")
    assert proxy("http://one.example/debian") is None
