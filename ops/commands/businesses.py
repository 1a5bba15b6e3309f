"""`altiora business`: who we serve."""

import contextlib
import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer
from sqlalchemy import Connection

from accounts.links import LinkKind
from ops.commands.audit import Reason, record
from ops.commands.business_argument import BusinessArgument, find, instant
from ops.commands.database import Chosen, choose_settings, reading, transaction
from ops.commands.output import AsJson, WrongError, print_json, print_table, say, shown, warn
from ops.commands.users import invite, say_link
from pipeline.businesses import registration
from pipeline.reading.businesses import left_with, list_businesses, read_business
from pipeline.reading.events import dead_calls_of, dead_for
from pipeline.shared.clock import business_clock
from pipeline.shared.settings import DashboardSettings, DatabaseSettings, StripeSettings, load
from pipeline.usage import unbilled_plans

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Who we serve: add businesses, their numbers and Stripe customers."
)


@contextlib.contextmanager
def _change(chosen: Chosen) -> Iterator[Connection]:
    """One transaction; a change that is refused undoes it and is told as what is wrong."""
    try:
        with transaction(chosen) as connection:
            yield connection
    except registration.BusinessError as error:
        raise WrongError(str(error)) from error


def _see_customer(chosen: Chosen, customer: str) -> None:
    """Ask Stripe whether there is such a customer: one that was mistyped would leave the business unbilled (61)."""
    from pipeline.providers.stripe_api import Refused, StripeApi, StripeApiError  # noqa: PLC0415 - stripe is slow to load

    try:
        registration.check_customer(customer)
        settings = load(StripeSettings, chosen)
        found = StripeApi(settings).get_customer(customer)
    except registration.BusinessError as error:
        raise WrongError(str(error)) from error
    except StripeApiError as error:
        if isinstance(error, Refused) and error.status == 404:
            account = "live" if settings.livemode else "test"
            raise WrongError(f"Stripe knows no such customer as {customer} in the {account} account") from error
        raise WrongError(
            f"Stripe can't say whether there is {customer} ({error}): try again; nothing changed"
        ) from error
    if found.get("deleted") is True:
        raise WrongError(f"{customer} was deleted at Stripe: make another one there")
    if found.get("test_clock") is not None:
        raise WrongError(f"{customer} is on a test clock of Stripe's: nothing of it is counted")


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called.")],
    plan: Annotated[str, typer.Option(help="free, starter, professional or enterprise.")],
    time_zone: Annotated[str, typer.Option(help="IANA name, as America/New_York: its calendar months are local.")],
    stripe_customer: Annotated[str | None, typer.Option(help="Its customer at Stripe, cus_…")] = None,
    owner: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Who shall own it: a link to accept it is mailed there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a business."""
    wanted = {StripeSettings: stripe_customer, DashboardSettings: owner}
    chosen = choose_settings(DatabaseSettings, *(kind for kind, why in wanted.items() if why is not None))
    if stripe_customer is not None:
        _see_customer(chosen, stripe_customer)
    with _change(chosen) as connection:
        business_id = registration.add_business(
            connection,
            name=name,
            plan=plan,
            time_zone=time_zone,
            stripe_customer=stripe_customer,
            now=business_clock(chosen).now(),
        )
        unbilled_plans.check_billing(connection, [business_id], business_clock(chosen).now())
        record(connection, "business add", f"business:{business_id}", business_id=business_id, detail={"plan": plan})
        link = owner and invite(connection, chosen, LinkKind.OWNERSHIP, owner, business_id=business_id)
    if as_json:
        print_json({"id": business_id} | ({"owner_link": link} if link else {}))
        return
    say(f"Added business {business_id} ({name}). Give it a number: altiora business add-number {business_id} +1…")
    if link and owner:
        say_link(link, owner, "seven days")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Show all businesses, with their plans and numbers."""
    chosen = choose_settings()
    with reading(chosen) as connection:
        found = list_businesses(connection)
    now = business_clock(chosen).now()
    if as_json:
        print_json(
            [
                {
                    "id": each.id,
                    "name": each.name,
                    "plan": each.plan,
                    "time_zone": each.time_zone,
                    "stripe_customer": each.stripe_customer,
                    "numbers": each.numbers,
                    "service_status": each.service_status(now),
                }
                for each in found
            ]
        )
        return
    print_table(
        (
            {
                "id": str(each.id),
                "name": each.name,
                "plan": each.plan,
                "status": each.service_status(now),
                "numbers": "\n".join(each.numbers),
                "time zone": each.time_zone,
            }
            for each in found
        ),
        numbers=["id"],
        nothing="There is no business yet: altiora business add NAME --plan free --time-zone America/New_York",
    )


