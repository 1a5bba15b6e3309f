"""Taking a usage record apart: what its figures are made of, and whether the parts add up.

Sums are taken in SQL and only the first calls are listed, so a record of ten thousand calls is told as fast as one
of ten. Nothing here changes anything, and nothing asks a clock.
"""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection

from pipeline.businesses.plan_limits import AlertKind, alert_threshold
from pipeline.meter.push_states import PushState
from pipeline.reading import explanation_calls
from pipeline.reading.explanation_bounds import bounds, subscription_of
from pipeline.reading.explanation_calls import call_groups, crossing_call, listed_calls, total_of
from pipeline.usage.record_invoice import INVOICE
from pipeline.usage.records import RecordState

_RECORD = """
select r.*, b.name as business, b.time_zone, p.code as plan, p.name as plan_name, p.price_cents, p.increment_seconds,
       p.bills_overage, p.included_minutes as plan_includes
from usage_records r
join businesses b on b.id = r.business_id
join subscription_plans p on p.id = r.plan_id
where r.id = %s
"""

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
       origin.period_start as origin_start, origin.period_end as origin_end, a.usage_record_id = %(id)s as into_this
from usage_adjustments a join usage_records origin on origin.id = a.origin_record_id
where a.usage_record_id = %(id)s or a.origin_record_id = %(id)s
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
select kind, value, "limit", raised_at, resolved_at, usage_record_id
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
class Sum:
    """A figure and the parts that it must be the sum of: amounts, each with what it is of."""

    figure: str
    stated: int
    parts: Sequence[tuple[int, str]]

    @property
    def adds_up(self) -> bool:
        return self.stated == sum(amount for amount, _ in self.parts)


def explain(
    connection: Connection, record_id: int, *, limit: int, bill_child_legs: bool, figure: Figure | None = None
) -> dict[str, Any]:
    """The record, and what its figures are made of: all of them, or only this one.

    ``bill_child_legs`` is the setting, by which a child leg is counted or is not. Lists at most ``limit`` counted calls
    and as many others. ``sums`` holds Sums; ``adds_up`` is whether all do.
    """
    record = connection.exec_driver_sql(_RECORD, (record_id,)).one()
    wanted = {figure} if figure else set(Figure)
    about = {
        "id": record.id,
        "business_id": record.business_id,
        "subscription_id": record.subscription_id,
        "start": record.period_start,
        "end": record.period_end,
    }
    subscription = subscription_of(connection, record)
    invoice = connection.exec_driver_sql(_INVOICE, about).first()
    adjustments = _rows(connection, _ADJUSTMENTS, about)
    told: dict[str, Any] = {"business": {"id": record.business_id, "name": record.business}}
    told["record"] = _record(connection, record, subscription, invoice, about)
    sums: list[Sum] = []
    if wanted & {Figure.MINUTES, Figure.OVERAGE}:
        told["adjustments"] = adjustments
    if Figure.MINUTES in wanted:
        told["calls"] = _calls(connection, record, limit, bill_child_legs=bill_child_legs)
        sums += _sums_of_minutes(record, told["calls"]["groups"], adjustments)
    if Figure.OVERAGE in wanted:
        sums += _sums_of_overage(record)
    if Figure.PUSH in wanted:
        told["pushes"] = _rows(connection, _PUSHES, about)
        told["invoice"] = dict(invoice._mapping) if invoice else None  # noqa: SLF001 - SQLAlchemy's public way to a dict
        sums += _sums_of_pushes(record, told["pushes"], adjustments)
    if Figure.ALERT in wanted:
        told["alerts"] = [_alert(connection, record.id, row) for row in _rows(connection, _ALERTS, about)]
    told["sums"] = sums
    told["adds_up"] = all(each.adds_up for each in sums)
    return told


def _rows(connection: Connection, sql: str, about: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.exec_driver_sql(sql, about).mappings()]


def _record(
    connection: Connection, record: Any, subscription: Any, invoice: Any, about: dict[str, Any]
) -> dict[str, Any]:
    start, end = bounds(connection, record, subscription, invoice)
    return {
        "id": record.id,
        "state": record.state,
        "provisional": record.provisional,
        "time_zone": record.time_zone,
        "start": dataclasses.asdict(start),
        "end": dataclasses.asdict(end),
        "plan": {
            "code": record.plan,
            "name": record.plan_name,
            "price_cents": record.price_cents,
            "included": record.included_minutes,
            "included_by_the_plan_now": record.plan_includes,
            "increment_seconds": record.increment_seconds,
            "bills_overage": record.bills_overage,
            "metered_price": subscription.metered_price_id if subscription else None,
        },
        "calls": record.calls,
        "seconds": record.seconds,
        "minutes": record.minutes,
        "adjustments": record.adjustment_minutes,
        "pushed": record.pushed_minutes,
        "invoiced": record.invoiced_minutes,
        "history": _history(record, _rows(connection, _CHANGES, about)),
    }


