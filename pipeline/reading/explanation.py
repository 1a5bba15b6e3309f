"""Taking a usage record apart: what its figures are made of, and whether the parts add up.

Sums are taken in SQL and only the first calls are listed, so a record of ten thousand calls is told as fast as one
of ten. Nothing here changes anything, and nothing asks a clock.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection

from pipeline.businesses.plan_limits import BILLS_OVERAGE, AlertKind, alert_threshold
from pipeline.meter.push_states import PushState
from pipeline.reading.explanation_bounds import Bound, bounds, subscription_of
from pipeline.reading.explanation_calls import (
    NOWHERE,
    CallGroup,
    CrossingCall,
    ExplainedCall,
    call_groups,
    crossing_call,
    listed_calls,
)
from pipeline.reading.period_money import PeriodMoney, period_money
from pipeline.shared.rows import typed_row, typed_rows
from pipeline.usage.late_minutes import AdjustmentKind
from pipeline.usage.record_invoice import INVOICE
from pipeline.usage.records import RecordState

_RECORD = f"""
select r.id, r.business_id, b.name as business, coalesce(r.time_zone, b.time_zone) as time_zone,
       r.subscription_id, r.state, r.provisional,
       r.period_start, r.period_end, r.opened_at, r.closed_at, r.settled_at, r.included_minutes, r.calls, r.seconds,
       r.minutes, r.adjustment_minutes, r.pushed_minutes, r.invoiced_minutes,
       (r.statement ->> 'minutes')::int as statement_minutes, p.code as plan, p.name as plan_name, p.price_cents,
       r.increment_seconds, {BILLS_OVERAGE} as bills_overage, p.included_minutes as plan_includes
from usage_records r
join businesses b on b.id = r.business_id
join subscription_plans p on p.id = r.plan_id
where r.id = %s
"""  # noqa: S608 - put together from fragments of ours

_INVOICE = f"""
select invoice.id, invoice.status, invoice.billing_reason, invoice.created_at, invoice.automatically_finalizes_at,
       invoice.period_start, invoice.period_end, invoice.metered_quantity as minutes, invoice.amount_due_cents,
       invoice.currency, invoice.snapshot_at
from usage_records r join subscriptions s on s.id = r.subscription_id
{INVOICE}
where r.id = %(id)s and invoice.id is not null
"""  # noqa: S608 - put together from fragments of ours

_CHANGES = """
select created_at as at, 'subscription: ' || kind || ', ' || state as what, reason as by
from subscription_changes
where business_id = %(business_id)s and subscription_id = %(subscription_id)s
  and created_at >= %(start)s and created_at < %(end)s
order by id
"""

_ADJUSTMENTS = """
select a.id, a.kind, a.minutes, a.call_sid, a.usage_record_id, a.origin_record_id, a.event_id, a.created_at,
       origin.period_start as origin_start, origin.period_end as origin_end, a.usage_record_id = %(id)s as into_this,
       a.settlement_record_id
from usage_adjustments a join usage_records origin on origin.id = a.origin_record_id
where a.usage_record_id = %(id)s or a.origin_record_id = %(id)s or a.settlement_record_id = %(id)s
order by a.id
"""

# By timestamp, as they count: a cut may have moved the bounds since they were planned.
_PUSHES = """
select id, identifier, minutes, timestamp, state, attempts, first_sent_at, settled_at, answer, created_at
from meter_pushes
where business_id = %(business_id)s and timestamp >= %(start)s and timestamp < %(end)s
order by id
"""

_ALERTS = """
select kind, value, "limit", raised_at, resolved_at, usage_record_id, %(id)s::bigint as record_id
from usage_alerts
where business_id = %(business_id)s
  and (usage_record_id = %(id)s or usage_record_id is null and raised_at >= %(start)s and raised_at < %(end)s)
order by id
"""


class Figure(StrEnum):
    """What can be asked for by itself."""

    MINUTES = "minutes"
    OVERAGE = "overage"
    PUSH = "push"
    ALERT = "alert"


@dataclass(frozen=True, slots=True)
class Part:
    """An amount, and what it is of."""

    amount: int
    of: str


@dataclass(frozen=True, slots=True)
class Sum:
    """A figure and the parts that it must be the sum of."""

    figure: str
    stated: int
    parts: Sequence[Part]
    adds_up: bool


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened to a record; ``at`` is business time."""

    at: datetime
    what: str
    by: str


