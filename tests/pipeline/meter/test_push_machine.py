"""The push outbox and the close as state machines: any order of what workers, Stripe and time do.

The world is that of test_pushes_histories.py, of two businesses; what is asked after every step is asked of the rows.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from pipeline.meter.push_states import PushState
from tests.pipeline.meter.test_pushes_histories import History
from tests.worlds.breaking import breaks
from tests.worlds.ledger import Ledger
from tests.worlds.superuser import run_as_superuser

P = PushState
#: Where a push may be some steps later, as PushState says.
LEADS_TO = {
    P.PLANNED: {P.SENDING, P.SENT, P.FAILED, P.UNKNOWN, P.VOID},
    P.SENDING: {P.PLANNED, P.SENT, P.FAILED, P.UNKNOWN, P.VOID},
    P.SENT: {P.FAILED},
    P.FAILED: {P.RELEASED},
    P.RELEASED: set(),
    P.UNKNOWN: {P.SENT, P.VOID, P.FAILED},
    P.VOID: set(),
}

_PUSHES = "select identifier, business_id, minutes, timestamp, stripe_customer_id, state from meter_pushes"
_RECORDS = """
select r.id, r.pushed_minutes, coalesce(sum(p.minutes), 0) as sent
from usage_records r left join meter_pushes p on p.business_id = r.business_id and p.state = 'sent'
  and p.timestamp >= r.period_start and p.timestamp < r.period_end
group by r.id
"""
_CLOSED = "select id, minutes, calls, closed_at, statement from usage_records where state = 'closed'"


class PushMachine(RuleBasedStateMachine):
    """Counting, planning, sending, dying: all that happens to the outbox inside a period."""

    ledger: Ledger

    @initialize(random=st.randoms(use_true_random=False))
    def begin(self, random: Any) -> None:
        run_as_superuser(self.ledger.engine, "truncate businesses restart identity cascade")
        self.history = History(self.ledger, random, businesses=2)
        self.pushes: dict[str, Any] = {}
        self.closed: dict[int, Any] = {}

    @rule()
    def count(self) -> None:
        self.history.count()

    @rule()
    def plan(self) -> None:
        self.history.plan()

    @rule()
    def send(self) -> None:
        self.history.send()

    @rule()
    def die(self) -> None:
        self.history.die()

    @invariant()
    def what_was_planned_is_frozen_and_goes_only_where_it_may(self) -> None:
        for push in self.ledger.rows(_PUSHES):
            before = self.pushes.get(push.identifier)
            if before is not None:
                assert before[:5] == push[:5]
                assert push.state == before.state or PushState(push.state) in LEADS_TO[PushState(before.state)]
            self.pushes[push.identifier] = push

    @invariant()
    def stripe_has_what_is_sent_and_nothing_that_nobody_planned(self) -> None:
        taken = self.history.stripe.events
        for identifier, (customer, minutes, timestamp, _) in taken.items():
            push = self.pushes[identifier]
            assert (push.stripe_customer_id, push.minutes, push.timestamp) == (customer, minutes, timestamp)
        assert {each.identifier for each in self.pushes.values() if each.state == P.SENT} <= set(taken)

    @invariant()
    def a_record_has_what_its_pushes_say(self) -> None:
        for record in self.ledger.rows(_RECORDS):
            assert record.pushed_minutes == record.sent

    def teardown(self) -> None:
        if hasattr(self, "history"):
            self.history.end()
            self.history.check()


class CloseMachine(PushMachine):
    """The same, with time, closes and invoices."""

    @rule()
    def wait(self) -> None:
        self.history.wait()

    @rule()
    def learn(self) -> None:
        self.history.learn()

    @rule()
    def close(self) -> None:
        self.history.close()

    @invariant()
    def what_is_closed_stays_as_it_was(self) -> None:
        for record in self.ledger.rows(_CLOSED):
            assert self.closed.setdefault(record.id, record) == record


@breaks(
    "pipeline/meter/push_sending.py",
    "        record_figures.add_pushed(connection, push.business_id, push.minutes, push.timestamp)\n",
    "        pass\n",
)
@pytest.mark.parametrize("machine", [PushMachine, CloseMachine])
@pytest.mark.parametrize("examples", [8, pytest.param(1_000, marks=pytest.mark.soak)])
def test_in_any_order_of_steps_no_minute_is_lost_and_none_is_billed_twice(engine, machine, examples):
    quick = examples < 100  # what is wrong is told at once, and made small by `make soak`
    run_state_machine_as_test(
        type("Machine", (machine,), {"ledger": Ledger(engine)}),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=quick,
            phases=[Phase.generate] if quick else list(Phase),
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
