"""What `altiora doctor` looks at on the others' side: our accounts at Stripe and Twilio."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urldefrag

from ops.commands.database import Chosen, reading
from ops.commands.output import WrongError, age
from ops.doctor.findings import Finding, fail, ok, warn
from pipeline.providers import stripe_api
from pipeline.providers.stripe_api import StripeApi, StripeApiError, Unreachable
from pipeline.providers.stripe_fields import read_price
from pipeline.providers.stripe_words import ACTIVE_METER, UsageType
from pipeline.providers.twilio_api import TwilioApi, TwilioApiError
from pipeline.reading.plans import ListedPlan, list_plans
from pipeline.shared.clock import business_clock
from pipeline.shared.settings import PublicSettings, StripeSettings, TwilioSettings, load

STRIPE_PATH = "/webhooks/stripe"
TWILIO_PATH = "/webhooks/twilio/voice"

#: Without these events something is learnt late, or only by the nightly look.
_EVENTS = {
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "invoice.created",
    "invoice.finalized",
    "invoice.paid",
    "invoice.payment_failed",
    "invoice.voided",
    "invoice.marked_uncollectible",
    "credit_note.created",
    "refund.created",
    "charge.dispute.created",
    "price.created",
    "price.updated",
}

#: How far our clock may be from Stripe's.
_CLOCKS_APART = timedelta(seconds=30)

#: So many numbers are named in one line.
_NAMED = 5

Json = dict[str, Any]


def stripe(chosen: Chosen) -> Iterator[Finding]:
    """The meter, the prices of each plan, the webhook endpoint."""
    settings = load(StripeSettings, chosen)
    api = StripeApi(settings)
    try:
        meters = api.meters()
        yield ok(f"the {'live' if settings.livemode else 'test'} account at {settings.stripe_api_base} answers")
        yield from _clocks(api, chosen)
        meter = next((each for each in meters if each["event_name"] == settings.stripe_meter_event_name), None)
        if meter is None:
            yield fail(
                f"no meter counts the event {settings.stripe_meter_event_name}: create one that sums, in Stripe's"
                " dashboard under Billing, Meters, or set ALTIORA_STRIPE_METER_EVENT_NAME"
            )
        else:
            yield from _meter(meter)
            yield from _prices(meter["id"], api.list_prices(), _sold(chosen))
        yield from _endpoint(load(PublicSettings, chosen).public_url + STRIPE_PATH, api.webhook_endpoints())
    except Unreachable:
        yield fail(f"{settings.stripe_api_base} can't be reached: may this machine call it? ALTIORA_STRIPE_API_BASE")
    except StripeApiError as error:
        yield fail(f"Stripe answers {error}: see that ALTIORA_STRIPE_API_KEY may read meters, prices and webhooks")


def _clocks(api: StripeApi, chosen: Chosen) -> Iterator[Finding]:
    """Periods end and invoices finalise by Stripe's clock, and calls by ours."""
    if api.answered_at is None:
        return
    ahead = business_clock(chosen).now() - api.answered_at
    if abs(ahead) > _CLOCKS_APART:
        yield warn(
            f"our clock is {age(int(abs(ahead).total_seconds()))} {'ahead of' if ahead > timedelta() else 'behind'}"
            " Stripe's: set this machine's time (NTP), or minutes go to the wrong period"
        )


def _meter(meter: Json) -> Iterator[Finding]:
    name = meter["event_name"]
    wrong = []
    if meter["status"] != ACTIVE_METER:
        wrong.append(f"meter {name} is {meter['status']}: reactivate it")
    if meter["default_aggregation"]["formula"] != "sum":
        wrong.append(f"meter {name} makes a {meter['default_aggregation']['formula']}: create one that sums")
    if meter.get("event_time_window") is not None:
        wrong.append(
            f"meter {name} keeps one event per {meter['event_time_window']}: create one without an event time window"
        )
    keys = (meter["customer_mapping"]["event_payload_key"], meter["value_settings"]["event_payload_key"])
    if keys != ("stripe_customer_id", "value"):
        wrong.append(f"meter {name} reads {' and '.join(keys)}: create one that reads stripe_customer_id and value")
    yield from map(fail, wrong)
    if not wrong:
        yield ok(f"meter {name} sums what it is told")


def _sold(chosen: Chosen) -> list[ListedPlan]:
    """The plans that are sold and bill overage; none where the database can't tell, which its own look has said."""
    try:
        with reading(chosen) as connection:
            return [plan for plan in list_plans(connection) if plan.bills_overage and plan.retired_at is None]
    except WrongError:
        return []


