"""Sizes and times in Docker's words."""

import pytest

from pyrunc.cli import units

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("count", "digits", "text"),
    [
        (0, 3, "0B"), (999, 3, "999B"), (1000, 3, "1kB"), (1234, 3, "1.23kB"), (1234, 4, "1.234kB"),
        (13234, 4, "13.23kB"), (4012108, 3, "4.01MB"), (123456789, 3, "123MB"), (5 * 10**9, 4, "5GB"),
    ],
)  # fmt: skip
def test_size(count: int, digits: int, text: str) -> None:
    assert units.size(count, digits) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (_MINUTE, "About a minute"),
        (2 * _MINUTE, "2 minutes"), (_HOUR - 1, "59 minutes"), (_HOUR, "About an hour"), (1.6 * _HOUR, "2 hours"),
        (47 * _HOUR, "47 hours"), (2 * _DAY, "2 days"), (13 * _DAY, "13 days"), (14 * _DAY, "2 weeks"),
        (59 * _DAY, "8 weeks"), (60 * _DAY, "2 months"), (729 * _DAY, "24 months"), (730 * _DAY, "2 years"),
    ],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("64m", 64 << 20), ("1.5g", 3 << 29), ("10 KB", 10240), ("2GiB", 2 << 30), ("7b", 7)],
)
def test_memory(text: str, count: int) -> None:
    assert units.memory(text) == count


@pytest.mark.parametrize("text", ["", "wrong", "1.2.3m", "-1", "1x", "m"])
def test_memory_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=f"^invalid size: '{text}'$"):
        units.memory(text)
