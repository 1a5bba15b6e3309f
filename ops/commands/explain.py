"""`altiora explain`: what a figure on an invoice is made of, down to the webhook events behind each call."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from ops.commands.business_argument import BusinessArgument
from ops.commands.database import transaction
from ops.commands.output import AsJson, WrongError, print_json, say, shown
from ops.commands.period_argument import PeriodArgument, find_record
from pipeline.providers.stripe_words import InvoiceStatus
from pipeline.reading import explanation
from pipeline.reading.explanation import Figure, Sum
from pipeline.shared.clock import business_clock
from pipeline.shared.settings import RuleSettings, load

#: A part of what was found, by the names of its fields.
_Told = dict[str, Any]


def explain(
    business: BusinessArgument,
    period: PeriodArgument,
    figure: Annotated[Figure | None, typer.Option(help="Only this figure.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="List so many counted calls, and as many others.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Take a billing period apart: calls, rounding, plan, adjustments, pushes, invoice, alerts, events."""
    with transaction() as connection:
        record_id = find_record(connection, business, period, business_clock().now())
        bill_child_legs = load(RuleSettings).bill_child_legs
        told = explanation.explain(connection, record_id, limit=limit, bill_child_legs=bill_child_legs, figure=figure)
    if as_json:
        sums = [
            {
                "figure": each.figure,
                "stated": each.stated,
                "parts": [{"amount": amount, "of": of} for amount, of in each.parts],
                "adds_up": each.adds_up,
            }
            for each in told["sums"]
        ]
        print_json({**told, "sums": sums})
    else:
        for line in _lines(told):
            say(line)
    if not told["adds_up"]:
        wrong = ", ".join(each.figure for each in told["sums"] if not each.adds_up)
        raise WrongError(f"does not add up: {wrong}; `altiora rebuild --dry-run` of this period names the calls")


def _lines(told: _Told) -> Iterator[str]:
    yield from _of_record(told["business"], told["record"])
    yield ""
    yield from (_sum(each) for each in told["sums"])
    sections: dict[str, Callable[[Any], Iterator[str]]] = {
        "calls": _of_calls,
        "adjustments": _of_adjustments,
        "pushes": _of_pushes,
        "invoice": _of_invoice,
        "alerts": _of_alerts,
    }
    for name, section in sections.items():
        if name in told:
            yield ""
            yield from section(told[name])


def _of_record(business: _Told, record: _Told) -> Iterator[str]:
    start, end, plan = record["start"], record["end"], record["plan"]
    zone = ZoneInfo(record["time_zone"])
    provisional = ", provisional: nothing is pushed or closed from it" if record["provisional"] else ""
    yield f"{business['name']} (business {business['id']}), record {record['id']}, {record['state']}{provisional}"
    for name, bound in (("from", start), ("to", end)):
        local = bound["at"].astimezone(zone)
        yield f"{name:6}{shown(bound['at'])} UTC ({local:%Y-%m-%d %H:%M:%S} {record['time_zone']}): {bound['reason']}"
    above = "more is billed by Stripe" if plan["bills_overage"] else "more is unbilled, and limits the business"
    price = f", price {plan['metered_price']}" if plan["metered_price"] else ""
    yield (
        f"plan  {plan['code']}: ${plan['price_cents'] / 100:,.2f} a month, {plan['included']:,} minutes included,"
        f" {above}; steps of {plan['increment_seconds']} s{price}"
    )
    if plan["included"] != plan["included_by_the_plan_now"]:
        yield f"      it includes {plan['included_by_the_plan_now']:,} now; this record keeps what it was made with"
    for each in record["history"]:
        yield f"{shown(each['at'])}  {each['what']}, by {each['by']}"


def _sum(each: Sum) -> str:
    """The parts of a figure, as "adds up: 677 = 675 of 238 calls + 2 carried"."""
    told = [part for part in each.parts if part[0]] or each.parts[:1]  # nothing is no part, unless there is no other
    signs = [("- " if amount < 0 else "+ ") + f"{abs(amount):,} {of}" for amount, of in told]
    parts = " ".join(signs).removeprefix("+ ") or "0"
    if each.adds_up:
        return f"{each.figure:12}adds up: {each.stated:,} = {parts}"
    return f"{each.figure:12}DOES NOT ADD UP: {each.stated:,} is stated, and the parts are {parts}"


