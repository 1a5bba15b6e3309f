"""Businesses on a paid plan whose minutes nothing bills: a difference at once, and Free's rules in the end (64).

It was added so, or never linked, or its subscription has the fee and no minutes item. It keeps plan and service for the
plan's days of grace, and until Stripe has been asked what its customer has. Who is invoiced by hand keeps both
(``billed_elsewhere_until``), and each of its periods is a difference of its own when it closes: somebody has to write
that invoice.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine

from pipeline.businesses import plan_limits, service_status
from pipeline.businesses.service_rules import Matter
from pipeline.events import fetch_requests
from pipeline.prices.money import money
from pipeline.providers.stripe_words import NOT_LIVING
from pipeline.shared import drifts
from pipeline.shared.business_locks import under_locks
from pipeline.shared.drifts import DriftKind
from pipeline.usage import monthly_allowance, record_bounds, record_figures
from pipeline.usage.periods import Period
from pipeline.usage.record_creation import NewRecord

SECONDS = 40.0

# Paid for: a subscription that lives and counts minutes.
_LIVING = """
from subscriptions s
where s.business_id = b.id and s.metered_item_id is not null and s.ended_at is null
  and s.status <> all(%(not_living)s::text[])
"""

# A difference that stands is told of until it ends, also when Free's rules have been put in force.
_BUSINESSES = """
from businesses b
join subscription_plans p on p.id = b.plan_id
left join drifts d on d.kind = 'paid-plan-unbilled' and d.subject = 'business:' || b.id and d.resolved_at is null
"""
_UNBILLED = f"""
(p.bills_overage or d.id is not null) and b.ended_at is null
and coalesce(b.billed_elsewhere_until <= %(now)s, true) and not exists (select {_LIVING})
"""

#: The businesses that this is about, and those of which it was told.
_DUE = f"""
select b.id {_BUSINESSES} where {_UNBILLED}
union
select business_id from drifts
where kind = 'paid-plan-unbilled' and subject like 'business:%%' and resolved_at is null
order by 1
"""  # noqa: S608 - as above

# Asked: nothing of its customer's waits to be fetched. What it used since is in records without a subscription.
_STATE = f"""
select b.id, p.code as plan, p.price_cents, p.payment_grace_days, p.bills_overage as paid, d.found_at,
       d.evidence ->> 'plan' as told_plan, (d.evidence ->> 'price')::bigint as told_price,
       (d.evidence ->> 'grace_days')::int as told_days, b.stripe_customer_id as customer,
       not exists (select from refreshes f where f.kind = 'customer' and f.object_id = b.stripe_customer_id
                   and f.mark > f.fetched_mark) as asked,
       (select sum(r.minutes)::int from usage_records r
        where r.business_id = b.id and r.subscription_id is null and r.state = 'open') as minutes
{_BUSINESSES}
where {_UNBILLED} and b.id = any(%(ids)s::bigint[])
order by b.id
"""  # noqa: S608 - as above

_RECORDS = """
select r.id, r.period_start, r.period_end, r.allowance_month
from usage_records r join subscription_plans p on p.id = r.plan_id
where r.business_id = %s and r.subscription_id is null and r.state = 'open' and p.bills_overage
"""

_FREE = "select id from subscription_plans where code = 'free'"

_SET_FREE = "update businesses set plan_id = %(plan_id)s where id = %(business_id)s"


def check_billing(connection: Connection, business_ids: Collection[int], now: datetime) -> set[int]:
    """Tell of these businesses, whose locks are held, whether nothing bills them; returns those on Free's rules now."""
    about = {"ids": list(business_ids), "now": now, "not_living": list(NOT_LIVING)}
    found = connection.exec_driver_sql(_STATE, about).all()
    limited = set()
    for row in found:
        if row.found_at is None and row.customer is not None:
            fetch_requests.request_fetch(connection, "customer", row.customer, "unbilled")
        until = None if row.found_at is None else row.found_at + timedelta(days=row.told_days)
        if row.paid and until is not None and until <= now and row.asked:
            _set_free(connection, row.id, now)
            limited.add(row.id)
        _report(connection, row, now, free=not row.paid or row.id in limited)
    for business_id in sorted(set(business_ids) - {row.id for row in found}):
        drifts.resolve(connection, DriftKind.PAID_PLAN_UNBILLED, f"business:{business_id}", now)
    return limited


