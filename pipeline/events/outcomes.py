"""How the drain learns what became of an event."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class EventState(StrEnum):
    """What has become of a stored event, and the way out of each state."""

    PENDING = "pending"
    """Stored, to be applied when due. Then one of the others."""
    PROCESSED = "processed"
    """Its effect and this state were committed together. No way out but a replay of this one event."""
    IGNORED = "ignored"
    """Nothing here needs it; the reason says why. Then PENDING, by a replay."""
    DEAD = "dead"
    """It can't be applied; the reason says why. Then PENDING, by a replay."""


class Outcome(NamedTuple):
    """What an event comes to: its row gets this state in the transaction that had its effect.

    A pending one is set aside, due again in ``retry_seconds`` (machine time), and
    ``reason`` says what it waits for.
    """

    event_id: int
    state: EventState
    reason: str | None = None
    retry_seconds: int | None = None


@dataclass(slots=True)
class Applied:
    """What applying a batch came to, and the tasks that now have something to do, by their names."""

    outcomes: list[Outcome] = field(default_factory=list)
    follow_ups: set[str] = field(default_factory=set)


class MoreBusinesses(Exception):  # noqa: N818 - it asks for something, nothing is wrong
    """An event touches businesses that are not locked: roll back and start again with them locked too."""

    def __init__(self, business_ids: AbstractSet[int]) -> None:
        super().__init__(f"businesses to lock as well: {sorted(business_ids)}")
        self.business_ids = frozenset(business_ids)