@app.command("invite-owner")
def invite_owner(
    business: BusinessArgument,
    email: Annotated[str, typer.Argument(metavar="ADDRESS", help="Where the link to accept the business is mailed.")],
    reason: Reason = None,
) -> None:
    """Hand a business to somebody, who accepts it by a link; its owner before, if it had one, stays as an admin."""
    chosen = choose_settings(DatabaseSettings, DashboardSettings)
    with _change(chosen) as connection:
        business_id = find(connection, business)
        link = invite(connection, chosen, LinkKind.OWNERSHIP, email, business_id=business_id)
        subject = f"business:{business_id}"
        record(connection, "business invite-owner", subject, business_id=business_id, reason=reason)
    say_link(link, email, "seven days")


@app.command("link-stripe")
def link_stripe(
    business: BusinessArgument, customer: Annotated[str, typer.Argument(metavar="CUSTOMER", help="At Stripe, cus_…")]
) -> None:
    """Link a business to its Stripe customer. It may be another than it had, once nothing lives of that one."""
    chosen = choose_settings(DatabaseSettings, StripeSettings)
    _see_customer(chosen, customer)
    with _change(chosen) as connection:
        business_id = find(connection, business)
        former = registration.link_customer(connection, business_id, customer, business_clock(chosen).now())
        left = [] if former is None else left_with(connection, former)
        dead = dead_for(connection, "unknown-customer")
        detail = {"customer": customer, "former": former}
        record(connection, "business link-stripe", f"business:{business_id}", business_id=business_id, detail=detail)
    say(f"Linked business {business_id} to {customer}; a worker fetches its subscriptions.")
    if former is not None:
        say(f"{former} was its customer before: what Stripe tells of that one still belongs to it.")
    for each in left:
        say(f"  left there: {each}")
    if dead:
        say(f"Dead for want of a customer: {dead} events. Now: altiora events replay --reason unknown-customer")


@app.command("set")
def set_(
    business: BusinessArgument,
    billed_elsewhere: Annotated[
        bool, typer.Option("--billed-elsewhere", help="It is invoiced by hand: it keeps plan and service.")
    ],
    until: Annotated[
        datetime,
        typer.Option(
            parser=instant,
            metavar="DATE",
            help="Until when, as 2027-06-01; in UTC unless it has an offset. A time that has passed ends it now.",
        ),
    ],
    reason: Annotated[str, typer.Option(help="Who has agreed to what; shown with each period that is to be invoiced.")],
) -> None:
    """Say how a business is billed where no subscription does."""
    assert billed_elsewhere  # it has no other value: the option says what is meant
    chosen = choose_settings()
    now = business_clock(chosen).now()
    with _change(chosen) as connection:
        business_id = find(connection, business)
        registration.bill_elsewhere(connection, business_id, until, reason, now)
        unbilled_plans.check_billing(connection, [business_id], now)
        record(
            connection,
            "business set",
            f"business:{business_id}",
            business_id=business_id,
            reason=reason,
            fields=["billed_elsewhere_until"],
        )
    if until <= now:
        say(f"Business {business_id} is not billed elsewhere any more.")
    else:
        say(
            f"Business {business_id} is billed elsewhere until {shown(until)} UTC; each of its periods is then a"
            " difference, with what is to be invoiced: altiora drifts list"
        )


