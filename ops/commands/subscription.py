"""`altiora subscription`: what Stripe says of a business's subscription, and changing it."""

from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from ops.commands import subscription_preview
from ops.commands.business_argument import BusinessArgument, find
from ops.commands.database import transaction
from ops.commands.output import AsJson, WrongError, print_json, print_table, say, shown
from pipeline.shared.business_locks import lock_businesses
from pipeline.shared.clock import business_clock
from pipeline.subscription_changes import planning
from pipeline.subscription_changes.kinds import ChangeKind
from pipeline.subscription_changes.planning import ChangeError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Subscriptions: what Stripe says of one, and changing it."
)

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only show what would be sent, and what it would do to the money.")
]
PlanArgument = Annotated[str, typer.Argument(metavar="PLAN", help="starter, professional or enterprise.")]

_SUBSCRIPTIONS = """
select s.stripe_id, s.status, p.code as plan, s.period_start, s.period_end, s.trial_end, s.cancel_at_period_end,
       s.ended_at, s.pause_collection
from subscriptions s left join subscription_plans p on p.id = s.plan_id
where s.business_id = %s order by s.started_at desc, s.id desc
"""

_CHANGES = """
select id, kind, params, state, reason, attempts, answer, created_at
from subscription_changes where business_id = %s order by id desc limit 10
"""

_TRANSITIONS = """
select at, from_status, to_status, rule, until, cause
from service_transitions where business_id = %s order by id desc limit 10
"""

_PLANS = """
select wanted.price_cents - present.price_cents as dearer
from businesses b join subscription_plans present on present.id = b.plan_id, subscription_plans wanted
where b.id = %s and wanted.code = %s
"""

_COLLECTION_PAUSED = """
select exists (select from subscriptions where business_id = %s and ended_at is null and pause_collection is not null)
"""


@app.command()
def show(business: BusinessArgument, as_json: AsJson = False) -> None:
    """Show the subscriptions of a business, their latest changes, and whether it may take calls and why."""
    with transaction() as connection:
        business_id = find(connection, business)
        found = {
            name: [dict(row._mapping) for row in connection.exec_driver_sql(query, (business_id,))]  # noqa: SLF001 - SQLAlchemy's public way to a dict
            for name, query in (
                ("subscriptions", _SUBSCRIPTIONS),
                ("changes", _CHANGES),
                ("service", _TRANSITIONS),
            )
        }
    if as_json:
        print_json({"business": business_id, **found})
        return
    print_table([_subscription(row) for row in found["subscriptions"]], nothing="Stripe has no subscription of it.")
    say("")
    print_table(
        [
            {
                "wanted (UTC)": row["created_at"],
                "change": " ".join([row["kind"], row["params"].get("plan", "")]).strip(),
                "state": row["state"],
                "by": row["reason"],
                "answer": row["answer"],
            }
            for row in found["changes"]
        ],
        nothing="Nothing was changed by us.",
    )
    say("")
    print_table(
        [
            {
                "since (UTC)": row["at"],
                "service": f"{row['from_status']} → {row['to_status']}",
                "rule": row["rule"],
                "until (UTC)": row["until"],
                "because": row["cause"],
            }
            for row in found["service"]
        ],
        nothing="It could always take calls.",
    )


def _subscription(row: dict[str, Any]) -> dict[str, Any]:
    remarks = []
    if row["ended_at"]:
        remarks.append(f"ended {shown(row['ended_at'])}")
    elif row["cancel_at_period_end"]:
        remarks.append("ends with this period")
    if row["pause_collection"]:
        remarks.append("collection paused")
    if row["trial_end"]:
        remarks.append(f"trial until {shown(row['trial_end'])}")
    return {
        "subscription": row["stripe_id"],
        "status": row["status"],
        "plan": row["plan"],
        "period (UTC)": f"{shown(row['period_start'])}\n{shown(row['period_end'])}",
        "": ", ".join(remarks),
    }


@app.command()
def cancel(
    business: BusinessArgument,
    now: Annotated[
        bool, typer.Option("--now", help="At once, with a last invoice, instead of at the period's end.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Cancel the subscription at the end of its period; the business is on Free from then on."""
    _change(business, [ChangeKind.CANCEL_NOW if now else ChangeKind.CANCEL_AT_PERIOD_END], dry_run=dry_run)


@app.command()
def resume(business: BusinessArgument, dry_run: DryRun = False) -> None:
    """Undo a cancellation or a downgrade that has not come yet, and collect again where that is paused."""
    with transaction() as connection:
        paused = connection.exec_driver_sql(_COLLECTION_PAUSED, (find(connection, business),)).scalar_one()
    _change(business, [ChangeKind.KEEP, *([ChangeKind.RESUME_COLLECTION] if paused else [])], dry_run=dry_run)


@app.command()
def pause(business: BusinessArgument, dry_run: DryRun = False) -> None:
    """Collect no payments until it is resumed; invoices are kept as drafts, and minutes go on being counted."""
    _change(business, [ChangeKind.PAUSE_COLLECTION], dry_run=dry_run)


@app.command()
def upgrade(business: BusinessArgument, plan: PlanArgument, dry_run: DryRun = False) -> None:
    """Change to a dearer plan now: a new period begins, and what was used is billed at once."""
    _change(business, [ChangeKind.UPGRADE], plan=plan.lower(), dry_run=dry_run)


@app.command()
def downgrade(business: BusinessArgument, plan: PlanArgument, dry_run: DryRun = False) -> None:
    """Change to a cheaper plan when the present period ends."""
    _change(business, [ChangeKind.DOWNGRADE], plan=plan.lower(), dry_run=dry_run)


def _change(business: str, kinds: list[ChangeKind], *, plan: str | None = None, dry_run: bool) -> None:
    try:
        with transaction() as connection:
            business_id = find(connection, business)
            lock_businesses(connection, [business_id])
            if plan is not None:
                _see_that_it_fits(connection, business_id, kinds[0], plan)
            intents = [planning.intend(connection, business_id, kind, plan) for kind in kinds]
            if not dry_run:
                for intent in intents:
                    planning.plan_change(
                        connection, business_id, intent, "altiora subscription", business_clock().now()
                    )
    except ChangeError as error:
        raise WrongError(str(error)) from error
    for intent in intents:
        if dry_run:
            subscription_preview.show(intent)
        else:
            say(f"Planned: {intent.kind} of {intent.stripe_id}. A worker tells Stripe within seconds.")
    if not dry_run:
        say(f"How it went: altiora subscription show {business_id}")


def _see_that_it_fits(connection: Connection, business_id: int, kind: ChangeKind, plan: str) -> None:
    if plan == "free":
        raise WrongError("Free has no subscription: altiora subscription cancel")
    dearer = connection.exec_driver_sql(_PLANS, (business_id, plan)).scalar()
    if dearer is None:
        raise WrongError(f"there is no plan {plan}; write starter, professional or enterprise")
    if dearer == 0:
        raise WrongError(f"the business is on {plan} already")
    if (dearer > 0) != (kind is ChangeKind.UPGRADE):
        raise WrongError(
            f"{plan} is {'dearer' if dearer > 0 else 'cheaper'} than its present plan: use the other command"
        )
