"""Setting up the month: prices and customers at Stripe, businesses and numbers with us, and the calls to come."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Engine

from ops.demo.figures import undone
from ops.demo.stage import Stage
from ops.demo.stand_ins import Sandbox
from ops.demo.world import MONTHS_OF_A_YEAR, PERCENT_OFF, PLANS, START, Kind, Member
from pipeline.businesses import registration

#: Calls without a callback: how long before a period's end they begin, and how long they last.
SILENT_BEFORE = timedelta(minutes=10)
SILENT_SECONDS = 150

#: Of the machine's time, until all subscriptions are known to the pipeline.
_MIRROR_SECONDS = 30.0

STRIPE_PATH = "/webhooks/stripe"

_MIRRORED = "select count(*) from subscriptions where metered_item_id is not null and plan_id is not null"


@dataclass(frozen=True, slots=True)
class Signed:
    """A member that has signed up: its ids with us, and with Stripe where it pays."""

    member: Member
    business_id: int
    customer: str | None
    prices: Sequence[str] = ()
    """The fee and the minutes of its plan at Stripe."""


def sign_up(stage: Stage, members: Sequence[Member]) -> list[Signed]:
    """Let all members in at START. Subscriptions are made at Stripe, whose webhooks tell the pipeline of them."""
    stage.sandbox.create_meter(stage.settings["ALTIORA_STRIPE_METER_EVENT_NAME"])
    prices = _set_up_prices(stage.sandbox)
    stage.sandbox.create_webhook_endpoint(stage.settings["ALTIORA_PUBLIC_URL"] + STRIPE_PATH)
    signed = []
    for member, business_id in zip(members, _add(stage.engine, members), strict=True):
        customer = None
        if member.anchor is not None:
            customer = stage.sandbox.create_customer(member.name, business_id)
            _subscribe(stage.sandbox, member, prices[member.plan], customer, member.anchor)
        signed.append(Signed(member, business_id, customer, prices.get(member.plan, ())))
    _wait(stage, sum(each.customer is not None for each in signed))
    return signed


def come_back(sandbox: Sandbox, signed: Sequence[Signed]) -> list[tuple[datetime, Callable[[], None]]]:
    """What those do who leave and return, and when: a second subscription of the same customer."""
    return [
        (back, partial(_subscribe, sandbox, each.member, each.prices, each.customer, back))
        for each in signed
        if each.customer is not None and (back := each.member.back) is not None
    ]


def _subscribe(sandbox: Sandbox, member: Member, prices: Sequence[str], customer: str, start: datetime) -> None:
    """Let a customer subscribe to its plan, with what is not usual about it."""
    plan, kind, (fee, minutes) = PLANS[member.plan], member.kind, prices
    if kind is Kind.YEARLY:
        fee = sandbox.create_fee(member.plan, MONTHS_OF_A_YEAR * plan.flat_cents, member.currency, "year")
    if kind is Kind.EURO and plan.overage_cents is not None:
        fee = sandbox.create_fee(member.plan, plan.flat_cents, member.currency, "month")
        minutes = sandbox.create_minutes_price(member.plan, plan.included, plan.overage_cents, member.currency)
    mode = "classic" if kind is Kind.CLASSIC else "flexible"
    subscription = sandbox.create_subscription(customer, [fee, minutes], start, mode)
    match kind:
        case Kind.SMS:
            sandbox.add_text_messages(subscription, customer)
        case Kind.ADD_ON:
            sandbox.add_number(subscription)
        case Kind.COUPON:
            sandbox.add_coupon(subscription, PERCENT_OFF)
        case Kind.LEAVES | Kind.RETURNS if start == member.anchor:
            sandbox.leave_in_portal(subscription)


def plan_calls(sandbox: Sandbox, members: Sequence[Member], end: datetime, last: datetime, seed: int) -> None:
    """Plan the calls from START to ``end``, and some to the second around ends of periods until ``last``."""
    registration = [
        {
            "name": member.name,
            "time_zone": member.time_zone,
            "numbers": member.numbers,
            "minutes": member.minutes,
            "boundaries": [bounds[1].isoformat() for bounds in member.periods(last) if bounds[1] < last],
        }
        for member in members
    ]
    sandbox.populate(registration, START, end, seed)


def plan_silent_calls(sandbox: Sandbox, members: Sequence[Member], last: datetime) -> None:
    """Plan calls that no callback tells of, shortly before periods end.

    By the time that the listing finds them, the invoice may be final, and they must be carried.
    """
    for member in members[::2]:
        for bounds in member.periods(last):
            if member.pays(bounds) and bounds[1] < last:
                sandbox.place_call_without_callback(member.numbers[0], bounds[1] - SILENT_BEFORE, SILENT_SECONDS)


def _set_up_prices(sandbox: Sandbox) -> dict[str, list[str]]:
    return {
        code: sandbox.create_plan_prices(code, plan.flat_cents, plan.included, plan.overage_cents)
        for code, plan in PLANS.items()
        if plan.overage_cents is not None
    }


def _add(engine: Engine, members: Sequence[Member]) -> list[int]:
    ids = []
    with engine.begin() as connection:
        for member in members:
            business_id = registration.add_business(
                connection,
                name=member.name,
                plan=member.plan,
                time_zone=member.time_zone,
                stripe_customer=None,
                now=START,
            )
            for number in member.numbers:
                registration.add_number(connection, business_id, number, None, START)
            ids.append(business_id)
    return ids


def _wait(stage: Stage, subscriptions: int) -> None:
    """Until the pipeline knows them all; what it does not know in time, the month will show."""
    until = time.monotonic() + _MIRROR_SECONDS
    while time.monotonic() < until:
        with stage.engine.connect() as connection:
            mirrored = connection.exec_driver_sql(_MIRRORED).scalar_one()
        if mirrored == subscriptions and not undone(stage.engine, START):
            return
        stage.check()
        time.sleep(0.1)