def _of_calls(calls: _Told) -> Iterator[str]:
    yield "calls that ended in the period, or count in it"
    for each in calls["groups"]:
        yield f"  {each['calls']:,} {each['said']}: {each['seconds']:,} s, {each['minutes']:,} minutes"
    if not calls["groups"]:
        yield "  none"
    for name in ("counted", "others"):
        for call in calls[name]:
            yield from _of_call(call)
        if calls[f"{name}_more"]:
            what = "counted calls" if name == "counted" else "calls that are not counted"
            yield f"  and {calls[f'{name}_more']:,} more {what}; --limit lists more"


def _of_call(call: _Told) -> Iterator[str]:
    estimated = ", estimated" if call["estimated"] else ""
    rounding = call["rounding"] or call["status"]
    yield f"  {call['sid']}  ended {shown(call['ended_at'])}{estimated}: {rounding}; {call['said']}"
    for event in call["events"]:
        marks = [event["state"] + (f" ({event['reason']})" if event["reason"] else "")]
        marks += ["recovered"] if event["recovered"] else []
        marks += ["decides"] if event["decided"] else []
        received = event["received_at"][:19].replace("T", " ")
        yield f"      event {event['id']} {event['key'][len(call['sid']) :]} received {received}, {', '.join(marks)}"
    if not call["events"]:
        yield "      no event of it is stored (any more)"


def _of_adjustments(adjustments: Sequence[_Told]) -> Iterator[str]:
    yield "adjustments"
    for each in adjustments:
        call = each["call_sid"] or "the difference to the final invoice"
        if each["into_this"]:
            where = f"in, of the period {shown(each['origin_start'])} to {shown(each['origin_end'])}"
        else:
            into = f"record {each['usage_record_id']}" if each["usage_record_id"] else "no record"
            where = f"out of this period, into {into}"
        event = f", event {each['event_id']}" if each["event_id"] else ""
        yield f"  {each['minutes']:+,} {each['kind']} {where}: {call}, {shown(each['created_at'])}{event}"
    if not adjustments:
        yield "  none"


def _of_pushes(pushes: Sequence[_Told]) -> Iterator[str]:
    yield "pushes to Stripe"
    for each in pushes:
        answer = f"; Stripe: {each['answer']}" if each["answer"] else ""
        tries = f"{each['attempts']} {'try' if each['attempts'] == 1 else 'tries'}"
        yield f"  {each['minutes']:+,} for {shown(each['timestamp'])}, {each['state']}, {tries}{answer}"
        yield f"      {each['identifier']}"
    if not pushes:
        yield "  none"


def _of_invoice(invoice: _Told | None) -> Iterator[str]:
    if invoice is None:
        yield "invoice: none that is known"
        return
    quantity = f"{invoice['minutes']:,} minutes"
    final = invoice["automatically_finalizes_at"]
    when = f", finalises {shown(final)}" if invoice["status"] == InvoiceStatus.DRAFT and final else ""
    amount = f"{invoice['amount_due_cents'] / 100:,.2f} {invoice['currency']}"
    as_of = shown(invoice["snapshot_at"])
    yield f"invoice {invoice['id']}: {invoice['status']}{when}; {quantity}, {amount}; as of {as_of}"


def _of_alerts(alerts: Sequence[_Told]) -> Iterator[str]:
    yield "alerts"
    for each in alerts:
        yield f"  {each['kind']} at {each['value']:,} of {each['limit']:,}, raised {shown(each['raised_at'])}"
        if each["threshold"] is not None:
            yield f"      {_crossed(each['threshold'], each['crossed_by'])}"
    if not alerts:
        yield "  none"


def _crossed(threshold: int, call: Mapping[str, Any] | None) -> str:
    if call is None:
        return f"its calls don't reach {threshold:,} any more: they were corrected since"
    return f"{call['sid']} crossed {threshold:,}: from {call['before']:,} to {call['after']:,} minutes"
