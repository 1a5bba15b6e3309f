"""What has gone back of an invoice, and the differences that this settles or lowers.

Credit notes, refunds and disputes of others count as ours do: money that somebody gave back in Stripe's dashboard, or
that a bank took, is not given back twice. They never change minutes (71).
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline.prices.money import money
from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind

# Not ours: what we give back settles the difference that it was decided for. Of credit notes the part of minutes. A
# refund or a dispute doesn't say what it is of: all of it counts, less its part of the invoice's taxes and discounts.
_BY_OTHERS = """
select coalesce(sum(back.amount), 0)::bigint as amount, string_agg(back.name, ', ') as names
from (
  select (note ->> 'minutes')::numeric as amount,
         'credit note ' || coalesce(note ->> 'number', note ->> 'id') as name
  from stripe_invoices i, jsonb_array_elements(i.credit_notes) note
  where i.id = %(invoice_id)s and note ->> 'credit' is null
  union all
  select floor((paid ->> 'amount')::numeric
               * (i.total_cents - coalesce(i.tax_cents, 0) + coalesce(i.discount_cents, 0)) / i.total_cents),
         (paid ->> 'what') || ' ' || (paid ->> 'id')
  from stripe_invoices i, jsonb_array_elements(i.paid_back) paid
  where i.id = %(invoice_id)s and i.total_cents > 0
) back
"""

_DUE_OF = """
select kind, subject, expected, actual, evidence from drifts
where business_id = %(business_id)s and resolved_at is null and kind in ('credit-due', 'over-billed')
  and evidence ->> 'invoice' = %(invoice_id)s and evidence ->> 'amount' is not null
order by kind, id
"""

# What it has settled before is not there for another difference.
_ENDED_BY_IT = """
select coalesce(sum(abs((evidence ->> 'amount')::bigint)), 0)::bigint from drifts
where business_id = %(business_id)s and kind = 'credit-due' and note like %(note)s
  and evidence ->> 'invoice' = %(invoice_id)s
"""

_ENDS = "given back by "


def left(evidence: dict[str, Any]) -> int | None:
    """What of a difference's amount is not given back yet; None where no price is known."""
    amount = evidence.get("amount")
    return None if amount is None else max(0, abs(int(amount)) - int(evidence.get("given_back", 0)))


def lower_due(connection: Connection, business_id: int, invoice_id: str, now: datetime) -> None:
    """Tell, in the differences of an invoice, what has gone back of it; one of which all did ends."""
    about = {"business_id": business_id, "invoice_id": invoice_id, "note": f"{_ENDS}%"}
    due = connection.exec_driver_sql(_DUE_OF, about).all()
    if not due:
        return
    others = connection.exec_driver_sql(_BY_OTHERS, about).one()
    remains = others.amount - connection.exec_driver_sql(_ENDED_BY_IT, about).scalar_one()
    for drift in due:
        given = max(0, min(remains, abs(int(drift.evidence["amount"]))))
        remains -= given
        if int(drift.evidence.get("given_back", 0)) == given:
            continue
        evidence = {**drift.evidence, "given_back": given}
        if drift.kind == DriftKind.CREDIT_DUE and not left(evidence):
            drifts.resolve(connection, DriftKind.CREDIT_DUE, drift.subject, now, note=f"{_ENDS}{others.names}")
            continue
        told = drift.actual.partition("; given back")[0]
        drifts.report(
            connection,
            DriftKind.CREDIT_DUE if drift.kind == DriftKind.CREDIT_DUE else DriftKind.OVER_BILLED,
            drift.subject,
            business_id=business_id,
            expected=drift.expected,
            actual=f"{told}; given back of it: {money(given, evidence['currency'])} by {others.names}"
            if given
            else told,
            evidence=evidence,
            now=now,
        )
