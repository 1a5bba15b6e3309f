"""Deciding a credit: what a difference's amount is given back as, frozen in a row before it is sent."""

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection

from pipeline.credits.given_back import left
from pipeline.shared.drifts import DriftKind
from pipeline.usage import late_minutes, waiting_minutes

#: The differences that a credit can settle; an unbillable one only where minutes are the customer's.
CREDITABLE: Final = frozenset({DriftKind.CREDIT_DUE, DriftKind.OVER_BILLED, DriftKind.UNBILLABLE})

#: Begins the identifiers, by which our own credits are known at Stripe.
PREFIX: Final = "altiora-credit-"

_REQUEST = """
insert into credits (business_id, subject, invoice_id, amount, currency, minutes, identifier, reason, created_at)
values (%(business_id)s, %(subject)s, %(invoice_id)s, %(amount)s, %(currency)s, %(minutes)s, %(identifier)s, %(reason)s,
        %(now)s)
returning id
"""

_INVOICE = "select invoice_id from usage_records where id = %s"


def request_credit(
    connection: Connection,
    business_id: int,
    kind: str,
    subject: str,
    evidence: Mapping[str, Any],
    reason: str,
    now: datetime,
) -> int:
    """Give back what an open difference says, as far as nobody has yet; returns the credit's id. The lock is held.

    Its minutes leave every later record. Raises ValueError where there is nothing to give back, or no price to tell it.
    """
    amount, minutes = left(dict(evidence)), int(evidence.get("minutes") or 0)
    if kind not in CREDITABLE or (kind == DriftKind.UNBILLABLE and minutes >= 0):
        raise ValueError(f"{kind} of {subject}: nothing was charged too much by it")
    if amount is None:
        raise ValueError(f"{kind} of {subject}: no price is known for it; give the amount back in Stripe's dashboard")
    if not amount:
        raise ValueError(f"{kind} of {subject}: nothing is left to give back; resolve it without --credit")
    record_id = int(subject.split(":")[1])
    if kind == DriftKind.OVER_BILLED and subject == f"record:{record_id}":
        late_minutes.give_back_over_billed(connection, record_id)
    elif kind == DriftKind.UNBILLABLE:
        waiting_minutes.give_back_waiting(connection, business_id, subject)
    return int(
        connection.exec_driver_sql(
            _REQUEST,
            {
                "business_id": business_id,
                "subject": subject,
                "invoice_id": evidence.get("invoice")
                or connection.exec_driver_sql(_INVOICE, (record_id,)).scalar_one(),
                "amount": amount,
                "currency": evidence["currency"],
                "minutes": 0 if kind == DriftKind.CREDIT_DUE else -abs(minutes),
                "identifier": f"{PREFIX}{secrets.token_hex(16)}",
                "reason": reason,
                "now": now,
            },
        ).scalar_one()
    )
