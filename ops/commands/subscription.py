"""`altiora subscription`: what Stripe says of a business's subscription, and changing it."""

from datetime import datetime
from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from ops.commands import subscription_preview
from ops.commands.audit import Reason, record
from ops.commands.business_argument import BusinessArgument, find
from ops.commands.database import Chosen, choose_settings, reading, transaction
from ops.commands.output import AsJson, WrongError, print_json, print_table, say, shown
from pipeline.providers.stripe_words import CLASSIC_MODE
from pipeline.reading.subscriptions import (
    MirroredSubscription,
    cents_dearer,
    collection_is_paused,
    read_subscriptions,
)
from pipeline.shared.business_locks import lock_businesses
from pipeline.shared.clock import business_clock
from pipeline.subscription_changes import planning
from pipeline.subscription_changes.change_requests import ChangeKind
from pipeline.subscription_changes.target_prices import ChangeError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Subscriptions: what Stripe says of one, and changing it."
)

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only show what would be sent, and what it would do to the money.")
]
PlanArgument = Annotated[str, typer.Argument(metavar="PLAN", help="starter, professional or enterprise.")]


@app.command()
def show(business: BusinessArgument, as_json: AsJson = False) -> None:
    """Show the subscriptions of a business, their latest changes, and whether it may take calls and why."""
    chosen = choose_settings()
    with reading(chosen) as connection:
        business_id = find(connection, business)
        found = read_subscriptions(connection, business_id)
    if as_json:
        told = {"subscriptions": found.subscriptions, "changes": found.changes, "service": found.service}
        print_json({"business": business_id, **told})
        return
    now = business_clock(chosen).now()
    rows = [_subscription(each, now) for each in found.subscriptions]
    print_table(rows, nothing="Stripe has no subscription of it.")
    say("")
    print_table(
        [
            {
                "wanted (UTC)": each.created_at,
                "change": f"{each.kind} {each.params.get('plan', '')}".strip(),
                "state": each.state,
                "by": each.reason,
                "answer": each.answer,
            }
            for each in found.changes
        ],
        nothing="Nothing was changed by us.",
    )
    say("")
    print_table(
        [
            {
                "since (UTC)": each.at,
                "service": f"{each.from_status} → {each.to_status}",
                "rule": each.rule,
                "until (UTC)": each.until,
                "because": each.cause,
            }
            for each in found.service
        ],
        nothing="It could always take calls.",
    )


def _subscription(each: MirroredSubscription, now: datetime) -> dict[str, Any]:
    remarks = []
    if each.started_at > now:
        remarks.append(f"begins {shown(each.started_at)}")
    if each.ended_at:
        remarks.append(f"ended {shown(each.ended_at)}")
    elif each.cancel_at_period_end:
        remarks.append("ends with this period")
    elif each.cancel_at:
        inside = each.period_end is not None and each.cancel_at < each.period_end
        lost = ", inside the period of its minutes: without a last invoice they are lost" if inside else ""
        remarks.append(f"ends {shown(each.cancel_at)}{lost}")
    if each.billing_mode == CLASSIC_MODE:
        remarks.append("classic billing")
    if each.pause_collection:
        remarks.append("collection paused")
    if each.trial_end:
        remarks.append(f"trial until {shown(each.trial_end)}")
    return {
        "subscription": each.stripe_id,
        "status": each.status,
        "plan": each.plan,
        "period (UTC)": f"{shown(each.period_start)}\n{shown(each.period_end)}",
        "": ", ".join(remarks),
    }


@app.command()
def cancel(
    business: BusinessArgument,
    now: Annotated[
        bool, typer.Option("--now", help="At once, with a last invoice, instead of at the period's end.")
    ] = False,
    dry_run: DryRun = False,
    reason: Reason = None,
) -> None:
    """Cancel the subscription at the end of its period; the business is on Free from then on."""
    _change(
        choose_settings(),
        business,
        [ChangeKind.CANCEL_NOW if now else ChangeKind.CANCEL_AT_PERIOD_END],
        dry_run=dry_run,
        reason=reason,
    )


