"""The promises, each held against the stand-ins' own record of the month; nothing is taken from the pipeline's word."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from ops.demo.evidence import Evidence
from ops.demo.figures import CLOSED_BEFORE, FREE_GRACE, GRACE
from ops.demo.month import SLICE
from ops.demo.signup import Signed
from ops.demo.world import PERCENT_OFF, START, Kind, minutes_of
from pipeline.events.outcomes import EventState
from pipeline.meter.push_states import PushState
from pipeline.prices.money import money
from pipeline.usage.records import RecordState

#: Faults that are named of one promise; the rest is counted.
_NAMED = 5

_ENDED = (EventState.PROCESSED, EventState.IGNORED, EventState.DEAD)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a promise was kept: the figures that show it, and what speaks against it."""

    promise: str
    title: str
    figures: str
    faults: list[str]

    @property
    def kept(self) -> bool:
        return not self.faults

    def named_faults(self) -> list[str]:
        """The first faults, and how many more there are."""
        more = len(self.faults) - _NAMED
        return self.faults[:_NAMED] + ([f"and {more:,} more"] if more > 0 else [])


def verdicts(evidence: Evidence) -> list[Verdict]:
    """One for each promise that is owed, in their order."""
    return [check(evidence) for check in _CHECKS]


def _stored_before_answered(evidence: Evidence) -> Verdict:
    answered = [call for call in evidence.ledger if call["callback"] == "delivered"]
    faults = [
        f"callback {call['status']} of {call['sid']} was answered 2xx and is not stored"
        for call in answered
        if (call["sid"], call["status"]) not in evidence.callbacks
    ]
    missing = evidence.delivered_stripe_events - evidence.stripe_events
    faults += [f"Stripe's event {key} was answered 2xx and is not stored" for key in sorted(missing)]
    count = len(answered) + len(evidence.delivered_stripe_events)
    return Verdict("1", "stored before answered", f"{count:,} answered 2xx, all of them stored", faults)


def _row_is_truth(evidence: Evidence) -> Verdict:
    pending = evidence.states.get(EventState.PENDING, 0)
    faults = [f"{pending} stored events are still not applied"] if pending else []
    emptied = evidence.mishaps.get("broker", 0)
    figures = f"broker emptied: {emptied}, messages lost: {evidence.messages_lost}, events left: {pending}"
    return Verdict("2", "the row is the truth", figures, faults)


def _once(evidence: Evidence) -> Verdict:
    faults = []
    expected = {call["sid"]: call for call in evidence.billable}
    for sid, call in expected.items():
        stored = evidence.calls.get(sid)
        if stored is None:
            faults.append(f"{sid} is not known; its callback was {call['callback']}")
        elif (stored.seconds, stored.minutes) != (call["seconds"], minutes_of(call["seconds"])):
            faults.append(f"{sid} has {stored.seconds} s, {stored.minutes} min; it lasted {call['seconds']} s")
        elif stored.counted_minutes + evidence.carried_calls.get(sid, 0) != minutes_of(call["seconds"]):
            faults.append(f"{sid} lasted {call['seconds']} s and was counted with {stored.counted_minutes} min")
    faults += [
        f"{sid} is counted and must not be"
        for sid, stored in evidence.calls.items()
        if stored.counted and sid not in expected
    ]
    copies = evidence.deliveries.count("delivered") - len(evidence.callbacks) - len(evidence.stripe_events)
    return Verdict("3", "once", f"{len(expected):,} calls, each once; {max(copies, 0):,} copies more", faults)


def _everything_ends(evidence: Evidence) -> Verdict:
    faults = [f"{state}: {count} events" for state, count in evidence.states.items() if state not in _ENDED]
    # Nothing that the stand-ins send is beyond use, so a dead event has a fault of ours as its reason.
    faults += [f"dead: {row.provider} {row.type} {row.key}: {row.reason}" for row in evidence.dead]
    if evidence.traces:
        faults.append(f"{evidence.traces} claims were left by workers that died")
    states = Counter(evidence.states)
    figures = ", ".join(f"{states[state]:,} {state}" for state in _ENDED)
    return Verdict("4", "everything ends", figures, faults)