@app.command()
def show(business: BusinessArgument, as_json: AsJson = False) -> None:
    """Show one business: its plan, how it is billed, its customers and what is left with former ones."""
    chosen = choose_settings()
    with reading(chosen) as connection:
        told = read_business(connection, find(connection, business), business_clock(chosen).now())
    if as_json:
        print_json(told)
        return
    for field in dataclasses.fields(told):
        value = getattr(told, field.name)
        if value not in (None, [], ()):
            words = "; ".join(value) if isinstance(value, list) else shown(value)
            say(f"{field.name.replace('_', ' ')}: {words}")


@app.command("add-number")
def add_number(
    business: BusinessArgument,
    number: Annotated[str, typer.Argument(metavar="NUMBER", help="In E.164, as +15550000001.")],
    since: Annotated[
        datetime | None,
        typer.Option(
            "--from",
            parser=instant,
            metavar="TIME",
            help="When it got the number, as 2026-11-20T12:00; in UTC unless it has an offset. Without it from now on.",
        ),
    ] = None,
    from_business: Annotated[
        str | None, typer.Option(help="Who holds it now: its number, or a part of its name. Else nothing is taken.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give a number to a business, or move it there from another one."""
    chosen = choose_settings()
    with _change(chosen) as connection:
        business_id = find(connection, business)
        former_id = None if from_business is None else find(connection, from_business)
        held = registration.add_number(
            connection, business_id, number, since, business_clock(chosen).now(), from_business_id=former_id
        )
        dead, first = dead_calls_of(connection, number)
        detail = {"number": number, "former": held.former_business_id}
        record(connection, "business add-number", f"business:{business_id}", business_id=business_id, detail=detail)
    if held.counted_before:
        warn(
            f"calls on {number} since then that are counted for business {held.former_business_id} already, and stay"
            f" there: {held.counted_before}"
        )
    if as_json:
        print_json({"number": number, "from": held.since, "former_business": held.former_business_id})
        return
    since_when = "since ever" if held.since is None else f"from {held.since.astimezone(UTC).isoformat()} on"
    say(f"Business {business_id} holds {number} {since_when}.")
    if dead and first is not None:
        say(f"Dead for want of its holder: {dead} events.")
        if held.since is not None and first < held.since:
            say(
                f"To count them, hold it since they came: altiora business add-number {business_id} {number}"
                f" --from {first.astimezone(UTC):%Y-%m-%dT%H:%M}"
            )
        say(f"Then: altiora events replay --reason 'unknown-number {number}'")


@app.command("remove-number")
def remove_number(
    business: BusinessArgument,
    number: Annotated[str, typer.Argument(metavar="NUMBER", help="In E.164, as +15550000001.")],
    reason: Reason = None,
) -> None:
    """Have a business hold a number no longer, from now on. What was called before stays its own."""
    chosen = choose_settings()
    with _change(chosen) as connection:
        business_id = find(connection, business)
        registration.remove_number(connection, business_id, number, business_clock(chosen).now())
        detail = {"number": number}
        subject = f"business:{business_id}"
        record(connection, "business remove-number", subject, business_id=business_id, reason=reason, detail=detail)
    say(f"Business {business_id} holds {number} no longer; calls on it are dead until somebody does.")


@app.command()
def rename(
    business: BusinessArgument, name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called.")]
) -> None:
    """Call a business otherwise, here; its customer at Stripe keeps its name."""
    with _change(choose_settings()) as connection:
        business_id = find(connection, business)
        registration.rename_business(connection, business_id, name)
        subject = f"business:{business_id}"
        record(connection, "business rename", subject, business_id=business_id, fields=["name"])
    say(f"Business {business_id} is called {name.strip()}.")


@app.command()
def end(business: BusinessArgument, reason: Reason = None) -> None:
    """End a business whose subscriptions have ended: it gives up its numbers. What it has used is billed as ever."""
    chosen = choose_settings()
    with _change(chosen) as connection:
        business_id = find(connection, business)
        numbers = registration.end_business(connection, business_id, business_clock(chosen).now())
        subject = f"business:{business_id}"
        record(connection, "business end", subject, business_id=business_id, reason=reason, detail={"numbers": numbers})
    say(f"Business {business_id} has ended; it gave up {', '.join(numbers) or 'no number'}.")
