"""Who we serve: adding a business, linking it to its Stripe customer, giving it a number.

Each function is one change under the locks of the businesses it touches. What must not be is refused with a
sentence for whoever asked.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import available_timezones

from sqlalchemy import Connection

from pipeline.businesses import customer_links, free_numbers, plan_limits
from pipeline.events import fetch_requests
from pipeline.shared.business_locks import lock_businesses

_E164 = re.compile(r"\+[1-9][0-9]{1,14}")
#: Without what a machine calls its own, or has beside them: PostgreSQL must know them too.
_ZONES = available_timezones() - {"localtime", "posixrules", "Factory"}
_CUSTOMER = re.compile(r"cus_[0-9A-Za-z_]{1,250}")

_ADD = """
insert into businesses (name, time_zone, plan_id, created_at)
values (%(name)s, %(time_zone)s, %(plan_id)s, %(now)s)
returning id
"""

_BILL_ELSEWHERE = """
update businesses set billed_elsewhere_until = %(until)s, billed_elsewhere_reason = %(reason)s where id = %(id)s
"""

_LONGEST_ELSEWHERE = timedelta(days=731)

# The last to hold a number; still the holder while nothing bounds the range.
# A business holds it from the first of its rows without a gap: each change of the agent begins another one.
_LAST_HELD = """
with rows as (
  select id, business_id, lower(held) as since, upper(held) as until,
         row_number() over in_time as place,
         business_id is distinct from lag(business_id) over in_time
           or lower(held) is distinct from lag(upper(held)) over in_time as begins
  from phone_number_assignments where number = %s
  window in_time as (order by held)
)
select last.id, first.id as first_id, last.business_id, first.since, last.until
from rows last join rows first on first.begins and first.place <= last.place
order by last.place desc, first.place desc
limit 1
"""

_ADD_NUMBER = "insert into phone_numbers (number) values (%s) on conflict do nothing"

_HOLD = """
insert into phone_number_assignments (number, business_id, held)
values (%(number)s, %(business_id)s, tstzrange(%(since)s, null))
"""

_END_HOLDING = """
update phone_number_assignments set held = tstzrange(lower(held), %(at)s)
where number = %(number)s and business_id = %(business_id)s and held @> %(at)s::timestamptz
  and lower(held) is distinct from %(at)s
"""
_UNDO_HOLDING = """
delete from phone_number_assignments
where number = %(number)s and business_id = %(business_id)s and lower(held) >= %(at)s
"""

_BEGIN_HOLDING = "update phone_number_assignments set held = tstzrange(%s, upper(held)) where id = %s"

_HELD_UNTIL = """
select max(upper(held)) from phone_number_assignments
where number = %(number)s and held << (select held from phone_number_assignments where id = %(first_id)s)
"""
_AGENT_SINCE = """
select id, lower(held) as since, agent_id from phone_number_assignments where number = %s and upper(held) is null
"""
_SET_AGENT = "update phone_number_assignments set agent_id = %s where id = %s"
_ANSWER = """
insert into phone_number_assignments (number, business_id, held, agent_id)
values (%(number)s, %(business_id)s, tstzrange(%(at)s, null), %(agent_id)s)
"""
_DESCRIBE = "update phone_numbers set agent_id = %(agent_id)s, label = %(label)s where number = %(number)s"
_LIVING_AGENT = "select exists (select from ai_agents where id = %s and business_id = %s and ended_at is null)"

_NUMBERS_OF = "select number from phone_number_assignments where business_id = %s and upper(held) is null order by 1"

# An agent belongs to one business, so it does not move along.
_SET_HOLDER = """
update phone_numbers set business_id = %(business_id)s, agent_id = null, label = '', free_from = %(free_from)s
where number = %(number)s
"""

# What a number that moves back in time leaves behind: calls that are counted already don't change their business.
_ALREADY_COUNTED = """
select count(*)
from usage_records r join calls c on c.usage_record_id = r.id
where r.business_id = %(former)s and r.period_end > %(since)s
  and c.number = %(number)s and c.counted and c.started_at >= %(since)s
