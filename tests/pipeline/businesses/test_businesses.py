"""The rules for adding businesses, customers and numbers."""

import threading
from datetime import timedelta

import pytest

from pipeline.businesses import plan_limits, registration
from pipeline.businesses.registration import BusinessError, NumberHeld
from pipeline.events import queue
from pipeline.shared.business_locks import lock_businesses
from tests.worlds.breaking import breaks
from tests.worlds.world import NUMBER_OF_B, NUMBER_OF_F, World, at

NEW = "+15550000009"


@pytest.fixture
def world(engine, tmp_path):
    made = World(engine, tmp_path / "clock")
    yield made
    made.assert_sums()


def add(world, name="Bakery", plan="starter", time_zone="Europe/London", customer=None):
    with world.engine.begin() as connection:
        return registration.add_business(
            connection, name=name, plan=plan, time_zone=time_zone, stripe_customer=customer, now=world.now
        )


def give(world, business_id, number, since=None, *, taken_from=None):
    with world.engine.begin() as connection:
        return registration.add_number(connection, business_id, number, since, world.now, from_business_id=taken_from)


def link(world, business_id, customer):
    with world.engine.begin() as connection:
        return registration.link_customer(connection, business_id, customer, world.now)


def held(world, number):
    return [
        tuple(row)
        for row in world.rows(
            "select business_id, lower(held), upper(held) from phone_number_assignments where number = %s order by id",
            number,
        )
    ]


def test_a_business_begins_on_its_plan_and_its_customer_is_fetched(world):
    business_id = add(world, "  Corner Bakery ", "Professional", "America/New_York", "cus_new")
    (row,) = world.rows("select * from businesses where id = %s", business_id)
    assert (row.name, row.time_zone, row.plan_id, row.stripe_customer_id) == (
        "Corner Bakery",
        "America/New_York",
        3,
        "cus_new",
    )
    assert (row.created_at, row.limited_until, row.ended_at) == (world.now, None, None)
    assert world.wanted() == {"cus_new": "linked"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": " "}, "a name of 1 to 200"),
        ({"name": "two\nlines"}, "without line breaks"),
        ({"plan": "gold"}, "the plans are free, starter, professional, enterprise"),
        ({"time_zone": "London"}, "London is no IANA time zone"),
        ({"time_zone": "America"}, "America is no IANA time zone"),
        ({"time_zone": "../zoneinfo/UTC"}, "is no IANA time zone"),
        ({"customer": "B"}, "B is no customer of Stripe's"),
        ({"customer": "cus_B"}, "cus_B is linked to business 1 already"),
    ],
)
def test_what_a_business_must_not_be_is_refused(world, given, words):
    with pytest.raises(BusinessError) as refused:
        add(world, **given)
    assert words in str(refused.value)
    assert world.rows("select count(*) from businesses") == [(2,)]


def test_a_customer_is_linked_again_but_not_away_from_its_subscriptions(world):
    link(world, world.f, "cus_first")
    link(world, world.f, "cus_typo_repaired")
    assert world.rows("select stripe_customer_id from businesses where id = %s", world.f) == [("cus_typo_repaired",)]
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update subscriptions set stripe_customer_id = 'cus_B'")
    with pytest.raises(BusinessError, match="has sub_1 of cus_B: its minutes are billed there"):
        link(world, world.b, "cus_other")


def test_34_an_unknown_customers_events_count_after_the_link(world):
    customer = {"id": "cus_new", "object": "customer", "metadata": {}}
    subscription = {
        "id": "sub_new",
        "object": "subscription",
        "customer": "cus_new",
        "status": "active",
        "items": {"data": []},
        "metadata": {},
    }
    world.stripe_event("evt_1", "customer.created", customer, world.now)
    world.drain()
    event = world.stripe_event("evt_2", "customer.subscription.created", subscription, world.now)
    world.drain()
    assert world.event(event) == ("dead", "unknown-customer")
    link(world, world.f, "cus_new")
    with world.engine.begin() as connection:
        ids = connection.exec_driver_sql("select id from webhook_events where state = 'dead'").scalars().all()
        assert len(queue.replay(connection, ids)) == 1
    world.drain()
    assert world.event(event) == ("processed", None)
    assert world.rows("select business_id from subscriptions where stripe_id = 'sub_new'") == [(world.f,)]


