"""Drifts: differences that were found, each a row with what was expected and what is, open until resolved."""

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

import structlog
from sqlalchemy import Connection, text


class DriftKind(StrEnum):
    """What may differ. Each has the word that is stored, what it is ``about``, and the ``repair`` that is proposed.

    docs/operations.md says more of each.
    """

    about: tuple[str, ...]
    """What stands before the colon of its subjects."""
    repair: str

    def __new__(cls, word: str, about: str, repair: str) -> Self:
        kind = str.__new__(cls, word)
        kind._value_ = word
        kind.about = tuple(about.split())
        kind.repair = repair
        return kind

    PUSH_REFUSED = "push-refused", "push", "repair what Stripe names, then `altiora pushes release ID`"
    ACCOUNT_REFUSED = (
        "account-refused",
        "account",
        "repair the key, its rights or the meter, as `altiora doctor` says; sending goes on by itself then",
    )
    UNKNOWN_PUSH = (
        "unknown-push",
        "push",
        "`altiora pushes settle ID sent`, or void, once it is known whether Stripe has it",
    )
    METER_ERRORS = "meter-errors", "event", "nothing: the pushes of that time are verified by Stripe's sums"
    STRIPE_SUM = (
        "stripe-sum",
        "record",
        "look for other programs that write to the meter, and for Stripe's reports of invalid events",
    )
    UNMAPPED_PRICE = "unmapped-price", "price", "set metadata[altiora_plan] on the price in Stripe"
    VOLUME_TIERS = "volume-tiers", "price", "make a graduated price in Stripe, and put its subscriptions on that"
    SECOND_METERED_SUBSCRIPTION = "second-metered-subscription", "business", "cancel all but one in Stripe"
    SECOND_MINUTES_ITEM = "second-minutes-item", "business", "remove all but one from the subscription in Stripe"
    SECOND_PLAN = "second-plan", "business", "remove all but one in Stripe, and give back what was charged twice"
    BILLING_THRESHOLDS = (
        "billing-thresholds",
        "subscription",
        "remove them in Stripe: minutes are reconciled by the period, and these bill in the middle of one",
    )
    COLLECTION_GIVEN_AWAY = (
        "collection-given-away",
        "subscription",
        "resume collection in Stripe, or keep drafts: `altiora subscription resume`, then `pause`",
    )
    SECOND_CUSTOMER = (
        "second-customer",
        "subscription",
        "cancel one of the two in Stripe: when nothing lives of the linked customer, the other one is linked",
    )
    PAID_PLAN_UNBILLED = (
        "paid-plan-unbilled",
        "business record",
        "make its subscription in Stripe, with a minutes item, or `altiora business set --billed-elsewhere`",
    )
    NO_INVOICE = "no-invoice", "record", "look at the subscription in Stripe"
    UNUSABLE_INVOICE = "unusable-invoice", "record", "decide whether to bill its minutes by hand"
    UNBILLABLE = (
        "unbillable",
        "record",
        "nothing: a record that charges takes them; or bill them by hand, and resolve it",
    )
    OVER_BILLED = (
        "over-billed",
        "record",
        "find out who wrote, edited or bills it too; `altiora drifts resolve ID --credit` gives it back",
    )
    UNDER_BILLED = (
        "under-billed",
        "record",
        "find out why the invoice has less; `altiora drifts resolve ID --carry` bills the minutes in the open period",
    )
    CREDIT_DUE = "credit-due", "record", "`altiora drifts resolve ID --credit` gives the amount back at Stripe"
    CREDIT_REFUSED = (
        "credit-refused",
        "credit",
        "give the amount back in Stripe's dashboard or by hand, and resolve it",
    )
    LATE_MINUTES = (
        "late-minutes",
        "record",
        "`altiora drifts resolve ID --carry` bills them in the open period, without it writes them off",
    )
    LOST_USAGE = (
        "lost-usage",
        "record",
        "`altiora drifts resolve ID --carry` bills them in the open period, without it they stay written off",
    )
    CHANGE_REFUSED = "change-refused", "change", "make the change in Stripe's dashboard"
    GONE_AT_STRIPE = (
        "gone-at-stripe",
        "customer subscription invoice price meter",
        "see that the API key is this account's",
    )
    RECORD_SUM = "record-sum", "record", "stop worker-stripe, keep the database as it is, and find out why"
    INCOMPLETE_SOURCE = "incomplete-source", "source record", "bring in what is missing; it is carried then"
    TWILIO_DAY = (
        "twilio-day",
        "day",
        "add the numbers that nobody holds, and replay their events; otherwise wait an hour",
    )
    UNKNOWN_AT_TWILIO = "unknown-at-twilio", "call", "find out who signed it: was the auth token told to somebody?"


