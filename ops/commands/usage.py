"""`altiora usage`: what a business used, period by period."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from ops.commands.business_argument import BusinessArgument, find, service_status
from ops.commands.database import transaction
from ops.commands.output import AsJson, print_json, print_table, say, shown
from pipeline.businesses.service_rules import ServiceStatus
from pipeline.shared.clock import business_clock

_BUSINESS = """
select b.name, p.code as plan, b.limited_until, b.grace_until, b.suspended_at
from businesses b join subscription_plans p on p.id = b.plan_id
where b.id = %s
"""

# What is above the included minutes is billed by Stripe or by nobody, as the record's own plan says.
_RECORDS = """
select r.period_start, r.period_end, r.state, r.calls, r.seconds, r.minutes, r.included_minutes as included,
       case when p.bills_overage then above else 0 end as overage,
       case when p.bills_overage then 0 else above end as unbilled,
       r.adjustment_minutes as adjustments, r.pushed_minutes as pushed
from usage_records r
join subscription_plans p on p.id = r.plan_id
cross join lateral (select greatest(r.minutes - r.included_minutes, 0) as above) a
where r.business_id = %s
order by r.period_start
"""


def usage(business: BusinessArgument, as_json: AsJson = False) -> None:
    """Show what a business used, in each of its billing periods."""
    with transaction() as connection:
        used = _usage(connection, find(connection, business), business_clock().now())
    if as_json:
        print_json(used)
        return
    status = used["service_status"]
    if status == ServiceStatus.LIMITED:
        status = f"limited until {shown(used['limited_until'])} UTC"
    if "grace_until" in used:
        status = f"active, a payment is overdue, suspended from {shown(used['grace_until'])} UTC on"
    say(f"{used['business']}: plan {used['plan']}, {status}")
    print_table(
        [_row(record) for record in used["records"]],
        numbers=["calls", "minutes", "over", "carried", "pushed"],
        nothing="No call has been counted yet.",
    )


def _usage(connection: Connection, business_id: int, now: datetime) -> dict[str, Any]:
    business = connection.exec_driver_sql(_BUSINESS, (business_id,)).one()
    status = service_status(business.limited_until, business.suspended_at, now)
    return {
        "business": business.name,
        "plan": business.plan,
        "service_status": status,
        **({"limited_until": business.limited_until} if status == ServiceStatus.LIMITED else {}),
        **({"grace_until": business.grace_until} if status == ServiceStatus.ACTIVE and business.grace_until else {}),
        "records": [dict(row._mapping) for row in connection.exec_driver_sql(_RECORDS, (business_id,))],  # noqa: SLF001 - SQLAlchemy's public way to a dict
    }


def _row(record: dict[str, Any]) -> dict[str, Any]:
    """Two lines: figures below each other, so that eight of them are read in 80 columns."""
    over = f"{record['unbilled']:,}\nunbilled" if record["unbilled"] else record["overage"]
    return {
        "period (UTC)": f"{shown(record['period_start'])}\n{shown(record['period_end'])}",
        "state": record["state"],
        "calls": record["calls"],
        "minutes": f"{record['minutes']:,}\nof {record['included']:,}",
        "over": over,
        "carried": record["adjustments"],
        "pushed": record["pushed"],
    }
