"""Subscription changes, against the stand-in for Stripe: asked once, done once, whatever it answers."""

import pytest

from pipeline.subscription_changes import planning, sending
from pipeline.subscription_changes.change_requests import ChangeKind
from pipeline.subscription_changes.target_prices import ChangeError
from tests.worlds.breaking import breaks
from tests.worlds.ledger import NOON, Ledger
from tests.worlds.stripe_customers import RecordingApi


class World:
    def __init__(self, ledger: Ledger, it) -> None:
        self.ledger, self.it = ledger, it
        self.api = RecordingApi(it.url)
        customer = it.customer()
        self.stripe_id = it.subscribe(customer, it.plan())
        self.business_id = ledger.business()
        ledger.subscription(self.business_id, customer=customer, stripe_id=self.stripe_id)

    def plan(self, kind: str) -> int:
        with self.ledger.engine.begin() as connection:
            intent = planning.intend(connection, self.business_id, ChangeKind(kind))
            return planning.plan_change(connection, self.business_id, intent, "a test", NOON)

    def send(self) -> dict[str, int]:
        return dict(sending.send_due_changes(self.ledger.engine, self.api, NOON))

    def send_until_quiet(self) -> None:
        for _ in range(10):
            self.ledger.make_due()
            if not self.send():
                return
        raise AssertionError("changes are still due after ten rounds")

    def at_stripe(self):
        return self.it.client.v1.subscriptions.retrieve(self.stripe_id)

    def the_change(self):
        return self.ledger.rows("select * from subscription_changes order by id desc limit 1")[0]


@pytest.fixture
def world(engine, host, tmp_path):
    with host.fresh(tmp_path) as it:
        yield World(Ledger(engine), it)


@pytest.mark.parametrize(
    "faults",
    [
        [],
        ["lose_answer"],
        ["500"],
        ["500_done"],
        ["429"],
        ["down"],
        ["down", "500", "429", "lose_answer"],
    ],
    ids="+".join,
)
def test_cancel_at_period_end_and_keep_whatever_stripe_answers(world, faults):
    for kind, cancels in (("cancel-at-period-end", True), ("keep", False)):
        world.it.faults.script(f"POST /v1/subscriptions/{world.stripe_id}", list(faults))
        world.plan(kind)
        world.send_until_quiet()
        assert world.the_change().state == "done"
        assert world.at_stripe().cancel_at_period_end is cancels
    assert world.ledger.drifts() == []


@breaks(
    "pipeline/subscription_changes/change_requests.py",
    'ends = it["cancel_at_period_end"] or it.get("cancel_at") or it.get("schedule")',
    'ends = it["cancel_at_period_end"] or it.get("schedule")',
)
@pytest.mark.parametrize("faults", [[], ["lose_answer"], ["500_done"], ["down", "429"]], ids="+".join)
def test_57_a_cancellation_in_the_portal_is_undone_by_resume(world, faults):
    """It sets an instant and not the flag: neither is there when the change is done."""
    world.it.control("/stripe/portal/cancel", subscription=world.stripe_id)
    ends = world.at_stripe()
    assert (ends.cancel_at_period_end, ends.cancel_at) == (False, ends.items.data[0].current_period_end)
    world.it.faults.script(f"POST /v1/subscriptions/{world.stripe_id}", list(faults))
    world.plan("keep")
    world.send_until_quiet()
    assert (world.at_stripe().cancel_at_period_end, world.at_stripe().cancel_at) == (False, None)
    assert world.the_change().state == "done"
    assert world.api.keys != []


def test_57_what_the_portal_has_cancelled_ends_already(world):
    world.it.control("/stripe/portal/cancel", subscription=world.stripe_id)
    world.plan("cancel-at-period-end")
    assert world.send() == {"done": 1}
    assert (world.api.keys, world.the_change().answer) == ([], "in effect already")


def test_pause_and_resume_collection(world):
    world.plan("pause-collection")
    assert world.send() == {"done": 1}
    assert world.at_stripe().pause_collection.behavior == "keep_as_draft"
    world.plan("resume-collection")
    assert world.send() == {"done": 1}
    assert world.at_stripe().pause_collection is None


def test_what_is_in_effect_already_is_done_without_a_call(world):
    world.plan("keep")
    assert world.send() == {"done": 1}
    assert world.api.keys == []
    assert world.the_change().answer == "in effect already"


def test_a_done_change_whose_answer_was_lost_is_found_by_looking(world):
    world.it.faults.script(f"POST /v1/subscriptions/{world.stripe_id}", ["lose_answer"])
    world.plan("cancel-at-period-end")
    assert world.send() == {"unreachable": 1}
    world.ledger.make_due()
    assert world.send() == {"done": 1}
    assert len(world.api.keys) == 1


def test_a_5xx_makes_the_next_key_a_new_one_and_a_429_does_not(world):
    world.it.faults.script(f"POST /v1/subscriptions/{world.stripe_id}", ["429", "500", "down"])
    world.plan("cancel-at-period-end")
    world.send_until_quiet()
    name = world.the_change().identifier
    assert world.api.keys == [name, name, f"{name}:2", f"{name}:2"]
    assert (world.the_change().state, world.the_change().attempts) == ("done", 3)


def test_after_a_change_the_subscription_is_fetched(world):
    world.plan("cancel-at-period-end")
    world.send()
    rows = world.ledger.rows("select kind, object_id, reason from refreshes where mark > fetched_mark")
    assert [tuple(row) for row in rows] == [("subscription", world.stripe_id, "changed-by-us")]


def test_refused_for_good_is_failed_with_stripes_words(world):
    world.it.control("/stripe/cancel", subscription=world.stripe_id)
    world.plan("pause-collection")
    assert world.send() == {"refused": 1}
    assert world.the_change().state == "failed"
    assert world.the_change().answer
    assert world.ledger.drifts() == ["change-refused"]
    world.ledger.make_due()
    assert world.send() == {}


def test_the_same_change_is_planned_once_and_another_is_sent_after_it(world):
    first = world.plan("cancel-at-period-end")
    assert world.plan("cancel-at-period-end") == first
    second = world.plan("keep")
    assert second != first
    with world.ledger.engine.begin() as connection:
        assert [change.id for change in sending.claim_changes(connection, NOON)] == [first], "one after the other"
    world.ledger.make_due()
    world.send_until_quiet()
    assert world.at_stripe().cancel_at_period_end is False


def test_a_business_without_a_living_subscription_has_nothing_to_change(world):
    world.ledger.run("update subscriptions set status = 'canceled'")
    with pytest.raises(ChangeError, match="no living subscription"):
        world.plan("keep")


def test_a_worker_killed_between_call_and_commit(world):
    world.plan("cancel-at-period-end")
    with world.ledger.engine.begin() as connection:
        claimed = sending.claim_changes(connection, NOON)
    sending._attempt(world.ledger.engine, world.api, claimed[0], "call_minutes")  # and then it died
    assert world.send() == {}, "leased"
    world.ledger.make_due()
    assert world.send() == {"done": 1}
    assert len(world.api.keys) == 1


def test_a_change_is_frozen(world):
    world.plan("cancel-at-period-end")
    with pytest.raises(Exception, match="is frozen"):
        world.ledger.run("update subscription_changes set kind = 'keep'")
