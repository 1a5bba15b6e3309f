"""What a change of a subscription would send to Stripe, and what Stripe says that it would bill. Changes nothing."""

import json
from typing import Any

from ops.commands.database import Chosen, reading
from ops.commands.output import WrongError, print_table, say
from ops.commands.subscription_rehearsal import Rehearsal
from pipeline.prices.money import money
from pipeline.providers.stripe_fields import Item, read_line
from pipeline.shared.settings import StripeSettings, load
from pipeline.subscription_changes.change_requests import CHANGE_BEHAVIOURS, UsageLostError
from pipeline.subscription_changes.planning import Intent
from pipeline.subscription_changes.schedule_phases import PhaseError
from pipeline.subscription_changes.subscription_look import SubscriptionLook, UnknownItemError, look_at


def show(intent: Intent, chosen: Chosen) -> None:
    """Print both, from a rehearsal against Stripe. Raises WrongError with Stripe's words."""
    from pipeline.providers.stripe_api import Refused, StripeApi, StripeApiError  # noqa: PLC0415 - stripe is slow to load, and only this needs it

    settings = load(StripeSettings, chosen)
    behaviour, stripe = CHANGE_BEHAVIOURS[intent.kind], StripeApi(settings)
    rehearsal = Rehearsal(stripe)
    say(f"{intent.kind} of {intent.stripe_id}, nothing is sent:")
    try:
        it = stripe.get_subscription(intent.stripe_id)
        with reading(chosen) as connection:
            look = look_at(connection, it, settings.stripe_meter_event_name)
        if behaviour.in_effect(rehearsal, look, intent.params):
            say("  it is in effect already: no request")
            return
        behaviour.ask(rehearsal, look, intent.params, "rehearsal")
        for method, path, params in rehearsal.sent:
            say(f"  {method} {path} {json.dumps(params, sort_keys=True)}")
        if behaviour.after_last_push:
            say("  after Stripe has confirmed the last minutes of the present period")
        details = behaviour.preview(look, intent.params)
        if look.classic and intent.params.get("migrate"):
            say("Stripe can't show beforehand what this comes to: its billing mode is migrated first.")
            return
        if details is None:
            say("Stripe can't show beforehand what this comes to, while a schedule or a set end stands.")
            return
        invoice = stripe.preview_invoice(intent.stripe_id, details)
    except UnknownItemError as error:
        raise WrongError(f"{error}: try again when a worker has fetched it") from error
    except (UsageLostError, PhaseError) as error:
        raise WrongError(str(error)) from error
    except Refused as refused:
        if refused.code == "invoice_upcoming_none":
            say("  no invoice follows")
            return
        raise WrongError(f"Stripe refuses: {refused}") from refused
    except StripeApiError as error:
        raise WrongError(f"Stripe does not answer: {error}; try again") from error
    say("The invoice that follows at once:" if behaviour.after_last_push else "The next invoice, as it looks now:")
    _show_invoice(invoice)
    if behaviour.after_last_push:
        _show_early_renewals(look, invoice)


def _show_early_renewals(look: SubscriptionLook, invoice: dict[str, Any]) -> None:
    """A new anchor renews each item, also one whose own period is not over: an add-on that is paid by the year (48)."""
    ours, currency = look.ours, invoice["currency"]
    if ours.minutes_item is None:
        return
    period = _interval(ours.minutes_item)
    lines = [line for row in invoice["lines"]["data"] if (line := read_line(row)) is not None]
    for item in look.items:
        its = [line for line in lines if line.price_id == item.price.id]
        renewed = [line for line in its if line.amount_cents > 0]
        if item in (*ours.minutes, *ours.fees) or item.price.metered or _interval(item) == period or not renewed:
            continue
        given_back = sum(line.amount_cents for line in its if line.amount_cents < 0)
        less = f", less {money(-given_back, currency)} for what is left of its period" if given_back else ""
        cost = money(sum(line.amount_cents for line in renewed), currency)
        say(f"It also renews an add-on before its time: {renewed[-1].description or item.price.id}, {cost}{less}.")


def _interval(item: Item) -> tuple[str | None, int | None]:
    return item.price.billing_interval, item.price.interval_count


def _show_invoice(invoice: dict[str, Any]) -> None:
    rows = [
        {
            "for": line["description"],
            "quantity": line.get("quantity_decimal") or str(line["quantity"]),
            "amount": money(line["amount"], line["currency"]),
        }
        for line in invoice["lines"]["data"]
    ]
    print_table(rows, numbers=["quantity", "amount"], nothing="It has no lines.")
    say(f"to pay: {money(invoice['amount_due'], invoice['currency'])}")
