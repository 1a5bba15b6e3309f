"""What follows for a business from an object of Stripe's that has just been mirrored.

Its records are brought in line with each snapshot, one after the other: two changes of a price in one batch are two
cuts. The rest is collected, and settled once when the transaction ends.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection

from pipeline.businesses.consequences import Consequences
from pipeline.businesses.service_rules import Matter
from pipeline.closing import double_billing, invoice_settlement, period_close
from pipeline.credits import given_back
from pipeline.prices import plan_fees
from pipeline.prices.price_roles import PriceRole
from pipeline.providers.stripe_fields import Invoice, Subscription
from pipeline.providers.stripe_words import GIVING_AWAY, NOT_LIVING, InvoiceStatus
from pipeline.shared.drifts import DriftKind
from pipeline.stripe_mirror.customers import SecondCustomerError
from pipeline.stripe_mirror.invoices import StoredInvoice
from pipeline.stripe_mirror.subscriptions import StoredSubscription
from pipeline.usage import record_alignment, records, unbilled_plans

#: The tasks that look at what a period comes to.
_OF_PERIODS = frozenset({"stripe.plan-meter-pushes", "periods.close-due"})

# Living, and begun (79): the subscription that decides the business's plan comes first: one that counts minutes, then
# the latest.
_LIVING = """
select s.stripe_id, s.plan_id, s.metered_item_id is not null as counts_minutes
from subscriptions s
where s.business_id = %(business_id)s and s.ended_at is null and s.status <> all(%(not_living)s::text[])
  and s.started_at <= %(now)s
order by s.metered_item_id is null, s.plan_id is null, s.started_at desc, s.id desc
"""

# The plan items of living subscriptions.
_PLAN_ITEMS = """
select s.stripe_id as subscription, i.id as item, i.price_id as price, i.role, plan.code as plan
from subscriptions s
join subscription_items i on i.subscription_id = s.id and i.role in ('minutes', 'fee')
left join stripe_prices p on p.id = i.price_id
left join subscription_plans plan on plan.id = p.plan_id
where s.business_id = %(business_id)s and s.ended_at is null and s.status <> all(%(not_living)s::text[])
order by s.started_at, s.id, i.id
"""

# Somebody pays for the same business as another customer, who waits for the present one's last subscription to end.
_SECOND_CUSTOMERS = """
select distinct evidence ->> 'customer' from drifts
where business_id = %s and kind = 'second-customer' and resolved_at is null
"""

_SET_PLAN = """
update businesses set plan_id = %(plan_id)s
where id = %(business_id)s and plan_id <> %(plan_id)s
  and (%(told)s or coalesce(billed_elsewhere_until <= %(now)s, true))
"""


def follow_subscription(
    connection: Connection,
    subscription: Subscription,
    stored: StoredSubscription,
    business_id: int,
    *,
    free_plan_id: int,
    consequences: Consequences,
    now: datetime,
) -> None:
    """The business's plan and its records that are not closed become what the subscription says; its lock is held."""
    stripe_id = subscription.stripe_id
    if stored.tariff_unknown:
        consequences.fetch("subscription", stripe_id, "tiers-unknown")
    if stored.first_seen:  # what it was before is not known here: a fetch can tell since when its price counts
        consequences.fetch("subscription", stripe_id, "first-seen")
    if subscription.started_at is not None and subscription.started_at > now:
        begins_in = math.ceil((subscription.started_at - now).total_seconds())
        consequences.fetch("subscription", stripe_id, "begins-later", due_in_seconds=begins_in)
    if subscription.status not in NOT_LIVING:
        for price_id in stored.unmapped:
            consequences.report(
                DriftKind.UNMAPPED_PRICE,
                f"price:{price_id}",
                business_id,
                "a plan: metadata altiora_plan on the price or its product, or a lookup key altiora_<plan>",
                "none",
                {"price": price_id, "subscription": stripe_id},
            )
    if _choose_plan(connection, business_id, free_plan_id, now):
        consequences.another_plan(business_id)
    _report_doubles(connection, business_id, consequences)
    _report_terms(connection, subscription, business_id, consequences)
    record_alignment.align_records(connection, business_id, now)
    unbilled_plans.check_billing(connection, [business_id], now)
    consequences.service(
        business_id, Matter.SUBSCRIPTION, stripe_id, f"subscription {stripe_id} is {subscription.status}"
    )
    consequences.resolve(DriftKind.SECOND_CUSTOMER, f"subscription:{stripe_id}")
    if subscription.ended_at is not None:
        for (customer,) in connection.exec_driver_sql(_SECOND_CUSTOMERS, (business_id,)):
            consequences.fetch("customer", customer, "second-customer")
    consequences.follow_ups |= _OF_PERIODS


def report_second_customer(
    connection: Connection, subscription: Subscription, second: SecondCustomerError, consequences: Consequences
) -> None:
    """A subscription of a customer that can't be linked: while it lives it is charged, and nobody counts for it."""
    stripe_id, customer = subscription.stripe_id, subscription.owned.customer_id
    subject = f"subscription:{stripe_id}"
    if subscription.ended_at is not None or subscription.status in NOT_LIVING:
        consequences.resolve(DriftKind.SECOND_CUSTOMER, subject)
        return
    fee = plan_fees.fixed_fee(connection, subscription.items, subscription.currency)
    consequences.report(
        DriftKind.SECOND_CUSTOMER,
        subject,
        second.business_id,
        f"one customer: {second.present} is linked, and {second.living} of it lives",
        f"{customer} has {stripe_id}, {fee or 'a fee that is not known yet'} a period, and its minutes are not counted",
        {"customer": customer, "subscription": stripe_id, "present": second.present, "living": second.living},
    )


