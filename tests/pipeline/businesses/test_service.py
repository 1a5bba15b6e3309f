"""Whether a business may take calls: dunning on the business clock, and the rules one by one."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.businesses.service_rules import RULES, Facts, deciding_rule
from tests.worlds.lives import Call, Life
from tests.worlds.stripe_stand_in import START
from tests.worlds.works import Works, billed

PERIOD_END = START.replace(month=12)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def facts(**given: object) -> Facts:
    about = {"now": NOON, "unpaid": False, "paused": False, "overdue_since": None, "grace_days": 7}
    return Facts(**{**about, "limited_until": None, **given})  # type: ignore[arg-type]  # the tests' own words


@pytest.mark.parametrize(
    ("given", "rule", "status"),
    [
        ({}, "in-order", "active"),
        ({"limited_until": NOON + timedelta(days=1)}, "free-limit", "limited"),
        ({"limited_until": NOON}, "in-order", "active"),
        ({"overdue_since": NOON - timedelta(days=6)}, "payment-failed", "grace"),
        ({"overdue_since": NOON - timedelta(days=7)}, "payment-overdue", "suspended"),
        ({"overdue_since": NOON, "grace_days": 0}, "payment-overdue", "suspended"),
        ({"unpaid": True, "limited_until": NOON + timedelta(days=1)}, "unpaid", "suspended"),
        ({"paused": True}, "paused", "suspended"),
    ],
)
def test_the_first_rule_that_holds_decides(given, rule, status):
    decided = deciding_rule(facts(**given))
    assert (decided.name, decided.status) == (rule, status)


def test_each_rule_can_be_read_by_a_product_person():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.when and rule.then for rule in RULES)


def test_from_a_failed_payment_to_suspended_to_paid_to_active(engine, host, tmp_path):
    with host.fresh(tmp_path) as stripe:
        works = Works(engine, stripe, tmp_path / "our-clock")
        works.at(START)
        life = Life(stripe, works.business_id, random.Random(1))
        life.step("subscribe")
        works.follow(life)
        life.step("fail-payment")

        def go_to(instant: datetime) -> None:
            stripe.run(stripe.timeline.advance(instant))
            works.follow(life)

        go_to(PERIOD_END - timedelta(hours=1))
        life.calls.append(Call(f"CA{1:032x}", life.now, 600))
        go_to(PERIOD_END)
        go_to(PERIOD_END + timedelta(hours=2))
        failed = ("active", "grace", "payment-failed")
        assert works.status() == [failed]
        ((until,),) = works.rows("select grace_until from businesses")
        assert until == PERIOD_END + timedelta(hours=1, days=7)
        go_to(until - timedelta(seconds=1))
        assert works.status() == [failed]
        go_to(until)
        suspended = ("grace", "suspended", "payment-overdue")
        assert works.status() == [failed, suspended]
        assert life.subscription["pause_collection"]["behavior"] == "keep_as_draft"
        assert life.subscription["metadata"]["altiora_service"] == "suspended"
        go_to(until + timedelta(days=3))
        assert works.status() == [failed, suspended]

        life.step("repair-payment")
        works.follow(life)
        assert works.status() == [failed, suspended, ("suspended", "active", "in-order")]
        assert works.rows("select grace_until, suspended_at from businesses") == [(None, None)]
        assert life.subscription["pause_collection"] is None
        assert life.subscription["metadata"]["altiora_service"] == "active"
        assert billed(life) == 10
        causes = [cause for (cause,) in works.rows("select cause from service_transitions order by id")]
        assert causes[0].startswith(("invoice in_", "subscription"))
        assert causes[1] == "the days of grace have passed"
        ats = [at for (at,) in works.rows("select at from service_transitions order by id")]
        assert ats == [PERIOD_END + timedelta(hours=2), until, until + timedelta(days=3)]


def test_drafts_of_a_pause_go_on_when_it_ends(engine, host, tmp_path):
    with host.fresh(tmp_path) as stripe:
        works = Works(engine, stripe, tmp_path / "our-clock")
        works.at(START)
        life = Life(stripe, works.business_id, random.Random(1))
        life.step("subscribe")
        works.follow(life)
        works.change("pause-collection")
        works.follow(life)
        life.calls.append(Call(f"CA{1:032x}", START + timedelta(days=1), 600))
        stripe.run(stripe.timeline.advance(PERIOD_END + timedelta(days=3)))
        works.follow(life)
        assert works.rows("select status from stripe_invoices where billing_reason = 'subscription_cycle'") == [
            ("draft",)
        ]
        works.change("resume-collection")
        works.follow(life)
        stripe.run(stripe.timeline.advance(PERIOD_END + timedelta(days=3, hours=2)))
        works.follow(life)
        assert works.rows("select status from stripe_invoices where billing_reason = 'subscription_cycle'") == [
            ("paid",)
        ]
        assert works.rows("select state, invoiced_minutes from usage_records where calls > 0") == [("closed", 10)]


def test_a_calendar_months_minutes_are_one_allowance_however_often_it_is_cut(engine, host, tmp_path):
    with host.fresh(tmp_path, start=datetime(2026, 11, 2, 12, tzinfo=UTC)) as stripe:
        works = Works(engine, stripe, tmp_path / "our-clock")
        life = Life(stripe, works.business_id, random.Random(1))
        life.calls.append(Call(f"CA{1:032x}", life.now - timedelta(hours=1), 30 * 60))
        works.follow(life)
        life.step("subscribe")
        stripe.run(stripe.timeline.advance(life.now + timedelta(days=3)))
        works.follow(life)
        life.step("cancel-now")
        works.follow(life)
        for number, minutes in ((2, 15), (3, 5)):
            life.calls.append(Call(f"CA{number:032x}", life.now + timedelta(hours=number), minutes * 60))
            stripe.run(stripe.timeline.advance(life.now + timedelta(hours=number + 1)))
            works.follow(life)
        first, second = works.rows(
            "select included_minutes, minutes from usage_records where subscription_id is null order by period_start"
        )
        assert (first, second) == ((50, 30), (20, 20))
        assert works.rows("select limited_until from businesses") == [(datetime(2026, 12, 1, 5, tzinfo=UTC),)]
        with engine.begin() as connection:  # a move to another zone begins no other month
            connection.exec_driver_sql("update businesses set time_zone = 'America/Los_Angeles'")
        life.calls.append(Call(f"CA{4:032x}", datetime(2026, 12, 1, 6, tzinfo=UTC), 60))
        stripe.run(stripe.timeline.advance(datetime(2026, 12, 1, 6, 30, tzinfo=UTC)))
        works.follow(life)
        third = works.rows("select period_start, period_end, included_minutes from usage_records order by 1")[-1]
        assert third == (datetime(2026, 12, 1, 5, tzinfo=UTC), datetime(2026, 12, 1, 8, tzinfo=UTC), 0)
