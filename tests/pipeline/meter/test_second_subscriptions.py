"""Two subscriptions of a customer that count the same minutes, until one is cancelled as its difference asked (75)."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.range import Range

from pipeline.meter.push_planning import push_timestamp
from tests.worlds.breaking import breaks
from tests.worlds.ledger import PERIOD_END, PERIOD_START
from tests.worlds.lives import Call
from tests.worlds.works import billed, on_professional
from tests.worlds.world import sid_of

MINUTE = timedelta(minutes=1)


@pytest.fixture
def shop(engine, host, tmp_path):
    with host.fresh(tmp_path) as stripe:
        yield on_professional(engine, stripe, tmp_path / "our-clock")


def call(life, minutes):
    life.calls.append(Call(sid_of(f"call-{len(life.calls)}"), life.now.replace(microsecond=0), minutes * 60))


def second(life):
    """Somebody makes a second subscription in the dashboard."""
    prices = list(life.prices["starter"].values())
    return life.stripe.control("/stripe/subscriptions", customer=life.customer, prices=prices)


@given(start=st.integers(-2000, 60_000), length=st.integers(0, 60_000), now=st.integers(0, 50_000), open_=st.booleans())
def test_75_no_minute_is_taken_that_another_subscription_bills_too(start, length, now, open_):
    lower = PERIOD_START + start * timedelta(seconds=47)
    upper = None if open_ else lower + length * timedelta(seconds=47)
    moment = PERIOD_START + now * MINUTE
    double: Range[datetime] = Range(lower, upper)
    taken = push_timestamp(PERIOD_START, PERIOD_END, moment, doubles=[double])
    if taken is None:
        free = push_timestamp(PERIOD_START, PERIOD_END, moment)
        assert free is None or lower <= free + MINUTE
        return
    assert PERIOD_START <= taken <= PERIOD_END - MINUTE
    assert taken + MINUTE <= lower or (upper is not None and upper <= taken)


@breaks("pipeline/meter/push_planning.py", "ends_soon=row.ends_soon, doubles=row.doubles", "ends_soon=row.ends_soon")
def test_75_what_is_pushed_after_the_overlap_is_billed_once(shop):
    works, life = shop
    call(life, 300)
    other = second(life)
    works.follow(life)
    assert works.drifts() == ["second-metered-subscription", "second-plan"]
    assert billed(life) == 0, "nothing is pushed while both would bill it"
    # The period ends in the overlap, and then the second one is cancelled with its last invoice.
    life.stripe.advance(2026, 12, 5, 10, 30)
    works.follow(life)
    life.stripe.client.v1.subscriptions.cancel(other, {"invoice_now": True})
    works.follow(life)
    life.stripe.advance(2026, 12, 5, 14, 0)
    works.follow(life)
    assert works.drifts() == []
    assert billed(life) == 300
    quantities = [row["quantity"] for row in life.stripe.sandbox.summary(life.customer)["periods"] if row["quantity"]]
    assert quantities == [300]


@breaks(
    "pipeline/stripe_mirror/effects.py",
    "        double_billing.report_doubles(connection, business_id, invoice.id, now)",
    "        pass",
)
def test_75_minutes_pushed_inside_the_overlap_are_over_billed_with_money(shop):
    works, life = shop
    other = second(life)  # the event is late: nobody knows yet
    life.stripe.advance(2026, 11, 8, 12, 0)
    life.stripe.report(life.customer, "700", "pushed-inside")
    life.stripe.advance(2026, 11, 8, 13, 0)
    works.follow(life)
    life.stripe.client.v1.subscriptions.cancel(other, {"invoice_now": True})
    works.follow(life)
    life.stripe.advance(2026, 11, 8, 15, 0)
    works.follow(life)
    assert works.drifts() == ["over-billed"]
    ((kind, actual, evidence),) = works.rows("select kind, actual, evidence from drifts where resolved_at is null")
    assert (kind, evidence["minutes"], evidence["amount"]) == ("over-billed", 700, 200 * 12)
    assert other in actual
    works.credit("over-billed")
    works.follow(life)
    (note,) = life.stripe.sandbox.state.credit_notes.values()
    assert note["total"] == 200 * 12
