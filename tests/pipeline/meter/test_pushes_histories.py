"""Random histories of counting, pushing, failing and closing: in the end no minute is lost and none is billed twice.

Stripe is a few lines here, so that a history can choose what it does and what it answers apart from each other. What
it bills is what it had been told by the instant at which it finalised the invoice.
"""

import contextlib
from collections import defaultdict
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest

from pipeline.closing import period_close
from pipeline.meter import push_sending
from pipeline.providers.stripe_api import Limited, Refused, ServerError, StripeApiError, Unreachable
from pipeline.shared.business_locks import lock_businesses
from pipeline.usage import late_minutes
from pipeline.usage.late_minutes import Late
from tests.worlds.ledger import PERIOD_START, Ledger

PERIODS = [(PERIOD_START + timedelta(days=30 * n), PERIOD_START + timedelta(days=30 * (n + 1))) for n in range(3)]
BUSINESSES = 8
GRACE = timedelta(hours=1)


class Stripe:
    """Takes meter events, now and then without doing so or without saying so, and finalises invoices in time."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.now = PERIOD_START
        self.calm = False
        self.events: dict[str, tuple[str, int, datetime, datetime]] = {}
        self.answers: dict[str, Exception | None] = {}

    def create_meter_event(
        self, *, event_name: str, customer: str, value: int, identifier: str, timestamp: datetime, idempotency_key: str
    ) -> dict[str, Any]:
        fault = "" if self.calm else self.random.choice(["", "", "", "429", "500", "500_done", "down", "lost"])
        if fault == "429":
            raise Limited("slower")
        if fault == "down":
            raise Unreachable("no connection")
        if idempotency_key not in self.answers:
            self.answers[idempotency_key] = self._take(fault, customer, value, identifier, timestamp)
        answer = self.answers[idempotency_key]
        if fault == "lost":
            raise Unreachable("the answer was lost")
        if answer is not None:
            raise answer
        return {}

    def _take(self, fault: str, customer: str, value: int, identifier: str, timestamp: datetime) -> Exception | None:
        if fault == "500":
            return ServerError("an error occurred")
        if identifier in self.events:
            return Refused(400, None, f"An event already exists with identifier {identifier}.")
        self.events[identifier] = (customer, value, timestamp, self.now)
        return ServerError("an error occurred") if fault == "500_done" else None

    def billed(self, customer: str, start: datetime, end: datetime, until: datetime) -> int:
        values = [
            value
            for whose, value, timestamp, received in self.events.values()
            if whose == customer and start <= timestamp < end and received < until
        ]
        return sum(values)


class History:
    """Some businesses through two periods and into a third."""

    def __init__(self, ledger: Ledger, random: Random, businesses: int = BUSINESSES) -> None:
        self.random = random
        self.ledger = ledger
        self.stripe = Stripe(self.random)
        self.counted: dict[int, int] = defaultdict(int)
        self.subscriptions = {}
        for _ in range(businesses):
            business_id = ledger.business()
            self.subscriptions[business_id] = ledger.subscription(business_id)
        self._renew()

    @property
    def now(self) -> datetime:
        return self.stripe.now

    def step(self) -> None:
        self.random.choice(
            [self.count, self.count, self.plan, self.send, self.close, self.learn, self.wait, self.die]
        )()

    def count(self) -> None:
        """A call is counted, corrected, or comes late: into its record, or carried when that has closed."""
        business_id = self.random.choice(list(self.subscriptions))
        minutes = self.random.choice([1, 2, 7, 30, -1, -3])
        row = self.random.choice(
            self.ledger.rows(
                "select id, state from usage_records where business_id = %s order by period_start desc limit 2",
                business_id,
            )
        )
        with self.ledger.engine.begin() as connection:
            lock_businesses(connection, [business_id])
            if row.state == "closed":
                late_minutes.carry_minutes(connection, Late(row.id, minutes, "CA1"), self.now)
            else:
                connection.exec_driver_sql(
                    "update usage_records set minutes = minutes + %s where id = %s", (minutes, row.id)
                )
        self.counted[business_id] += minutes

    def plan(self) -> None:
        self.ledger.plan(self.now)

    def send(self) -> None:
        self.ledger.make_due()
        push_sending.send_due_pushes(self.ledger.engine, self.stripe, self.now, seconds=1)  # type: ignore[arg-type]  # of its shape

    def close(self) -> None:
        period_close.close_due(self.ledger.engine, self.now)

    def die(self) -> None:
        """A worker claims, perhaps sends, and is killed before it commits what came of it."""
        with self.ledger.engine.begin() as connection:
            claimed = push_sending.claim_pushes(connection, self.now)
        for push in claimed:
            if push.state == "sending" and self.random.random() < 0.5:
                with contextlib.suppress(StripeApiError):
                    push_sending._attempt(self.stripe, push)  # type: ignore[arg-type]  # of its shape

    def wait(self) -> None:
        """Time passes, to the instants where it matters rather than evenly."""
        bounds = [bound for _, end in PERIODS for bound in (end, end + GRACE - timedelta(minutes=2), end + GRACE)]
        ahead = [bound for bound in bounds if bound > self.now]
        jump = timedelta(minutes=self.random.choice([1, 7, 30, 2000]))
        target = min([self.now + jump, *ahead]) if self.random.random() < 0.9 or not ahead else ahead[0]
        self.stripe.now = min(target, PERIODS[2][0] + timedelta(days=20))
        self._renew()

    def learn(self) -> None:
        """The mirror hears of invoices as they are by now, and fetches what was asked for."""
        for row in self.ledger.rows(
            "select r.id, r.period_start, r.period_end, s.stripe_customer_id from usage_records r"
            " join subscriptions s on s.id = r.subscription_id where r.period_end <= %s",
            self.now,
        ):
            final = row.period_end + GRACE
            billed = self.stripe.billed(row.stripe_customer_id, row.period_start, row.period_end, min(self.now, final))
            self.ledger.invoice(row.id, status="draft" if self.now < final else "open", minutes=max(billed, 0))
        self.ledger.run("update refreshes set fetched_mark = mark")

    def _renew(self) -> None:
        for start, end in PERIODS:
            if start <= self.now:
                for business_id, subscription_id in self.subscriptions.items():
                    self.ledger.run(
                        "insert into usage_records (business_id, plan_id, subscription_id, period_start, period_end,"
                        " included_minutes, opened_at) values (%s, 2, %s, %s, %s, 500, %s) on conflict do nothing",
                        business_id,
                        subscription_id,
                        start,
                        end,
                        start,
                    )

    def end(self) -> None:
        """Nothing fails any more, and everything gets its turn."""
        self.stripe.calm = True
        self.stripe.now = PERIODS[2][0] + timedelta(days=21)
        self._renew()
        for _ in range(6):
            self.learn()
            self.close()
            self.plan()
            self.send()

    def check(self) -> None:
        for business_id in self.subscriptions:
            *closed, running = self.ledger.rows(
                "select r.*, s.stripe_customer_id, (select coalesce(sum(a.minutes), 0) from usage_adjustments a"
                " where a.settlement_record_id = r.id) as carried_out from usage_records r"
                " join subscriptions s on s.id = r.subscription_id where r.business_id = %s order by period_start",
                business_id,
            )
            assert [record.state for record in (*closed, running)] == ["closed", "closed", "open"]
            for record in closed:
                billed = self.stripe.billed(
                    record.stripe_customer_id, record.period_start, record.period_end, record.period_end + GRACE
                )
                assert record.invoiced_minutes == max(billed, 0)
                assert record.minutes == record.invoiced_minutes + record.carried_out, "billed or carried, to the unit"
            assert self.counted[business_id] == running.minutes + sum(record.invoiced_minutes for record in closed)
            stuck = self.ledger.rows(
                "select 1 from meter_pushes where business_id = %s and state = 'unknown'", business_id
            )
            if not stuck:
                told = self.stripe.billed(
                    running.stripe_customer_id, running.period_start, running.period_end, self.now + GRACE
                )
                assert told == running.pushed_minutes == max(running.minutes, 0)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 40))])
def test_no_minute_is_lost_and_none_is_billed_twice(engine, seed):
    history = History(Ledger(engine), Random(seed))
    for _ in range(160):
        history.step()
    history.end()
    history.check()
