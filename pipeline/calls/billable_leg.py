"""The billable leg: which call legs are billed, in Python and in SQL.

A completed leg of known length; a child leg, which ``<Dial>`` opens, only where the setting ``bill_child_legs`` says
so.
"""

from pipeline.providers.twilio_words import CallStatus


def is_billable_leg(status: str, seconds: int | None, parent_sid: str | None, *, bill_child_legs: bool) -> bool:
    """Whether a leg is billed, once its business is known."""
    return status == CallStatus.COMPLETED and seconds is not None and (bill_child_legs or parent_sid is None)


#: SQL of why the call ``c`` is not billed, null for one that is; ``%(bill_child_legs)s`` is the setting.
WHY_NOT_BILLED = """
case when c.status <> 'completed' then c.status
     when c.seconds is null then 'unknown-seconds'
     when c.parent_sid is not null and not %(bill_child_legs)s then 'child-leg' end
"""
