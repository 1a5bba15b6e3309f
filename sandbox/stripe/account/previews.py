"""Previews: what a change of a subscription, done now, would put on an invoice. Nothing changes by looking."""

import copy
from dataclasses import dataclass, field

from sandbox.stripe.account.billing import Billing, Standstill, rehearsal
from sandbox.stripe.account.charges import period
from sandbox.stripe.account.items import ItemChange
from sandbox.stripe.account.lifecycle import ENDED
from sandbox.stripe.account.schedules import refuse_direct_ending
from sandbox.stripe.account.state import Object, instant
from sandbox.stripe.api.errors import StripeError


@dataclass
class Previewed:
    """The change to look at; nothing given: none, which shows the renewal that is to come."""

    items: list[ItemChange] = field(default_factory=list)
    proration: str = "create_prorations"
    from_now: bool = False
    cancel_now: bool = False
    cancel_at_period_end: bool | None = None


def preview(billing: Billing, subscription: Object, change: Previewed) -> Object:
    """The invoice that the change makes at once; where it makes none, the one at the end of the period after it."""
    if subscription["status"] in ENDED:
        raise _none_upcoming(subscription)
    if change.cancel_at_period_end is not None:
        refuse_direct_ending(subscription)
    apart = rehearsal(billing, subscription)
    it = apart.state.subscriptions[subscription["id"]]
    if change.cancel_now:
        apart.subscriptions.cancel(it, invoice_now=True)
    elif change.items or change.from_now:
        apart.changes.apply(it, change.items, proration=change.proration, from_now=change.from_now)
    if change.cancel_at_period_end is not None and not change.cancel_now:
        apart.subscriptions.set_cancel_at_period_end(it, cancels=change.cancel_at_period_end)
    if not change.cancel_now:
        _play_on(apart, it)
    drafts = [event["data"]["object"] for event in apart.state.events.values() if event["type"] == "invoice.created"]
    if not drafts:
        raise _none_upcoming(subscription)
    return _shown(drafts[-1])


def _play_on(apart: Billing, subscription: Object) -> None:
    """Go through the ends of the schedule's phases to the end of the period, until there is an invoice."""
    end, schedule = period(subscription)[1], apart.state.schedules.get(subscription["schedule"] or "")
    phases = [] if schedule is None else [phase["end_date"] for phase in schedule["phases"]]
    assert isinstance(apart.state.timeline, Standstill)
    for at in [*(each for each in phases if apart.state.now < each < end), end]:
        if apart.state.invoices:
            return
        apart.state.timeline.moment = instant(at)
        if schedule is not None:
            apart.schedules.end_phase(schedule, at)
        apart.subscriptions.renew(subscription, at)


def _shown(draft: Object) -> Object:
    """As the API shows what isn't there: without ids."""
    shown = copy.deepcopy(draft)
    del shown["id"]
    shown.update(auto_advance=False, automatically_finalizes_at=None)
    shown["lines"]["url"] = "/v1/invoices/upcoming/lines"
    for line in shown["lines"]["data"]:
        line["invoice"] = None
    return shown


def _none_upcoming(subscription: Object) -> StripeError:
    return StripeError(
        404,
        f"No upcoming invoices for customer: {subscription['customer']}",
        code="invoice_upcoming_none",
        executed=True,
    )
