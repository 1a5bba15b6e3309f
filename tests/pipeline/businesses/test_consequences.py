"""What one transaction leads to is settled once, with its true cause, whatever the order of what it was told."""

from itertools import permutations

import pytest
from sqlalchemy import event

from pipeline.businesses.consequences import Consequences
from pipeline.businesses.service_rules import RULES, Matter
from pipeline.businesses.service_status import true_cause
from tests.worlds.stripe_objects import invoice, line, lines, subscription
from tests.worlds.world import PERIOD_END, World, at

TOLD = ("subscription", "invoice", "call")
_TRANSITIONS = "select from_status, to_status, rule, cause from service_transitions where business_id = %s order by id"


@pytest.fixture
def world(engine, tmp_path):
    """A business on Starter, in order, at the end of its period."""
    world = World(engine, tmp_path / "clock")
    world.stripe_event("evt_begun", "customer.subscription.created", subscription(), at("20 Nov 10:00"))
    world.drain()
    world.now = PERIOD_END
    return world


def tell(world: World, what: str) -> None:
    match what:
        case "subscription":
            world.stripe_event("evt_sub", "customer.subscription.updated", subscription(status="past_due"), PERIOD_END)
        case "invoice":
            failed = invoice(status="open", attempt_count=1, lines=lines(line(quantity=5)))
            world.stripe_event("evt_in", "invoice.payment_failed", failed, PERIOD_END)
        case "call":
            world.callback()


@pytest.mark.parametrize("order", list(permutations(TOLD)), ids="-".join)
def test_one_batch_is_settled_once_and_names_the_invoice_that_failed(world, order):
    for what in order:
        tell(world, what)
    decisions = []

    def count(_connection, _cursor, statement, *_rest):
        decisions.extend([statement] if "used_up.until" in statement else [])

    event.listen(world.engine, "before_cursor_execute", count)
    try:
        world.drain()
    finally:
        event.remove(world.engine, "before_cursor_execute", count)
    assert world.rows(_TRANSITIONS, world.b) == [("active", "grace", "payment-failed", "invoice in_1 is open")]
    assert len(decisions) == 1


@pytest.mark.parametrize("order", list(permutations(TOLD)), ids="-".join)
def test_told_one_by_one_the_first_that_tells_it_is_the_cause(world, order):
    for what in order:
        tell(world, what)
        world.drain()
    first = next(what for what in order if what != "call")
    cause = {"invoice": "invoice in_1 is open", "subscription": "subscription sub_new is past_due"}[first]
    assert world.rows(_TRANSITIONS, world.b) == [("active", "grace", "payment-failed", cause)]


def test_days_of_grace_that_have_passed_are_the_cause_whatever_was_looked_at(world):
    tell(world, "invoice")
    world.drain()
    ((until,),) = world.rows("select grace_until from businesses where id = %s", world.b)
    world.now = until
    with world.engine.begin() as connection:
        consequences = Consequences()
        consequences.service(world.b, Matter.MINUTES, "", "minutes used")
        consequences.settle(connection, until)
    assert world.rows(_TRANSITIONS, world.b)[1:] == [
        ("grace", "suspended", "payment-overdue", "the days of grace have passed")
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_has_a_cause_whatever_has_changed(rule):
    for matter in Matter:
        assert true_cause({(matter, "x"): "something"}, rule) == "something"
    with pytest.raises(ValueError, match="name it"):
        true_cause({}, rule)