@dataclass(frozen=True, slots=True)
class ExplainedPlan:
    """The plan of a record, in cents, minutes and seconds; ``included`` is frozen with the record."""

    code: str
    name: str
    price_cents: int
    included: int
    included_by_the_plan_now: int
    increment_seconds: int
    bills_overage: bool
    metered_price: str | None


@dataclass(frozen=True, slots=True)
class ExplainedRecord:
    """The record itself. ``minutes`` hold the ``adjustments``; ``invoiced`` is None until its invoice is final."""

    id: int
    state: str
    provisional: bool
    time_zone: str
    start: Bound
    end: Bound
    plan: ExplainedPlan
    calls: int
    seconds: int
    minutes: int
    adjustments: int
    pushed: int
    invoiced: int | None
    history: Sequence[Step]


@dataclass(frozen=True, slots=True)
class ExplainedCalls:
    """The calls in sums, the first of each kind one by one, and how many more there are."""

    groups: Sequence[CallGroup]
    counted: Sequence[ExplainedCall]
    others: Sequence[ExplainedCall]
    counted_more: int
    others_more: int


@dataclass(frozen=True, slots=True)
class ExplainedAdjustment:
    """Minutes that were carried into this record (``into_this``) or out of its period. No call: a settlement."""

    id: int
    kind: str
    minutes: int
    call_sid: str | None
    usage_record_id: int | None
    origin_record_id: int
    event_id: int | None
    created_at: datetime
    origin_start: datetime
    origin_end: datetime
    into_this: bool | None
    settlement_record_id: int | None


@dataclass(frozen=True, slots=True)
class ExplainedPush:
    """A push of the period; ``timestamp`` is the business time that it is for."""

    id: int
    identifier: str
    minutes: int
    timestamp: datetime
    state: str
    attempts: int
    first_sent_at: datetime | None
    settled_at: datetime | None
    answer: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ExplainedInvoice:
    """The invoice that bills the period, as Stripe last told of it; ``minutes`` are those of its metered lines."""

    id: str
    status: str
    billing_reason: str | None
    created_at: datetime
    automatically_finalizes_at: datetime | None
    period_start: datetime
    period_end: datetime
    minutes: int
    amount_due_cents: int
    currency: str
    snapshot_at: datetime


