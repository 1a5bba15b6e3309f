"""Reading what Twilio says of a call: real bodies, and any bytes at all."""

import json
from datetime import UTC, datetime
from urllib.parse import urlencode

from hypothesis import given
from hypothesis import strategies as st

from pipeline.calls.call_reports import CallReport, decode_report, report_rank
from pipeline.events.outcomes import Outcome
from tests.worlds.world import ACCOUNT, at, sid_of

NOW = datetime(2026, 11, 20, tzinfo=UTC)
FORM = "application/x-www-form-urlencoded"


@given(body=st.binary(max_size=300), kind=st.sampled_from([FORM, "application/json"]))
def test_any_bytes_are_read_or_refused_never_raised_on(body, kind):
    assert isinstance(decode_report(1, "key", kind, body, NOW, ACCOUNT), CallReport | Outcome)


_values = st.one_of(
    st.text(max_size=30), st.sampled_from(["completed", "busy", "\x00", "1e400", "٣", "-1", "client:a"])
)
_names = ("CallSid", "CallStatus", "CallDuration", "Timestamp", "To", "From", "Direction", "SequenceNumber")


@given(params=st.fixed_dictionaries({}, optional=dict.fromkeys(_names, _values)), known_sid=st.booleans())
def test_any_field_may_hold_anything(params, known_sid):
    if known_sid:
        params["CallSid"] = sid_of("one")
    report = decode_report(1, "key", FORM, urlencode(params).encode("utf-8", "surrogatepass"), NOW, ACCOUNT)
    if isinstance(report, CallReport):
        assert "\x00" not in f"{report.to_number}{report.from_number}{report.direction}"
        assert report.seconds is None or 0 <= report.seconds <= 86_460
        assert 0 <= report.rank < 2**63


_json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False), st.text(max_size=20), st.integers(-9, 10**18)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
_fields = ("status", "duration", "start_time", "end_time", "to", "from", "direction", "price", "price_unit")


@given(fields=st.fixed_dictionaries({}, optional=dict.fromkeys(_fields, _json_values)))
def test_any_field_of_the_apis_answer_may_hold_anything(fields):
    body = json.dumps({"sid": sid_of("one"), "status": "completed"} | fields).encode()
    assert isinstance(
        decode_report(1, f"{sid_of('one')}:api:5", "application/json", body, NOW, ACCOUNT), CallReport | Outcome
    )


@given(
    first=st.tuples(st.booleans(), st.booleans(), st.integers(0, 2**52)),
    second=st.tuples(st.booleans(), st.booleans(), st.integers(0, 2**52)),
)
def test_rank_orders_by_terminal_then_source_then_order(first, second):
    ranks = [report_rank(terminal=one[0], from_api=one[1], order=one[2]) for one in (first, second)]
    assert (ranks[0] < ranks[1]) == (first < second)


def test_a_percent_encoded_name_is_still_read():
    body = f"Call%53id={sid_of('one')}&CallStatus=ringing".encode()
    assert isinstance(decode_report(1, "key", FORM, body, NOW, ACCOUNT), CallReport)


def test_the_apis_answer():
    call = {
        "sid": sid_of("one"),
        "account_sid": ACCOUNT,
        "status": "completed",
        "direction": "outbound-api",
        "from": "+15550000001",
        "to": "+15551112222",
        "start_time": "Fri, 20 Nov 2026 10:00:00 +0000",
        "end_time": "Fri, 20 Nov 2026 10:01:01 +0000",
        "duration": "61",
        "price": "-0.026",
        "price_unit": "USD",
    }
    report = decode_report(1, f"{sid_of('one')}:api:1700", "application/json", json.dumps(call).encode(), NOW, ACCOUNT)
    assert isinstance(report, CallReport)
    assert (report.number, report.seconds, str(report.price), report.price_unit) == ("+15550000001", 61, "0.026", "USD")
    assert (report.started_at, report.ended_at) == (at("20 Nov 10:00"), at("20 Nov 10:01:01"))
    assert report.rank == report_rank(terminal=True, from_api=True, order=1700)