"""

# Whom a change is about.
_LIVING = """
select b.name, b.stripe_customer_id, p.name as plan, b.ended_at
from businesses b join subscription_plans p on p.id = b.plan_id
where b.id = %s
"""


class BusinessError(Exception):
    """The change is refused; the message says why, and what can be done."""


@dataclass(frozen=True, slots=True)
class NumberHeld:
    """A number that was given to a business: from when on (None: ever since), and who had it until then."""

    number: str
    since: datetime | None
    former_business_id: int | None
    counted_before: int
    """Calls from then on that were counted for the former one; they stay there."""


def add_business(
    connection: Connection, *, name: str, plan: str, time_zone: str, stripe_customer: str | None, now: datetime
) -> int:
    """Add a business; returns its id. ``plan`` is a plan's code or name. Raises BusinessError."""
    name = _checked_name(name)
    _check_time_zone(time_zone)
    sold = connection.exec_driver_sql("select code, id from subscription_plans where retired_at is null order by id")
    plans: dict[str, int] = dict(sold.all())
    if plan.lower() not in plans:
        known = ", ".join(plans) or "none: run `altiora seed`"
        raise BusinessError(f"there is no plan {plan}; the plans are {known}")
    business_id = connection.exec_driver_sql(
        _ADD, {"name": name, "time_zone": time_zone, "plan_id": plans[plan.lower()], "now": now}
    ).scalar_one()
    if stripe_customer is not None:
        link_customer(connection, business_id, stripe_customer, now)
    return int(business_id)


def _check_time_zone(time_zone: str) -> None:
    if time_zone not in _ZONES:
        raise BusinessError(f"{time_zone} is no IANA time zone; write one as America/New_York")


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= 200 or not name.isprintable():
        raise BusinessError("a business needs a name of 1 to 200 characters, without line breaks")
    return name


def check_customer(customer: str) -> None:
    """Raises BusinessError where this can't be the id of a customer at Stripe."""
    if not _CUSTOMER.fullmatch(customer):
        raise BusinessError(f"{customer} is no customer of Stripe's; their ids begin with cus_")


def link_customer(connection: Connection, business_id: int, customer: str, now: datetime) -> str | None:
    """Link a business to its Stripe customer, and have Stripe asked for what that one has.

    Returns the customer that it had before, if it was another one. Raises BusinessError, also while something lives of
    that one.
    """
    check_customer(customer)
    lock_businesses(connection, [business_id])
    name, present, _ = _living(connection, business_id)
    other = customer_links.linked_businesses(connection, [customer]).get(customer, business_id)
    if other != business_id:
        raise BusinessError(f"{customer} is linked to business {other} already, or was")
    living = customer_links.living_elsewhere(connection, business_id, customer)
    if living is not None:
        subscription, elsewhere = living
        raise BusinessError(
            f"business {business_id} ({name}) has {subscription} of {elsewhere}: its minutes are billed there; end that"
            " one first"
        )
    customer_links.link(connection, business_id, customer, now)
    fetch_requests.request_fetch(connection, "customer", customer, "linked")
    return None if present == customer else present


def bill_elsewhere(connection: Connection, business_id: int, until: datetime, reason: str, now: datetime) -> None:
    """From now on until then it is invoiced by hand, and keeps plan and service without a subscription.

    ``until`` now ends it. Raises BusinessError.
    """
    reason = reason.strip()
    if not 1 <= len(reason) <= 500 or not reason.isprintable():
        raise BusinessError("write down why, in 1 to 500 characters without line breaks: who has agreed to what?")
    if until > now + _LONGEST_ELSEWHERE:
        raise BusinessError("it can't be billed elsewhere for more than two years; somebody has to look again by then")
    lock_businesses(connection, [business_id])
    _living(connection, business_id)
    connection.exec_driver_sql(_BILL_ELSEWHERE, {"id": business_id, "until": max(until, now), "reason": reason})


def add_number(
    connection: Connection,
    business_id: int,
    number: str,
    since: datetime | None,
    now: datetime,
    *,
    from_business_id: int | None = None,
) -> NumberHeld:
    """Give a number to a business, from ``since`` on, or from now (11).

    What another business holds is taken only where ``from_business_id`` names that one, which ends holding it then. To
    give a business what it holds already, from an earlier ``since``, has it hold it for longer. Raises BusinessError.
    """
    if not _E164.fullmatch(number):
        raise BusinessError(f"{number} is no phone number in E.164; write it as +15550000001")
    if since is not None and since > now:
        raise BusinessError("a number can't be given from a time that has not come; add it then")
    connection.exec_driver_sql(_ADD_NUMBER, (number,))
    last = _last_held(connection, number)
    holder = last.business_id if last is not None and last.until is None else None
    touched = {business_id} if holder is None else {business_id, holder}
    lock_businesses(connection, touched)
    connection.exec_driver_sql("select from phone_numbers where number = %s for update", (number,))  # as who takes it
    if _last_held(connection, number) != last:
        raise BusinessError(f"{number} has just been given to somebody; look at `altiora business list`")
    name, _, plan = _living(connection, business_id)
    if last is not None and holder == business_id:
        if from_business_id not in {None, business_id}:
            raise BusinessError(_not_its_holder(connection, number, holder, from_business_id))
        return _hold_for_longer(connection, last, name, number, since)
    if holder != from_business_id:
        raise BusinessError(_not_its_holder(connection, number, holder, from_business_id))
    if not plan_limits.room_for_another(connection, business_id, plan_limits.AlertKind.NUMBERS):
        raise BusinessError(f"plan {plan} of business {business_id} ({name}) has room for no other number")
    # Twilio tells when a call began in whole seconds: one of this second is held too.
    whole = now.replace(microsecond=0)
    since = (since or whole) if last is None else _take_over(connection, number, last, since, now)
    _set_holder(connection, number, business_id, since)
    for changed in touched:
        plan_limits.check_counts(connection, changed, now)
    counted = connection.exec_driver_sql(
        _ALREADY_COUNTED, {"former": holder, "since": since, "number": number}
    ).scalar_one()
    return NumberHeld(number, since, holder, counted)