def test_11_a_number_that_nobody_held_is_held_from_now_on_or_from_when_it_is_said(world):
    key = world.callback(To=NEW, CallDuration=70)
    world.drain()
    assert world.event(key) == ("dead", f"unknown-number {NEW}")
    assert give(world, world.b, NEW) == NumberHeld(NEW, world.now, None, 0)
    with pytest.raises(BusinessError, match=r"holds .* already"):
        give(world, world.b, NEW)
    assert give(world, world.b, NEW, at("19 Nov 12:00")) == NumberHeld(NEW, at("19 Nov 12:00"), None, 0)
    assert held(world, NEW) == [(world.b, at("19 Nov 12:00"), None)]
    with world.engine.begin() as connection:
        queue.replay(connection, connection.exec_driver_sql("select id from webhook_events").scalars().all())
    world.drain()
    assert world.figures(world.b) == [(1, 70, 2)]


@breaks("pipeline/businesses/registration.py", "whole = now.replace(microsecond=0)", "whole = now")
def test_11_a_call_that_begins_in_the_very_second_is_the_holders(world):
    """Twilio tells the start in whole seconds, which are before the moment in which the number was given."""
    began = world.now
    with world.engine.begin() as connection:
        registration.add_number(connection, world.b, NEW, None, began + timedelta(milliseconds=700))
    key = world.callback(To=NEW, CallDuration=0)
    world.drain()
    assert world.event(key) == ("processed", None)
    assert held(world, NEW) == [(world.b, began, None)]


def test_a_free_number_is_held_as_far_back_as_nobody_else_did(world):
    with world.engine.begin() as connection:
        world.hold(connection, world.f, NEW, until=at("10 Nov"))
    assert give(world, world.b, NEW).since == world.now
    with pytest.raises(BusinessError, match=r"another business held .* until 2026-11-10"):
        give(world, world.b, NEW, at("9 Nov"))
    give(world, world.b, NEW, at("10 Nov"))
    assert held(world, NEW) == [(world.f, None, at("10 Nov")), (world.b, at("10 Nov"), None)]


@breaks("pipeline/businesses/registration.py", "    if holder != from_business_id:", "    if False:")
def test_11_what_another_business_holds_is_taken_only_where_that_one_is_named(world):
    third = add(world, "Third")
    with pytest.raises(BusinessError, match=r"business 1 \(B\) holds .*name that business"):
        give(world, third, NUMBER_OF_B)
    with pytest.raises(BusinessError, match="and not business"):
        give(world, third, NUMBER_OF_B, taken_from=world.f)
    with pytest.raises(BusinessError, match="nobody holds"):
        give(world, third, NEW, taken_from=world.f)
    assert held(world, NUMBER_OF_B) == [(world.b, None, None)]
    assert give(world, third, NUMBER_OF_B, taken_from=world.b).former_business_id == world.b


def test_a_number_that_is_given_up_leaves_its_calls_where_they_were(world):
    world.callback("before", ended=at("20 Nov 11:50"), CallDuration=60)
    with world.engine.begin() as connection:
        registration.remove_number(connection, world.b, NUMBER_OF_B, world.now)
    late = world.callback("after", ended=at("20 Nov 12:30"), CallDuration=60)
    world.drain()
    assert world.call("before").business_id == world.b
    assert world.event(late) == ("dead", f"unknown-number {NUMBER_OF_B}")
    with pytest.raises(BusinessError, match="does not hold"), world.engine.begin() as connection:
        registration.remove_number(connection, world.b, NUMBER_OF_B, world.now)


def test_a_business_ends_when_nothing_of_it_lives_and_gives_up_its_numbers(world):
    with pytest.raises(BusinessError, match="goes on charging it"), world.engine.begin() as connection:
        registration.end_business(connection, world.b, world.now)
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update subscriptions set ended_at = %s, status = 'canceled'", (world.now,))
        assert registration.end_business(connection, world.b, world.now) == [NUMBER_OF_B]
    assert held(world, NUMBER_OF_B) == [(world.b, None, world.now)]
    with pytest.raises(BusinessError, match="ended on 2026-11-20"):
        give(world, world.b, NEW)


def test_a_business_is_renamed(world):
    with world.engine.begin() as connection:
        registration.rename_business(connection, world.b, " Corner  Bakery & Co ")
    assert world.rows("select name from businesses where id = %s", world.b) == [("Corner  Bakery & Co",)]
    with pytest.raises(BusinessError, match="1 to 200 characters"), world.engine.begin() as connection:
        registration.rename_business(connection, world.b, "two\nlines")


def test_a_free_number_is_held_from_the_time_that_is_given(world):
    with world.engine.begin() as connection:
        world.hold(connection, world.f, NEW, until=at("10 Nov"))
    with pytest.raises(BusinessError, match="held the number until 2026-11-10"):
        give(world, world.b, NEW, at("9 Nov"))
    give(world, world.b, NEW, at("12 Nov"))
    assert held(world, NEW)[-1] == (world.b, at("12 Nov"), None)


