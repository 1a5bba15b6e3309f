"""A small world for tests of single events: two businesses, signed-off webhook rows, and a drain in this process."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from sqlalchemy import Connection, Engine

from db.seed import PLANS
from pipeline.checking import rebuild
from pipeline.checking.rebuild import Tally
from pipeline.checking.rebuild_calls import Rules
from pipeline.drain import Drain, DrainResult, DrainSettings
from pipeline.events import queue
from pipeline.shared import clock

ACCOUNT = "AC" + "0" * 32
NUMBER_OF_B = "+15550000001"
NUMBER_OF_F = "+15550000002"
PERIOD_START = datetime(2026, 11, 5, 10, 23, 45, tzinfo=UTC)
PERIOD_END = datetime(2026, 12, 5, 10, 23, 45, tzinfo=UTC)
PLAN_IDS = {str(plan["code"]): plan["id"] for plan in PLANS}


def at(text: str) -> datetime:
    """A UTC instant of 2026 or 2027, as `20 Nov 15:00` or `5 Dec 10:23:44`; January to March are of 2027."""
    for form in ("%d %b %H:%M:%S", "%d %b %H:%M", "%d %b"):
        try:
            instant = datetime.strptime(f"2026 {text}", f"%Y {form}").replace(tzinfo=UTC)
        except ValueError:
            continue
        return instant.replace(year=2027) if instant.month <= 3 else instant
    raise ValueError(text)


def sid_of(name: str) -> str:
    """A CallSid of the right shape, the same for the same name."""
    return "CA" + hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()


def _key(body: bytes) -> str:
    params = dict(parse_qsl(body.decode(), keep_blank_values=True))
    digest = hashlib.sha256(body).hexdigest()[:16]
    return f"{params.get('CallSid')}:{params.get('CallStatus')}:{params.get('SequenceNumber')}:{digest}"


@dataclass
class World:
    engine: Engine
    clock_file: Path
    bill_child_legs: bool = False  # as the last drain had it

    def __post_init__(self) -> None:
        self.now = at("20 Nov 12:00")
        with self.engine.begin() as connection:
            connection.exec_driver_sql(
                "insert into stripe_meters values ('mtr_minutes', 'call_minutes', true, true, %s), "
                "('mtr_sms', 'sms_sent', true, true, %s)",
                (at("1 Oct"), at("1 Oct")),
            )
        self.b = self.business("B", "starter", "UTC", NUMBER_OF_B)
        self.f = self.business("F", "free", "America/New_York", NUMBER_OF_F)
        self.subscription_of_b = self.subscribe(self.b, "starter", PERIOD_START, PERIOD_END)

    @property
    def now(self) -> datetime:
        return clock.Clock(self.clock_file).now()

    @now.setter
    def now(self, instant: datetime) -> None:
        clock.move(self.clock_file, instant)

    # Setting up

    def business(self, name: str, plan: str, time_zone: str, *numbers: str) -> int:
        with self.engine.begin() as connection:
            business_id = connection.exec_driver_sql(
                "insert into businesses (name, time_zone, plan_id, stripe_customer_id, created_at)"
                " values (%s, %s, %s, %s, %s) returning id",
                (name, time_zone, PLAN_IDS[plan], f"cus_{name}" if plan != "free" else None, at("1 Oct")),
            ).scalar_one()
            for number in numbers:
                self.hold(connection, business_id, number)
        return int(business_id)

    def hold(
        self, connection: Connection, business_id: int, number: str, since: datetime | None = None, until: Any = None
    ) -> None:
        connection.exec_driver_sql(
            "insert into phone_numbers (number, business_id) values (%s, %s)"
            " on conflict (number) do update set business_id = excluded.business_id",
            (number, business_id),
        )
        connection.exec_driver_sql(
            "insert into phone_number_assignments (number, business_id, held) values (%s, %s, tstzrange(%s, %s))",
            (number, business_id, since, until),
        )

    def subscribe(self, business_id: int, plan: str, start: datetime, end: datetime) -> int:
        with self.engine.begin() as connection:
            return int(
                connection.exec_driver_sql(
                    "insert into subscriptions (stripe_id, business_id, stripe_customer_id, status, plan_id,"
                    " metered_item_id, metered_price_id, period_start, period_end, billing_cycle_anchor, started_at,"
                    " api_version, snapshot_at) values (%s, %s, %s, 'active', %s, %s, %s, %s, %s, %s, %s,"
                    " '2026-10-28.endive', %s) returning id",
                    (
                        f"sub_{business_id}",
                        business_id,
                        f"cus_{business_id}",
                        PLAN_IDS[plan],
                        f"si_{business_id}",
                        f"price_{plan}",
                        start,
                        end,
                        start,
                        start,
                        start,
                    ),
                ).scalar_one()
            )

    # Events

    def body(self, name: str = "call", **params: object) -> bytes:
        """A status callback's form; a param of None is left out."""
        ended = params.pop("ended", None)
        body: dict[str, Any] = {
            "CallSid": sid_of(name),
            "AccountSid": ACCOUNT,
            "CallStatus": "completed",
            "Direction": "inbound",
            "From": "+15559999999",
            "To": NUMBER_OF_B,
            "SequenceNumber": "3",
            "CallbackSource": "call-progress-events",
            "Timestamp": format_datetime(ended if isinstance(ended, datetime) else self.now),
        } | params
        if body["CallStatus"] == "completed":
            body.setdefault("CallDuration", 60)
        return urlencode(sorted((key, str(value)) for key, value in body.items() if value is not None)).encode()

    def callback(self, name: str = "call", **params: object) -> str:
        """Store a status callback as the receiver does. Returns the event's key."""
        body = self.body(name, **params)
        self.store_all([body])
        return _key(body)

    def store_all(self, bodies: list[bytes]) -> None:
        """Store many status callbacks at once."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql(
                "insert into webhook_events (provider, key, type, received_at, content_type, body)"
                " select 'twilio', key, 'call', %s, 'application/x-www-form-urlencoded', body"
                " from unnest(%b::text[], %b::bytea[]) as b(key, body) on conflict do nothing",
                (self.now, [_key(body) for body in bodies], bodies),
            )

    def api_answer(self, name: str = "call", fetch: int = 1, **fields: object) -> str:
        """Store what Twilio's API said of a call, as a fetch or a listing does."""
        call = {
            "sid": sid_of(name),
            "account_sid": ACCOUNT,
            "status": "completed",
            "direction": "inbound",
            "from": "+15559999999",
            "to": NUMBER_OF_B,
            "start_time": None,
            "end_time": format_datetime(self.now),
            "duration": "60",
            "price": None,
            "price_unit": "USD",
        } | fields
        key = f"{sid_of(name)}:api:{1_700_000_000_000_000 + fetch}"
        self._store("twilio", key, f"call.{call['status']}", json.dumps(call).encode(), "application/json")
        return key

    def stripe_event(self, key: str, type_: str, object_: dict[str, Any], created: datetime, **envelope: Any) -> str:
        event = {
            "id": key,
            "object": "event",
            "type": type_,
            "api_version": "2026-10-28.endive",
            "created": int(created.timestamp()),
            "livemode": False,
            "data": {"object": object_},
        } | envelope
        self._store("stripe", key, type_, json.dumps(event).encode(), "application/json")
        return key

    def _store(self, provider: str, key: str, type_: str, body: bytes, content_type: str) -> None:
        with self.engine.begin() as connection:
            queue.store_event(
                connection,
                provider=provider,
                key=key,
                type=type_,
                body=body,
                content_type=content_type,
                now=self.now,
            )

    def drain(self, **settings: Any) -> DrainResult:
        self.bill_child_legs = settings.get("bill_child_legs", False)
        return Drain(
            self.engine, DrainSettings(ACCOUNT, livemode=False, **settings), clock.Clock(self.clock_file)
        ).run()

    # Looking

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.exec_driver_sql(sql, parameters or None))

    def event(self, key: str) -> tuple[str, str | None]:
        """The state and reason of an event."""
        ((state, reason),) = self.rows("select state, reason from webhook_events where key = %s", key)
        return state, reason

    def call(self, name: str = "call") -> Any:
        return next(iter(self.rows("select * from calls where sid = %s", sid_of(name))), None)

    def records(self, business_id: int) -> list[Any]:
        return self.rows("select * from usage_records where business_id = %s order by period_start", business_id)

    def record(self, business_id: int) -> Any:
        (record,) = self.records(business_id)
        return record

    def figures(self, business_id: int) -> list[tuple[int, int, int]]:
        """Calls, seconds and minutes of each record of a business, by period."""
        return [(row.calls, row.seconds, row.minutes) for row in self.records(business_id)]

    def wanted(self) -> dict[str, str]:
        """What is to be fetched, with the reason."""
        return {
            row.object_id: row.reason
            for row in self.rows("select object_id, reason from refreshes where mark > fetched_mark")
        }

    def alerts(self, business_id: int) -> list[tuple[str, int]]:
        rows = self.rows("select kind, value from usage_alerts where business_id = %s order by id", business_id)
        return [tuple(row) for row in rows]

    def assert_sums(self) -> None:
        """Each record's figures are those of its calls and adjustments, to the unit."""
        wrong = self.rows("""
            select r.id, r.calls, r.seconds, r.minutes, c.*, a.minutes
            from usage_records r
            cross join lateral (select count(*) as calls, coalesce(sum(counted_seconds), 0) as seconds,
                                       coalesce(sum(counted_minutes), 0) as minutes
                                from calls where usage_record_id = r.id and counted) c
            cross join lateral (select coalesce(sum(minutes), 0) as minutes
                                from usage_adjustments where usage_record_id = r.id) a
            where (r.calls, r.seconds, r.minutes, r.adjustment_minutes)
                  is distinct from (c.calls, c.seconds, c.minutes + a.minutes, a.minutes)
        """)
        assert wrong == []

    def assert_rebuilt(self) -> None:
        """What is stored of each call and record is what its events alone come to."""
        rules = Rules(ACCOUNT, self.bill_child_legs)
        found = rebuild.rebuild_all(self.engine, rules, self.now, Tally())
        assert list(found) == []