@dataclass(frozen=True, slots=True)
class ExplainedAlert:
    """An alert, the minutes it stands for and the call that crossed them; None for agents and numbers."""

    kind: str
    value: int
    limit: int
    raised_at: datetime
    resolved_at: datetime | None
    usage_record_id: int | None
    threshold: int | None
    crossed_by: CrossingCall | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A record taken apart. A part that was not asked for is None."""

    business_id: int
    business: str
    record: ExplainedRecord
    adjustments: Sequence[ExplainedAdjustment] | None
    calls: ExplainedCalls | None
    pushes: Sequence[ExplainedPush] | None
    money: PeriodMoney | None
    invoice: ExplainedInvoice | None
    """With the pushes; None also where no invoice is known."""
    alerts: Sequence[ExplainedAlert] | None
    sums: Sequence[Sum]
    adds_up: bool


@dataclass(frozen=True, slots=True)
class _Record:
    id: int
    business_id: int
    business: str
    time_zone: str
    subscription_id: int | None
    state: str
    provisional: bool
    period_start: datetime
    period_end: datetime
    opened_at: datetime
    closed_at: datetime | None
    settled_at: datetime | None
    included_minutes: int
    calls: int
    seconds: int
    minutes: int
    adjustment_minutes: int
    pushed_minutes: int
    invoiced_minutes: int | None
    statement_minutes: int | None
    plan: str
    plan_name: str
    price_cents: int
    increment_seconds: int
    bills_overage: bool
    plan_includes: int


def explain(
    connection: Connection, record_id: int, *, limit: int, bill_child_legs: bool, figure: Figure | None = None
) -> Explanation:
    """The record, and what its figures are made of: all of them, or only this one.

    ``bill_child_legs`` is the setting, by which a child leg is counted or is not. Lists at most ``limit`` counted calls
    and as many others. Raises LookupError when there is no such record.
    """
    record = typed_row(_Record, connection.exec_driver_sql(_RECORD, (record_id,)))
    if record is None:
        raise LookupError(f"there is no usage record {record_id}")
    about = {
        "id": record.id,
        "business_id": record.business_id,
        "subscription_id": record.subscription_id,
        "start": record.period_start,
        "end": record.period_end,
    }
    wanted = {figure} if figure else set(Figure)
    subscription = subscription_of(connection, record.subscription_id)
    invoice = typed_row(ExplainedInvoice, connection.exec_driver_sql(_INVOICE, about))
    adjustments = typed_rows(ExplainedAdjustment, connection.exec_driver_sql(_ADJUSTMENTS, about))
    calls = pushes = alerts = None
    sums: list[Sum] = []
    if Figure.MINUTES in wanted:
        calls = _calls(connection, record, limit, bill_child_legs=bill_child_legs)
        sums += _sums_of_minutes(record, calls.groups, adjustments)
    if Figure.OVERAGE in wanted:
        sums += _sums_of_overage(record)
    if Figure.PUSH in wanted:
        pushes = typed_rows(ExplainedPush, connection.exec_driver_sql(_PUSHES, about))
        sums += _sums_of_pushes(record, pushes, adjustments)
    if Figure.ALERT in wanted:
        alerts = _alerts(connection, about)
    changes = typed_rows(Step, connection.exec_driver_sql(_CHANGES, about))
    return Explanation(
        business_id=record.business_id,
        business=record.business,
        record=_told(
            record,
            bounds(connection, record, subscription, invoice),
            subscription.metered_price_id if subscription is not None else None,
            _history(record, changes),
        ),
        adjustments=adjustments if wanted & {Figure.MINUTES, Figure.OVERAGE} else None,
        calls=calls,
        pushes=pushes,
        invoice=invoice if Figure.PUSH in wanted else None,
        money=period_money(connection, [record.id])[0] if Figure.OVERAGE in wanted else None,
        alerts=alerts,
        sums=sums,
        adds_up=all(each.adds_up for each in sums),
    )


def _told(
    record: _Record, bounds: tuple[Bound, Bound], metered_price: str | None, history: Sequence[Step]
) -> ExplainedRecord:
    start, end = bounds
    return ExplainedRecord(
        id=record.id,
        state=record.state,
        provisional=record.provisional,
        time_zone=record.time_zone,
        start=start,
        end=end,
        plan=ExplainedPlan(
            code=record.plan,
            name=record.plan_name,
            price_cents=record.price_cents,
            included=record.included_minutes,
            included_by_the_plan_now=record.plan_includes,
            increment_seconds=record.increment_seconds,
            bills_overage=record.bills_overage,
            metered_price=metered_price,
        ),
        calls=record.calls,
        seconds=record.seconds,
        minutes=record.minutes,
        adjustments=record.adjustment_minutes,
        pushed=record.pushed_minutes,
        invoiced=record.invoiced_minutes,
        history=history,
    )


def _history(record: _Record, changes: Sequence[Step]) -> list[Step]:
    """Who changed the record, as far as it is kept: its own steps, and what was done to its subscription meanwhile."""
    steps = [
        (record.opened_at, "opened", "the first call, adjustment or event that needed it"),
        (record.closed_at, "closed, statement frozen", "the close that was due"),
        (record.settled_at, "settled", f"its final invoice, with {record.invoiced_minutes} minutes"),
    ]
    own = [Step(at, what, by) for at, what, by in steps if at is not None]
    return sorted([*own, *changes], key=lambda step: step.at)


def _calls(connection: Connection, record: _Record, limit: int, *, bill_child_legs: bool) -> ExplainedCalls:
    groups = call_groups(connection, record, bill_child_legs=bill_child_legs)
    counted, others = (
        listed_calls(connection, record, limit, counted=which, bill_child_legs=bill_child_legs)
        for which in (True, False)
    )
    return ExplainedCalls(
        groups=groups,
        counted=counted,
        others=others,
        counted_more=sum(each.calls for each in groups if each.counted) - len(counted),
        others_more=sum(each.calls for each in groups if not each.counted) - len(others),
    )


def _sum(figure: str, stated: int, parts: Sequence[Part]) -> Sum:
    return Sum(figure, stated, parts, adds_up=stated == sum(part.amount for part in parts))


def _sums_of_minutes(
    record: _Record, groups: Sequence[CallGroup], adjustments: Iterable[ExplainedAdjustment]
) -> list[Sum]:
    counted = sum(each.calls for each in groups if each.counted)
    carried = sum(each.minutes for each in adjustments if each.into_this)
    of_calls = f"of {counted:,} {'call' if counted == 1 else 'calls'}"
    steps = f"rounded up in steps of {record.increment_seconds} s"
    sums = [
        _sum(
            "minutes",
            record.minutes,
            [Part(sum(each.minutes for each in groups), of_calls), Part(carried, "carried")],
        ),
        _sum("carried", record.adjustment_minutes, [Part(carried, "by adjustments")]),
        _sum("calls", record.calls, [Part(counted, "that are counted")]),
        _sum("seconds", record.seconds, [Part(sum(each.seconds for each in groups), of_calls)]),
        _sum("rounding", counted, [Part(sum(each.rounded for each in groups), steps)]),
    ]
    since = sum(each.since for each in groups if each.why != NOWHERE)
    out = sum(each.minutes for each in adjustments if each.origin_record_id == record.id and each.call_sid)
    if since or out:
        sums.append(_sum("known since", since, [Part(out, "carried out of it or written off")]))
    nowhere = sum(each.calls for each in groups if each.why == NOWHERE)
    if nowhere:
        sums.append(_sum("counted nowhere", 0, [Part(nowhere, "completed calls of known length without a record")]))
    if record.statement_minutes is not None:
        sums.append(_sum("statement", record.statement_minutes, [Part(record.minutes, "in the record")]))
    return sums


def _sums_of_overage(record: _Record) -> list[Sum]:
    name = "overage" if record.bills_overage else "unbilled"
    above = max(record.minutes - record.included_minutes, 0)
    inside = Part(above - record.minutes, f"of {record.included_minutes:,} included")
    return [_sum(name, above, [Part(record.minutes, "used"), inside])]


def _sums_of_pushes(
    record: _Record, pushes: Sequence[ExplainedPush], adjustments: Iterable[ExplainedAdjustment]
) -> list[Sum]:
    if record.subscription_id is None:
        not_for_stripe = Part(-record.minutes, "not for Stripe: no metered item")
        return [
            _sum("pushed", record.pushed_minutes, []),
            _sum("for Stripe", 0, [Part(record.minutes, "used"), not_for_stripe]),
        ]
    by_state = {state: sum(each.minutes for each in pushes if each.state == state) for state in _PUSH_STATES}
    sums = [_sum("pushed", record.pushed_minutes, [Part(by_state[PushState.SENT], "of the pushes that Stripe has")])]
    if record.invoiced_minutes is None:
        parts = [Part(amount, _PUSH_STATES[state]) for state, amount in by_state.items() if amount]
        rest = record.minutes - sum(by_state.values())
        if rest or not parts:
            waits = "is not planned yet" if record.state != RecordState.CLOSED else "waits for the final invoice"
            parts.append(Part(rest, waits))
    else:
        parts = [Part(record.invoiced_minutes, "on the final invoice")]
        for kind, words in _SETTLED.items():
            of_kind = [each for each in adjustments if each.settlement_record_id == record.id and each.kind == kind]
            if of_kind or kind == AdjustmentKind.CARRIED:
                parts.append(Part(sum(each.minutes for each in of_kind), words))
    return [*sums, _sum("for Stripe", record.minutes, parts)]


#: What has become of the difference to the final invoice.
_SETTLED = {
    AdjustmentKind.CARRIED: "carried on, as the invoice lacks them",
    AdjustmentKind.HELD: "held for a person, as the invoice lacks them",
    AdjustmentKind.WAITING: "waiting for a period that is charged",
    AdjustmentKind.WRITTEN_OFF: "written off",
    AdjustmentKind.UNBILLABLE: "that nobody can be billed for",
    AdjustmentKind.UNDER_BILLED: "that the invoice lacks, for a person to decide",
    AdjustmentKind.OVER_BILLED: "that the invoice has too many, for a person to decide",
    AdjustmentKind.CREDITED: "given back as money",
}

#: What each state of a push means for the minutes of the period; those of void and released ones are planned anew.
_PUSH_STATES = {
    PushState.SENT: "pushed",
    PushState.PLANNED: "planned",
    PushState.SENDING: "being sent",
    PushState.UNKNOWN: "without an answer",
    PushState.FAILED: "refused",
}


def _alerts(connection: Connection, about: Mapping[str, object]) -> list[ExplainedAlert]:
    """The alerts with the thresholds that they stand for and, of minutes, the calls that crossed them."""
    alerts = []
    for row in connection.exec_driver_sql(_ALERTS, dict(about)).all():
        shares = {AlertKind.MINUTES_80: alert_threshold(row.limit), AlertKind.MINUTES_100: row.limit}
        threshold = shares.get(row.kind)
        call = crossing_call(connection, row.record_id, threshold) if threshold is not None else None
        alerts.append(
            ExplainedAlert(
                kind=row.kind,
                value=row.value,
                limit=row.limit,
                raised_at=row.raised_at,
                resolved_at=row.resolved_at,
                usage_record_id=row.usage_record_id,
                threshold=threshold,
                crossed_by=call,
            )
        )
    return alerts