def test_12_a_number_that_moves_leaves_its_earlier_calls_behind(world):
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update phone_numbers set business_id = null where number = %s", (NUMBER_OF_F,))
    world.now = at("20 Nov 12:00")
    assert give(world, world.f, NUMBER_OF_B, taken_from=world.b) == NumberHeld(NUMBER_OF_B, world.now, world.b, 0)
    assert held(world, NUMBER_OF_B) == [(world.b, None, world.now), (world.f, world.now, None)]
    assert world.rows("select business_id from phone_numbers where number = %s", NUMBER_OF_B) == [(world.f,)]
    world.callback("before", ended=at("20 Nov 12:03"), CallDuration=300)
    world.callback("after", ended=at("20 Nov 12:03"), CallDuration=60)
    world.drain()
    assert (world.call("before").business_id, world.call("after").business_id) == (world.b, world.f)


def test_a_move_back_in_time_tells_of_the_calls_that_stay(world):
    world.callback("before", ended=at("19 Nov 12:00"))
    world.callback("since", ended=at("20 Nov 11:00"))
    world.drain()
    third = add(world, "Third")
    assert give(world, third, NUMBER_OF_B, at("20 Nov"), taken_from=world.b).counted_before == 1
    assert world.figures(world.b) == [(2, 120, 2)]


def test_an_agent_does_not_move_with_its_number(world):
    with world.engine.begin() as connection:
        connection.exec_driver_sql("insert into ai_agents (business_id, name) values (%s, 'Ada')", (world.b,))
        connection.exec_driver_sql("update phone_numbers set agent_id = 1 where number = %s", (NUMBER_OF_B,))
    give(world, add(world, "Third"), NUMBER_OF_B, taken_from=world.b)
    assert world.rows("select agent_id from phone_numbers where number = %s", NUMBER_OF_B) == [(None,)]


@pytest.mark.parametrize(
    ("number", "since", "words"),
    [
        ("5550000009", None, "no phone number in E.164"),
        ("+0555000000", None, "no phone number in E.164"),
        (NEW, timedelta(minutes=1), "a time that has not come"),
        (NUMBER_OF_B, None, "holds +15550000001 already"),
    ],
)
def test_a_number_that_must_not_be_given_is_refused(world, number, since, words):
    with pytest.raises(BusinessError) as refused:
        give(world, world.b, number, since and world.now + since)
    assert words in str(refused.value)


def test_a_number_is_not_moved_to_before_its_holder_had_it(world):
    give(world, world.b, NEW, at("10 Nov"))
    third = add(world, "Third")
    with pytest.raises(BusinessError, match="holds the number since 2026-11-10"):
        give(world, third, NEW, at("10 Nov"), taken_from=world.b)


def test_a_plan_has_room_for_so_many_numbers(world):
    give(world, world.b, NEW)
    with pytest.raises(BusinessError, match=r"plan Starter of business 1 \(B\) has room for no other number"):
        give(world, world.b, "+15550000010")
    assert held(world, "+15550000010") == []


def test_the_former_holders_alert_ends_when_its_number_goes(world):
    with world.engine.begin() as connection:
        world.hold(connection, world.f, NEW)  # one more than Free has
        plan_limits.check_counts(connection, world.f, world.now)
    give(world, world.b, NEW, taken_from=world.f)
    assert world.rows("select kind, resolved_at from usage_alerts") == [("numbers", world.now)]


def test_an_ended_or_unknown_business_is_given_nothing(world):
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update businesses set ended_at = %s where id = %s", (world.now, world.f))
    with pytest.raises(BusinessError, match="ended on 2026-11-20"):
        give(world, world.f, NEW)
    with pytest.raises(BusinessError, match="there is no business 99"):
        give(world, 99, NEW)


def test_two_who_take_a_number_at_once_do_not_both_get_it(world):
    """The second one waits for the first, and then sees that what it looked at is no longer so."""
    third, fourth = add(world, "Third"), add(world, "Fourth")
    refused = []

    def take():
        try:
            give(world, third, NUMBER_OF_B, taken_from=world.b)
        except BusinessError as error:
            refused.append(str(error))

    with world.engine.begin() as connection:
        lock_businesses(connection, [world.b, third, fourth])
        other = threading.Thread(target=take)
        other.start()
        while not world.rows(
            "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        ):
            pass
        registration.add_number(connection, fourth, NUMBER_OF_B, None, world.now, from_business_id=world.b)
    other.join()
    assert refused == [f"{NUMBER_OF_B} has just been given to somebody; look at `altiora business list`"]
    assert held(world, NUMBER_OF_B)[-1][0] == fourth
