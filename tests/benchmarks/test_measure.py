"""The statistics of the benchmarks."""

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import measure

durations = st.integers(min_value=1, max_value=10**10)


@given(st.lists(durations, min_size=2, max_size=200))
def test_agrees_with_the_standard_library(values: list[int]) -> None:
    assert measure.median(values) == pytest.approx(statistics.median(values))
    expected = statistics.quantiles(values, n=20, method="inclusive")
    assert measure.percentile(values, 0.95) == pytest.approx(expected[-1])


def test_summary_is_in_milliseconds() -> None:
    summary = measure.summarize([3_000_000, 1_000_000, 2_000_000])
    assert (summary.median_ms, summary.min_ms, summary.starts) == (2, 1, 3)
    assert summary.p95_ms == pytest.approx(2.9)


def test_one_outlier_does_not_move_the_median() -> None:
    assert measure.summarize([5] * 99 + [10**9]).median_ms == pytest.approx(5e-6)


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1], -0.1), ([1], 1.1)])
def test_refuses_nonsense(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        measure.percentile(values, share)


def test_every_round_gives_each_contender_one_turn_and_all_predecessors() -> None:
    names = ["a", "b", "c", "d"]
    rounds = list(measure.turns(names, 60, seed=1))
    assert len(rounds) == 60
    assert all(sorted(order) == names for order in rounds)
    follows = {pair for order in rounds for pair in itertools.pairwise(order)}
    assert follows == set(itertools.permutations(names, 2))
    assert rounds == list(measure.turns(names, 60, seed=1)), "a run can be repeated"


@given(st.floats(min_value=0, max_value=1e5), st.floats(min_value=0.01, max_value=2), st.integers(1, 64))
def test_a_slice_gives_every_worker_the_same(rate: float, slice_s: float, width: int) -> None:
    count = measure.slice_count(rate, slice_s, width)
    assert count % width == 0
    assert count >= 2 * width
    assert count <= max(2 * width, rate * slice_s + width)
