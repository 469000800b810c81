"""docs/cli.md is what the commands say of themselves."""

from pathlib import Path

from pyrunc.cli import reference


def test_the_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs/cli.md"
    assert page.read_text() == reference.text(), "python -m pyrunc.cli.reference > docs/cli.md"
