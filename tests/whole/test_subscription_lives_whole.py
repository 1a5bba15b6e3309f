"""Random lives of subscriptions through the real receiver, worker, beat and stand-ins: billed is what was talked."""

import contextlib
import random
import time
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import stripe
from sqlalchemy import Engine

from ops.demo.figures import undone
from ops.processes import recipes
from ops.processes.supervisor import free_port
from tests.worlds.lives import STEPS, Call, Life
from tests.worlds.stripe_stand_in import START


class RemoteLife(Life):
    """A life at a stand-in in another process; its calls are the stand-in for Twilio's, which calls us back."""

    world: "Remote"

    def set_up_prices(self) -> dict[str, dict[str, str]]:
        return self.world.prices

    @property
    def now(self) -> datetime:
        return self.world.now

    def living(self) -> dict[str, Any] | None:
        its = self.world.get("/v1/subscriptions", customer=self.customer, status="all")["data"]
        return next((it for it in its if it["status"] not in {"canceled", "incomplete_expired"}), None)

    def pass_time(self, hours: float) -> None:
        """Time is everybody's: see Remote.advance."""

    def talk(self, until: datetime) -> None:
        """Plan some calls between now and then."""
        for _ in range(self.chance.randrange(4)):
            starts = self.now + (until - self.now) * self.chance.random()
            about = {"number": self.number, "at": starts.isoformat(), "seconds": self.chance.randrange(1, 900)}
            self.world.post("/_sandbox/twilio/calls", about, at=self.world.twilio)

    @property
    def number(self) -> str:
        return f"+1555100{self.business_id:04d}"


class Remote:
    """The stand-ins of another process, over HTTP."""

    def __init__(self, stripe_port: int, twilio_port: int) -> None:
        self.now = START
        self.twilio = f"http://127.0.0.1:{twilio_port}"
        base = f"http://127.0.0.1:{stripe_port}"
        self.http = httpx.Client(base_url=base, headers={"Authorization": "Bearer sk_test_altiora"}, timeout=60)
        client = stripe.StripeClient("sk_test_altiora", base_addresses={"api": base}, max_network_retries=2)
        self.stripe: Any = SimpleNamespace(client=client, control=self.control)
        self.control("/stripe/meters", event_name="call_minutes")
        self.prices = {
            plan: self.control(
                "/stripe/plan-prices", plan=plan, flat_cents=flat, included_minutes=minutes, overage_cents_decimal="12"
            )
            for plan, minutes, flat in (("starter", 500, 4900), ("professional", 2000, 14900))
        }

    def close(self) -> None:
        self.http.close()

    def control(self, path: str, **body: Any) -> Any:
        return self.post(f"/_sandbox{path}", body)

    def post(self, path: str, body: dict[str, Any], at: str = "") -> Any:
        answer = self.http.post(at + path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, path: str, **query: str) -> Any:
        for _ in range(20):  # the stand-in's faults are for everybody
            with contextlib.suppress(httpx.HTTPError):
                answer = self.http.get(path, params=query)
                if answer.status_code == 200:
                    return answer.json()
        raise AssertionError(f"{path} was not answered")

    def advance(self, to: datetime) -> None:
        """From stop to stop, so that what is due at one is done in its time, as far as the machine gives us that."""
        self.control("/advance", to=to.isoformat())
        self.now = to


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("count", "rounds"), [(10, 3), pytest.param(200, 8, marks=pytest.mark.soak)])
def test_random_lives(engine, environment, processes, tmp_path, count, rounds):
    ports = {name: free_port() for name in ("receiver", "stripe", "twilio")}
    clock = tmp_path / "clock"
    settings = environment | {
        "ALTIORA_CLOCK": str(clock),
        "ALTIORA_BEAT_PACE": "60",
        "ALTIORA_STRIPE_API_BASE": f"http://127.0.0.1:{ports['stripe']}",
        "ALTIORA_TWILIO_API_BASE": f"http://127.0.0.1:{ports['twilio']}",
        "ALTIORA_PUBLIC_URL": f"http://127.0.0.1:{ports['receiver']}",
    }
    options = ("--start", START.isoformat(), "--clock-file", str(clock), "--faults", "default")
    for process in (
        recipes.sandbox(ports["stripe"], ports["twilio"], "", *options),
        recipes.receiver(ports["receiver"]),
        recipes.worker(2),
        recipes.beat(tmp_path / "beat"),
    ):
        process.start(processes, settings)
    with contextlib.closing(Remote(ports["stripe"], ports["twilio"])) as world:
        _live(engine, world, count, rounds)
        with engine.connect() as connection:
            dead = connection.exec_driver_sql("select key, type, reason from webhook_events where state = 'dead'").all()
    failed = [line for line in processes.log("worker").read_text().splitlines() if "batch-failed" in line]
    assert dead == [], failed[:3]


