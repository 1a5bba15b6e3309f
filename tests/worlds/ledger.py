"""Usage records and what stands around them, put straight into the database: for tests of pushing and closing."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from db.seed import PLANS
from pipeline.meter import push_planning

PERIOD_START = datetime(2026, 11, 5, 10, 23, 45, tzinfo=UTC)
PERIOD_END = datetime(2026, 12, 5, 10, 23, 45, tzinfo=UTC)
NOON = datetime(2026, 11, 20, 12, 0, 7, tzinfo=UTC)
MINUTE_OF_NOON = NOON.replace(second=0)
PLANS_BY_CODE = {str(plan["code"]): plan for plan in PLANS}
EVENT_NAME = "call_minutes"


@dataclass
class Ledger:
    """The rows of one database. Twilio has been listed far into the future, unless a test says otherwise."""

    engine: Engine

    def __post_init__(self) -> None:
        self.listed("2030-01-01")

    def listed(self, until: object) -> None:
        """Twilio's calls have been listed up to here; None: never."""
        self.run("delete from listings")
        if until is not None:
            self.run("insert into listings (source, listed_until) values ('twilio-calls', %s)", until)

    def business(self, plan: str = "starter") -> int:
        return self.insert("businesses", name="B", time_zone="UTC", plan_id=_id(plan), created_at=PERIOD_START)

    def subscription(self, business_id: int, *, customer: str | None = None, stripe_id: str | None = None) -> int:
        return self.insert(
            "subscriptions",
            stripe_id=stripe_id or f"sub_{business_id}",
            business_id=business_id,
            stripe_customer_id=customer or f"cus_{business_id}",
            status="active",
            plan_id=_id("starter"),
            metered_item_id="si_1",
            period_start=PERIOD_START,
            period_end=PERIOD_END,
            billing_cycle_anchor=PERIOD_START,
            started_at=PERIOD_START,
            snapshot_at=PERIOD_START,
        )

    def paying(self, minutes: int, *, customer: str | None = None, stripe_id: str | None = None, **columns: Any) -> int:
        """A business on Starter with one record of so many minutes; returns the record's id."""
        business_id = self.business()
        subscription_id = self.subscription(business_id, customer=customer, stripe_id=stripe_id)
        return self.record(business_id, minutes, subscription_id=subscription_id, **columns)

    def record(self, business_id: int, minutes: int, *, plan: str = "starter", **columns: Any) -> int:
        given = {
            "business_id": business_id,
            "plan_id": _id(plan),
            "period_start": PERIOD_START,
            "period_end": PERIOD_END,
            "included_minutes": PLANS_BY_CODE[plan]["included_minutes"],
            "minutes": minutes,
            "opened_at": PERIOD_START,
        }
        return self.insert("usage_records", **given | columns)

    def invoice(self, record_id: int, *, minutes: int | None = None, **columns: Any) -> str:
        """The invoice that bills the record's period: a draft that finalises an hour after its end, unless told.

        ``minutes`` that it bills; those that were pushed, unless told.
        """
        record = self.row("usage_records", record_id)
        given = {
            "id": f"in_{record_id}",
            "business_id": record.business_id,
            "stripe_subscription_id": self.row("subscriptions", record.subscription_id).stripe_id,
            "status": "draft",
            "billing_reason": "subscription_cycle",
            "created_at": record.period_end,
            "automatically_finalizes_at": record.period_end + timedelta(hours=1),
            "amount_due_cents": 4900,
            "currency": "usd",
            "snapshot_at": record.period_end,
        } | columns
        self.run("delete from stripe_invoices where id = %s", given["id"])
        invoice_id = str(self._insert("stripe_invoices", "id", given))
        self._insert(
            "stripe_invoice_lines",
            "invoice_id",
            {
                "invoice_id": invoice_id,
                "price_id": "price_1",
                "period_start": record.period_start,
                "period_end": record.period_end,
                "stripe_subscription_id": given["stripe_subscription_id"],
                "minutes": record.pushed_minutes if minutes is None else minutes,
                "amount_cents": 0,
            },
        )
        return invoice_id

    def push(self, record_id: int, minutes: int, timestamp: datetime, **columns: Any) -> int:
        record = self.row("usage_records", record_id)
        number = self.one("select count(*) from meter_pushes")
        return self.insert(
            "meter_pushes",
            **{
                "business_id": record.business_id,
                "usage_record_id": record_id,
                "identifier": f"push-{number}",
                "event_name": EVENT_NAME,
                "stripe_customer_id": f"cus_{record.business_id}",
                "minutes": minutes,
                "timestamp": timestamp,
                "created_at": timestamp,
            }
            | columns,
        )

    def sent(self, record_id: int, minutes: int, timestamp: datetime = MINUTE_OF_NOON) -> None:
        """Minutes that Stripe has accepted."""
        self.push(record_id, minutes, timestamp, state="sent")
        self.run("update usage_records set pushed_minutes = pushed_minutes + %s where id = %s", minutes, record_id)

    def following(self, record_id: int) -> int:
        """The open record of the period after this one."""
        record = self.row("usage_records", record_id)
        return self.record(
            record.business_id,
            0,
            subscription_id=record.subscription_id,
            period_start=record.period_end,
            period_end=record.period_end + timedelta(days=31),
        )

    def call(self, record_id: int, minutes: int = 1, **columns: Any) -> str:
        """A counted call of the record, which is not moved by it."""
        number = self.one("select count(*) from calls")
        record = self.row("usage_records", record_id)
        given = {
            "sid": f"CA{number:032}",
            "business_id": record.business_id,
            "status": "completed",
            "rank": 1,
            "started_at": record.period_start,
            "ended_at": record.period_start,
            "seconds": minutes * 60,
            "minutes": minutes,
            "counted": True,
            "counted_minutes": minutes,
            "counted_seconds": minutes * 60,
            "usage_record_id": record_id,
        } | columns
        return str(self._insert("calls", "sid", given))

    def plan(self, now: datetime = NOON) -> int:
        return push_planning.plan_due_pushes(self.engine, EVENT_NAME, now)["planned"]

    def insert(self, table: str, **columns: Any) -> int:
        """Insert a row; returns its id, a number."""
        return int(self._insert(table, "id", columns))

    def _insert(self, table: str, key: str, columns: dict[str, Any]) -> Any:
        names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
        statement = f"insert into {table} ({names}) values ({marks}) returning {key}"
        with self.engine.begin() as connection:
            return connection.exec_driver_sql(statement, tuple(columns.values())).scalar_one()

    def run(self, sql: str, *parameters: object) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(sql, parameters or None)

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.exec_driver_sql(sql, parameters or None))

    def one(self, sql: str, *parameters: object) -> Any:
        ((value,),) = self.rows(sql, *parameters)
        return value

    def row(self, table: str, row_id: object) -> Any:
        (row,) = self.rows(f"select * from {table} where id = %s", row_id)
        return row

    def pushes(self) -> list[Any]:
        return self.rows("select * from meter_pushes order by id")

    def the_push(self) -> Any:
        (push,) = self.pushes()
        return push

    def drifts(self) -> list[str]:
        """The kinds of the open drifts."""
        return [row.kind for row in self.rows("select kind from drifts where resolved_at is null order by id")]

    def make_due(self) -> None:
        """Let every wait and every lease of the outboxes be over."""
        for table in ("meter_pushes", "subscription_changes"):
            self.run(f"update {table} set due_at = now() - interval '1 second' where state in ('planned', 'sending')")


def _id(plan: str) -> Any:
    return PLANS_BY_CODE[plan]["id"]
