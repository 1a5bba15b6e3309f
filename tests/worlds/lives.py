"""Lives of a subscription: what a customer, somebody in Stripe's dashboard and the calendar do to it, step by step.

The stand-in for Stripe lives the life; what it tells goes to whoever asks, in order or not.
"""

import json
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pydantic import SecretStr
from sqlalchemy import Engine

from pipeline.drain import Drain, DrainSettings
from pipeline.events import fetch_requests, queue
from pipeline.providers.stripe_api import StripeApi
from pipeline.shared.clock import Clock, move
from pipeline.shared.settings import StripeSettings
from pipeline.stripe_mirror import missed_events
from pipeline.stripe_mirror.fetching import StripeFetcher
from tests.worlds.stripe_stand_in import START, StandIn
from tests.worlds.world import ACCOUNT, sid_of

NUMBER = "+15550000077"

#: What can happen; each is left out where it can't happen at the moment.
STEPS = (
    "wait",
    "wait-long",
    "upgrade",
    "swap",
    "swap-for-nothing",
    "cancel-at-end",
    "cancel-in-portal",
    "keep",
    "cancel-now",
    "subscribe",
    "fail-payment",
    "repair-payment",
    "pause-collection",
    "resume-collection",
)


def _ends_at_an_instant(it: dict[str, Any]) -> bool:
    """As the portal says it; the stand-in then moves no period."""
    return it["cancel_at"] is not None and not it["cancel_at_period_end"]