def _sums_agree(evidence: Evidence) -> Verdict:
    faults = []
    for row in evidence.records.values():
        about = f"record {row.id} of business {row.business_id}"
        if (row.calls, row.seconds, row.minutes) != (
            row.sum_calls,
            row.sum_seconds,
            row.sum_minutes + row.carried_in,
        ):
            faults.append(f"{about}: {row.minutes} min, its calls and adjustments {row.sum_minutes + row.carried_in}")
        if row.pushed_minutes != row.sum_pushed:
            faults.append(f"{about}: {row.pushed_minutes} min pushed, its pushes {row.sum_pushed}")
        if row.settled_at is not None and row.minutes != row.invoiced_minutes + row.of_invoice:
            faults.append(f"{about}: {row.minutes} min, invoiced {row.invoiced_minutes}, carried {row.of_invoice}")
        if row.state != RecordState.CLOSED and row.paid and row.minutes != row.sum_pushed:
            faults.append(f"{about}: {row.minutes} min, and Stripe was told {row.sum_pushed}")
    for signed in evidence.signed:
        difference = difference_of(evidence, signed.business_id)
        if difference:
            faults.append(f"business {signed.business_id} ({signed.member.name}): Stripe bills {-difference:+d} min")
    figures = f"{len(evidence.records)} records to the unit, difference {_total_difference(evidence)}"
    return Verdict("5", "sums agree", figures, faults)


def _money_agrees(evidence: Evidence) -> Verdict:
    """The simulator's minutes at the seeded prices are what Stripe has billed, will bill, took off or has elsewhere.

    Elsewhere is another period of the same business, and so only where its minutes agree. Beside it the fees of the
    periods that have begun.
    """
    faults, made, billed, off, to_come, moved, fees = [], *(Counter[str]() for _ in range(6))
    agree = {each.business_id for each in evidence.signed if not difference_of(evidence, each.business_id)}
    for use in evidence.uses:
        member = use.signed.member
        if not use.paid:
            continue
        cost = member.cost(use.quantity)
        made[member.currency] += member.cost(use.minutes)
        if use.signed.business_id in agree:
            moved[member.currency] += member.cost(use.minutes) - cost
        if not use.final:
            to_come[member.currency] += cost
            continue
        billed[member.currency] += use.amount
        if use.amount != cost:
            about = f"{member.name}, period until {use.bounds[1]:%d %b %H:%M:%S}"
            faults.append(f"{about}: {use.quantity} min cost {cost} cents, and Stripe charges {use.amount}")
    for signed in evidence.signed:
        faults += _moved_untold(evidence, signed)
        member, charged = signed.member, evidence.fees.get(signed.customer or "", 0)
        fees[member.currency] += charged
        if charged != member.fees(evidence.now):
            faults.append(f"{member.name}: fees of {charged} cents, should be {member.fees(evidence.now)}")
    for invoice in evidence.invoices:
        member = next(each.member for each in evidence.signed if each.customer == invoice["customer"])
        lines = sum(line["amount"] for line in invoice["lines"]["data"])
        taken = sum(row["amount"] for row in invoice["total_discount_amounts"] or ())
        off[invoice["currency"]] += taken
        # The coupon is given after the subscription, and so after its first invoice.
        reduced = member.kind is Kind.COUPON and invoice["billing_reason"] != "subscription_create"
        owed = round(lines * PERCENT_OFF / 100) if reduced else 0
        if taken != owed or invoice["total"] != lines - taken:
            faults.append(f"invoice {invoice['id']} of {member.name}: {lines} less {taken} is {invoice['total']}")
    left = {each: made[each] - billed[each] - to_come[each] - moved[each] for each in made}
    faults += [f"{amount} cents of {currency} are nowhere" for currency, amount in left.items() if amount]
    parts = {"billed": billed, "to come": to_come, "in another period": moved, "coupons": off}
    figures = [
        f"{money(made[each], each)} of minutes: "
        + (", ".join(f"{money(part[each], each)} {name}" for name, part in parts.items() if part[each]) or "nothing")
        for each in sorted(made, reverse=True)
    ]
    figures += [f"fees {' and '.join(money(fees[each], each) for each in sorted(fees, reverse=True))}"]
    difference = sum(abs(amount) for amount in left.values())
    return Verdict("5", "in money too", "; ".join([*figures, f"difference {difference}"]), faults)


