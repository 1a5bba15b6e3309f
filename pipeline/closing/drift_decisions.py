"""What a person's word does for a difference: bill its minutes, give its amount back, write off, or only be kept."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, Protocol

from sqlalchemy import Connection

from pipeline.closing import invoice_settlement
from pipeline.credits import credit_requests
from pipeline.credits.credit_requests import CREDITABLE
from pipeline.shared import drifts
from pipeline.shared.business_locks import lock_businesses
from pipeline.shared.drifts import DriftKind
from pipeline.usage import late_minutes, waiting_minutes
from pipeline.usage.late_minutes import AdjustmentKind

#: What a settlement gave up, by the difference that tells of it.
_GIVEN_UP: Final[Mapping[str, Literal[AdjustmentKind.UNBILLABLE, AdjustmentKind.UNDER_BILLED]]] = {
    DriftKind.LOST_USAGE: AdjustmentKind.UNBILLABLE,
    DriftKind.UNDER_BILLED: AdjustmentKind.UNDER_BILLED,
}
#: Minutes or money wait for what is said of these: to resolve them without more writes off the one or keeps the other.
MONEY_WAITS: Final = (
    frozenset({DriftKind.LATE_MINUTES, DriftKind.UNBILLABLE, DriftKind.UNUSABLE_INVOICE, DriftKind.NO_INVOICE})
    | _GIVEN_UP.keys()
    | CREDITABLE
)


class Decision(Protocol):
    """What of a difference is decided about."""

    @property
    def id(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def business_id(self) -> int | None: ...
    @property
    def evidence(self) -> Mapping[str, Any]: ...
    @property
    def resolved_at(self) -> datetime | None: ...


class DecisionError(Exception):
    """The difference can't be decided so; the words say why."""


def decide(
    connection: Connection, drift: Decision, now: datetime, note: str, *, carry: bool = False, credit: bool = False
) -> None:
    """Resolve a difference by hand; held late minutes, and those that no invoice bills, are written off so.

    ``carry`` bills its minutes in the open period instead, ``credit`` gives its amount back at Stripe. One that a check
    finds again is opened again. Raises DecisionError.
    """
    if drift.resolved_at is not None:
        raise DecisionError(f"difference {drift.id} was resolved on {drift.resolved_at:%Y-%m-%d %H:%M:%S} UTC already")
    if carry and credit:
        raise DecisionError("to carry bills minutes, to credit gives money back: choose one")
    if credit and (drift.kind not in CREDITABLE or drift.business_id is None):
        raise DecisionError(
            f"difference {drift.id} is {drift.kind}: only {', '.join(sorted(CREDITABLE))} can be credited"
        )
    if carry and not _can_be_carried(drift):
        raise DecisionError(
            f"difference {drift.id} is {drift.kind} of {drift.subject}: only late-minutes, lost-usage and"
            " under-billed of a record can be carried"
        )
    if drift.business_id is not None:
        lock_businesses(connection, [drift.business_id])
        try:
            if credit:
                credit_requests.request_credit(
                    connection, drift.business_id, drift.kind, drift.subject, drift.evidence, note, now
                )
            else:
                _follow(connection, drift, drift.business_id, carry=carry, now=now, note=note)
        except ValueError as error:
            raise DecisionError(str(error)) from error
    if not drifts.resolve_by_hand(connection, drift.id, now, note):
        raise DecisionError(f"difference {drift.id} has just been resolved by somebody else")


def _follow(
    connection: Connection, drift: Decision, business_id: int, *, carry: bool, now: datetime, note: str
) -> None:
    """What the word means for the minutes that the difference is about; the business's lock is held."""
    record_id = int(drift.subject.split(":")[1]) if drift.subject.startswith("record:") else 0
    given_up = _GIVEN_UP.get(drift.kind)
    if carry and given_up is not None:
        told = drift.evidence.get("amount")
        late_minutes.charge_given_up(connection, record_id, given_up, told if isinstance(told, int) else None, now)
    elif drift.kind == DriftKind.LATE_MINUTES:
        for held in late_minutes.held_minutes(connection, business_id):
            if f"record:{held.origin_record_id}" == drift.subject:
                late_minutes.decide_held(connection, held, "carry" if carry else "write-off", now, note)
    elif drift.kind == DriftKind.UNBILLABLE:
        waiting_minutes.give_up_waiting(connection, business_id, drift.subject)
    elif drift.kind in {DriftKind.UNUSABLE_INVOICE, DriftKind.NO_INVOICE}:
        invoice_settlement.give_up(connection, record_id, now)


def _can_be_carried(drift: Decision) -> bool:
    """What a comparison of money says (``:carried``) has no minutes of its own."""
    of_record = drift.subject.count(":") == 1
    return drift.kind == DriftKind.LATE_MINUTES or (drift.kind in _GIVEN_UP and of_record)
