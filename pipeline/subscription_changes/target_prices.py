"""Which prices of a plan take the place of a subscription's: like those that they replace, and told apart by name.

The same currency, interval and meter, and still to be sold. Of several the one whose lookup key says that it is the
plan's, else, of fees, the default of its product. What was seen last decides nothing: where it can't be told, a person
has to say, by a lookup key in Stripe.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection

from pipeline.providers.stripe_words import UsageType

# Alike: what is compared with the item that the price would replace. Without such an item there is nothing to compare.
_CANDIDATES = """
with present as (
  select p.usage_type, p.meter_id, p.billing_interval, p.interval_count
  from subscription_items i join stripe_prices p on p.id = i.price_id
  where i.subscription_id = %(subscription_id)s and i.role in ('minutes', 'fee')
)
select price.usage_type, price.id, price.lookup_key, price.product_default
from stripe_prices price
join subscription_plans plan on plan.id = price.plan_id
join subscriptions s on s.id = %(subscription_id)s
left join lateral (select * from present where present.usage_type = price.usage_type limit 1) replaced on true
where plan.code = %(plan)s and price.active
  and (replaced.meter_id is null or price.meter_id = replaced.meter_id)
  and (replaced.billing_interval is null
       or (price.billing_interval, price.interval_count) = (replaced.billing_interval, replaced.interval_count))
  and (s.currency is null or price.currency = s.currency or price.tariffs ? s.currency)
order by price.usage_type, price.id
"""

_RETIRED = "select 1 from subscription_plans where code = %s and retired_at is not null"

_FEE = """
select p.currency, p.billing_interval, p.interval_count
from subscription_items i join stripe_prices p on p.id = i.price_id
where i.subscription_id = %s and i.role = 'fee' limit 1
"""

#: How a lookup key names the price of a plan for each usage type: ``altiora_starter_minutes``.
_SUFFIXES: Final = {UsageType.METERED: "minutes", UsageType.LICENSED: "flat"}


class ChangeError(Exception):
    """The change can't be planned; the message says why and what to do."""


def target_prices(connection: Connection, subscription_id: int, plan: str) -> dict[str, str]:
    """The price of each usage type that the plan has for this subscription; the metered one is always there.

    Raises ChangeError when there is none, or several that nothing tells apart.
    """
    if connection.exec_driver_sql(_RETIRED, (plan,)).first() is not None:
        raise ChangeError(f"plan {plan} is retired: `altiora plans list` shows what is sold")
    about = {"subscription_id": subscription_id, "plan": plan}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in connection.exec_driver_sql(_CANDIDATES, about).mappings():
        found.setdefault(row["usage_type"], []).append(dict(row))
    if UsageType.METERED not in found:
        raise ChangeError(
            f"no metered price of Stripe's stands for plan {plan} in the subscription's currency and interval:"
            " see `altiora doctor`"
        )
    fee = connection.exec_driver_sql(_FEE, (subscription_id,)).first()
    if fee is not None and UsageType.LICENSED not in found:
        raise ChangeError(
            f"no fee of plan {plan} takes the place of the present one (every {fee.interval_count or 1}"
            f" {fee.billing_interval or 'month'}, in {(fee.currency or 'its currency').upper()}): make such a price in"
            f" Stripe, with metadata altiora_plan={plan}"
        )
    return {usage_type: _one_of(candidates, UsageType(usage_type), plan) for usage_type, candidates in found.items()}


def _one_of(candidates: Sequence[Mapping[str, Any]], usage_type: UsageType, plan: str) -> str:
    key = f"altiora_{plan}_{_SUFFIXES[usage_type]}"
    named = [each["id"] for each in candidates if each["lookup_key"] == key]
    shown_first = [each["id"] for each in candidates if each["product_default"] and usage_type == UsageType.LICENSED]
    for chosen in ([each["id"] for each in candidates], named, shown_first):
        if len(chosen) == 1:
            return str(chosen[0])
    ids = ", ".join(each["id"] for each in candidates)
    raise ChangeError(
        f"several {usage_type} prices stand for plan {plan}: {ids}. Give the right one the lookup key {key} in Stripe,"
        " or archive the others"
    )