@app.command()
def resume(business: BusinessArgument, dry_run: DryRun = False, reason: Reason = None) -> None:
    """Undo a cancellation or a downgrade that has not come yet, and collect again where that is paused."""
    chosen = choose_settings()
    with reading(chosen) as connection:
        paused = collection_is_paused(connection, find(connection, business))
    _change(
        chosen,
        business,
        [ChangeKind.KEEP, *([ChangeKind.RESUME_COLLECTION] if paused else [])],
        dry_run=dry_run,
        reason=reason,
    )


@app.command()
def pause(business: BusinessArgument, dry_run: DryRun = False, reason: Reason = None) -> None:
    """Collect no payments until it is resumed; invoices are kept as drafts, and minutes go on being counted."""
    _change(choose_settings(), business, [ChangeKind.PAUSE_COLLECTION], dry_run=dry_run, reason=reason)


@app.command()
def upgrade(
    business: BusinessArgument,
    plan: PlanArgument,
    migrate: Annotated[
        bool,
        typer.Option("--migrate", help="Put a subscription of classic billing mode into the flexible one, for good."),
    ] = False,
    dry_run: DryRun = False,
    reason: Reason = None,
) -> None:
    """Change to a dearer plan now: a new period begins, and what was used is billed at once.

    In classic billing mode it is refused where Stripe would drop what was used: --migrate.
    """
    chosen = choose_settings()
    _change(chosen, business, [ChangeKind.UPGRADE], plan=plan.lower(), migrate=migrate, dry_run=dry_run, reason=reason)


@app.command()
def downgrade(business: BusinessArgument, plan: PlanArgument, dry_run: DryRun = False, reason: Reason = None) -> None:
    """Change to a cheaper plan when the present period ends."""
    _change(choose_settings(), business, [ChangeKind.DOWNGRADE], plan=plan.lower(), dry_run=dry_run, reason=reason)


def _change(
    chosen: Chosen,
    business: str,
    kinds: list[ChangeKind],
    *,
    plan: str | None = None,
    migrate: bool = False,
    dry_run: bool,
    reason: str | None,
) -> None:
    try:
        with transaction(chosen) as connection:
            business_id = find(connection, business)
            lock_businesses(connection, [business_id])
            if plan is not None:
                _see_that_it_fits(connection, business_id, kinds[0], plan)
            intents = [planning.intend(connection, business_id, kind, plan, migrate=migrate) for kind in kinds]
            if not dry_run:
                for intent in intents:
                    planning.plan_change(
                        connection, business_id, intent, "altiora subscription", business_clock(chosen).now()
                    )
                    about = {"subscription": intent.stripe_id, "plan": plan}
                    record(
                        connection,
                        f"subscription {intent.kind}",
                        f"subscription:{intent.stripe_id}",
                        business_id=business_id,
                        reason=reason,
                        detail=about,
                    )
    except ChangeError as error:
        raise WrongError(str(error)) from error
    for intent in intents:
        if dry_run:
            subscription_preview.show(intent, chosen)
        else:
            say(f"Planned: {intent.kind} of {intent.stripe_id}. A worker tells Stripe within seconds.")
    if not dry_run:
        say(f"How it went: altiora subscription show {business_id}")


def _see_that_it_fits(connection: Connection, business_id: int, kind: ChangeKind, plan: str) -> None:
    if plan == "free":
        raise WrongError("Free has no subscription: altiora subscription cancel")
    dearer = cents_dearer(connection, business_id, plan)
    if dearer is None:
        raise WrongError(f"there is no plan {plan}; write starter, professional or enterprise")
    if dearer == 0:
        raise WrongError(f"the business is on {plan} already")
    if (dearer > 0) != (kind is ChangeKind.UPGRADE):
        raise WrongError(
            f"{plan} is {'dearer' if dearer > 0 else 'cheaper'} than its present plan: use the other command"
        )