def take_number(connection: Connection, business_id: int, number: str, now: datetime) -> None:
    """Give a business a number that can be had, from now on. Raises BusinessError, which says of no other business."""
    lock_businesses(connection, [business_id])
    _, _, plan = _living(connection, business_id)
    if not plan_limits.room_for_another(connection, business_id, plan_limits.AlertKind.NUMBERS):
        raise BusinessError(f"the plan {plan} has room for no other number: release one, or take a larger plan")
    resting = free_numbers.resting_of(connection, business_id, now)
    if resting >= max(free_numbers.MOST_RESTING, plan_limits.limit_of_numbers(connection, business_id)):
        raise BusinessError(
            f"{resting} numbers that this business let go still rest: it can take another one when they have, or ask"
            " Altiora"
        )
    if not free_numbers.hold_free(connection, number, now):
        raise BusinessError(f"{number} can't be had (any more): choose one of those that can")
    # Twilio tells when a call began in whole seconds: one of this second is held too.
    _set_holder(connection, number, business_id, now.replace(microsecond=0))
    plan_limits.check_counts(connection, business_id, now)


def _set_holder(connection: Connection, number: str, business_id: int, since: datetime | None) -> None:
    about = {"number": number, "business_id": business_id, "since": since, "free_from": None}
    connection.exec_driver_sql(_SET_HOLDER, about)
    connection.exec_driver_sql(_HOLD, about)


def remove_number(connection: Connection, business_id: int, number: str, now: datetime) -> None:
    """Have a business hold a number no longer, from now on; calls of before stay its own. Raises BusinessError.

    Somebody else can have it when it has rested.
    """
    lock_businesses(connection, [business_id])
    last = _last_held(connection, number)
    if last is None or last.until is not None or last.business_id != business_id:
        raise BusinessError(
            f"business {business_id} does not hold {number}; `altiora business list` shows who holds what"
        )
    _end_holding(connection, number, business_id, now)
    free_from = now + free_numbers.RESTS
    connection.exec_driver_sql(_SET_HOLDER, {"number": number, "business_id": None, "free_from": free_from})
    plan_limits.check_counts(connection, business_id, now)


def describe_number(
    connection: Connection, business_id: int, number: str, agent_id: int | None, label: str, now: datetime
) -> None:
    """Have this agent answer a number of the business from now on, and call the number this. Raises BusinessError."""
    lock_businesses(connection, [business_id])
    last = _last_held(connection, number)
    if last is None or last.until is not None or last.business_id != business_id:
        raise BusinessError(f"business {business_id} does not hold {number}")
    if agent_id is not None and not connection.exec_driver_sql(_LIVING_AGENT, (agent_id, business_id)).scalar_one():
        raise BusinessError(f"there is no agent {agent_id}, or it has ended")
    present = connection.exec_driver_sql(_AGENT_SINCE, (number,)).one()
    if agent_id != present.agent_id:
        # Twilio tells when a call began in whole seconds: one of this second is answered by the new one.
        at = max(now.replace(microsecond=0), present.since or now.replace(microsecond=0))
        if present.since == at:
            connection.exec_driver_sql(_SET_AGENT, (agent_id, present.id))
        else:
            about = {"number": number, "business_id": business_id, "at": at, "agent_id": agent_id}
            connection.exec_driver_sql(_END_HOLDING, about)
            connection.exec_driver_sql(_ANSWER, about)
    connection.exec_driver_sql(_DESCRIBE, {"number": number, "agent_id": agent_id, "label": label})


def rename_business(connection: Connection, business_id: int, name: str) -> None:
    """Call a business otherwise. Raises BusinessError."""
    name = _checked_name(name)
    _living(connection, business_id)
    connection.exec_driver_sql("update businesses set name = %s where id = %s", (name, business_id))


