"""The parts of an account's billing, put together; and a copy of one subscription's, to see what a change would do."""

import copy
from dataclasses import replace
from datetime import datetime

from sandbox.stripe.account.balances import Balances
from sandbox.stripe.account.changes import Changes
from sandbox.stripe.account.charges import Charges
from sandbox.stripe.account.credit_notes import CreditNotes
from sandbox.stripe.account.events import Events
from sandbox.stripe.account.invoices import Invoices
from sandbox.stripe.account.lifecycle import Lifecycle
from sandbox.stripe.account.meters import Meters
from sandbox.stripe.account.pauses import Pauses
from sandbox.stripe.account.payments import Payments
from sandbox.stripe.account.refunds import Refunds
from sandbox.stripe.account.schedules import Schedules
from sandbox.stripe.account.state import API_VERSION, Object, State
from sandbox.stripe.account.subscriptions import Subscriptions
from sandbox.stripe.account.trials import Trials
from sandbox.timeline import Action, Timeline


class Billing:
    """What bills: each part knows those that it needs."""

    def __init__(self, state: State, events: Events) -> None:
        self.state = state
        self.events = events
        self.meters = Meters(state, events)
        self.charges = Charges(state, self.meters)
        self.lifecycle = Lifecycle(state, events)
        self.payments = Payments(state, events, self.lifecycle)
        self.balances = Balances(state, events)
        self.invoices = Invoices(state, events, self.lifecycle, self.payments, self.balances)
        self.refunds = Refunds(state, events)
        self.credit_notes = CreditNotes(state, events, self.payments, self.balances, self.refunds)
        self.trials = Trials(state, events)
        self.subscriptions = Subscriptions(
            state, events, self.charges, self.invoices, self.lifecycle, self.payments, self.trials
        )
        self.changes = Changes(state, events, self.charges, self.invoices, self.subscriptions)
        self.pauses = Pauses(state, events, self.charges, self.invoices, self.lifecycle, self.subscriptions)
        self.schedules = Schedules(state, events, self.subscriptions, self.changes)


class Standstill(Timeline):
    """Time that moves by hand and in which nothing ever happens by itself."""

    def __init__(self, now: datetime) -> None:
        super().__init__(now)
        self.moment = now

    @property
    def now(self) -> datetime:
        return self.moment

    def at(self, instant: datetime, action: Action, *, stop: bool = False) -> None:
        """Let nothing happen."""


def rehearsal(billing: Billing, subscription: Object) -> Billing:
    """An account that has a copy of this subscription and its schedule: what is done there is done nowhere else.

    Prices, meters and their events are shared, for a change of a subscription changes none of them. All payments
    succeed, and events are kept where nobody hears of them.
    """
    state = billing.state
    schedule = state.schedules.get(subscription["schedule"] or "")
    apart = replace(
        state,
        rules=replace(state.rules, webhook_api_version=API_VERSION),
        timeline=Standstill(state.timeline.now),
        customers={each: copy.deepcopy(state.customers[each]) for each in (subscription["customer"],)},
        balance_transactions={},
        subscriptions={subscription["id"]: copy.deepcopy(subscription)},
        schedules={} if schedule is None else {schedule["id"]: copy.deepcopy(schedule)},
        invoices={},
        invoice_payments={},
        events={},
        thin_events={},
        payment_fails=set(),
        payment_broken=set(),
        without_payment_method=set(),
    )
    copied = Billing(apart, Events(apart, _unheard))
    copied.charges.adopt(subscription, billing.charges.book(subscription))
    return copied


async def _unheard(_: Object) -> None:
    """Tell nobody of an event."""