def _history(record: Any, changes: Collection[dict[str, Any]]) -> list[dict[str, Any]]:
    """Who changed the record, as far as it is kept: its own steps, and what was done to its subscription meanwhile."""
    steps = [
        (record.opened_at, "opened", "the first call, adjustment or event that needed it"),
        (record.closed_at, "closed, statement frozen", "the close that was due"),
        (record.settled_at, "settled", f"its final invoice, with {record.invoiced_minutes} minutes"),
    ]
    own = [{"at": at, "what": what, "by": by} for at, what, by in steps if at is not None]
    return sorted([*own, *changes], key=lambda each: each["at"])


def _calls(connection: Connection, record: Any, limit: int, *, bill_child_legs: bool) -> dict[str, Any]:
    found = call_groups(connection, record, bill_child_legs=bill_child_legs)
    shown = {
        name: listed_calls(connection, record, limit, counted=name == "counted", bill_child_legs=bill_child_legs)
        for name in ("counted", "others")
    }
    return {
        "groups": [{**each, "said": explanation_calls.said_of(each["why"])} for each in found],
        **shown,
        "counted_more": total_of(found, "calls", counted=True) - len(shown["counted"]),
        "others_more": total_of(found, "calls", counted=False) - len(shown["others"]),
    }


def _sums_of_minutes(record: Any, found: Sequence[dict[str, Any]], adjustments: Sequence[dict[str, Any]]) -> list[Sum]:
    counted = total_of(found, "calls", counted=True)
    carried = sum(each["minutes"] for each in adjustments if each["into_this"])
    of_calls = f"of {counted:,} {'call' if counted == 1 else 'calls'}"
    sums = [
        Sum("minutes", record.minutes, [(total_of(found, "minutes"), of_calls), (carried, "carried")]),
        Sum("carried", record.adjustment_minutes, [(carried, "by adjustments")]),
        Sum("calls", record.calls, [(counted, "that are counted")]),
        Sum("seconds", record.seconds, [(total_of(found, "seconds"), of_calls)]),
        Sum(
            "rounding", counted, [(total_of(found, "rounded"), f"rounded up in steps of {record.increment_seconds} s")]
        ),
    ]
    since = sum(each["since"] for each in found if each["why"] != "nowhere")
    out = sum(each["minutes"] for each in adjustments if each["origin_record_id"] == record.id and each["call_sid"])
    if since or out:
        sums.append(Sum("known since", since, [(out, "carried out of it or written off")]))
    nowhere = sum(each["calls"] for each in found if each["why"] == "nowhere")
    if nowhere:
        sums.append(Sum("counted nowhere", 0, [(nowhere, "completed calls of known length without a record")]))
    if record.statement is not None:
        sums.append(Sum("statement", record.statement["minutes"], [(record.minutes, "in the record")]))
    return sums


def _sums_of_overage(record: Any) -> list[Sum]:
    name = "overage" if record.bills_overage else "unbilled"
    above = max(record.minutes - record.included_minutes, 0)
    inside = record.minutes - above
    return [Sum(name, above, [(record.minutes, "used"), (-inside, f"of {record.included_minutes:,} included")])]


def _sums_of_pushes(record: Any, pushes: Sequence[dict[str, Any]], adjustments: Sequence[dict[str, Any]]) -> list[Sum]:
    if record.subscription_id is None:
        return [
            Sum("pushed", record.pushed_minutes, []),
            Sum("for Stripe", 0, [(record.minutes, "used"), (-record.minutes, "not for Stripe: no metered item")]),
        ]
    by_state = {state: sum(each["minutes"] for each in pushes if each["state"] == state) for state in _PUSH_STATES}
    sums = [Sum("pushed", record.pushed_minutes, [(by_state[PushState.SENT], "of the pushes that Stripe has")])]
    if record.settled_at is None:
        parts = [(amount, _PUSH_STATES[state]) for state, amount in by_state.items() if amount]
        rest = record.minutes - sum(by_state.values())
        if rest or not parts:
            waits = "is not planned yet" if record.state != RecordState.CLOSED else "waits for the final invoice"
            parts.append((rest, waits))
        sums.append(Sum("for Stripe", record.minutes, parts))
    else:
        out = sum(
            each["minutes"] for each in adjustments if each["origin_record_id"] == record.id and not each["call_sid"]
        )
        parts = [(record.invoiced_minutes, "on the final invoice"), (out, "carried on, as the invoice lacks them")]
        sums.append(Sum("for Stripe", record.minutes, parts))
    return sums


#: What each state of a push means for the minutes of the period; those of void and released ones are planned anew.
_PUSH_STATES = {
    PushState.SENT: "pushed",
    PushState.PLANNED: "planned",
    PushState.SENDING: "being sent",
    PushState.UNKNOWN: "without an answer",
    PushState.FAILED: "refused",
}


def _alert(connection: Connection, record_id: int, alert: dict[str, Any]) -> dict[str, Any]:
    """An alert with the threshold it stands for and, of minutes, the call that crossed it."""
    shares = {AlertKind.MINUTES_80: alert_threshold(alert["limit"]), AlertKind.MINUTES_100: alert["limit"]}
    threshold = shares.get(alert["kind"])
    call = crossing_call(connection, record_id, threshold) if threshold is not None else None
    return {**alert, "threshold": threshold, "crossed_by": call}
