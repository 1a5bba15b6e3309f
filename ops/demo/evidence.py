"""What is there when the month is over: the stand-ins' own record beside what the pipeline has stored."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine

from ops.demo.signup import Signed
from ops.demo.stand_ins import Deliveries, Json, Sandbox
from ops.demo.world import START, Bounds, minutes_of
from pipeline.checking.rebuild import Tally, rebuild_all
from pipeline.checking.rebuild_calls import Difference, Rules
from pipeline.providers.twilio_words import CallStatus

_RECORDS = """
select r.id, r.business_id, r.period_start, r.period_end, r.state, r.closed_at, r.statement, r.included_minutes,
       r.calls, r.seconds, r.minutes, r.adjustment_minutes, r.pushed_minutes, r.invoiced_minutes, r.settled_at,
       r.subscription_id is not null as paid, not r.trial and (r.tiers is not null or p.bills_overage) as bills_overage,
       of_calls.calls as sum_calls, of_calls.seconds as sum_seconds, of_calls.minutes as sum_minutes,
       carried_in.minutes as carried_in, carried_out.of_calls as late_minutes, carried_out.of_invoice,
       carried_out.written_off, carried_out.unbillable, pushed.minutes as sum_pushed
from usage_records r
join subscription_plans p on p.id = r.plan_id
cross join lateral (
  select count(*)::int as calls, coalesce(sum(c.counted_seconds), 0)::int as seconds,
         coalesce(sum(c.counted_minutes), 0)::int as minutes
  from calls c where c.usage_record_id = r.id and c.counted) of_calls
cross join lateral (
  select coalesce(sum(a.minutes), 0)::int as minutes from usage_adjustments a where a.usage_record_id = r.id) carried_in
cross join lateral (
  select coalesce(sum(a.minutes) filter (where a.settlement_record_id is null), 0)::int as of_calls,
         coalesce(sum(a.minutes) filter (where a.settlement_record_id = r.id), 0)::int as of_invoice,
         coalesce(sum(a.minutes) filter (where a.kind = 'written-off'), 0)::int as written_off,
         coalesce(sum(a.minutes) filter (where a.kind in ('unbillable', 'waiting')), 0)::int as unbillable
  from usage_adjustments a where coalesce(a.settlement_record_id, a.origin_record_id) = r.id) carried_out
cross join lateral (
  select coalesce(sum(m.minutes), 0)::int as minutes from meter_pushes m
  where m.business_id = r.business_id and m.state = 'sent'
    and m.timestamp >= r.period_start and m.timestamp < r.period_end) pushed
order by r.business_id, r.period_start
"""

_CALLS = "select sid, counted, counted_minutes, minutes, seconds from calls"
_CARRIED_CALLS = "select call_sid, sum(minutes)::int from usage_adjustments where call_sid is not null group by 1"
_CALLBACKS = "select key, received_at from webhook_events where provider = 'twilio' and not recovered"
_STRIPE_EVENTS = "select key from webhook_events where provider = 'stripe'"
_STATES = "select state, count(*)::int from webhook_events group by state"
_DEAD = (
    "select provider, key, type, coalesce(reason, '') as reason from webhook_events where state = 'dead' order by id"
)
_PUSHES = """
select business_id, identifier, stripe_customer_id, minutes, timestamp, state, attempts, server_errors, answer
from meter_pushes order by id
"""
_ALERTS = "select business_id, kind from usage_alerts where kind in ('minutes-80', 'minutes-100')"
_TOLD = """
select business_id, kind, coalesce((evidence ->> 'amount')::bigint, 0) as amount from drifts
where resolved_at is null and kind in ('over-billed', 'under-billed', 'unbillable', 'late-minutes', 'lost-usage')
"""
_TRACES = "select count(*)::int from claims"


@dataclass(slots=True)
class Use:
    """One business in one period, by the stand-ins alone: its calls, and what Stripe makes of the period."""

    signed: Signed
    bounds: Bounds
    paid: bool
    """Whether a subscription bills it."""
    calls: int = 0
    minutes: int = 0
    quantity: int = 0
    """Minutes that Stripe's invoice bills, or would bill by now."""
    final: bool = False
    """Whether its invoice is final."""
    amount: int = 0
    """What that invoice charges for the minutes, before any discount."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Both sides, at the business instant ``now``."""

    now: datetime
    signed: Sequence[Signed]
    ledger: list[Json]
    uses: list[Use]
    deliveries: Deliveries
    delivered_stripe_events: set[str]
    meter_events: list[Json]
    invoices: list[Json]
    fees: dict[str, int]
    """What Stripe has charged of each customer for its plan's fee, before any discount."""
    summaries: dict[str, int]
    """By customer: what Stripe's meter sums up to over the whole time."""
    records: dict[tuple[int, datetime], Any]
    """Usage records by business and start."""
    calls: dict[str, Any]
    carried_calls: dict[str, int]
    callbacks: dict[tuple[str, str], datetime]
    """When a callback of this call and status was received, by business time."""
    stripe_events: set[str]
    states: dict[str, int]
    dead: list[Any]
    pushes: list[Any]
    alerts: list[Any]
    told: list[Any]
    """What open differences say that was billed too much or too little, by business."""
    traces: int
    rebuilt_calls: int
    rebuild_differences: list[Difference]
    """What `altiora rebuild --all` finds: each period once more, from the stored events alone."""
    mishaps: dict[str, int] = field(default_factory=dict)
    messages_lost: int = 0

    @property
    def billable(self) -> list[Json]:
        """The ledger's calls that count: completed, and no leg that <Dial> opened."""
        return [call for call in self.ledger if call["status"] == CallStatus.COMPLETED and call["parent_sid"] is None]

    def record(self, use: Use) -> Any | None:
        """The usage record of the same business and bounds."""
        record = self.records.get((use.signed.business_id, use.bounds[0]))
        return record if record is not None and record.period_end == use.bounds[1] else None


