"""Statistics of repeated measurements, and the order in which contenders take turns."""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Summary(NamedTuple):
    """What one contender's latencies amount to, in milliseconds."""

    median_ms: float
    p95_ms: float
    min_ms: float
    starts: int


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which *share* (0..1) of *values* lies, interpolated between neighbours.

    Raises ValueError for no values or a share outside 0..1.
    """
    if not values or not 0 <= share <= 1:
        raise ValueError("a percentile needs at least one value and a share within 0..1")
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def median(values: Sequence[float]) -> float:
    """Return the middle of *values*; raises ValueError for none."""
    return percentile(values, 0.5)


def summarize(samples_ns: Sequence[int]) -> Summary:
    """Sum up latencies given in nanoseconds."""
    return Summary(
        median_ms=median(samples_ns) / 1e6,
        p95_ms=percentile(samples_ns, 0.95) / 1e6,
        min_ms=min(samples_ns) / 1e6,
        starts=len(samples_ns),
    )


def turns(contenders: Sequence[T], rounds: int, seed: int) -> Iterator[list[T]]:
    """Yield, *rounds* times, all contenders in a new order.

    One start leaves work behind (the kernel takes network namespaces apart later); a fixed order would charge it
    always to the same successor.
    """
    shuffler = random.Random(seed)
    for _ in range(rounds):
        order = list(contenders)
        shuffler.shuffle(order)
        yield order


def slice_count(rate_per_s: float, slice_s: float, width: int) -> int:
    """Return how many starts fill a slice of *slice_s* seconds: at least two for each of *width* workers.

    A whole number for each worker, as stragglers at the end of a slice would count as a lower rate.
    """
    each = max(2, round(rate_per_s * slice_s / width))
    return each * width