@dataclass
class Call:
    sid: str
    ended: datetime
    seconds: int
    correction: int = 0
    """Above zero: Twilio's API tells it, the highest last, and it outranks what the callback said."""
    to: str = NUMBER

    @property
    def minutes(self) -> int:
        return -(-self.seconds // 60)


@dataclass
class Life:
    """One customer of the stand-in. ``calls`` are made while it lives."""

    stripe: StandIn
    business_id: int
    chance: random.Random
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.prices = self.set_up_prices()
        about = {"name": "A business", "metadata": {"business_id": str(self.business_id)}}
        self.customer = self.stripe.control("/stripe/customers", **about)

    def set_up_prices(self) -> dict[str, dict[str, str]]:
        """The two prices of each plan, by its code."""
        return {
            plan: self.stripe.plan(minutes, "12", flat, plan)
            for plan, minutes, flat in (("starter", 500, 4900), ("professional", 2000, 14900))
        }

    @property
    def now(self) -> datetime:
        return self.stripe.timeline.now

    def pass_time(self, hours: float) -> None:
        """Let business time pass; calls end at any second of it."""
        until = self.now + timedelta(seconds=int(hours * 3600))
        for _ in range(self.chance.randrange(3)):
            ended = self.now + (until - self.now) * self.chance.random()
            name = f"{self.business_id}-{len(self.calls)}"
            self.calls.append(Call(sid_of(name), ended.replace(microsecond=0), self.chance.randrange(1, 900)))
        self.stripe.run(self.stripe.timeline.advance(until))

    def living(self) -> dict[str, Any] | None:
        subscriptions = self.stripe.sandbox.state.subscriptions.values()
        its = [it for it in subscriptions if it["customer"] == self.customer]
        return next((it for it in its if it["status"] not in {"canceled", "incomplete_expired"}), None)

    @property
    def subscription(self) -> dict[str, Any]:
        """The living one, as the stand-in has it."""
        it = self.living()
        assert it is not None
        return it

    def step(self, what: str) -> None:
        it = self.living()
        match what:
            case "wait":
                self.pass_time(self.chance.uniform(0.1, 30))
            case "wait-long":
                self.pass_time(self.chance.uniform(24, 24 * 34))
            case "subscribe" if it is None:
                prices = list(self.prices["starter"].values())
                self.stripe.control("/stripe/subscriptions", customer=self.customer, prices=prices)
            case "upgrade" if it is not None and it["status"] == "active" and not _ends_at_an_instant(it):
                self._change(it, billing_cycle_anchor={"type": "now"}, proration_behavior="always_invoice")
            case "swap" if it is not None and it["status"] == "active":
                self._change(it, proration_behavior="create_prorations")
            case "swap-for-nothing" if it is not None and it["status"] == "active":
                self._change(it, proration_behavior="none")
            case "cancel-at-end" if it is not None:
                self._update(it, cancel_at_period_end=True)
            case "cancel-in-portal" if it is not None and it["status"] in {"active", "trialing", "past_due"}:
                self.stripe.control("/stripe/portal/cancel", subscription=it["id"])
            case "keep" if it is not None and _ends_at_an_instant(it):
                self._update(it, cancel_at="")
            case "keep" if it is not None:
                self._update(it, cancel_at_period_end=False)
            case "cancel-now" if it is not None and it["start_date"] < self.now.timestamp():
                self.stripe.control("/stripe/cancel", subscription=it["id"], invoice_now=True)
            case "fail-payment":
                self.stripe.control("/stripe/break-payment", customer=self.customer)
            case "repair-payment":
                self.stripe.control("/stripe/repair-payment", customer=self.customer)
                self.stripe.control("/stripe/pay", customer=self.customer)
            case "pause-collection" if it is not None:
                self._update(it, pause_collection={"behavior": "keep_as_draft"})
            case "resume-collection" if it is not None:
                self._update(it, pause_collection="")

    def _change(self, it: dict[str, Any], **how: Any) -> None:
        """The prices of the other plan in place of the present ones."""
        present = {item["price"]["recurring"]["usage_type"]: item for item in it["items"]["data"]}
        other = next(
            prices for prices in self.prices.values() if prices["metered"] != present["metered"]["price"]["id"]
        )
        items = [
            {"id": present["metered"]["id"], "price": other["metered"]},
            {"id": present["licensed"]["id"], "price": other["flat"]},
        ]
        self._update(it, items=items, **how)

    def _update(self, it: dict[str, Any], **params: Any) -> None:
        self.stripe.client.v1.subscriptions.update(it["id"], params)  # type: ignore[arg-type]  # the tests' own words


class Books:
    """Our side of a life: a database, what has been told to it, and the fetching from Stripe."""

    def __init__(self, engine: Engine, stripe: StandIn, clock_file: Path) -> None:
        self.engine = engine
        self.clock = Clock(clock_file)
        self.clock_file = clock_file
        self.api = StripeApi(StripeSettings(stripe_api_key=SecretStr("sk_test_lives"), stripe_api_base=stripe.url))
        self.business_id = self.open_business(NUMBER)

    def open_business(self, number: str) -> int:
        """A business that has always held this number; returns its id."""
        with self.engine.begin() as connection:
            business_id = connection.exec_driver_sql(
                "insert into businesses (name, time_zone, plan_id, created_at)"
                " values ('A business', 'America/New_York', 1, %s) returning id",
                (START,),
            ).scalar_one()
            connection.exec_driver_sql("insert into phone_numbers values (%s, %s)", (number, business_id))
            connection.exec_driver_sql(
                "insert into phone_number_assignments (number, business_id, held) values (%s, %s, '(,)')",
                (number, business_id),
            )
        return int(business_id)

    def at(self, now: datetime) -> None:
        move(self.clock_file, now)

    def tell(self, *what: dict[str, Any] | Call) -> None:
        """Store events of Stripe's and callbacks of Twilio's, as the receiver does, and apply them."""
        with self.engine.begin() as connection:
            for each in what:
                about = _of_call(each) if isinstance(each, Call) else _of_stripe(each)
                queue.store_event(connection, **about, now=self.clock.now())
        Drain(self.engine, DrainSettings(ACCOUNT, livemode=False), self.clock).run()

    def refresh(self) -> None:
        """Fetch what is due until nothing is, whatever it was waiting for."""
        for _ in range(20):
            StripeFetcher(self.engine, self.api, self.clock).run()
            Drain(self.engine, DrainSettings(ACCOUNT, livemode=False), self.clock).run()
            with self.engine.begin() as connection:
                waiting = connection.exec_driver_sql(
                    "update refreshes set due_at = now() where mark > fetched_mark and reason <> 'provisional-period'"
                ).rowcount
                waiting += connection.exec_driver_sql(
                    "update webhook_events set due_at = now() where state = 'pending'"
                ).rowcount
            if not waiting:
                return
        raise AssertionError("something is still to be fetched after twenty rounds")

    def look_at_everything(self) -> None:
        """As after an outage: the nightly sweep, and each object that is known fetched once more."""
        missed_events.sweep_subscriptions(self.engine, self.api)
        with self.engine.begin() as connection:
            known = connection.exec_driver_sql("select stripe_id from subscriptions order by 1").scalars().all()
            fetch_requests.request_fetches(connection, {("subscription", stripe_id): "test" for stripe_id in known})
        self.refresh()
        self.refresh()

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(sql, parameters or None)]

    def mirror(self) -> list[tuple[Any, ...]]:
        return self.rows("""
            select s.stripe_id, s.status, s.plan_id, s.metered_price_id, s.period_start, s.period_end,
                   s.cancel_at_period_end, s.cancel_at, s.ended_at, s.pause_collection::text
            from subscriptions s order by s.stripe_id""")

    def records(self) -> list[tuple[Any, ...]]:
        """Those with calls: one that its calls have left may remain.

        The plan of a price that was swapped, as long as no invoice has its line, is on no object of Stripe's.
        """
        return self.rows("""
            select r.period_start, r.period_end, s.stripe_id, r.provisional, case when told then r.plan_id end,
                   case when told then r.included_minutes end, r.calls, r.seconds, r.minutes
            from usage_records r left join subscriptions s on s.id = r.subscription_id
            cross join lateral (
              select s.id is null or s.period_end = r.period_end or exists (
                select from stripe_invoice_lines l
                where l.stripe_subscription_id = s.stripe_id and l.period_end = r.period_end) as told) known
            where r.calls > 0 order by r.period_start""")

    def assert_every_call_is_in_one_record(self, calls: list[Call]) -> None:
        found = dict(
            self.rows("""
                select c.sid, c.counted_minutes from calls c join usage_records r on r.id = c.usage_record_id
                where c.counted and r.period_start <= c.ended_at and c.ended_at < r.period_end""")
        )
        assert found == {call.sid: call.minutes for call in calls}
        overlapping = self.rows("""
            select a.id, b.id from usage_records a join usage_records b
              on a.id < b.id and a.period_start < b.period_end and b.period_start < a.period_end""")
        assert overlapping == []