def follow_invoice(
    connection: Connection,
    invoice: Invoice,
    stored: StoredInvoice,
    business_id: int,
    *,
    consequences: Consequences,
    now: datetime,
) -> None:
    """Records begin and end as the invoice bills them, and wait for the close; the business's lock is held."""
    if stored.after:
        if stored.before != stored.after:  # it tells when periods began and ended
            record_alignment.align_records(connection, business_id, now)
        ends = {end for _, end in stored.after}
        period_close.begin_closing(connection, business_id, invoice.subscription_id, ends, now)
        if invoice.status not in {InvoiceStatus.DRAFT, InvoiceStatus.VOID}:
            invoice_settlement.reconsider(connection, business_id, invoice.subscription_id, ends, now)
            for start in sorted(stored.billed):  # also where we know of no call: somebody is charged for it
                records.record_for(connection, business_id, start, now)
        double_billing.report_doubles(connection, business_id, invoice.id, now)
        consequences.follow_ups |= _OF_PERIODS
    if invoice.credit_notes is not None or invoice.paid_back is not None:
        given_back.lower_due(connection, business_id, invoice.id, now)
    if invoice.status == InvoiceStatus.VOID:
        invoice_settlement.unsettle(connection, business_id, invoice.id, now)
    consequences.service(business_id, Matter.INVOICE, invoice.id, f"invoice {invoice.id} is {invoice.status}")


def _choose_plan(connection: Connection, business_id: int, free_plan_id: int, now: datetime) -> bool:
    """The business's plan by its living subscriptions: Free without any, as it was where none tells.

    Who is invoiced by hand keeps its plan without any. Returns whether it is another one now.
    """
    living = connection.exec_driver_sql(_LIVING, {**_living_of(business_id), "now": now}).all()
    plan_id = next((row.plan_id for row in living if row.plan_id is not None), None if living else free_plan_id)
    about = {"plan_id": plan_id, "business_id": business_id, "told": bool(living), "now": now}
    return plan_id is not None and connection.exec_driver_sql(_SET_PLAN, about).rowcount > 0


def _report_doubles(connection: Connection, business_id: int, consequences: Consequences) -> None:
    """What would be billed twice: the same minutes, which blocks pushing, or the fee of a plan."""
    items = [dict(row) for row in connection.exec_driver_sql(_PLAN_ITEMS, _living_of(business_id)).mappings()]
    minutes = [item for item in items if item["role"] == PriceRole.MINUTES]
    fees = [item for item in items if item["role"] == PriceRole.FEE]
    subscriptions = sorted({item["subscription"] for item in minutes})
    for kind, doubled, expected, actual in (
        (
            DriftKind.SECOND_METERED_SUBSCRIPTION,
            minutes if len(subscriptions) > 1 else [],
            "one living subscription with a metered item",
            f"{len(subscriptions)}: all would bill the same minutes; cancel all but one in Stripe",
        ),
        (
            DriftKind.SECOND_MINUTES_ITEM,
            minutes if len(minutes) > len(subscriptions) else [],
            "one item of a subscription that counts minutes",
            f"{_named(minutes)}: each would bill the same minutes; remove all but one in Stripe",
        ),
        (
            DriftKind.SECOND_PLAN,
            fees if len(fees) > 1 else [],
            "the fee of one plan",
            f"{_named(fees)}: each is charged; remove all but one in Stripe",
        ),
    ):
        subject = f"business:{business_id}"
        if doubled:
            evidence = {"subscriptions": sorted({item["subscription"] for item in doubled}), "items": doubled}
            consequences.report(kind, subject, business_id, expected, actual, evidence)
        else:
            consequences.resolve(kind, subject)


def _report_terms(
    connection: Connection, subscription: Subscription, business_id: int, consequences: Consequences
) -> None:
    """What a subscription may have that is not supported, or that gives minutes away: one difference each."""
    living = subscription.ended_at is None and subscription.status not in NOT_LIVING
    subject, evidence = f"subscription:{subscription.stripe_id}", {"subscription": subscription.stripe_id}
    if living and subscription.thresholds:
        consequences.report(
            DriftKind.BILLING_THRESHOLDS,
            subject,
            business_id,
            "invoices by the period",
            "billing thresholds: invoices in the middle of a period too",
            evidence,
        )
    else:
        consequences.resolve(DriftKind.BILLING_THRESHOLDS, subject)
    behavior = orjson.loads(subscription.pause_collection or "{}").get("behavior")
    if living and behavior in GIVING_AWAY:
        fee = plan_fees.fixed_fee(connection, subscription.items, subscription.currency)
        consequences.report(
            DriftKind.COLLECTION_GIVEN_AWAY,
            subject,
            business_id,
            "collection goes on, or drafts are kept",
            f"paused with {behavior}: {fee or 'its fee'} a period and all minutes are given away meanwhile",
            {**evidence, "behavior": behavior, "fee": fee},
        )
    else:
        consequences.resolve(DriftKind.COLLECTION_GIVEN_AWAY, subject)


def _named(items: Sequence[Mapping[str, Any]]) -> str:
    return " and ".join(f"{item['item']} of {item['subscription']} ({item['plan'] or 'no plan'})" for item in items)


def _living_of(business_id: int) -> dict[str, Any]:
    return {"business_id": business_id, "not_living": list(NOT_LIVING)}
