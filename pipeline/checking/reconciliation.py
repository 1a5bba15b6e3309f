"""All comparisons at once, on demand: what differs, in minutes and money, and the repairs that are safe.

Looking writes nothing. A repair is safe when it brings in what Twilio says, takes Stripe's own sum for an answer, sums
pushes anew, or carries what a person was asked about; everything else is for a person.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

from sqlalchemy import Connection, Engine

from pipeline.calls import calls_from_api
from pipeline.calls.billable_leg import is_billable_leg
from pipeline.calls.call_listing import DAILY_MARGIN, LONGEST_CALL, UNDERWAY
from pipeline.checking import record_sums
from pipeline.meter import sum_comparison, unknown_pushes
from pipeline.meter.push_states import PushVerdict
from pipeline.providers.stripe_api import StripeApi
from pipeline.providers.twilio_api import TwilioApi
from pipeline.providers.twilio_words import TERMINAL
from pipeline.shared.business_locks import lock_businesses
from pipeline.shared.clock import machine_now
from pipeline.shared.drifts import DriftKind
from pipeline.usage import late_minutes, minutes_worth, record_figures
from pipeline.usage.rounding import billable_minutes, increment_at

_NEWEST_RECORDS = "select distinct on (business_id) id, business_id from usage_records order by 2, period_start desc"
_REFUSED = """
select identifier, business_id, minutes, answer from meter_pushes
where state = 'failed' and (%(business_id)s::bigint is null or business_id = %(business_id)s) order by id
"""
_MINUTES_OF = "select sid, business_id, minutes from calls where sid = any(%s::text[])"
_HOLDERS = """
select number, business_id from phone_number_assignments where number = any(%s::text[]) order by lower(held) nulls first
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference. ``minutes`` that are missing here or at Stripe (negative: too many); ``repair`` in words.

    ``apply`` repairs it in a transaction, under the business's lock; None where a person has to.
    """

    kind: str
    subject: str
    business_id: int | None
    minutes: Decimal
    words: str
    repair: str
    apply: Callable[[Connection], object] | None = None


def find_differences(
    engine: Engine,
    twilio: TwilioApi,
    stripe: StripeApi,
    now: datetime,
    settling: timedelta,
    business_id: int | None = None,
    *,
    bill_child_legs: bool,
) -> list[Finding]:
    """Compare everything, of one business or of all. ``bill_child_legs`` is the setting.

    Raises TwilioApiError, StripeApiError.
    """
    found = list(_own_sums(engine, business_id))
    found += _held(engine, now, business_id)
    found += _twilio(engine, twilio, now, business_id, bill_child_legs=bill_child_legs)
    found += _refused(engine, business_id)
    meters = unknown_pushes.meters_by_event_name(stripe)
    found += _unknown(engine, stripe, meters, now, settling, business_id)
    found += _stripe_sums(engine, stripe, meters, now, settling, business_id)
    return found


def repair_findings(engine: Engine, findings: list[Finding]) -> int:
    """Do the safe repairs, each in a transaction of its own; returns how many. What changed meanwhile is left alone."""
    done = 0
    for finding in findings:
        if finding.apply is not None:
            with engine.begin() as connection:
                lock_businesses(connection, [] if finding.business_id is None else [finding.business_id])
                finding.apply(connection)
            done += 1
    return done


def present_tariffs(engine: Engine) -> dict[int, minutes_worth.Tariff]:
    """What minutes of each business's newest period cost; without those that no price is known for."""
    with engine.connect() as connection:
        newest: dict[int, int] = dict(connection.exec_driver_sql(_NEWEST_RECORDS).all())
        found = minutes_worth.tariffs(connection, newest)
    return {newest[record_id]: tariff for record_id, tariff in found.items()}


def _own_sums(engine: Engine, business_id: int | None) -> Iterator[Finding]:
    with engine.connect() as connection:
        rows = record_sums.sum_differences(connection, business_id)
    for row in rows:
        wrong = {name for name in row.stored if row.stored[name] != row.summed[name]}
        only_pushed = wrong == {"pushed"}
        name = "pushed" if only_pushed else "minutes"
        yield Finding(
            DriftKind.RECORD_SUM,
            f"record:{row.id}",
            row.business_id,
            Decimal(row.summed[name] - row.stored[name]),
            "; ".join(f"{each}: stored {row.stored[each]}, summed {row.summed[each]}" for each in sorted(wrong)),
            "sum its pushes anew" if only_pushed else DriftKind.RECORD_SUM.repair,
            partial(record_figures.recount_pushed, record_ids=[row.id]) if only_pushed else None,
        )


def _held(engine: Engine, now: datetime, business_id: int | None) -> Iterator[Finding]:
    with engine.connect() as connection:
        held = late_minutes.held_minutes(connection, business_id)
    for each in held:
        yield Finding(
            DriftKind.LATE_MINUTES,
            f"record:{each.origin_record_id}",
            each.business_id,
            Decimal(each.minutes),
            f"{each.minutes} late minutes are held",
            "carry them into the open period",
            partial(
                late_minutes.decide_held,
                what=each,
                verdict="carry",
                now=now,
                note="carried by altiora reconcile --apply",
            ),
        )