_REPORT = text("""
    insert into drifts (kind, subject, business_id, expected, actual, evidence, repair, found_at)
    values (:kind, :subject, :business_id, :expected, :actual, cast(:evidence as jsonb), :repair, :now)
    on conflict (kind, subject) where resolved_at is null
    do update set expected = excluded.expected, actual = excluded.actual, evidence = excluded.evidence,
                  repair = excluded.repair
    returning xmax = 0
""")

_RESOLVE = text("""
    update drifts set resolved_at = :now, note = :note
    where kind = :kind and subject = :subject and resolved_at is null
""")

_RESOLVE_BY_HAND = text("update drifts set resolved_at = :now, note = :note where id = :id and resolved_at is null")

_RESOLVE_OTHERS = text("""
    update drifts set resolved_at = :now
    where kind = :kind and resolved_at is null and not subject = any(cast(:wrong as text[]))
      and split_part(subject, ':', 2)::bigint >= :first and split_part(subject, ':', 2)::bigint < :end
""")

log = structlog.get_logger(__name__)


def report(
    connection: Connection,
    kind: DriftKind,
    subject: str,
    *,
    business_id: int | None = None,
    expected: str,
    actual: str,
    evidence: Mapping[str, Any] | None = None,
    repair: str | None = None,
    now: datetime,
) -> bool:
    """Open a drift, or bring the open one of this kind and subject up to date. True when it is a new one: an alarm.

    ``subject`` says what it is about, as ``price:price_1`` or ``record:12``; ``evidence`` must be JSON. ``repair`` is
    what is proposed to be done, the kind's own unless given.
    """
    assert subject.partition(":")[0] in kind.about, f"{kind} is about {kind.about}, not {subject}"
    new = bool(
        connection.execute(
            _REPORT,
            {
                "kind": kind,
                "subject": subject,
                "business_id": business_id,
                "expected": expected,
                "actual": actual,
                "evidence": json.dumps(dict(evidence or {})),
                "repair": repair or kind.repair,
                "now": now,
            },
        ).scalar_one()
    )
    if new:
        log.error("drift", kind=kind, subject=subject, business_id=business_id, expected=expected, actual=actual)
    return new


def resolve(connection: Connection, kind: DriftKind, subject: str, now: datetime, *, note: str | None = None) -> None:
    """Close the open drift of this kind and subject, if there is one; ``note`` where a person did."""
    connection.execute(_RESOLVE, {"kind": kind, "subject": subject, "now": now, "note": note})


def resolve_by_hand(connection: Connection, drift_id: int, now: datetime, note: str) -> bool:
    """Close one drift, whatever its kind: also one of a kind that is gone. False where it was closed before."""
    return connection.execute(_RESOLVE_BY_HAND, {"id": drift_id, "now": now, "note": note}).rowcount > 0


def resolve_others(
    connection: Connection, kind: DriftKind, wrong: Collection[str], checked: range, now: datetime
) -> None:
    """Close the open drifts of this kind, about a ``checked`` id, whose subject is not among those found ``wrong``."""
    about = {"now": now, "kind": kind, "wrong": list(wrong), "first": checked.start, "end": checked.stop}
    connection.execute(_RESOLVE_OTHERS, about)