def _prices(meter_id: str, prices: Sequence[Json], plans: Sequence[ListedPlan]) -> Iterator[Finding]:
    """Whether each of these plans has a price for its minutes, whose free ones are the plan's."""
    for plan in plans:
        found = [each for each in prices if _counts(each, meter_id) and _plan_of(each) == plan.code]
        if not found:
            yield fail(
                f"no metered price stands for plan {plan.name}: create a graduated one on the meter, monthly, with"
                f" metadata altiora_plan={plan.code}"
            )
        for price in found:
            yield _price(price, plan.name, plan.included_minutes)


def _counts(price: Json, meter_id: str) -> bool:
    recurring: Mapping[str, Any] = price["recurring"]
    return (recurring["usage_type"], recurring["meter"]) == (UsageType.METERED, meter_id)


def _plan_of(price: Json) -> str | None:
    read = read_price(price)
    return None if read is None else read.plan_code


def _price(price: Json, plan: str, included: int) -> Finding:
    name = f"price {price['id']} of plan {plan}"
    recurring, tiers = price["recurring"], price.get("tiers") or []
    if (recurring["interval"], recurring["interval_count"]) != ("month", 1):
        return fail(f"{name} is not monthly: the plan's minutes are for a month")
    if price.get("tiers_mode") != "graduated" or not tiers:
        return fail(f"{name} is not graduated: its first {included:,} minutes have to cost nothing")
    free = tiers[0].get("unit_amount_decimal") in {"0", None}
    if not free or tiers[0]["up_to"] != included:
        given = "no" if not free else "all" if tiers[0]["up_to"] is None else f"{tiers[0]['up_to']:,}"
        return warn(f"{name} includes {given} minutes, the plan {included:,}: who is on it has the price's")
    return ok(f"{name} includes {included:,} minutes")


def _endpoint(address: str, endpoints: Sequence[Json]) -> Iterator[Finding]:
    ours = [each for each in endpoints if each["url"] == address]
    living = [each for each in ours if each["status"] == "enabled"]
    if not living:
        yield fail(
            f"no webhook endpoint {'that is enabled ' if ours else ''}calls {address}: create one with API version"
            f" {stripe_api.VERSION}, and set its secret in ALTIORA_STRIPE_WEBHOOK_SECRET"
        )
    for endpoint in living:
        missing = sorted(_EVENTS - set(endpoint["enabled_events"]))
        if endpoint["api_version"] != stripe_api.VERSION:
            yield warn(
                f"webhook endpoint {endpoint['id']} sends API version {endpoint['api_version'] or 'of the account'}:"
                f" create one with {stripe_api.VERSION}, or every change is fetched as well"
            )
        if "*" not in endpoint["enabled_events"] and missing:
            yield warn(f"webhook endpoint {endpoint['id']} does not send {', '.join(missing)}: add them")
        yield ok(f"webhook endpoint {endpoint['id']} calls {address}")


def twilio(chosen: Chosen) -> Iterator[Finding]:
    """The account, and whether each number that a business holds tells us of its calls."""
    settings = load(TwilioSettings, chosen)
    api = TwilioApi(settings)
    address = load(PublicSettings, chosen).public_url + TWILIO_PATH
    try:
        numbers = {number["phone_number"]: number for number in api.list_numbers()}
    except TwilioApiError as error:
        if error.status is None:
            yield fail(
                f"{settings.twilio_api_base} can't be reached: may this machine call it? ALTIORA_TWILIO_API_BASE"
            )
        else:
            yield fail(f"Twilio answers {error}: see that ALTIORA_TWILIO_ACCOUNT_SID and _AUTH_TOKEN are right")
        return
    yield ok(f"account {settings.twilio_account_sid} answers, and has {len(numbers):,} numbers")
    try:
        with reading(chosen) as connection:
            rows = connection.exec_driver_sql("select number from phone_numbers where business_id is not null")
            held = set(rows.scalars())
    except WrongError:
        return  # the look at the database has told it
    silent = [each for each in sorted(held & numbers.keys()) if not _tells(numbers[each], address)]
    if silent:
        yield fail(f"Twilio does not tell us of calls on {_list(silent)}: set their status callback to POST {address}")
    elif held & numbers.keys():
        yield ok(f"{len(held & numbers.keys()):,} numbers call {address}")
    if held - numbers.keys():
        yield warn(f"held by businesses, and not in this account: {_list(sorted(held - numbers.keys()))}")
    if numbers.keys() - held:
        yield warn(
            f"nobody holds {_list(sorted(numbers.keys() - held))}: calls there are not billed; give them to a business"
            " with `altiora business add-number`"
        )


def _tells(number: Json, address: str) -> bool:
    """Whether a number's status callback is ours; behind a # stand connection overrides."""
    called = urldefrag(number["status_callback"] or "").url.partition("?")[0]
    return called == address and number["status_callback_method"] == "POST"


def _list(numbers: Sequence[str]) -> str:
    more = f" and {len(numbers) - _NAMED:,} more" if len(numbers) > _NAMED else ""
    return ", ".join(numbers[:_NAMED]) + more
