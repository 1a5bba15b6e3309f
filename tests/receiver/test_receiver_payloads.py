"""Bodies that Stripe and Twilio really sent, signed anew and sent three times to a running receiver."""

import json
import random
from urllib.parse import urlencode

import pytest
from sqlalchemy import text

from tests.worlds.webhooks import ACCOUNT, Request, from_stripe, from_twilio, send_all, start_receiver
from tests.worlds.world import World


@pytest.fixture
def world(engine, tmp_path) -> World:
    return World(engine, tmp_path / "clock")


def test_every_real_body_is_stored_once_and_ends(world, environment, processes, payloads):
    stripe: dict[str, Request] = {}
    for file in sorted((payloads / "stripe").glob("*.json")):
        document = json.loads(file.read_text()) | {"id": f"evt_{file.stem}"}  # many fixtures share one id
        stripe[document["id"]] = from_stripe(json.dumps(document).encode())
    files = sorted((payloads / "twilio").glob("*.json"))
    twilio = [{**json.loads(file.read_text()), "AccountSid": ACCOUNT} for file in files]
    inbound = [params for params in twilio if params.get("Direction") == "inbound" and "ParentCallSid" not in params]
    numbers = {params["To"] for params in inbound if params.get("To", "").startswith("+")}
    with world.engine.begin() as connection:
        for number in numbers:
            world.hold(connection, world.f, number)
    port = start_receiver(processes, environment | {"ALTIORA_CLOCK": str(world.clock_file)})
    requests = 3 * [*stripe.values(), *(from_twilio(list(params.items())) for params in twilio)]
    random.Random(1).shuffle(requests)
    assert send_all([port], requests) == {200: len(requests)}

    rows = world.rows("select provider, key, body from webhook_events where state = 'pending'")
    assert len(rows) == len(stripe) + len(twilio)
    assert {row.key: bytes(row.body) for row in rows if row.provider == "stripe"} == {
        key: request.body for key, request in stripe.items()
    }
    bodies = {urlencode(list(params.items())).encode() for params in twilio}
    assert {bytes(row.body) for row in rows if row.provider == "twilio"} == bodies

    world.drain()
    # A call without a number of ours and what belongs to customers that nobody knows wait until Twilio and Stripe were
    # asked for them; that was done, and helped nothing.
    with world.engine.begin() as connection:
        connection.execute(text("update refreshes set fetched_mark = mark where kind in ('call', 'customer')"))
        connection.execute(text("update webhook_events set due_at = now() where starts_with(reason, 'awaiting-')"))
    world.drain()
    assert world.rows("select key from webhook_events where state = 'pending'") == []
    assert world.rows("select key from webhook_events where reason = 'unreadable'") == []
    billed = [
        int(params["CallDuration"])
        for params in inbound
        if params.get("To") in numbers and params["CallStatus"] == "completed" and params.get("CallDuration")
    ]
    ((calls, seconds, minutes),) = world.rows("select sum(calls), sum(seconds), sum(minutes) from usage_records")
    assert (calls, seconds, minutes) == (len(billed), sum(billed), sum(-(-length // 60) for length in billed))
    world.assert_sums()