def move_time_zone(connection: Connection, business_id: int, time_zone: str) -> None:
    """Have its calendar months be local to another time zone. Raises BusinessError.

    Records that are there keep their bounds; the next one begins where they end, and months that are cut so share
    their included minutes (pipeline/usage/monthly_allowance.py).
    """
    _check_time_zone(time_zone)
    lock_businesses(connection, [business_id])
    _living(connection, business_id)
    connection.exec_driver_sql("update businesses set time_zone = %s where id = %s", (time_zone, business_id))


def set_contact(connection: Connection, business_id: int, email: str | None) -> None:
    """Whom we write to about a business, beside its owner. Raises BusinessError."""
    _living(connection, business_id)
    connection.exec_driver_sql("update businesses set contact_email = %s where id = %s", (email, business_id))


def end_business(connection: Connection, business_id: int, now: datetime) -> list[str]:
    """End a business: it holds its numbers no longer, and is given nothing any more; returns those numbers.

    What it has used is billed as ever. Raises BusinessError, also while a subscription of it lives.
    """
    lock_businesses(connection, [business_id])
    name, _, _ = _living(connection, business_id)
    living = customer_links.living_elsewhere(connection, business_id, "")
    if living is not None:
        raise BusinessError(
            f"business {business_id} ({name}) has {living[0]}, which goes on charging it: altiora subscription cancel"
            f" {business_id} --now, and end it after that"
        )
    numbers = list(connection.exec_driver_sql(_NUMBERS_OF, (business_id,)).scalars())
    for number in numbers:
        remove_number(connection, business_id, number, now)
    connection.exec_driver_sql("update businesses set ended_at = %s where id = %s", (now, business_id))
    return numbers


def _hold_for_longer(
    connection: Connection, last: "_Holding", name: str, number: str, since: datetime | None
) -> NumberHeld:
    """Have its holder hold a number from an earlier time on, as far back as nobody else did."""
    if since is None or last.since is None or since >= last.since:
        raise BusinessError(f"business {last.business_id} ({name}) holds {number} already")
    about = {"number": number, "first_id": last.first_id}
    before = connection.exec_driver_sql(_HELD_UNTIL, about).scalar_one()
    if before is not None and since < before:
        raise BusinessError(f"another business held {number} until {before.isoformat()}; it was free from then on")
    connection.exec_driver_sql(_BEGIN_HOLDING, (since, last.first_id))
    return NumberHeld(number, since, None, 0)


def _not_its_holder(connection: Connection, number: str, holder: int | None, named: int | None) -> str:
    if holder is None:
        return f"nobody holds {number}: it is taken from nobody"
    name = connection.exec_driver_sql("select name from businesses where id = %s", (holder,)).scalar_one()
    if named is None:
        return f"business {holder} ({name}) holds {number}; to take it from there, name that business"
    return f"business {holder} ({name}) holds {number}, and not business {named}"


@dataclass(frozen=True, slots=True)
class _Holding:
    """From its first row to its last one."""

    id: int
    first_id: int
    business_id: int
    since: datetime | None
    until: datetime | None


def _last_held(connection: Connection, number: str) -> _Holding | None:
    row = connection.exec_driver_sql(_LAST_HELD, (number,)).first()
    return None if row is None else _Holding(*row)


def _take_over(connection: Connection, number: str, last: _Holding, since: datetime | None, now: datetime) -> datetime:
    """End the last holding where it still lasts; returns from when on the number is free."""
    if last.until is not None:
        if since is not None and since < last.until:
            raise BusinessError(
                f"business {last.business_id} held the number until {last.until.isoformat()}; it is free from then on"
            )
        return since or max(now.replace(microsecond=0), last.until)
    since = since or now
    if last.since is not None and since <= last.since:
        raise BusinessError(
            f"business {last.business_id} holds the number since {last.since.isoformat()}; it can be moved after that"
        )
    _end_holding(connection, number, last.business_id, since)
    return since


def _end_holding(connection: Connection, number: str, business_id: int, at: datetime) -> None:
    about = {"number": number, "business_id": business_id, "at": at}
    connection.exec_driver_sql(_END_HOLDING, about)
    connection.exec_driver_sql(_UNDO_HOLDING, about)


def _living(connection: Connection, business_id: int) -> tuple[str, str | None, str]:
    """Name, customer and plan of a business that has not ended."""
    row = connection.exec_driver_sql(_LIVING, (business_id,)).first()
    if row is None:
        raise BusinessError(f"there is no business {business_id}; `altiora business list` shows them")
    if row.ended_at is not None:
        raise BusinessError(f"business {business_id} ({row.name}) ended on {row.ended_at.isoformat()}")
    return row.name, row.stripe_customer_id, row.plan
