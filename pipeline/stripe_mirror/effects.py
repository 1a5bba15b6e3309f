"""What follows for a business from an object of Stripe's that has just been mirrored.

Its records are brought in line with each snapshot, one after the other: two changes of a price in one batch are two
cuts. The rest is collected, and settled once when the transaction ends.
"""

from datetime import datetime

from sqlalchemy import Connection

from pipeline.businesses.consequences import Consequences
from pipeline.businesses.service_rules import Matter
from pipeline.closing import period_close
from pipeline.providers.stripe_fields import Invoice, Subscription
from pipeline.providers.stripe_words import SubscriptionStatus
from pipeline.shared.drifts import DriftKind
from pipeline.stripe_mirror.invoices import StoredInvoice
from pipeline.stripe_mirror.subscriptions import StoredSubscription
from pipeline.usage import record_alignment

#: In these a subscription bills nothing: its first payment never came, or it is over.
NOT_LIVING = (SubscriptionStatus.INCOMPLETE, SubscriptionStatus.INCOMPLETE_EXPIRED, SubscriptionStatus.CANCELED)

#: The tasks that look at what a period comes to.
_OF_PERIODS = frozenset({"stripe.plan-meter-pushes", "periods.close-due"})

# Living: the subscription that decides the business's plan comes first: a metered one, then the latest.
_LIVING = """
select stripe_id, plan_id, metered_item_id is not null
from subscriptions
where business_id = %(business_id)s and ended_at is null and status <> all(%(not_living)s::text[])
order by metered_item_id is null, plan_id is null, started_at desc, id desc
"""

_SET_PLAN = "update businesses set plan_id = %(plan_id)s where id = %(business_id)s and plan_id <> %(plan_id)s"


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
    if stored.first_seen:  # what it was before is not known here: a fetch can tell since when its price counts
        consequences.fetch("subscription", stripe_id, "first-seen")
    if subscription.status not in NOT_LIVING and stored.plan_id is None:
        for price_id in stored.price_ids:
            consequences.report(
                DriftKind.UNMAPPED_PRICE,
                f"price:{price_id}",
                business_id,
                "a plan: metadata altiora_plan on the price or its product, or a lookup key altiora_<plan>",
                "none",
                {"price": price_id, "subscription": stripe_id},
            )
    if _choose_plan(connection, business_id, free_plan_id, consequences):
        consequences.another_plan(business_id)
    record_alignment.align_records(connection, business_id, now)
    consequences.service(
        business_id, Matter.SUBSCRIPTION, stripe_id, f"subscription {stripe_id} is {subscription.status}"
    )
    consequences.follow_ups |= _OF_PERIODS


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
        consequences.follow_ups |= _OF_PERIODS
    consequences.service(business_id, Matter.INVOICE, invoice.id, f"invoice {invoice.id} is {invoice.status}")


def _choose_plan(connection: Connection, business_id: int, free_plan_id: int, consequences: Consequences) -> bool:
    """The business's plan by its living subscriptions: Free without any, as it was where none tells.

    Returns whether it is another one now. Two living subscriptions with a metered item would bill everything twice:
    that is a drift, which blocks pushing.
    """
    living = connection.exec_driver_sql(_LIVING, {"business_id": business_id, "not_living": list(NOT_LIVING)}).all()
    plan_id = next((plan for _, plan, _ in living if plan is not None), None if living else free_plan_id)
    has_another_plan = (
        plan_id is not None
        and connection.exec_driver_sql(_SET_PLAN, {"plan_id": plan_id, "business_id": business_id}).rowcount > 0
    )
    metered = [stripe_id for stripe_id, _, is_metered in living if is_metered]
    subject = f"business:{business_id}"
    if len(metered) > 1:
        consequences.report(
            DriftKind.SECOND_METERED_SUBSCRIPTION,
            subject,
            business_id,
            "one living subscription with a metered item",
            f"{len(metered)}: all would bill the same minutes; cancel all but one in Stripe",
            {"subscriptions": metered},
        )
    else:
        consequences.resolve(DriftKind.SECOND_METERED_SUBSCRIPTION, subject)
    return has_another_plan