def _live(engine: Engine, world: Remote, count: int, rounds: int) -> None:
    """Begin so many lives, have them go on for some months, and compare what was billed with what was talked."""
    RemoteLife.world = world
    chance = random.Random(count)
    lives = [RemoteLife(world.stripe, business, chance) for business in _businesses(engine, count)]
    for life in lives:
        life.step("subscribe")
    _catch_up(engine, world)
    for _ in range(rounds):
        for life in lives:
            with contextlib.suppress(stripe.StripeError):  # refused, or done and not heard of: a life goes on
                life.step(chance.choice([step for step in STEPS if not step.startswith("wait")]))
        until = (world.now + timedelta(hours=chance.uniform(2, 20 * 24))).replace(microsecond=0)
        for life in lives:
            life.talk(until)
        while (stop := world.get("/_sandbox/clock")["next_stop"]) and datetime.fromisoformat(stop) < until:
            world.advance(datetime.fromisoformat(stop))
            _catch_up(engine, world, seconds=2)
        world.advance(until)
        _catch_up(engine, world)
    faults = {"rate_429": 0.0, "rate_500": 0.0, "rate_slow": 0.0, "rate_lost_answer": 0.0, "drop_callback": 0.0}
    world.control("/faults", **faults)
    for _ in range(3):  # what was lost is found by listing, and what came too late is carried and pushed
        world.advance(world.now + timedelta(hours=30))
        _catch_up(engine, world, seconds=60, all_of_it=True)
    _compare(engine, world, lives)


def _businesses(engine, count):
    ids = []
    with engine.begin() as connection:
        for _ in range(count):
            business_id = connection.exec_driver_sql(
                "insert into businesses (name, time_zone, plan_id, created_at)"
                " values ('A business', 'Europe/Berlin', 1, %s) returning id",
                (START,),
            ).scalar_one()
            number = f"+1555100{business_id:04d}"
            connection.exec_driver_sql("insert into phone_numbers values (%s, %s)", (number, business_id))
            connection.exec_driver_sql(
                "insert into phone_number_assignments (number, business_id, held) values (%s, %s, '(,)')",
                (number, business_id),
            )
            ids.append(business_id)
    return ids


def _catch_up(engine, world, seconds=8.0, *, all_of_it=False):
    """Give the processes time; business time goes on whatever they have not done."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        left = undone(engine, world.now, all_of_it=all_of_it)
        # Drafts that somebody or an unpaid subscription keeps are never final.
        for name in ("invoices to compare", "periods to close", "objects to fetch again"):
            left.pop(name, None)
        if not left and not world.get("/_sandbox/deliveries")["pending"]:
            return
        time.sleep(0.1)


def _compare(engine, world, lives):
    ledger = [call for call in world.http.get(f"{world.twilio}/_sandbox/twilio/ledger").json() if call["seconds"]]
    wrong = []
    for life in lives:
        calls = [
            Call(each["sid"], datetime.fromisoformat(each["end"]), each["seconds"])
            for each in ledger
            if each["number"] == life.number and each["status"] == "completed"
        ]
        summary = world.get("/_sandbox/stripe/summary", customer=life.customer)
        final = sum(row["quantity"] for row in summary["periods"] if row["status"] not in {"draft", "void"})
        with engine.connect() as connection:
            settled, unsettled, free, on_no_invoice, held = connection.exec_driver_sql(
                """
                select coalesce(sum(invoiced_minutes) filter (where settled_at is not null), 0),
                       coalesce(sum(minutes) filter (where settled_at is null and subscription_id is not null), 0),
                       coalesce(sum(minutes) filter (where subscription_id is null), 0),
                       (select coalesce(sum(minutes), 0) from usage_adjustments
                        where business_id = %(id)s and kind <> 'carried'),
                       (select array_agg(sid order by sid) from calls
                        where business_id = %(id)s and (counted or sid in (select call_sid from usage_adjustments)))
                from usage_records where business_id = %(id)s
                """,
                {"id": life.business_id},
            ).one()
            mirrored = connection.exec_driver_sql(
                "select stripe_id, status from subscriptions where business_id = %s order by 1", (life.business_id,)
            ).all()
        talked = sum(call.minutes for call in calls)
        if talked != settled + unsettled + free + on_no_invoice or final != settled:
            wrong.append((life.business_id, talked, settled, unsettled, free, on_no_invoice, final))
        assert (held or []) == sorted(call.sid for call in calls)
        theirs = world.get("/v1/subscriptions", customer=life.customer, status="all", limit="100")["data"]
        assert [tuple(row) for row in mirrored] == sorted((it["id"], it["status"]) for it in theirs)
    assert wrong == [], "business; minutes talked, settled, not final yet, on Free, on no invoice; final at Stripe"
