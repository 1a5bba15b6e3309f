"""The first of a month: 100,000 periods are due at once, and two workers close them while they are killed."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest

from ops.processes import recipes
from ops.processes.supervisor import Supervisor, free_port
from tests.worlds.ledger import Ledger

FREE, PAYING, MINUTES = 95_000, 5_000, 7

_BUSINESSES = """
insert into businesses (name, time_zone, plan_id, created_at)
select 'B', 'UTC', %s, now() - interval '1 year' from generate_series(1, %s)
returning id
"""

_FREE_RECORDS = """
insert into usage_records (business_id, plan_id, period_start, period_end, included_minutes, minutes, opened_at)
select id, plan_id, %(end)s::timestamptz - interval '1 month', %(end)s, 50, 60, now() from businesses
"""

_SUBSCRIPTIONS = """
insert into subscriptions (stripe_id, business_id, stripe_customer_id, status, plan_id, metered_item_id, period_start,
                           period_end, billing_cycle_anchor, started_at, price_ids, snapshot_at)
select 'sub_' || b.id, b.id, c.id, 'active', b.plan_id, 'si_1', %(start)s, %(end)s, %(start)s, %(start)s, '[]',
       %(start)s
from unnest(%(businesses)s::bigint[]) with ordinality as own(id, n)
join businesses b on b.id = own.id
join unnest(%(customers)s::text[]) with ordinality as c(id, n) on c.n = own.n
"""

_PAID_RECORDS = """
insert into usage_records (business_id, plan_id, subscription_id, period_start, period_end, included_minutes, minutes,
                           opened_at)
select business_id, plan_id, id, period_start, period_end, 500, %s, now() from subscriptions
"""

_DRAFTS = """
insert into stripe_invoices (id, business_id, stripe_subscription_id, status, billing_reason, created_at,
                             automatically_finalizes_at, amount_due_cents, currency, snapshot_at)
select 'in_' || business_id, business_id, stripe_id, 'draft', 'subscription_cycle', period_end,
       period_end + interval '1 hour', 4900, 'usd', period_end
from subscriptions
"""

_LINES = """
insert into stripe_invoice_lines (invoice_id, price_id, period_start, period_end, stripe_subscription_id, minutes,
                                  amount_cents)
select 'in_' || business_id, 'price_1', period_start, period_end, stripe_id, %s, 0 from subscriptions
"""


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_hundred_thousand_periods_by_two_workers_that_are_killed(engine, environment, processes, tmp_path):
    ledger = Ledger(engine)
    stripe = free_port()
    settings = environment | {
        "ALTIORA_STRIPE_API_BASE": f"http://127.0.0.1:{stripe}",
        "ALTIORA_BEAT_PACE": "10",
    }
    recipes.sandbox(stripe, free_port(), "http://127.0.0.1:1").start(processes, settings)
    with httpx.Client(base_url=f"http://127.0.0.1:{stripe}/_sandbox/stripe", timeout=60) as stand_in:
        assert stand_in.post("/meters", json={"event_name": "call_minutes"}).status_code == 200
        customers = [stand_in.post("/customers", json={"name": "B"}).json() for _ in range(PAYING)]
        _fill(ledger, customers)
        workers = [recipes.worker(1, name=f"worker-{name}") for name in "ab"]
        for process in (*workers, recipes.beat(tmp_path / "beat")):
            process.start(processes, settings)
        memory = _Memory([processes.pid(worker.name) for worker in workers])

        def restart(*these: recipes.Process) -> None:
            for worker in these:
                worker.start(processes, settings)
                memory.watch(processes.pid(worker.name))

        closed = "select count(*) from usage_records where state = 'closed'"
        sending = "select count(*) from meter_pushes where state = 'sending'"
        sent = "select count(*) from meter_pushes where state = 'sent'"
        _wait(lambda: ledger.one(sending) > 0, memory, "pushes are being sent")
        _kill(processes, "worker-a", "worker-b")
        assert ledger.one(sent) < PAYING, "the kill came too late to be in the middle"
        assert ledger.one(sending) > 0, "the kill came between two pushes"
        restart(*workers)
        _wait(lambda: ledger.one(closed) > FREE // 4, memory, "a quarter is closed")
        _kill(processes, "worker-a")
        assert ledger.one(closed) < FREE, "the kill came too late to be in the middle"
        restart(workers[0])
        _wait(lambda: ledger.one(sent) == PAYING and ledger.one(closed) == FREE, memory, "all are pushed")

        ledger.run("update stripe_invoices set status = 'paid', finalized_at = now()")
        settled = "select count(*) from usage_records where state = 'closed' and settled_at is not null"
        _wait(lambda: ledger.one(settled) == PAYING, memory, "all are settled")
        taken = stand_in.get("/meter_events").json()
    assert ledger.one(closed) == FREE + PAYING
    assert ledger.one("select count(*) from usage_records where statement->>'minutes' is null") == 0
    assert sorted(event["customer"] for event in taken) == sorted(customers), "one event for each, and no second one"
    assert {event["value"] for event in taken} == {MINUTES}
    assert ledger.one("select count(*) from usage_adjustments") == 0
    assert memory.growth() < 1.2, memory


def _fill(ledger: Ledger, customers: list[str]) -> None:
    now = datetime.now(UTC)
    end = now - timedelta(minutes=1)
    ledger.listed(now + timedelta(days=1))
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql(_BUSINESSES, (1, FREE))
        connection.exec_driver_sql(_FREE_RECORDS, {"end": end - timedelta(days=4)})
        paying = list(connection.exec_driver_sql(_BUSINESSES, (2, PAYING)).scalars())
        about = {"start": end - timedelta(days=30), "end": end, "businesses": paying, "customers": customers}
        connection.exec_driver_sql(_SUBSCRIPTIONS, about)
        connection.exec_driver_sql(_PAID_RECORDS, (MINUTES,))
        connection.exec_driver_sql(_DRAFTS)
        connection.exec_driver_sql(_LINES, (MINUTES,))
    with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("analyze")


class _Memory:
    """The resident memory of workers' children, from their first work on."""

    def __init__(self, workers: list[int]) -> None:
        self._workers = set(workers)
        self._first: dict[int, int] = {}
        self._most: dict[int, int] = {}

    def watch(self, worker: int) -> None:
        self._workers.add(worker)

    def look(self) -> None:
        for worker in self._workers:
            try:
                children = psutil.Process(worker).children()
            except psutil.NoSuchProcess:
                continue
            for child in children:
                status = Path(f"/proc/{child.pid}/status")
                if status.exists():
                    used = int(status.read_text().partition("VmRSS:")[2].split()[0])
                    self._first.setdefault(child.pid, used)
                    self._most[child.pid] = max(used, self._most.get(child.pid, 0))

    def growth(self) -> float:
        return max(self._most[pid] / first for pid, first in self._first.items())

    def __repr__(self) -> str:
        return f"first {self._first}, most {self._most}, in kB"


def _wait(done: Callable[[], bool], memory: _Memory, what: str) -> None:
    until = time.monotonic() + 300
    while not done():
        assert time.monotonic() < until, f"not in 300 s: {what}"
        memory.look()
        time.sleep(0.02)


def _kill(processes: Supervisor, *names: str) -> None:
    """SIGKILL for workers and their children, whatever they do at the moment."""
    workers = [psutil.Process(processes.pid(name)) for name in names]
    for process in [each for worker in workers for each in (worker, *worker.children(recursive=True))]:
        process.kill()
    while any(processes.alive(name) for name in names):
        time.sleep(0.05)
