"""Our side as its tasks run it, in this process: events told, minutes pushed, changes sent, periods closed."""

import random
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Engine

from pipeline.businesses import service_status
from pipeline.closing import period_close
from pipeline.credits import credit_requests, credit_sending
from pipeline.meter import push_planning, push_sending
from pipeline.shared import drifts
from pipeline.shared.business_locks import lock_businesses
from pipeline.subscription_changes import planning, sending
from pipeline.subscription_changes.change_requests import ChangeKind
from pipeline.usage import late_minutes
from tests.worlds.lives import Books, Call, Life
from tests.worlds.stripe_stand_in import START, StandIn

EVENT_NAME = "call_minutes"


class Lived(Protocol):
    """What of a life we hear: what the stand-in tells, and calls."""

    stripe: StandIn
    calls: list[Call]

    @property
    def now(self) -> datetime: ...


class Works(Books):
    """Books that also do what is due. ``follow`` tells them what has happened since the last time."""

    told = 0
    called = 0
    order: random.Random | None = None
    """In which what has happened since the last time is told, in several parts; None: as it happened, at once."""

    def follow(self, life: Lived) -> None:
        """Take in what has happened, and do what is due at the life's present instant until nothing is."""
        self.at(life.now)
        self._hear(life.stripe.events[self.told :], life.calls[self.called :])
        self.told, self.called = len(life.stripe.events), len(life.calls)
        self._list(life.now)
        for _ in range(30):
            self.refresh()
            done = self._work(life.now)
            self._make_due()
            self.tell(*life.stripe.events[self.told :])
            more, self.told = self.told < len(life.stripe.events), len(life.stripe.events)
            if not done and not more:
                return
        raise AssertionError("there is still something to do after thirty rounds")

    def _hear(self, events: list[dict[str, Any]], calls: list[Call]) -> None:
        heard: list[dict[str, Any] | Call] = [*events, *calls]
        if self.order is None:
            self.tell(*heard)
            return
        self.order.shuffle(heard)
        while heard:
            part = self.order.randrange(1, 12)
            self.tell(*heard[:part])
            heard = heard[part:]

    def _work(self, now: datetime) -> bool:
        counts = (
            service_status.settle_due_services(self.engine, now),
            push_planning.plan_due_pushes(self.engine, EVENT_NAME, now),
            push_sending.send_due_pushes(self.engine, self.api, now),
            sending.send_due_changes(self.engine, self.api, now),
            credit_sending.send_due_credits(self.engine, self.api, now),
            period_close.close_due(self.engine, now),
        )
        return any(sum(each.values()) for each in counts)

    def _list(self, now: datetime) -> None:
        """As if Twilio had been listed: all calls of these lives have callbacks."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql(
                "insert into listings (source, listed_until) values ('twilio-calls', %(now)s)"
                " on conflict (source) do update set listed_until = %(now)s",
                {"now": now},
            )

    def _make_due(self) -> None:
        with self.engine.begin() as connection:
            for table in ("meter_pushes", "subscription_changes", "credits"):
                connection.exec_driver_sql(f"update {table} set due_at = now() where state in ('planned', 'sending')")

    def change(self, kind: str, plan: str | None = None, *, migrate: bool = False) -> None:
        """What `altiora subscription` plans."""
        with self.engine.begin() as connection:
            intent = planning.intend(connection, self.business_id, ChangeKind(kind), plan, migrate=migrate)
            planning.plan_change(connection, self.business_id, intent, "a test", self.clock.now())

    def credit(self, kind: str, reason: str = "a test", *, drift_id: int | None = None) -> int:
        """What `altiora drifts resolve ID --credit` does with the open difference of this kind; the credit's id."""
        with self.engine.begin() as connection:
            drift = connection.exec_driver_sql(
                "select * from drifts where kind = %s and id = coalesce(%s, id) and resolved_at is null",
                (kind, drift_id),
            ).one()
            lock_businesses(connection, [drift.business_id])
            now = self.clock.now()
            drifts.resolve_by_hand(connection, drift.id, now, reason)
            return credit_requests.request_credit(
                connection, drift.business_id, drift.kind, drift.subject, drift.evidence, reason, now
            )

    def carry(self, drift_id: int) -> None:
        """What `altiora drifts resolve ID --carry` does, where something charges the business."""
        given_up = {
            "lost-usage": late_minutes.AdjustmentKind.UNBILLABLE,
            "under-billed": late_minutes.AdjustmentKind.UNDER_BILLED,
        }
        now = self.clock.now()
        with suppress(ValueError), self.engine.begin() as connection:
            drift = connection.exec_driver_sql("select * from drifts where id = %s", (drift_id,)).one()
            record_id = int(drift.subject.split(":")[1])
            lock_businesses(connection, [drift.business_id])
            if drift.kind == "late-minutes":
                (held,) = (
                    each
                    for each in late_minutes.held_minutes(connection, drift.business_id)
                    if each.origin_record_id == record_id
                )
                late_minutes.decide_held(connection, held, "carry", now, "carried by a test")
            else:
                kind, told = given_up[drift.kind], drift.evidence["amount"]
                late_minutes.charge_given_up(connection, record_id, kind, told, now)  # type: ignore[arg-type]  # of its two
            drifts.resolve_by_hand(connection, drift.id, now, "carried by a test")

    def status(self) -> list[tuple[str, str, str]]:
        """The transitions of the service: from, to, by which rule."""
        return [
            tuple(row) for row in self.rows("select from_status, to_status, rule from service_transitions order by id")
        ]

    def drifts(self) -> list[str]:
        return [kind for (kind,) in self.rows("select kind from drifts where resolved_at is null order by id")]


def on_professional(engine: Engine, stripe: StandIn, clock_file: Path) -> tuple[Works, Life]:
    """A business on Professional, two days into its period; Enterprise has prices too."""
    works = Works(engine, stripe, clock_file)
    works.at(START)
    life = Life(stripe, works.business_id, random.Random(1))
    life.prices["enterprise"] = stripe.plan(10_000, "9", 49_900, "enterprise")
    stripe.control("/stripe/subscriptions", customer=life.customer, prices=list(life.prices["professional"].values()))
    works.follow(life)
    stripe.run(stripe.timeline.advance(START + timedelta(days=2)))
    return works, life


def billed(life: Life) -> int:
    """The minutes that the stand-in bills of this customer, on final invoices and so far on the one to come."""
    summary = life.stripe.sandbox.summary(life.customer)
    on_invoices = sum(int(row["quantity"]) for row in summary["periods"])
    return on_invoices + sum(int(row["arrived"]) for row in summary["open"])


def made(calls: list[Call], start: datetime, end: datetime) -> int:
    """The minutes of the calls that ended in ``[start, end)``."""
    return sum(call.minutes for call in calls if start <= call.ended < end)
