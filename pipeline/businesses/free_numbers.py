"""The numbers that can be had: our Twilio account has them, nobody holds them, and they have rested."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import Connection, Engine

log = structlog.get_logger()

#: Business time from letting a number go until somebody else can have it: callers of the one must not reach the other.
RESTS: Final = timedelta(days=30)

#: Numbers of a business that may rest at a time, or as many as its plan has.
MOST_RESTING: Final = 3

#: Whether a business can have the number ``n`` at ``%(now)s``.
FREE: Final = """
(n.business_id is null and n.twilio_sid is not null and (n.free_from is null or n.free_from <= %(now)s))
"""

# Whoever comes second waits here, and then finds a holder.
_HOLD = f"select true from phone_numbers n where number = %(number)s and {FREE} for update"  # noqa: S608 - a constant

# The last row of a number's history is its last holder's.
_RESTING = """
select count(*) from phone_numbers n
where n.business_id is null and n.free_from > %(now)s
  and n.free_from - %(rests)s = (select max(upper(held)) from phone_number_assignments h
                                 where h.number = n.number and h.business_id = %(business_id)s)
"""

# In the order in which a business that ends lets its own go.
_HOLD_CHANGED = """
select from phone_numbers n left join unnest(%(numbers)s::text[], %(sids)s::text[]) as l(number, sid) using (number)
where n.twilio_sid is distinct from l.sid
order by n.number for update of n
"""

# A number that has got another SID first loses the old one, since no two may have the same.
_GONE = """
update phone_numbers n set twilio_sid = null
where twilio_sid is not null
  and not exists (select from unnest(%(numbers)s::text[], %(sids)s::text[]) as l(number, sid)
                  where l.number = n.number and l.sid = n.twilio_sid)
returning number, business_id
"""
_THERE = """
insert into phone_numbers (number, twilio_sid)
select number, sid from unnest(%(numbers)s::text[], %(sids)s::text[]) as l(number, sid)
on conflict (number) do update set twilio_sid = excluded.twilio_sid
where phone_numbers.twilio_sid is distinct from excluded.twilio_sid
returning number
"""
_ONE_AT_A_TIME = "select pg_advisory_xact_lock(hashtext('altiora: numbers of the Twilio account'))"


def note_account(engine: Engine, account: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Note which numbers our Twilio account has, as its API lists them; returns how many are ``new`` and ``gone``.

    Raises what the listing raises, and then all stays as it was.
    """
    listed = _by_number(account)
    about = {"numbers": list(listed), "sids": list(listed.values())}
    with engine.begin() as connection:
        connection.exec_driver_sql(_ONE_AT_A_TIME)
        connection.exec_driver_sql(_HOLD_CHANGED, about)
        gone = connection.exec_driver_sql(_GONE, about).all()
        new = connection.exec_driver_sql(_THERE, about).all()
    for number, business_id in gone:
        if business_id is not None and number not in listed:
            # Its calls come no more. The business has to be asked: it may have been ported away on purpose.
            log.error("number-gone", business_id=business_id, next="see in Twilio's console who released it")
    return {"new": len(new), "gone": len(gone)}


def _by_number(listed: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Pages may overlap, so one may come twice; what is no number in E.164 (a short code) can't be held."""
    return {str(each["phone_number"]): str(each["sid"]) for each in listed if str(each["phone_number"]).startswith("+")}


def resting_of(connection: Connection, business_id: int, now: datetime) -> int:
    """How many numbers that this business let go still rest: whoever takes and lets go all day keeps them from all."""
    about = {"business_id": business_id, "now": now, "rests": RESTS}
    return int(connection.exec_driver_sql(_RESTING, about).scalar_one())


def hold_free(connection: Connection, number: str, now: datetime) -> bool:
    """Lock a number that can be had, until this transaction ends; False where it can't."""
    return connection.exec_driver_sql(_HOLD, {"number": number, "now": now}).first() is not None