def _moved_untold(evidence: Evidence, signed: Signed) -> Iterable[str]:
    """Minutes that are billed in another period than their own cost another price: an open difference tells it (70).

    Only where all periods with such minutes have a final invoice: until then it waits.
    """
    uses = [use for use in evidence.uses if use.paid and use.signed is signed]
    member, final = signed.member, [use for use in uses if use.final]
    if sum(use.minutes for use in final) != sum(use.quantity for use in final):
        return
    short = sum(member.cost(use.minutes) - member.cost(use.quantity) for use in final)
    signs = {"over-billed": -1}
    told = sum(
        signs.get(row.kind, 1) * abs(row.amount) for row in evidence.told if row.business_id == signed.business_id
    )
    if short != told:
        yield f"{member.name}: {short} cents are billed too little, and {told} are told"


def _never_twice(evidence: Evidence) -> Verdict:
    faults = []
    pushes = {row.identifier: row for row in evidence.pushes}
    for identifier, count in Counter(event["identifier"] for event in evidence.meter_events).items():
        if count > 1:
            faults.append(f"Stripe took {identifier} {count} times")
    taken = {event["identifier"]: event for event in evidence.meter_events}
    for identifier, event in taken.items():
        push = pushes.get(identifier)
        if push is None:
            faults.append(f"Stripe took {identifier}, and no push has that name")
        elif (push.stripe_customer_id, push.minutes, push.timestamp) != (
            event["customer"],
            event["value"],
            datetime.fromtimestamp(event["timestamp"], UTC),
        ):
            faults.append(f"Stripe took {identifier} as {event['value']} min, frozen were {push.minutes}")
    faults += [
        f"push {row.identifier} is {row.state}, and Stripe has it not"
        for row in evidence.pushes
        if row.state == PushState.SENT and row.identifier not in taken
    ]
    again = sum(row.attempts > 1 for row in evidence.pushes)
    known = sum((row.answer or "").startswith("An event already exists") for row in evidence.pushes)
    figures = f"{len(evidence.pushes):,} pushes, {again} sent again, {known} had arrived"
    return Verdict("6", "frozen, never twice", figures, faults)


def _no_tail_lost(evidence: Evidence) -> Verdict:
    faults = []
    late = closed = 0
    for use in evidence.uses:
        about = f"{use.signed.member.name}, period until {use.bounds[1]:%d %b %H:%M:%S}"
        record = evidence.record(use)
        if record is None:
            if use.calls:
                faults.append(f"{about}: {use.minutes} min, and no record has these bounds")
            continue
        if use.minutes != record.sum_minutes + record.late_minutes:
            faults.append(f"{about}: {use.minutes} min, counted {record.sum_minutes}, later {record.late_minutes}")
        if use.final and record.minutes != use.quantity + record.of_invoice:
            faults.append(f"{about}: {record.minutes} min, invoiced {use.quantity}, carried {record.of_invoice}")
        due = use.bounds[1] + (GRACE if use.paid else FREE_GRACE)
        if due <= evidence.now and record.state != RecordState.CLOSED:
            faults.append(f"{about}: {record.state}, should be closed")
        late += abs(record.late_minutes) + abs(record.of_invoice)
        closed += record.state == RecordState.CLOSED
    known = {(row.business_id, row.period_start, row.period_end) for row in evidence.records.values()}
    known -= {(use.signed.business_id, *use.bounds) for use in evidence.uses}
    faults += [f"business {business}: a record for {start} to {end}" for business, start, end in sorted(known)]
    faults += list(_pushes_outside(evidence))
    figures = f"{closed} periods closed, {late} minutes carried"
    return Verdict("7", "no tail lost", figures, faults)


