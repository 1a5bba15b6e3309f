"""Every kind of change, whatever Stripe answers and wherever the worker dies: done once."""

import subprocess
import sys
from datetime import timedelta

import pytest

from ops.processes.repository import REPOSITORY
from pipeline.subscription_changes import planning, sending
from pipeline.subscription_changes.change_requests import ChangeKind
from tests.worlds.lives import Call
from tests.worlds.stripe_stand_in import START
from tests.worlds.works import billed, on_professional

#: Sends what is due, and dies at the moment when Stripe has done it and nobody knows: between the call and the commit.
DYING_SENDER = """
import os, signal, sys
from pydantic import SecretStr
from db.engine import make_engine
from pipeline.subscription_changes import sending
from pipeline.shared.clock import Clock
from pipeline.shared.settings import StripeSettings
from pipeline.providers.stripe_api import StripeApi
database_url, stripe_url, clock_file = sys.argv[1:]
sending._settle = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
api = StripeApi(StripeSettings(stripe_api_key=SecretStr("sk_test_dying"), stripe_api_base=stripe_url))
sending.send_due_changes(make_engine(database_url), api, Clock(__import__("pathlib").Path(clock_file)).now())
"""


KINDS = {
    "cancel-at-period-end": (None, lambda it: it["cancel_at_period_end"]),
    "cancel-now": (None, lambda it: it["status"] == "canceled"),
    "upgrade": ("enterprise", lambda it: _metered_plan(it) == "enterprise"),
    "downgrade": ("starter", lambda it: it["schedule"] is not None),
    "pause-collection": (None, lambda it: it["pause_collection"] is not None),
    "metadata": (None, lambda it: it["metadata"].get("altiora_plan") == "professional"),
}


def _metered_plan(it):
    (item,) = [item for item in it["items"]["data"] if item["price"]["recurring"]["usage_type"] == "metered"]
    return item["price"]["metadata"]["altiora_plan"]


@pytest.fixture
def works(engine, host, tmp_path):
    """A business on Professional, ten minutes used."""
    with host.fresh(tmp_path) as stripe:
        it, life = on_professional(engine, stripe, tmp_path / "our-clock")
        life.calls.append(Call(f"CA{1:032x}", START + timedelta(days=1), 600))
        it.follow(life)
        yield it, life


def _subscription(life):
    (it,) = life.stripe.sandbox.state.subscriptions.values()
    return it


def _want(works, kind):
    plan, _ = KINDS[kind]
    if kind == "metadata":
        with works.engine.begin() as connection:
            connection.exec_driver_sql("delete from subscription_changes")
            planning.want_change(connection, works.business_id, ChangeKind(kind), "a test", works.clock.now())
    else:
        works.change(kind, plan)


def _effects(life):
    """What tells whether something was done twice: invoices of updates, schedules, endings, period starts."""
    state = life.stripe.sandbox.state
    kinds = [event["type"] for event in state.events.values()]
    return (
        [row["billing_reason"] for row in state.invoices.values()],
        len(state.schedules),
        kinds.count("customer.subscription.deleted"),
    )


@pytest.mark.parametrize(
    "fault",
    [
        "ok",
        "lose_answer",
        "429",
        "500_done",
        *(pytest.param(each, marks=pytest.mark.soak) for each in ("409", "500", "down")),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_done_once_whatever_stripe_answers(works, kind, fault):
    works, life = works
    for request in ("POST /v1/subscriptions/*", "DELETE /v1/subscriptions/*", "POST /v1/subscription_schedules*"):
        life.stripe.faults.script(request, [fault])
    _want(works, kind)
    works.follow(life)
    assert KINDS[kind][1](_subscription(life))
    reasons, schedules, deleted = _effects(life)
    assert reasons.count("subscription_update") == (kind in {"upgrade", "cancel-now"})
    assert schedules == (kind == "downgrade")
    assert deleted == (kind == "cancel-now")
    assert works.rows(f"select state from subscription_changes where kind = '{kind}'") == [("done",)]
    assert works.drifts() == []
    assert billed(life) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_done_once_when_the_worker_is_killed_between_the_call_and_the_commit(works, kind, database_url):
    works, life = works
    _want(works, kind)
    died = subprocess.run(
        [sys.executable, "-c", DYING_SENDER, database_url, life.stripe.url, str(works.clock_file)],
        cwd=REPOSITORY,
        timeout=60,
        check=False,
    )
    assert died.returncode == -9
    assert KINDS[kind][1](_subscription(life)), "Stripe had done it"
    before = _effects(life)
    assert works.rows("select distinct state from subscription_changes where state <> 'done'") == [("sending",)]
    works._make_due()  # as if the lease had ended
    works.follow(life)
    assert _effects(life) == before
    assert works.rows(f"select state from subscription_changes where kind = '{kind}'") == [("done",)]
    assert works.drifts() == []


def test_our_own_write_is_recognised_by_its_webhook(works):
    works, life = works
    works.change("cancel-at-period-end")
    with works.engine.begin() as connection:
        ((identifier,),) = connection.exec_driver_sql(
            "update subscription_changes set state = 'sending', due_at = now() + interval '2 minutes'"
            " where kind = 'cancel-at-period-end' returning identifier"
        ).all()
    works.api.modify_subscription(_subscription(life)["id"], {"cancel_at_period_end": True}, identifier)
    works.tell(*life.stripe.events[works.told :])
    assert works.rows("select state, answer from subscription_changes where kind = 'cancel-at-period-end'") == [
        ("done", "its webhook came first")
    ]


def test_a_change_that_ends_the_count_waits_for_the_last_push(works):
    works, life = works
    life.calls.append(Call(f"CA{2:032x}", life.now - timedelta(minutes=1), 300))
    works.at(life.now)
    works.tell(*life.calls[works.called :])
    works.called = len(life.calls)
    works.change("cancel-now")

    assert sending.send_due_changes(works.engine, works.api, life.now) == {}
    assert _subscription(life)["status"] == "active"
    works.follow(life)
    assert _subscription(life)["status"] == "canceled"
    assert billed(life) == 15


def test_keep_undoes_a_downgrade_that_has_not_come(works):
    works, life = works
    works.change("downgrade", "starter")
    works.follow(life)
    assert _subscription(life)["schedule"] is not None
    works.change("keep")
    works.follow(life)
    assert _subscription(life)["schedule"] is None
    life.stripe.run(life.stripe.timeline.advance(START.replace(month=12) + timedelta(hours=2)))
    works.follow(life)
    assert _metered_plan(_subscription(life)) == "professional"
