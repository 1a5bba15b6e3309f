"""What credit notes have given back of an invoice's minutes, and the differences that this settles or lowers.

Those of others count as ours do: money that somebody gave back in Stripe's dashboard is not given back twice. They
never change minutes (71).
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline.prices.money import money
from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind

# Not ours: what we give back settles the difference that it was decided for.
_BY_OTHERS = """
select coalesce(sum((note ->> 'minutes')::bigint), 0)::bigint as amount,
       string_agg(coalesce(note ->> 'number', note ->> 'id'), ', ') as notes
from stripe_invoices i, jsonb_array_elements(i.credit_notes) note
where i.id = %s and note ->> 'credit' is null
"""

_DUE_OF = """
select kind, subject, expected, actual, evidence from drifts
where business_id = %(business_id)s and resolved_at is null and kind in ('credit-due', 'over-billed')
  and evidence ->> 'invoice' = %(invoice_id)s
"""


def given_by_others(connection: Connection, invoice_id: str | None) -> int:
    """What credit notes that are not ours gave back of this invoice's minutes, before discounts and taxes."""
    return int(connection.exec_driver_sql(_BY_OTHERS, (invoice_id,)).one().amount)


def left(evidence: dict[str, Any]) -> int | None:
    """What of a difference's amount is not given back yet; None where no price is known."""
    amount = evidence.get("amount")
    return None if amount is None else max(0, abs(int(amount)) - int(evidence.get("given_back", 0)))


def lower_due(connection: Connection, business_id: int, invoice_id: str, now: datetime) -> None:
    """Tell, in the differences of an invoice, what its credit notes have given back; one that is given back ends."""
    others = connection.exec_driver_sql(_BY_OTHERS, (invoice_id,)).one()
    due = connection.exec_driver_sql(_DUE_OF, {"business_id": business_id, "invoice_id": invoice_id}).all()
    for drift in due:
        if int(drift.evidence.get("given_back", 0)) == others.amount or drift.evidence.get("amount") is None:
            continue
        evidence = {**drift.evidence, "given_back": int(others.amount)}
        if drift.kind == DriftKind.CREDIT_DUE and not left(evidence):
            note = f"given back by credit note {others.notes}"
            drifts.resolve(connection, DriftKind.CREDIT_DUE, drift.subject, now, note=note)
            continue
        told = drift.actual.partition("; given back")[0]
        drifts.report(
            connection,
            DriftKind.CREDIT_DUE if drift.kind == DriftKind.CREDIT_DUE else DriftKind.OVER_BILLED,
            drift.subject,
            business_id=business_id,
            expected=drift.expected,
            actual=f"{told}; given back of it: {money(others.amount, evidence['currency'])} by {others.notes}"
            if others.amount
            else told,
            evidence=evidence,
            now=now,
        )
