"""Carrying minutes that a closed record can't take any more: into the open one, or to where a person sees them."""

from datetime import datetime

from sqlalchemy import Connection

from pipeline import drifts, records

_ADJUST = """
insert into usage_adjustments
  (business_id, kind, usage_record_id, origin_record_id, call_sid, minutes, event_id, created_at)
values (%(business_id)s, %(kind)s, %(record_id)s, %(origin_id)s, %(call_sid)s, %(minutes)s, %(event_id)s, %(now)s)
"""

_ADD_ADJUSTMENT = """
update usage_records set minutes = minutes + %(minutes)s, adjustment_minutes = adjustment_minutes + %(minutes)s
where id = %(record_id)s
"""


def carry(
    connection: Connection,
    *,
    origin_record_id: int,
    minutes: int,
    call_sid: str | None,
    event_id: int | None,
    now: datetime,
    kind: str | None = None,
) -> None:
    """Carry minutes (negative: a correction) that a closed record can't take any more.

    Into the business's open record while it has a metered subscription. A period that was not for Stripe is
    written off instead, so that it eats no later allowance; a paid one of a business that nothing bills any more
    is reported as a drift, for a person. ``kind``, where the caller knows better: written-off or unbillable.
    """
    if minutes == 0:
        return
    business_id, paid, plan = connection.exec_driver_sql(
        "select r.business_id, r.subscription_id is not null, p.code from usage_records r"
        " join subscription_plans p on p.id = r.plan_id where r.id = %s",
        (origin_record_id,),
    ).one()
    target = records.record_for(connection, business_id, now, now) if paid and kind is None else None
    billed = target is not None and target.subscription_id is not None
    connection.exec_driver_sql(
        _ADJUST,
        {
            "business_id": business_id,
            "kind": kind or ("carried" if billed else "unbillable" if paid else "written-off"),
            "record_id": target.id if target is not None and billed else None,
            "origin_id": origin_record_id,
            "call_sid": call_sid,
            "minutes": minutes,
            "event_id": event_id,
            "now": now,
        },
    )
    if target is not None and billed:
        connection.exec_driver_sql(_ADD_ADJUSTMENT, {"minutes": minutes, "record_id": target.id})
    elif paid and kind is None:
        drifts.report(
            connection,
            "unbillable",
            f"record:{origin_record_id}:{call_sid or 'settlement'}",
            business_id=business_id,
            expected=f"{minutes} minutes billed on plan {plan}",
            actual="the business has no metered subscription any more",
            evidence={"minutes": minutes, "call_sid": call_sid, "event_id": event_id},
            now=now,
        )
