"""Lives with everything that a Stripe account may do to the money of a customer, step by step."""

import random
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import stripe

from tests.worlds.lives import Call
from tests.worlds.stripe_stand_in import StandIn
from tests.worlds.world import sid_of

#: What can happen; each is left out where it can't happen at the moment.
MONEY_STEPS = (
    "talk",
    "talk-much",
    "late-call",
    "correct-call",
    "pause",
    "resume",
    "swap",
    "swap-for-nothing",
    "renewing-swap",
    "cancel-in-portal",
    "cancel-now",
    "drop",
    "subscribe",
    "foreign-minutes",
    "break-payment",
    "repair-payment",
    "void",
    "refund",
    "dispute",
    "decide-dispute",
    "second-subscription",
    "delete-customer",
)

#: How time goes by.
PASSING = ("days", "to-the-renewal", "month")


def story(chance: random.Random) -> list[str]:
    """The steps of a life. Each has some kinds of them only, which so meet each other more than once."""
    kinds = ["talk", "talk-much", *chance.sample(MONEY_STEPS, 7)]
    steps = []
    for _ in range(chance.randrange(2, 8)):
        steps += [chance.choice(kinds) for _ in range(chance.randrange(1, 4))]
        steps.append(chance.choice(PASSING))
    return steps


class MoneyLife:
    """One customer with a currency, an order of items and add-ons of its own.

    ``calls``: to which those of its number are added while it lives.
    """

    def __init__(
        self, stand_in: StandIn, business_id: int, chance: random.Random, number: str, calls: list[Call]
    ) -> None:
        self.stripe = stand_in
        self.chance = chance
        self.number = number
        self.calls = calls
        self.currency = chance.choice(["usd", "usd", "eur", "jpy"])
        self.interval = chance.choice(["month"] * 5 + ["week"])
        self.meter = stand_in.meter_of("call_minutes")
        self.other_meter = stand_in.meter_of("sms")
        self.plans = {
            "starter": self._plan("starter", 100, "12", 4900),
            "professional": self._plan("professional", 400, "9.5", 14_900),
        }
        self.add_ons = [
            self._price("Support", {"interval": "year"}, 120_000),
            self._price("Number", {"interval": "week"}, 100),
            self._price("Seat", {"interval": "month"}, 700),
            self._price("SMS", {"interval": "month", "usage_type": "metered", "meter": self.other_meter}, 3),
        ]
        self.business_id = business_id
        self.customers = [self._new_customer()]

    @property
    def now(self) -> Any:
        return self.stripe.timeline.now

    @property
    def customer(self) -> str:
        """The present one: those before it have been deleted."""
        return self.customers[-1]

    def _new_customer(self) -> str:
        about = {"name": "A business", "metadata": {"business_id": str(self.business_id)}}
        return str(self.stripe.control("/stripe/customers", **about))

    def _price(self, name: str, recurring: dict[str, Any], amount: int, **more: Any) -> str:
        return self.stripe.price(name, currency=self.currency, recurring=recurring, unit_amount=amount, **more)

    def _plan(self, code: str, included: int, overage: str, fee: int) -> dict[str, str]:
        about = {"metadata": {"altiora_plan": code}, "currency": self.currency}
        tiers = [{"up_to": included, "unit_amount": 0}, {"up_to": "inf", "unit_amount_decimal": overage}]
        metered = {"interval": self.interval, "usage_type": "metered", "meter": self.meter}
        return {
            "flat": self.stripe.price(f"{code} fee", unit_amount=fee, recurring={"interval": self.interval}, **about),
            "metered": self.stripe.price(
                f"{code} minutes",
                billing_scheme="tiered",
                tiers_mode="graduated",
                tiers=tiers,
                recurring=metered,
                **about,
            ),
        }

    def living(self) -> dict[str, Any] | None:
        """The subscription that counts minutes."""
        its = [it for it in self.stripe.sandbox.state.subscriptions.values() if it["customer"] == self.customer]
        prices = {plan["metered"] for plan in self.plans.values()}
        return next(
            (
                it
                for it in its
                if it["status"] not in {"canceled", "incomplete_expired"}
                and prices & {item["price"]["id"] for item in it["items"]["data"]}
            ),
            None,
        )

    def step(self, what: str) -> None:
        it, chance = self.living(), self.chance
        match what:
            case "talk":
                self._call(chance.randrange(1, 60))
            case "talk-much":
                self._call(chance.randrange(60, 500))
            case "late-call":
                self._call(chance.randrange(1, 90), ago=timedelta(hours=chance.uniform(1, 24 * 40)))
            case "correct-call" if own := self.final_calls():
                self._correct(chance.choice(own))
            case "pause" if it is not None and it["status"] == "active" and it["pause_collection"] is None:
                how = chance.choice(["void", "keep_as_draft", "mark_uncollectible"])
                self.stripe.client.v1.subscriptions.update(it["id"], {"pause_collection": {"behavior": how}})
            case "resume" if it is not None and it["pause_collection"] is not None:
                self.stripe.client.v1.subscriptions.update(it["id"], {"pause_collection": ""})
            case "days":
                self.pass_time(timedelta(hours=chance.uniform(2, 24 * 9)))
            case "to-the-renewal" if it is not None:
                ends = min(item["current_period_end"] for item in it["items"]["data"])
                self.pass_time(timedelta(seconds=max(60, ends - self.now.timestamp() + chance.randrange(-7200, 7200))))
            case "month":
                self.pass_time(timedelta(days=chance.uniform(25, 35)))
            case "subscribe" if it is None:
                self.subscribe()
            case "swap" if it is not None and it["status"] == "active":
                self._swap(it, proration_behavior="create_prorations")
            case "swap-for-nothing" if it is not None and it["status"] == "active":
                self._swap(it, proration_behavior="none")
            case "renewing-swap" if it is not None and it["status"] == "active" and it["cancel_at"] is None:
                self._swap(it, billing_cycle_anchor={"type": "now"}, proration_behavior="always_invoice")
            case "cancel-in-portal" if it is not None and it["status"] in {"active", "trialing"}:
                self.stripe.control("/stripe/portal/cancel", subscription=it["id"])
            case "cancel-now" | "drop" if it is not None and it["status"] != "incomplete":
                self.stripe.control("/stripe/cancel", subscription=it["id"], invoice_now=what == "cancel-now")
            case "foreign-minutes" if it is not None and it["start_date"] < self.now.timestamp() - 60:
                self.stripe.report(self.customer, str(chance.randrange(1, 300)), f"foreign-{chance.random()}")
            case "break-payment":
                self.stripe.control("/stripe/break-payment", customer=self.customer)
            case "repair-payment":
                self.stripe.control("/stripe/repair-payment", customer=self.customer)
                self.stripe.control("/stripe/pay", customer=self.customer)
            case "void":
                client = self.stripe.client.v1
                for invoice in client.invoices.list({"customer": self.customer, "status": "open"}).data:
                    if invoice.billing_reason == "subscription_cycle":
                        client.invoices.void_invoice(str(invoice.id))

            case "refund" if payments := self.payments():
                self.refund(chance.choice(payments)["invoice"])
            case "dispute" if payments := self.payments():
                status = chance.choice(["needs_response", "warning_needs_response"])
                self.stripe.control("/stripe/dispute", invoice=chance.choice(payments)["invoice"], status=status)
            case "decide-dispute" if open_ := self._open_disputes():
                dispute = chance.choice(open_)
                ends = ["won", "lost"] if dispute["status"] == "needs_response" else ["warning_closed"]
                self.stripe.control("/stripe/close-dispute", dispute=dispute["id"], status=chance.choice(ends))
            case "second-subscription":
                items: Any = [{"price": chance.choice(self.add_ons[2:])}]
                self.stripe.client.v1.subscriptions.create({"customer": self.customer, "items": items})
            case "delete-customer":
                self.stripe.client.v1.customers.delete(self.customer)
                self.customers.append(self._new_customer())

    def refund(self, invoice: str) -> None:
        """Somebody gives back some or all of what was paid of an invoice."""
        payment = next((each for each in self.payments() if each["invoice"] == invoice), None)
        if payment is None:
            return
        wanted: Any = {"payment_intent": payment["payment"]["payment_intent"]}
        if self.chance.random() < 0.7:
            wanted["amount"] = self.chance.randrange(1, 3000)
        with suppress(stripe.InvalidRequestError):  # more than is left, or a bank has it
            self.stripe.client.v1.refunds.create(wanted)

    def payments(self) -> list[dict[str, Any]]:
        """What it has paid of its invoices."""
        state = self.stripe.sandbox.state
        return [
            each
            for each in state.invoice_payments.values()
            if state.invoices[each["invoice"]]["customer"] in self.customers
        ]

    def _open_disputes(self) -> list[dict[str, Any]]:
        disputes, own = self.stripe.sandbox.state.disputes.values(), self.payments()
        intents = {each["payment"]["payment_intent"] for each in own}
        return [
            each
            for each in disputes
            if each["status"] in {"needs_response", "warning_needs_response"} and each["payment_intent"] in intents
        ]

    def subscribe(self) -> None:
        chance = self.chance
        client = self.stripe.client.v1
        plan = self.plans[chance.choice(sorted(self.plans))]
        mode = chance.choice(["flexible", "flexible", "classic"])
        quantity = chance.choice([1, 1, 3])
        items: list[dict[str, Any]] = [{"price": plan["flat"], "quantity": quantity}, {"price": plan["metered"]}]
        if mode == "flexible":
            items += [{"price": price} for price in chance.sample(self.add_ons, chance.randrange(3))]
        chance.shuffle(items)
        wanted: dict[str, Any] = {"customer": self.customer, "items": items, "billing_mode": {"type": mode}}
        if chance.random() < 0.3:
            wanted["trial_period_days"] = chance.randrange(3, 20)
        if chance.random() < 0.3:
            coupon = client.coupons.create({"percent_off": chance.choice([10, 50]), "duration": "forever"})
            wanted["discounts"] = [{"coupon": coupon.id}]
        if chance.random() < 0.3:
            vat = client.tax_rates.create(
                {"display_name": "VAT", "percentage": 19, "inclusive": chance.choice([True, False])}
            )
            wanted["default_tax_rates"] = [vat.id]
        client.subscriptions.create(wanted)  # type: ignore[arg-type]  # the tests' own words

    def pass_time(self, length: timedelta) -> None:
        self.stripe.run(self.stripe.timeline.advance(self.now + timedelta(seconds=int(length.total_seconds()))))

    def _call(self, minutes: int, ago: timedelta = timedelta(0)) -> None:
        ended = (self.now - ago).replace(microsecond=0)
        seconds = minutes * 60 - self.chance.randrange(60)
        self.calls.append(Call(sid_of(f"call-{len(self.calls)}"), ended, seconds, to=self.number))

    def _correct(self, call: Call) -> None:
        """Twilio says, some time after its callback, that the call was longer or shorter."""
        minutes = self.chance.choice([0, 1, call.minutes // 2, call.minutes + 7, call.minutes + 200])
        self.calls.append(replace(call, seconds=minutes * 60, correction=call.correction + 1))

    def final_calls(self) -> list[Call]:
        """Each of its calls as it was told last."""
        return list({call.sid: call for call in self.calls if call.to == self.number}.values())

    def _swap(self, it: dict[str, Any], **how: Any) -> None:
        """The prices of the other plan in place of the present ones; add-ons stay."""
        items = {item["price"]["id"]: item for item in it["items"]["data"]}
        present = next(plan for plan in self.plans.values() if plan["metered"] in items)
        other = next(plan for plan in self.plans.values() if plan is not present)
        wanted: Any = {"items": [{"id": items[present[kind]]["id"], "price": other[kind]} for kind in present], **how}
        self.stripe.client.v1.subscriptions.update(it["id"], wanted)

    def finalise(self) -> None:
        """Let drafts that nothing finalises, of a subscription that was unpaid, go out by hand."""
        client = self.stripe.client.v1
        for customer in self.customers:
            for invoice in client.invoices.list({"customer": customer, "status": "draft", "limit": 100}).data:
                client.invoices.finalize_invoice(str(invoice.id))

    def end(self) -> None:
        """Cancel what lives, with its last invoice, and let everything become final."""
        it = self.living()
        self.stripe.control("/stripe/repair-payment", customer=self.customer)
        self.stripe.control("/stripe/pay", customer=self.customer)
        if it is not None and it["status"] != "incomplete":
            if it["start_date"] >= self.now.timestamp() - 60:
                self.pass_time(timedelta(minutes=10))
            self.stripe.control("/stripe/cancel", subscription=it["id"], invoice_now=True)
