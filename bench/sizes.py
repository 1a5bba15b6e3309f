"""How much is measured. The full sizes take some minutes on two cores; the small ones only show that all of it runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Counts of events, tasks and periods; each figure is the median of ``runs``."""

    runs: int = 3
    businesses: int = 200
    crowd: int = 4_000
    """Businesses beside those, which call only where that is what is measured."""
    warm_up: int = 10_000
    """Events that a worker drains before the first measured run."""
    drained: int = 40_000
    noops: int = 3_000
    prefetches: tuple[int, ...] = (1, 64)
    """Messages that a worker holds in advance, to find out which is best for the no-op tasks."""
    received: int = 16_000
    received_singly: int = 8_000
    whole: int = 16_000
    usual: int = 1_500
    steady_seconds: float = 8.0
    """How long the load at half of the full rate lasts."""
    closed: int = 100_000
    explained: int = 20_000
    """Calls of one business over forty days; some ten thousand of them are in one period."""
    listed: int = 1_000_000
    """Calls of one business that the API pages through."""
    asked: int = 2_000
    """Requests of a run of the API."""
    stored: int = 10_000_000
    """Calls in the table, for the cost of an event beside them; with --long only."""
    drained_long: int = 1_000_000
    """Events that a worker drains before its memory is looked at again; with --long only."""


FULL = Sizes()
SMALL = Sizes(
    runs=1,
    businesses=20,
    crowd=40,
    warm_up=100,
    drained=400,
    noops=100,
    prefetches=(64,),
    received=400,
    received_singly=200,
    whole=400,
    usual=50,
    steady_seconds=1.0,
    closed=200,
    explained=150,
    listed=1_000,
    asked=40,
    stored=2_000,
    drained_long=800,
)
