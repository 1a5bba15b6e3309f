"""The stand-in's meters: identifiers, timestamps, concurrency, what is reported later, and the sums read back."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import stripe
from stripe import v2
from stripe.events import V1BillingMeterErrorReportTriggeredEventNotification

from tests.worlds.stripe_stand_in import START, StandIn

METER_EVENTS = "POST /v1/billing/meter_events"
SECRET = "whsec_test"


@pytest.fixture
def it(host, tmp_path: Path) -> Iterator[StandIn]:
    with host.fresh(tmp_path) as it:
        it.plan()
        yield it


def error_reports(it: StandIn, count: int = 1) -> list[v2.core.Event]:
    """The thin events as a receiver would read them: pushed without data, then fetched."""
    it.wait_until(lambda: len([event for event in it.events if event["object"] == "v2.core.event"]) >= count)
    pushed = [event for event in it.events if event["object"] == "v2.core.event"]
    assert all("data" not in event for event in pushed)
    return [it.client.v2.core.events.retrieve(event["id"]) for event in pushed]


def sent(it: StandIn, **changes) -> stripe.billing.MeterEvent:
    params = {
        "event_name": "call_minutes",
        "payload": {"stripe_customer_id": it.customer(), "value": "1"},
        "identifier": "i1",
        "timestamp": int(START.timestamp()),
    }
    return it.client.v1.billing.meter_events.create(params | changes, options={"idempotency_key": "i1"})  # type: ignore[arg-type]  # wrong ones too


def test_an_event_is_echoed_and_counted(it):
    customer = it.customer()
    event = it.report(customer, "3", "CA1")
    assert event.payload.to_dict() == {"stripe_customer_id": customer, "value": "3"}
    assert (event.identifier, event.timestamp) == ("CA1", int(START.timestamp()))
    minute = START.replace(second=0)
    assert it.summed(customer, minute, minute + timedelta(minutes=1)) == 3


def test_a_used_identifier_is_a_400_with_stripes_words_for_any_customer(it):
    it.report(it.customer(), "3", "CA1")
    other = it.customer()
    with pytest.raises(stripe.InvalidRequestError) as refused:
        it.report(other, "5", "CA1")
    assert refused.value.http_status == 400
    assert refused.value.code is None
    assert refused.value.error is not None
    assert refused.value.error.message == "An event already exists with identifier CA1."
    assert refused.value.headers is not None
    assert refused.value.headers["stripe-should-retry"] == "false"
    assert it.look("summary", customer=other)["total"] == 0


def test_an_identifier_is_free_again_after_24_hours_of_machine_time(it):
    customer = it.customer()
    it.report(customer, "3", "CA1")
    it.control("/stripe/machine-time", seconds=24 * 3600 - 60)
    with pytest.raises(stripe.InvalidRequestError):
        it.report(customer, "3", "CA1")
    it.control("/stripe/machine-time", seconds=60)
    it.report(customer, "3", "CA1")
    assert it.look("summary", customer=customer)["total"] == 6


@pytest.mark.parametrize("fault", ["lose_answer", "500_done", "500", "429", "down"])
def test_whatever_the_outcome_the_same_identifier_counts_once(it, fault):
    customer = it.customer()
    it.faults.script(METER_EVENTS, [fault])
    with pytest.raises(stripe.StripeError):
        it.report(customer, "3", "CA1", idempotency_key="CA1")
    try:
        it.report(customer, "3", "CA1", idempotency_key="CA1:2")
    except stripe.InvalidRequestError as duplicate:
        assert fault in {"lose_answer", "500_done"}
        assert "already exists with identifier CA1" in str(duplicate)  # noqa: PT017 -- the outcome differs by fault
    assert it.look("summary", customer=customer)["total"] == 3
    assert [event["identifier"] for event in it.look("meter_events")] == ["CA1"]


def test_the_same_key_replays_the_200_and_counts_once(it):
    customer = it.customer()
    first, again = (it.report(customer, "3", "CA1", idempotency_key="CA1") for _ in range(2))
    assert first.to_dict() == again.to_dict()
    assert it.look("summary", customer=customer)["total"] == 3


def test_a_second_event_at_the_same_time_for_customer_and_meter_is_a_429(it):
    customer, other = it.customer(), it.customer()
    it.control("/stripe/rules", latency_seconds=1.0)
    slow = threading.Thread(target=it.report, args=(customer, "1", "i1"))
    slow.start()
    it.wait_until(lambda: it.sandbox._meters._working)
    with pytest.raises(stripe.RateLimitError) as limited:
        it.report(customer, "1", "i2", idempotency_key="i2")
    assert limited.value.headers is not None
    assert limited.value.headers["Stripe-Rate-Limited-Reason"] == "resource-specific"
    it.report(other, "1", "i3")
    slow.join(10)
    it.report(customer, "1", "i2", idempotency_key="i2")
    assert it.look("summary", customer=customer)["total"] == 2


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"event_name": ""}, "event_name"),
        ({"event_name": "m" * 101}, "event_name"),
        ({"payload": ""}, "payload"),
        ({"identifier": "i" * 101}, "identifier"),
        ({"timestamp": "noon"}, "timestamp"),
    ],
)
def test_malformed_events_are_refused_at_once(it, changes, param):
    with pytest.raises(stripe.InvalidRequestError) as refused:
        sent(it, **changes)
    assert (refused.value.http_status, refused.value.param) == (400, param)
    assert it.look("meter_events") == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"payload": {"stripe_customer_id": "cus_lost", "value": "1"}}, "meter_event_customer_not_found"),
        ({"payload": {"value": "1"}}, "meter_event_no_customer_defined"),
        ({"timestamp": int((START - timedelta(days=35, seconds=1)).timestamp())}, "timestamp_too_far_in_past"),
        ({"timestamp": int((START + timedelta(minutes=5, seconds=1)).timestamp())}, "timestamp_in_future"),
    ],
)
def test_other_faults_are_taken_and_reported_later(it, changes, code):
    assert sent(it, **changes).identifier == "i1"
    (report,) = error_reports(it)
    assert report.type == "v1.billing.meter.error_report_triggered"
    assert report.to_dict()["related_object"]["id"] == it.meter
    reason = report.to_dict()["data"]["reason"]
    assert reason["error_count"] == 1
    assert [each["code"] for each in reason["error_types"]] == [code]
    assert reason["error_types"][0]["sample_errors"][0]["request"] == {"identifier": "i1"}
    assert it.look("meter_events") == []


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("many", "meter_event_invalid_value"),
        ("Infinity", "meter_event_invalid_value"),
        ("0.1234567890123", "meter_event_value_too_many_digits"),
        (None, "meter_event_value_not_found"),
    ],
)
def test_bad_values_are_reported_later(it, value, code):
    sent(it, payload={"stripe_customer_id": it.customer()} | ({} if value is None else {"value": value}))
    (report,) = error_reports(it)
    assert report.to_dict()["data"]["reason"]["error_types"][0]["code"] == code


@pytest.mark.parametrize("late", [timedelta(days=-35), timedelta(minutes=5)])
def test_the_bounds_of_the_timestamp_are_inside(it, late):
    it.report(it.customer(), "1", "i1", START + late)
    assert len(it.look("meter_events")) == 1


def test_a_name_that_no_active_meter_has_is_refused(it):
    with pytest.raises(stripe.InvalidRequestError, match="No active meter found for event name minutes_of_talk"):
        sent(it, event_name="minutes_of_talk")
    it.client.v1.billing.meters.deactivate(it.meter)
    with pytest.raises(stripe.InvalidRequestError, match="No active meter found for event name call_minutes"):
        sent(it)
    assert it.client.v1.billing.meters.list({"status": "active"}).data == []


def test_a_report_counts_all_and_names_at_most_three(host, tmp_path):
    with host.fresh(tmp_path, report_seconds=1.0) as it:
        it.plan()
        for n in range(5):
            it.report("cus_lost", "1", f"i{n}", idempotency_key=f"i{n}:2")
        (report,) = error_reports(it)
    reason = report.to_dict()["data"]["reason"]
    assert (reason["error_count"], reason["error_types"][0]["error_count"]) == (5, 5)
    samples = reason["error_types"][0]["sample_errors"]
    assert [each["request"]["identifier"] for each in samples] == ["i0:2", "i1:2", "i2:2"]


def test_the_pushed_notification_is_what_the_sdk_parses(it):
    sent(it, payload={"stripe_customer_id": "cus_lost", "value": "1"})
    error_reports(it)
    text = json.dumps(it.events[-1])
    signature = stripe.WebhookSignature.generate_signature_header(text, SECRET)
    notification = it.client.parse_event_notification(text, signature, SECRET)
    assert isinstance(notification, V1BillingMeterErrorReportTriggeredEventNotification)
    assert notification.fetch_event().data.reason.error_count == 1


def test_the_other_documented_shape_of_a_report_and_checks_at_once(host, tmp_path):
    with host.fresh(tmp_path, request_in_reports=True) as it:
        it.plan()
        it.report("cus_lost", "1", "i1", idempotency_key="i1")
        (report,) = error_reports(it)
        named = report.to_dict()["data"]["reason"]["error_types"][0]["sample_errors"][0]["request"]
        assert named["idempotency_key"] == "i1"
        assert named["id"].startswith("req_")
        it.control("/stripe/rules", synchronous_checks=True)
        with pytest.raises(stripe.InvalidRequestError) as refused:
            it.report("cus_lost", "1", "i2")
        assert refused.value.code == "meter_event_customer_not_found"


def test_summaries_are_half_open_and_group_by_hour_and_day(it):
    customer = it.customer()
    noon = datetime(2026, 11, 5, 12, tzinfo=UTC)
    it.advance(2026, 11, 6, 12)
    for n, (at, minutes) in enumerate(
        [(noon, "1"), (noon + timedelta(minutes=59, seconds=59), "2"), (noon + timedelta(hours=1), "4")]
    ):
        it.report(customer, minutes, f"i{n}", at)
    assert it.summed(customer, noon, noon + timedelta(hours=1)) == 3
    assert it.summed(customer, noon + timedelta(minutes=1), noon + timedelta(hours=2)) == 6
    hours = it.client.v1.billing.meters.event_summaries.list(
        it.meter,
        {
            "customer": customer,
            "start_time": int(noon.timestamp()),
            "end_time": int((noon + timedelta(hours=2)).timestamp()),
            "value_grouping_window": "hour",
        },
    ).data
    assert [(row.start_time, row.end_time, row.aggregated_value) for row in hours] == [
        (int(noon.timestamp()) + 3600, int(noon.timestamp()) + 7200, 4.0),
        (int(noon.timestamp()), int(noon.timestamp()) + 3600, 3.0),
    ]


@pytest.mark.parametrize(("window", "unit"), [(None, 60), ("hour", 3600), ("day", 86400)])
def test_summaries_want_aligned_times(it, window, unit):
    customer = it.customer()
    aligned = 1793836800
    params = {"customer": customer, "start_time": aligned, "end_time": aligned + 86400}
    params |= {} if window is None else {"value_grouping_window": window}
    summaries = it.client.v1.billing.meters.event_summaries
    assert summaries.list(it.meter, params).data == []
    with pytest.raises(stripe.InvalidRequestError, match="aligned"):
        summaries.list(it.meter, params | {"end_time": aligned + 86400 + unit - 1})
    with pytest.raises(stripe.InvalidRequestError, match="aligned"):
        summaries.list(it.meter, params | {"start_time": aligned + unit // 2})


def test_summaries_settle_after_a_while(host, tmp_path):
    with host.fresh(tmp_path, settling_seconds=60) as it:
        it.plan()
        customer = it.customer()
        it.report(customer, "3", "i1")
        minute = START.replace(second=0)
        assert it.summed(customer, minute, minute + timedelta(minutes=1)) == 0
        it.control("/stripe/machine-time", seconds=61)
        assert it.summed(customer, minute, minute + timedelta(minutes=1)) == 3


def test_one_event_name_is_one_meter_and_formulas_differ(it):
    with pytest.raises(stripe.InvalidRequestError):
        it.client.v1.billing.meters.create(
            {"event_name": "call_minutes", "display_name": "M", "default_aggregation": {"formula": "sum"}}
        )
    meter = it.client.v1.billing.meters.create(
        {
            "event_name": "calls",
            "display_name": "Calls",
            "default_aggregation": {"formula": "count"},
            "customer_mapping": {"type": "by_id", "event_payload_key": "who"},
            "value_settings": {"event_payload_key": "minutes"},
        }
    )
    customer = it.customer()
    for n in range(2):
        it.client.v1.billing.meter_events.create(
            {"event_name": "calls", "payload": {"who": customer, "minutes": "7"}, "identifier": f"i{n}"}
        )
    minute = int(START.replace(second=0).timestamp())
    params = {"customer": customer, "start_time": minute, "end_time": minute + 60}
    rows = it.client.v1.billing.meters.event_summaries.list(meter.id, params).data
    assert [row.aggregated_value for row in rows] == [2.0]
