"""`altiora explain`: what a figure on an invoice is made of, down to the webhook events behind each call."""

from collections.abc import Iterator, Sequence
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from ops.commands.business_argument import BusinessArgument
from ops.commands.database import choose_settings, reading
from ops.commands.output import AsJson, WrongError, print_json, say_wrapped, shown
from ops.commands.period_argument import PeriodArgument, find_record
from pipeline.prices.money import money
from pipeline.providers.stripe_words import InvoiceStatus
from pipeline.reading import explanation, period_costs
from pipeline.reading.explanation import (
    ExplainedAdjustment,
    ExplainedAlert,
    ExplainedCalls,
    ExplainedInvoice,
    ExplainedPush,
    Explanation,
    Figure,
    Sum,
)
from pipeline.reading.explanation_calls import CrossingCall, ExplainedCall
from pipeline.shared.clock import business_clock
from pipeline.shared.settings import RuleSettings, load


def explain(
    business: BusinessArgument,
    period: PeriodArgument,
    figure: Annotated[Figure | None, typer.Option(help="Only this figure.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="List so many counted calls, and as many others.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Take a billing period apart: calls, rounding, plan, adjustments, pushes, invoice, alerts, events."""
    chosen = choose_settings()
    with reading(chosen) as connection:
        record_id = find_record(connection, business, period, business_clock(chosen).now())
        bill_child_legs = load(RuleSettings, chosen).bill_child_legs
        told = explanation.explain(connection, record_id, limit=limit, bill_child_legs=bill_child_legs, figure=figure)
    if as_json:
        print_json(_as_json(told))
    else:
        for line in _lines(told):
            say_wrapped(line)
    if not told.adds_up:
        wrong = ", ".join(each.figure for each in told.sums if not each.adds_up)
        raise WrongError(f"does not add up: {wrong}; `altiora rebuild --dry-run` of this period names the calls")


def _as_json(told: Explanation) -> dict[str, object]:
    """What was asked for, by the names of its parts."""
    document: dict[str, object] = {
        "business": {"id": told.business_id, "name": told.business},
        "record": told.record,
    }
    if told.adjustments is not None:
        document["adjustments"] = told.adjustments
    if told.calls is not None:
        document["calls"] = told.calls
    if told.pushes is not None:
        document |= {"pushes": told.pushes, "invoice": told.invoice}
    if told.money is not None:
        document["money"] = told.money
    if told.alerts is not None:
        document["alerts"] = told.alerts
    return {**document, "sums": told.sums, "adds_up": told.adds_up}


def _lines(told: Explanation) -> Iterator[str]:
    yield from _of_record(told)
    yield ""
    yield from (_sum(each) for each in told.sums)
    if told.money is not None:
        yield from ("", "money", *(f"  {name:12}{words}" for name, words in period_costs.lines(told.money)))
    if told.calls is not None:
        yield from ("", *_of_calls(told.calls))
    if told.adjustments is not None:
        yield from ("", *_of_adjustments(told.adjustments))
    if told.pushes is not None:
        yield from ("", *_of_pushes(told.pushes), "", *_of_invoice(told.invoice))
    if told.alerts is not None:
        yield from ("", *_of_alerts(told.alerts))


def _of_record(told: Explanation) -> Iterator[str]:
    record, plan = told.record, told.record.plan
    zone = ZoneInfo(record.time_zone)
    provisional = ", provisional: nothing is pushed or closed from it" if record.provisional else ""
    yield f"{told.business} (business {told.business_id}), record {record.id}, {record.state}{provisional}"
    for name, bound in (("from", record.start), ("to", record.end)):
        local = bound.at.astimezone(zone)
        yield f"{name:6}{shown(bound.at)} UTC ({local:%Y-%m-%d %H:%M:%S} {record.time_zone}): {bound.reason}"
    above = "more is billed by Stripe" if plan.bills_overage else "more is unbilled, and limits the business"
    price = f", price {plan.metered_price}" if plan.metered_price else ""
    yield (
        f"plan  {plan.code}: {money(plan.price_cents, 'usd')} a month, {period_costs.included(plan.included)} minutes"
        f" included, {above}; steps of {plan.increment_seconds} s{price}"
    )
    if plan.included != plan.included_by_the_plan_now:
        now = period_costs.included(plan.included_by_the_plan_now)
        yield f"      the plan includes {now} now; this record has its price's, or what it was made with"
    for step in record.history:
        yield f"{shown(step.at)}  {step.what}, by {step.by}"


def _sum(each: Sum) -> str:
    """The parts of a figure, as "adds up: 677 = 675 of 238 calls + 2 carried"."""
    told = [part for part in each.parts if part.amount] or each.parts[
        :1
    ]  # nothing is no part, unless there is no other
    signs = [("- " if part.amount < 0 else "+ ") + f"{abs(part.amount):,} {part.of}" for part in told]
    parts = " ".join(signs).removeprefix("+ ") or "0"
    if each.adds_up:
        return f"{each.figure:12}adds up: {each.stated:,} = {parts}"
    return f"{each.figure:12}DOES NOT ADD UP: {each.stated:,} is stated, and the parts are {parts}"


def _of_calls(calls: ExplainedCalls) -> Iterator[str]:
    yield "calls that ended in the period, or count in it"
    for group in calls.groups:
        yield f"  {group.calls:,} {group.said}: {group.seconds:,} s, {group.minutes:,} minutes"
    if not calls.groups:
        yield "  none"
    for listed, more, what in (
        (calls.counted, calls.counted_more, "counted calls"),
        (calls.others, calls.others_more, "calls that are not counted"),
    ):
        for call in listed:
            yield from _of_call(call)
        if more:
            yield f"  and {more:,} more {what}; --limit lists more"


def _of_call(call: ExplainedCall) -> Iterator[str]:
    estimated = ", estimated" if call.estimated else ""
    yield f"  {call.sid}  ended {shown(call.ended_at)}{estimated}: {call.rounding or call.status}; {call.said}"
    for event in call.events:
        marks = [event.state + (f" ({event.reason})" if event.reason else "")]
        marks += ["recovered"] if event.recovered else []
        marks += ["decides"] if event.decided else []
        received = shown(event.received_at)
        yield f"      event {event.id} {event.key[len(call.sid) :]} received {received}, {', '.join(marks)}"
    if not call.events:
        yield "      no event of it is stored (any more)"


def _of_adjustments(adjustments: Sequence[ExplainedAdjustment]) -> Iterator[str]:
    yield "adjustments"
    for each in adjustments:
        call = each.call_sid or "the difference to the final invoice"
        if each.into_this:
            where = f"in, of the period {shown(each.origin_start)} to {shown(each.origin_end)}"
        else:
            into = f"record {each.usage_record_id}" if each.usage_record_id else "no record"
            where = f"out of this period, into {into}"
        event = f", event {each.event_id}" if each.event_id else ""
        yield f"  {each.minutes:+,} {each.kind} {where}: {call}, {shown(each.created_at)}{event}"
    if not adjustments:
        yield "  none"


def _of_pushes(pushes: Sequence[ExplainedPush]) -> Iterator[str]:
    yield "pushes to Stripe"
    for each in pushes:
        answer = f"; Stripe: {each.answer}" if each.answer else ""
        tries = f"{each.attempts} {'try' if each.attempts == 1 else 'tries'}"
        yield f"  {each.minutes:+,} for {shown(each.timestamp)}, {each.state}, {tries}{answer}"
        yield f"      {each.identifier}"
    if not pushes:
        yield "  none"


def _of_invoice(invoice: ExplainedInvoice | None) -> Iterator[str]:
    if invoice is None:
        yield "invoice: none that is known"
        return
    quantity = f"{invoice.minutes:,} minutes"
    final = invoice.automatically_finalizes_at
    when = f", finalises {shown(final)}" if invoice.status == InvoiceStatus.DRAFT and final else ""
    amount = money(invoice.amount_due_cents, invoice.currency)
    as_of = shown(invoice.snapshot_at)
    yield f"invoice {invoice.id}: {invoice.status}{when}; {quantity}, {amount}; as of {as_of}"


def _of_alerts(alerts: Sequence[ExplainedAlert]) -> Iterator[str]:
    yield "alerts"
    for each in alerts:
        yield f"  {each.kind} at {each.value:,} of {each.limit:,}, raised {shown(each.raised_at)}"
        if each.threshold is not None:
            yield f"      {_crossed(each.threshold, each.crossed_by)}"
    if not alerts:
        yield "  none"


def _crossed(threshold: int, call: CrossingCall | None) -> str:
    if call is None:
        return f"its calls don't reach {threshold:,} any more: they were corrected since"
    return f"{call.sid} crossed {threshold:,}: from {call.before:,} to {call.after:,} minutes"