def gather(
    engine: Engine,
    sandbox: Sandbox,
    rules: Rules,
    signed: Sequence[Signed],
    now: datetime,
    mishaps: dict[str, int],
    messages_lost: int,
) -> Evidence:
    """Ask both sides. Wants the faults of the stand-ins to be off."""
    ledger = sandbox.ledger()
    tally = Tally()
    differences = list(rebuild_all(engine, rules, now, tally))
    invoices = sandbox.invoices()
    customers = [each.customer for each in signed if each.customer is not None]
    with engine.connect() as connection:
        return Evidence(
            now=now,
            signed=signed,
            ledger=ledger,
            uses=_uses(signed, ledger, sandbox, now),
            deliveries=sandbox.deliveries(),
            delivered_stripe_events=set(sandbox.delivered_events()),
            meter_events=[event for event in sandbox.meter_events() if event["meter"] == sandbox.minutes_meter],
            invoices=[invoice for invoice in invoices if invoice["status"] != "draft"],
            fees=_fees(invoices, sandbox.fee_prices),
            summaries={customer: sandbox.meter_sum(customer, *_whole_time(now)) for customer in customers},
            records={(row.business_id, row.period_start): row for row in _rows(connection, _RECORDS)},
            calls={row.sid: row for row in _rows(connection, _CALLS)},
            carried_calls=dict(_rows(connection, _CARRIED_CALLS)),
            callbacks={_sid_and_status(key): received_at for key, received_at in _rows(connection, _CALLBACKS)},
            stripe_events={row.key for row in _rows(connection, _STRIPE_EVENTS)},
            states=dict(_rows(connection, _STATES)),
            dead=_rows(connection, _DEAD),
            pushes=_rows(connection, _PUSHES),
            alerts=_rows(connection, _ALERTS),
            rebuilt_calls=tally.calls,
            rebuild_differences=differences,
            told=_rows(connection, _TOLD),
            traces=connection.exec_driver_sql(_TRACES).scalar_one(),
            mishaps=mishaps,
            messages_lost=messages_lost,
        )


def _rows(connection: Connection, query: str) -> list[Any]:
    return list(connection.exec_driver_sql(query))


def _sid_and_status(key: str) -> tuple[str, str]:
    sid, status = key.split(":")[:2]
    return sid, status


def _whole_time(now: datetime) -> Bounds:
    """From before the first subscription until after now, on whole minutes, as Stripe wants them."""
    return START - timedelta(days=62), now.replace(second=0, microsecond=0) + timedelta(minutes=10)


def _uses(signed: Sequence[Signed], ledger: list[Json], sandbox: Sandbox, now: datetime) -> list[Use]:
    """Every business's periods until now: its calls of the ledger by their ends, its quantities by Stripe's books."""
    billed = _billed(sandbox, signed)
    uses: dict[int, list[Use]] = {}
    holders: dict[str, int] = {}
    for each in signed:
        uses[each.business_id] = [
            Use(each, bounds, each.member.pays(bounds), **billed.get((each.customer, bounds), {}))
            for bounds in each.member.periods(now)
        ]
        holders |= dict.fromkeys(each.member.numbers, each.business_id)
    for call in ledger:
        if call["status"] != CallStatus.COMPLETED or call["parent_sid"] is not None:
            continue
        ended = datetime.fromisoformat(call["end"])
        use = next(use for use in uses[holders[call["number"]]] if use.bounds[0] <= ended < use.bounds[1])
        use.calls += 1
        use.minutes += minutes_of(call["seconds"])
    return [use for its in uses.values() for use in its]


def _fees(invoices: list[Json], prices: set[str]) -> dict[str, int]:
    fees: dict[str, int] = defaultdict(int)
    for invoice in invoices:
        for line in invoice["lines"]["data"]:
            if line["pricing"]["price_details"]["price"] in prices:
                fees[invoice["customer"]] += line["amount"]
    return dict(fees)


def _billed(sandbox: Sandbox, signed: Sequence[Signed]) -> dict[tuple[str | None, Bounds], dict[str, Any]]:
    """What Stripe bills of each period, or would by now, by customer and bounds."""
    billed: dict[tuple[str | None, Bounds], dict[str, Any]] = defaultdict(
        lambda: {"quantity": 0, "final": False, "amount": 0}
    )
    for each in signed:
        if each.customer is None:
            continue
        summary = sandbox.summary(each.customer)
        for row in summary["periods"]:
            if row["price"] not in sandbox.minutes_prices:
                continue
            about = billed[each.customer, _bounds(row)]
            about["quantity"] += row["quantity"]
            about["final"] = row["final"]
        for row in summary["open"]:
            if row["price"] not in sandbox.minutes_prices:
                continue
            billed[each.customer, _bounds(row)]["quantity"] += row["arrived"]
    for invoice in sandbox.invoices():
        for line in invoice["lines"]["data"]:
            if line["pricing"]["price_details"]["price"] in sandbox.minutes_prices:
                bounds = {f"period_{name}": line["period"][name] for name in ("start", "end")}
                billed[invoice["customer"], _bounds(bounds)]["amount"] += line["amount"]
    return dict(billed)


def _bounds(row: Json) -> Bounds:
    return datetime.fromtimestamp(row["period_start"], UTC), datetime.fromtimestamp(row["period_end"], UTC)
