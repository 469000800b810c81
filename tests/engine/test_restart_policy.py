"""Restart policies, as arithmetic."""

from itertools import pairwise

import pytest

from pyrunc.engine.restart_policy import pause_ms

SECOND = 10**9


def policy(name: str, most: int = 0) -> dict[str, object]:
    return {"RestartPolicy": {"Name": name, "MaximumRetryCount": most}}


@pytest.mark.parametrize(
    ("wish", "exit_code", "stopped", "count", "again"),
    [
        ({}, 1, False, 0, False),
        (policy("no"), 1, False, 0, False),
        (policy("always"), 0, False, 100, True),
        (policy("always"), 137, True, 0, False),
        (policy("unless-stopped"), 0, False, 0, True),
        (policy("unless-stopped"), 0, True, 0, False),
        (policy("on-failure"), 0, False, 0, False),
        (policy("on-failure"), 1, False, 1000, True),
        (policy("on-failure", 3), 1, False, 2, True),
        (policy("on-failure", 3), 1, False, 3, False),
        (policy("on-failure", 3), 1, True, 0, False),
    ],
)  # fmt: skip
def test_who_is_started_again(
    wish: dict[str, object], exit_code: int, stopped: bool, count: int, again: bool
) -> None:
    found = pause_ms(wish, exit_code, stopped=stopped, ran_ns=0, count=count, before_ms=0)
    assert found == (100 if again else None)


def test_the_pause_doubles_to_a_minute_and_begins_anew_after_ten_seconds() -> None:
    pauses = [0]
    while pauses[-1] < 60_000:
        found = pause_ms(policy("always"), 1, stopped=False, ran_ns=SECOND, count=0, before_ms=pauses[-1])
        assert found is not None
        pauses.append(found)
    assert pauses[1] == 100
    assert all(later in (2 * earlier, 60_000) for earlier, later in pairwise(pauses[1:]))
    for ran, found in ((SECOND, 60_000), (10 * SECOND, 100)):
        assert pause_ms(policy("always"), 1, stopped=False, ran_ns=ran, count=0, before_ms=60_000) == found