def _of_stripe(event: dict[str, Any]) -> dict[str, Any]:
    about = {"provider": "stripe", "key": event["id"], "type": event["type"], "content_type": "application/json"}
    return {**about, "body": json.dumps(event).encode()}


def _of_call(call: Call) -> dict[str, Any]:
    if call.correction:
        return _of_correction(call)
    body = urlencode(
        {
            "CallSid": call.sid,
            "AccountSid": ACCOUNT,
            "CallStatus": "completed",
            "Direction": "inbound",
            "From": "+15559999999",
            "To": call.to,
            "SequenceNumber": "0",
            "CallDuration": str(call.seconds),
            "Timestamp": format_datetime(call.ended.astimezone(UTC)),
        }
    ).encode()
    about = {"provider": "twilio", "key": f"{call.sid}:completed:0:1", "type": "call.completed"}
    return {**about, "content_type": "application/x-www-form-urlencoded", "body": body}


def _of_correction(call: Call) -> dict[str, Any]:
    began = call.ended - timedelta(seconds=call.seconds)
    shown = {
        "sid": call.sid,
        "account_sid": ACCOUNT,
        "parent_call_sid": None,
        "direction": "inbound",
        "from": "+15559999999",
        "to": call.to,
        "status": "completed",
        "start_time": format_datetime(began.astimezone(UTC)),
        "end_time": format_datetime(call.ended.astimezone(UTC)),
        "duration": str(call.seconds),
        "price": None,
        "price_unit": None,
    }
    about = {"provider": "twilio", "key": f"{call.sid}:api:{call.correction}", "type": "call.completed"}
    return {**about, "content_type": "application/json", "body": json.dumps(shown).encode()}
