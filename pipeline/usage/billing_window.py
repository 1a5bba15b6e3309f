"""Until when Stripe can still bill a period: as SQL that planning, sending and closing share.

The names used: ``r`` is a usage record, ``s`` its subscription (or nulls), ``%(deadline)s`` is ``deadline(now)``.
"""

from datetime import datetime, timedelta

#: Of business time, before Stripe finalises: what is sent in the last moment may come too late.
MARGIN = timedelta(minutes=2)


def billing_deadline(now: datetime) -> datetime:
    """An invoice that finalises by this instant takes nothing more."""
    return now + MARGIN


#: Whether the record can't be billed any more, as far as is known. A draft that nothing finalises takes usage; what was
#: cut by another price does not, although it stands on a draft: Stripe counted it at that instant.
TOO_LATE = """
(r.state = 'closed' or r.cut or coalesce(invoice.status <> 'draft', false)
 or coalesce(invoice.automatically_finalizes_at <= %(deadline)s, false))
"""

#: Whether the subscription must be fetched before anything is pushed or closed from it.
STALE = """
exists (select from refreshes f where f.kind = 'subscription' and f.object_id = s.stripe_id and f.mark > f.fetched_mark)
"""
