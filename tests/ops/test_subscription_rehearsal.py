"""A rehearsal notes the very requests that would be sent, of every kind of change, and sends none."""

from datetime import timedelta
from typing import Any

import pytest

from ops.commands.subscription_rehearsal import Rehearsal
from pipeline.providers.stripe_api import StripeApi
from pipeline.subscription_changes import planning
from pipeline.subscription_changes.change_requests import CHANGE_BEHAVIOURS, ChangeKind
from pipeline.subscription_changes.subscription_look import look_at
from tests.worlds.stripe_stand_in import START
from tests.worlds.works import on_professional

NEW_SCHEDULE = "the-new-schedule"
#: The plan that a kind wants, and what is done before.
PLANS = {ChangeKind.UPGRADE: "enterprise", ChangeKind.DOWNGRADE: "starter"}
CASES = [
    *[(kind, []) for kind in ChangeKind if kind not in {ChangeKind.KEEP, ChangeKind.RESUME_COLLECTION}],
    (ChangeKind.KEEP, [ChangeKind.CANCEL_AT_PERIOD_END]),
    (ChangeKind.KEEP, [ChangeKind.DOWNGRADE]),
    (ChangeKind.CANCEL_AT_PERIOD_END, [ChangeKind.DOWNGRADE]),
    (ChangeKind.UPGRADE, [ChangeKind.DOWNGRADE]),
    (ChangeKind.RESUME_COLLECTION, [ChangeKind.PAUSE_COLLECTION]),
]


class NotingApi(StripeApi):
    """The real client, which notes the requests that change something."""

    def __init__(self, of: StripeApi) -> None:
        super().__init__(of._settings)
        self.sent: list[tuple[str, str, dict[str, Any]]] = []
        self.schedule = ""

    def create_schedule(self, subscription: str, idempotency_key: str) -> dict[str, Any]:
        made = super().create_schedule(subscription, idempotency_key)
        self.schedule = made["id"]
        return made

    def _request(self, method, path, params=None, idempotency_key=None):
        if method != "get":
            named = path.replace(self.schedule, NEW_SCHEDULE) if self.schedule else path
            self.sent.append((method.upper(), named, dict(params or {})))
        return super()._request(method, path, params, idempotency_key)


@pytest.fixture
def works(engine, host, tmp_path):
    """A business on Professional, two days into its period."""
    with host.fresh(tmp_path) as stripe:
        it, life = on_professional(engine, stripe, tmp_path / "our-clock")
        it.follow(life)
        yield it, life


@pytest.mark.parametrize(
    ("kind", "before"), CASES, ids=lambda each: "+".join([each] if isinstance(each, str) else each)
)
def test_what_is_rehearsed_is_what_is_sent(works, kind, before):
    works, life = works
    for earlier in before:
        works.change(earlier, PLANS.get(earlier))
        works.follow(life)
        if earlier is ChangeKind.PAUSE_COLLECTION:  # and a month goes by, so that there is a draft
            life.stripe.run(life.stripe.timeline.advance(START + timedelta(days=33)))
    with works.engine.begin() as connection:
        intent = planning.intend(connection, works.business_id, kind, PLANS.get(kind))
    wanted = {"metadata": {"altiora_plan": "gold"}} if kind is ChangeKind.METADATA else intent.params
    behaviour, real = CHANGE_BEHAVIOURS[kind], NotingApi(works.api)
    rehearsal = Rehearsal(real)

    it = real.get_subscription(intent.stripe_id)
    with works.engine.connect() as connection:
        look = look_at(connection, it, "call_minutes")
    assert not behaviour.in_effect(rehearsal, look, wanted)
    behaviour.ask(rehearsal, look, wanted, "a-key")
    assert real.sent == [], "nothing is sent"
    assert real.get_subscription(intent.stripe_id) == it
    behaviour.ask(real, look, wanted, "a-key")
    assert rehearsal.sent == real.sent
    assert rehearsal.sent
    if kind is ChangeKind.RESUME_COLLECTION:
        assert "/v1/invoices/" in rehearsal.sent[0][1]