def _twilio(
    engine: Engine, api: TwilioApi, now: datetime, business_id: int | None, *, bill_child_legs: bool
) -> Iterator[Finding]:
    """Calls of the last days that Twilio shows and we don't, or that say something else here."""
    until, asked_at = now - UNDERWAY, machine_now()
    listed = api.list_calls(until - DAILY_MARGIN - LONGEST_CALL, until)
    calls = {call["sid"]: call for call in listed if call["status"] in TERMINAL}
    with engine.connect() as connection:
        told = calls_from_api.news(
            connection, calls.values(), account_sid=api.account_sid, machine_now=asked_at, now=now
        )
        sids = [each.report.sid for each in told]
        stored = {row.sid: row for row in connection.exec_driver_sql(_MINUTES_OF, (sids,))}
        numbers = sorted({each.report.number for each in told if each.report.number is not None})
        holders: dict[str | None, int] = dict(connection.exec_driver_sql(_HOLDERS, (numbers,)).all())
        owners = {
            sid: row.business_id if (row := stored.get(sid)) is not None else holders.get(each.report.number)
            for each, sid in zip(told, sids, strict=True)
        }
        increments = {
            each.report.sid: increment_at(connection, owner, each.report.ended_at)
            for each in told
            if (owner := owners[each.report.sid]) is not None and each.report.ended_at is not None
        }
    for each in told:
        report = each.report
        known = stored.get(report.sid)
        owner = owners[report.sid]
        if business_id is not None and owner != business_id:
            continue
        minutes = 0
        billed = is_billable_leg(report.status, report.seconds, report.parent_sid, bill_child_legs=bill_child_legs)
        if billed and report.seconds is not None:
            # Whose it is may turn out yet.
            minutes = billable_minutes(report.seconds, increments.get(report.sid, 60))
        difference = minutes - (known.minutes if known is not None else 0)
        yield Finding(
            "twilio-call",
            f"call:{report.sid}",
            owner,
            Decimal(difference),
            "not here" if known is None else f"{known.minutes} minutes here, {minutes} by Twilio, or a price came",
            "take it over, as any call",
            partial(
                calls_from_api.store_news,
                calls=[calls[report.sid]],
                account_sid=api.account_sid,
                machine_now=asked_at,
                now=now,
                recovered=True,
            ),
        )


def _refused(engine: Engine, business_id: int | None) -> Iterator[Finding]:
    with engine.connect() as connection:
        refused = connection.exec_driver_sql(_REFUSED, {"business_id": business_id}).all()
    for identifier, owner, minutes, answer in refused:
        words = f"{minutes} minutes, which Stripe refused: {answer}"
        yield Finding(
            DriftKind.PUSH_REFUSED, f"push:{identifier}", owner, Decimal(minutes), words, DriftKind.PUSH_REFUSED.repair
        )


def _unknown(
    engine: Engine,
    api: StripeApi,
    meters: dict[str, str],
    now: datetime,
    settling: timedelta,
    business_id: int | None,
) -> Iterator[Finding]:
    with engine.connect() as connection:
        asked = unknown_pushes.minutes_due(connection, timedelta(0), business_id, timedelta(0))
        minutes = unknown_pushes.minutes_due(connection, settling, business_id, timedelta(0))
    for minute in asked:
        with engine.connect() as connection:
            before = unknown_pushes.pushes_of(connection, minute, settling)
        if minute not in minutes or not unknown_pushes.all_settled(before):
            yield Finding(
                DriftKind.UNKNOWN_PUSH,
                f"minute:{minute.timestamp.isoformat()}",
                minute.business_id,
                Decimal(0),
                "Stripe may or may not count what was pushed for this minute, and its sums have not settled yet",
                f"reconcile again in {settling.total_seconds():.0f} s",
            )
            continue
        summed = unknown_pushes.sum_of(api, meters, minute)
        for answer in unknown_pushes.verdicts_of(before, summed):
            push = answer.held.push
            repair = None
            if answer.verdict is not None:
                repair = partial(
                    unknown_pushes.apply_verdicts,
                    minute=minute,
                    before=before,
                    summed=summed,
                    now=now,
                    settling=settling,
                )
            yield Finding(
                DriftKind.UNKNOWN_PUSH,
                push.subject,
                push.business_id,
                Decimal(0 if answer.verdict is PushVerdict.SENT else push.minutes),
                f"{push.minutes} minutes; Stripe's sum of the minute is {summed}, {answer.others} without it",
                DriftKind.UNKNOWN_PUSH.repair if answer.verdict is None else f"it is {answer.verdict}",
                repair,
            )


def _stripe_sums(
    engine: Engine,
    api: StripeApi,
    meters: dict[str, str],
    now: datetime,
    settling: timedelta,
    business_id: int | None,
) -> Iterator[Finding]:
    with engine.connect() as connection:
        due = sum_comparison.records_due(connection, now, business_id, timedelta(0))
    for record in due:
        with engine.connect() as connection:
            told = sum_comparison.sent_minutes(connection, record, settling)
        if told is None:
            continue
        comparison = sum_comparison.compare_record(api, meters, record, told)
        if comparison.missing:
            yield Finding(
                DriftKind.STRIPE_SUM,
                f"record:{record.record_id}",
                record.business_id,
                comparison.missing,
                f"{told.minutes} minutes sent, {comparison.summed} by Stripe's sum",
                DriftKind.STRIPE_SUM.repair,
            )
