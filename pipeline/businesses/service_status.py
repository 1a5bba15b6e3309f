"""Applying the service rules: what they decide is stored with the business, and each change is a row of its own.

Everything follows from the mirror, the usage records and the time, so it may be settled again at any moment. Only the
passing of the days of grace needs a job; a limit passes by itself.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection, Engine

from pipeline.businesses.plan_limits import BILLS_OVERAGE
from pipeline.businesses.service_rules import Facts, Matter, Rule, ServiceStatus, deciding_rule, status_at
from pipeline.shared import trail
from pipeline.shared.business_locks import under_locks
from pipeline.subscription_changes import planning
from pipeline.subscription_changes.change_requests import ChangeKind

SECONDS = 40.0

# Only living subscriptions matter: what a cancelled one still owes is a matter of its invoice, not of the service. A
# subscription that is past due while no open invoice is known yet is overdue from now on.
_FACTS = f"""
select b.id, b.limited_until, b.grace_until, b.suspended_at, p.payment_grace_days as grace_days,
       coalesce(living.unpaid, false) as unpaid, coalesce(living.paused, false) as paused,
       coalesce(overdue.since, case when living.past_due then coalesce(
         b.grace_until - p.payment_grace_days * interval '1 day', %(now)s) end) as overdue_since,
       used_up.until as used_up_until
from businesses b
join subscription_plans p on p.id = b.plan_id
left join lateral (
  select bool_or(s.status = 'unpaid') as unpaid, bool_or(s.status = 'paused') as paused,
         bool_or(s.status = 'past_due') as past_due
  from subscriptions s where s.business_id = b.id and s.ended_at is null
) living on true
left join lateral (
  select min(coalesce(i.finalized_at, i.created_at)) as since
  from stripe_invoices i join subscriptions s on s.stripe_id = i.stripe_subscription_id
  where i.business_id = b.id and i.status = 'open' and i.attempt_count > 0 and s.ended_at is null
    and s.status not in ('incomplete', 'incomplete_expired')
) overdue on true
left join lateral (
  select r.period_end as until
  from usage_records r join subscription_plans p on p.id = r.plan_id
  where r.business_id = b.id and r.period_start <= %(now)s and r.period_end > %(now)s
    and not {BILLS_OVERAGE} and r.minutes - r.adjustment_minutes >= r.included_minutes
) used_up on true
where b.id = any(%(ids)s::bigint[])
order by b.id
"""  # noqa: S608 - put together from fragments of ours

_STORE = """
update businesses
set limited_until = %(limited_until)s, grace_until = %(grace_until)s, suspended_at = %(suspended_at)s
where id = %(id)s
  and (limited_until, grace_until, suspended_at)
      is distinct from (%(limited_until)s, %(grace_until)s, %(suspended_at)s)
"""

_TRANSITION = """
insert into service_transitions (business_id, from_status, to_status, rule, until, cause, at)
values (%(id)s, %(before)s, %(after)s, %(rule)s, %(until)s, %(cause)s, %(now)s)
"""

# What is suspended already was settled; what paid is settled by Stripe's event.
_GRACE_IS_OVER = "select id from businesses where grace_until <= %(now)s and suspended_at is null order by id"

_log = structlog.get_logger(__name__)


#: What has changed of a business: each matter and the id of its object (or ""), in words.
Causes = dict[tuple[Matter, str], str]

_GRACE_HAS_PASSED: Causes = {(Matter.GRACE, ""): "the days of grace have passed"}


def settle_service(connection: Connection, causes: Mapping[int, Causes], now: datetime) -> None:
    """Decide by the rules for these businesses, whose locks are held, and record a transition with its true cause."""
    if not causes:
        return
    for row in connection.exec_driver_sql(_FACTS, {"ids": list(causes), "now": now}).all():
        facts = Facts(
            now=now,
            unpaid=row.unpaid,
            paused=row.paused,
            overdue_since=row.overdue_since,
            grace_days=row.grace_days,
            limited_until=row.used_up_until,
        )
        known = causes[row.id]
        if row.grace_until is not None and row.grace_until <= now:
            known = known | _GRACE_HAS_PASSED  # whatever was looked at, and however late
        _store(connection, row, facts, deciding_rule(facts), known)


def true_cause(causes: Causes, rule: Rule) -> str:
    """What brought the rule about, of all that changed in one transaction: of the first matter that it goes by."""
    for matter in (*rule.matters, *Matter):
        words = sorted({words for (about, _), words in causes.items() if about == matter})
        if words:
            return "; ".join(words)
    raise ValueError("a service is settled because something has changed: name it")


def _store(connection: Connection, row: Any, facts: Facts, rule: Rule, causes: Causes) -> None:
    now = facts.now
    before = status_at(
        limited_until=row.limited_until, grace_until=row.grace_until, suspended_at=row.suspended_at, now=now
    )
    connection.exec_driver_sql(
        _STORE,
        {
            "id": row.id,
            "limited_until": facts.limited_until,
            "grace_until": facts.grace_until,
            "suspended_at": (row.suspended_at or now) if rule.status == ServiceStatus.SUSPENDED else None,
        },
    )
    if before == rule.status:
        return
    cause = true_cause(causes, rule)
    about = {"id": row.id, "before": before, "after": rule.status, "rule": rule.name, "until": rule.until(facts)}
    connection.exec_driver_sql(_TRANSITION, {**about, "cause": cause, "now": now})
    if ServiceStatus.SUSPENDED in {before, rule.status}:
        what = "suspended" if rule.status == ServiceStatus.SUSPENDED else "no longer suspended"
        trail.note(connection, trail.Entry(trail.PIPELINE, what, f"business:{row.id}", row.id, f"{rule.name}: {cause}"))
    _log.info("service", business_id=row.id, before=before, after=rule.status, rule=rule.name, cause=cause)
    if rule.name in {"unpaid", "payment-overdue"}:
        planning.want_change(connection, row.id, ChangeKind.PAUSE_COLLECTION, f"rule {rule.name}", now)
    elif before == ServiceStatus.SUSPENDED:
        planning.want_change(connection, row.id, ChangeKind.RESUME_COLLECTION, f"rule {rule.name}", now)
    planning.want_change(connection, row.id, ChangeKind.METADATA, f"service {rule.status}", now)


def settle_due_services(engine: Engine, now: datetime) -> Counter[str]:
    """Suspend the businesses whose days of grace have passed; counts those that were ``settled``."""

    def work(connection: Connection, ids: list[int]) -> Counter[str]:
        settle_service(connection, dict.fromkeys(ids, _GRACE_HAS_PASSED), now)
        return Counter(settled=len(ids))

    return under_locks(engine, "service", _GRACE_IS_OVER, {"now": now}, work, seconds=SECONDS)