def check_all_billing(engine: Engine, now: datetime) -> Counter[str]:
    """Look at all businesses on a paid plan that nothing bills; counts those ``unbilled``, and ``limited`` now."""

    def work(connection: Connection, ids: list[int]) -> Counter[str]:
        limited = check_billing(connection, ids, now)
        causes = {each: {(Matter.SUBSCRIPTION, ""): "nothing bills its plan"} for each in limited}
        service_status.settle_service(connection, causes, now)
        return Counter(unbilled=len(ids), limited=len(limited))

    return +under_locks(engine, "plans", _DUE, {"now": now, "not_living": list(NOT_LIVING)}, work, seconds=SECONDS)


def report_closed(connection: Connection, closed: Sequence[Any], now: datetime) -> None:
    """Tell of closed periods of a paid plan that no subscription bills.

    Rows with ``id``, ``business_id``, ``minutes``, ``plan``, ``price_cents``, and ``elsewhere``: why they are invoiced
    by hand, None where they are not.
    """
    for record in closed:
        by_hand = record.elsewhere is not None
        drifts.report(
            connection,
            DriftKind.PAID_PLAN_UNBILLED,
            f"record:{record.id}",
            business_id=record.business_id,
            expected=f"plan {record.plan}, {money(record.price_cents, 'usd')}, and {record.minutes:,} minutes billed",
            actual=f"to be invoiced by hand: {record.elsewhere}" if by_hand else "no subscription bills this period",
            evidence={"minutes": record.minutes, "amount": record.price_cents, "currency": "usd"},
            repair="write its invoice by hand, and resolve this" if by_hand else None,
            now=now,
        )


def _report(connection: Connection, row: Any, now: datetime, *, free: bool) -> None:
    plan, price = row.told_plan or row.plan, row.price_cents if row.told_price is None else row.told_price
    days = row.payment_grace_days if row.told_days is None else row.told_days
    minutes = row.minutes or 0
    until = (row.found_at or now) + timedelta(days=days)
    drifts.report(
        connection,
        DriftKind.PAID_PLAN_UNBILLED,
        f"business:{row.id}",
        business_id=row.id,
        expected=f"a living subscription with a minutes item: plan {plan}, {money(price, 'usd')} a month",
        actual=f"none: {minutes:,} minutes of the open period are billed to nobody; "
        + ("Free's rules hold" if free else f"Free's rules hold from {until.isoformat()} on"),
        evidence={
            "plan": plan,
            "price": price,
            "grace_days": days,
            "minutes": minutes,
            "amount": price,
            "currency": "usd",
        },
        now=now,
    )


def _set_free(connection: Connection, business_id: int, now: datetime) -> None:
    """The business and its open period go by Free's rules."""
    free = connection.exec_driver_sql(_FREE).scalar_one()
    connection.exec_driver_sql(_SET_FREE, {"plan_id": free, "business_id": business_id})
    plan_limits.check_counts(connection, business_id, now)
    changed: set[int] = set()
    for record in connection.exec_driver_sql(_RECORDS, (business_id,)).all():
        period = Period(record.period_start, record.period_end)
        home = NewRecord(business_id, None, free, period, False, record.allowance_month)
        changed |= record_bounds.place_record(connection, record.id, home)
    changed |= monthly_allowance.share_allowance(connection, [business_id])
    plan_limits.check_use(connection, record_figures.sum_anew(connection, changed), now)