def _pushes_outside(evidence: Evidence) -> Iterable[str]:
    """Pushes whose timestamp lies in another period of Stripe's than the one that was running or just over."""
    for event in evidence.meter_events:
        uses = [use for use in evidence.uses if use.paid and use.signed.customer == event["customer"]]
        at, received = datetime.fromtimestamp(event["timestamp"], UTC), datetime.fromisoformat(event["received"])
        period = next((use.bounds for use in uses if use.bounds[0] <= at < use.bounds[1]), None)
        if period is None or not period[0] <= received < period[1] + GRACE:
            yield f"push {event['identifier']} of {at:%d %b %H:%M} came on {received:%d %b %H:%M:%S}"


def _zero_is_not_broken(evidence: Evidence) -> Verdict:
    """Each closed period says whether its sources were complete, or which were not."""
    faults, complete, named = [], 0, 0
    for row in evidence.records.values():
        if row.state != RecordState.CLOSED:
            continue
        sources, gaps = (row.statement or {}).get("sources"), (row.statement or {}).get("gaps")
        if sources == "complete":
            complete += 1
        elif sources == "incomplete" and gaps:
            named += 1
        else:
            faults.append(f"record {row.id} of business {row.business_id} is closed and names no gap: {sources}")
    return Verdict(
        "8", "zero is not broken", f"{complete} closed from complete sources, {named} name their gaps", faults
    )


def _explainable(evidence: Evidence) -> Verdict:
    faults = [f"rebuilt from its events: {difference}" for difference in evidence.rebuild_differences]
    figures = f"{evidence.rebuilt_calls:,} calls rebuilt from events, {len(faults)} differ"
    return Verdict("9", "explainable", figures, faults)


def _time_is_argument(evidence: Evidence) -> Verdict:
    """Whoever reads the machine's clock where business time is meant is off by days at one end of the month."""
    faults = []
    instants = 0
    for call in evidence.ledger:
        received = evidence.callbacks.get((call["sid"], call["status"]))
        if received is not None:
            instants += 1
            # Within a slice the clock's file may be behind the calls.
            if not datetime.fromisoformat(call["end"]) - SLICE <= received <= evidence.now:
                faults.append(f"{call['sid']} ended {call['end']} and was received {received.isoformat()}")
    for use in evidence.uses:
        record = evidence.record(use)
        if record is None or record.closed_at is None:
            continue
        instants += 1
        wait = GRACE - CLOSED_BEFORE if use.paid else FREE_GRACE
        if not use.bounds[1] + wait <= record.closed_at <= evidence.now:
            faults.append(
                f"record {record.id} ended {use.bounds[1].isoformat()}, closed {record.closed_at.isoformat()}"
            )
    figures = f"{instants:,} instants, {START:%-d %b} to {evidence.now:%-d %b}"
    return Verdict("10", "time is an argument", figures, faults)


def difference_of(evidence: Evidence, business_id: int) -> int:
    """Minutes by the ledger less those that Stripe bills, or would by now, or that are recorded as not for Stripe."""
    uses = [use for use in evidence.uses if use.signed.business_id == business_id]
    accounted = 0
    for use in uses:
        record = evidence.record(use)
        if use.paid:
            accounted += use.quantity + (record.unbillable if record is not None else 0)
        elif record is not None:
            accounted += record.minutes + record.written_off
    return sum(use.minutes for use in uses) - accounted


def _total_difference(evidence: Evidence) -> int:
    return sum(abs(difference_of(evidence, signed.business_id)) for signed in evidence.signed)


_CHECKS: tuple[Callable[[Evidence], Verdict], ...] = (
    _stored_before_answered,
    _row_is_truth,
    _once,
    _everything_ends,
    _sums_agree,
    _money_agrees,
    _never_twice,
    _no_tail_lost,
    _zero_is_not_broken,
    _explainable,
    _time_is_argument,
)
