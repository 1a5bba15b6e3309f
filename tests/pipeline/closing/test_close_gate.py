"""The close gate: which gaps a period's statement names, and when a source that was incomplete is a drift."""

from datetime import datetime, timedelta
from urllib.parse import urlencode

import pytest

from pipeline.closing import period_close
from tests.worlds.breaking import breaks
from tests.worlds.ledger import PERIOD_END, PERIOD_START, Ledger

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
CLOSES = PERIOD_END + timedelta(hours=72)


@pytest.fixture
def ledger(engine):
    return Ledger(engine)


@pytest.fixture
def free(ledger):
    """A business on Free that holds a number, and its record."""
    return holder(ledger, "+15550000002")


def holder(ledger: Ledger, number: str) -> int:
    business_id = ledger.business("free")
    ledger.run("insert into phone_numbers (number, business_id) values (%s, %s)", number, business_id)
    ledger.run(
        "insert into phone_number_assignments (number, business_id, held) values (%s, %s, '[2026-01-01,2026-11-06)')",
        number,
        business_id,
    )
    return ledger.record(business_id, 5, plan="free", state="closing")


def event(ledger: Ledger, received: datetime, **columns: object) -> int:
    given = {"provider": "twilio", "received_at": received, "content_type": "application/x-www-form-urlencoded"}
    number = ledger.one("select count(*) from webhook_events")
    return ledger.insert("webhook_events", **given | {"key": f"CA{number}", "body": b""} | columns)


def close(ledger: Ledger, now: datetime = CLOSES) -> dict[str, int]:
    return dict(period_close.close_due(ledger.engine, now))


def statement(ledger: Ledger, record_id: int) -> tuple[str, list[str], int]:
    written = ledger.row("usage_records", record_id).statement
    return written["sources"], written["gaps"], written["dead_of_nobody"]


def test_a_period_whose_sources_are_complete_says_so(ledger, free):
    ledger.listed(PERIOD_END)
    event(ledger, PERIOD_END)
    event(ledger, PERIOD_START, state="processed")
    event(ledger, PERIOD_END + HOUR, recovered=True)
    assert close(ledger) == {"closed": 1}
    assert statement(ledger, free) == ("complete", [], 0)
    assert ledger.drifts() == []


@breaks("pipeline/closing/source_gaps.py", "%(listed_until)s::timestamptz < r.period_end", "false")
@pytest.mark.parametrize("until", [None, PERIOD_END - MINUTE])
def test_a_period_that_was_not_listed_past_its_end_says_so_and_is_a_drift_until_it_is(ledger, free, until):
    ledger.listed(until)
    assert close(ledger, CLOSES - MINUTE) == {}, "not before its deadline"
    assert close(ledger) == {"closed": 1}
    assert statement(ledger, free) == ("incomplete", ["twilio-not-listed"], 0)
    assert ledger.drifts() == ["incomplete-source"]
    ledger.listed(PERIOD_END)
    close(ledger, CLOSES + MINUTE)
    assert ledger.drifts() == []
    assert statement(ledger, free)[0] == "incomplete", "a statement is frozen"


@pytest.mark.parametrize(
    ("received", "recovered"), [(PERIOD_END - MINUTE, False), (PERIOD_START - HOUR, False), (PERIOD_END + MINUTE, True)]
)
@pytest.mark.parametrize("provider", ["twilio", "stripe"])
def test_an_event_that_is_pending_holds_back_everybody(ledger, free, received, recovered, provider):
    event_id = event(ledger, received, recovered=recovered, provider=provider)
    assert close(ledger) == {"closed": 1}
    assert statement(ledger, free) == ("incomplete", ["pending-events"], 0)
    assert ledger.drifts() == ["incomplete-source"]
    ledger.run("update webhook_events set state = 'processed' where id = %s", event_id)
    close(ledger)
    assert ledger.drifts() == []


BODY = urlencode({"CallStatus": "answered", "To": "+15550000002", "From": "+15559999999"}).encode()


@pytest.mark.parametrize(
    ("reason", "body"),
    [
        ("unknown-number +15550000002", urlencode({"To": "+15550000007"}).encode()),
        ("unknown-status", BODY),
        ("kills-its-worker", b'{"to": "+15550000002"}'),
    ],
)
def test_a_dead_event_holds_back_only_those_who_ever_held_its_number(ledger, free, reason, body):
    other = holder(ledger, "+15550000007")
    event_id = event(ledger, PERIOD_START + HOUR, state="dead", reason=reason, body=body)
    assert close(ledger) == {"closed": 2}
    assert statement(ledger, free) == ("incomplete", ["dead-events"], 0)
    assert statement(ledger, other) == ("complete", [], 0)
    ((kind, subject),) = ledger.rows("select kind, subject from drifts where resolved_at is null")
    assert (kind, subject) == ("incomplete-source", f"record:{free}")
    ledger.run("update webhook_events set state = 'processed' where id = %s", event_id)
    close(ledger)
    assert ledger.drifts() == []


@pytest.mark.parametrize("body", [b"", b"\xff%2B15550009999", b"To=%2B15550009999"])
def test_a_dead_event_of_nobody_is_a_line_in_the_statement(ledger, free, body):
    event(ledger, PERIOD_START + HOUR, state="dead", reason="unknown-status", body=body)
    event(ledger, PERIOD_START - HOUR, state="dead", reason="unknown-status", body=body)
    close(ledger)
    assert statement(ledger, free) == ("complete", [], 1)
    assert ledger.drifts() == []


def test_minutes_that_stripe_was_not_told_are_a_gap(ledger):
    told, untold, refused = (ledger.paying(5, state="closing") for _ in range(3))
    ledger.sent(told, 5)
    ledger.push(refused, 5, PERIOD_START.replace(second=0) + HOUR, state="failed")
    for record_id in (told, untold, refused):
        ledger.invoice(record_id)
    finalises = PERIOD_END + HOUR
    assert close(ledger, finalises - 3 * MINUTE) == {}
    close(ledger, finalises - 2 * MINUTE)
    assert statement(ledger, told) == ("complete", [], 0)
    assert statement(ledger, untold) == ("complete", ["unpushed-minutes"], 0)
    assert statement(ledger, refused) == ("complete", ["refused-push"], 0)


def test_a_period_that_is_cut_closes_at_once_and_is_no_drift(ledger):
    ledger.listed(PERIOD_END - HOUR)
    record_id = ledger.paying(0)
    ledger.invoice(record_id, status="paid")
    assert close(ledger, PERIOD_END)["closed"] == 1
    assert statement(ledger, record_id) == ("incomplete", ["twilio-not-listed"], 0)
    assert ledger.drifts() == []
