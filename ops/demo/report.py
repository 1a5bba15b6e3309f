"""What the demo says in the end: the month by plan, each promise, and where to look further."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops.demo.evidence import Evidence
from ops.demo.people import DemoPerson
from ops.demo.promises import Verdict, difference_of
from ops.demo.screen import WIDTH
from ops.demo.signup import Signed
from ops.demo.stage import Stage
from ops.demo.world import PLANS
from pipeline.prices.money import money


class _Part:
    """What belongs to some of the businesses: those of a plan, or all."""

    def __init__(self, evidence: Evidence, signed: Sequence[Signed]) -> None:
        self.evidence = evidence
        self.signed = signed
        self.ids = {each.business_id for each in signed}
        self.customers = {each.customer for each in signed if each.customer is not None}
        self.uses = [use for use in evidence.uses if use.signed.business_id in self.ids]
        self.records = [row for row in evidence.records.values() if row.business_id in self.ids]

    def billed(self, *, final: bool) -> int:
        return sum(use.quantity for use in self.uses if use.final is final)

    def difference(self) -> int:
        return sum(difference_of(self.evidence, business_id) for business_id in self.ids)

    def included(self) -> int:
        """Of what Stripe bills, or would by now: minutes that the plan includes."""
        return sum(min(use.quantity, PLANS[use.signed.member.plan].included) for use in self.uses)

    def overage(self) -> int:
        return self.billed(final=True) + self.billed(final=False) - self.included()

    def unbilled(self) -> int:
        return sum(max(0, row.minutes - row.included_minutes) for row in self.records if not row.bills_overage)


_Line = tuple[str, Callable[[_Part], int]]

#: The lines of the table, in groups: what is said, and the figure of a part.
_GROUPS: tuple[tuple[_Line, ...], ...] = (
    (
        ("businesses", lambda part: len(part.signed)),
        ("calls made (Twilio's ledger)", lambda part: sum(use.calls for use in part.uses)),
        ("minutes made", lambda part: sum(use.minutes for use in part.uses)),
    ),
    (
        ("minutes counted", lambda part: sum(row.sum_minutes + row.late_minutes for row in part.records)),
        ("  pushed to Stripe", lambda part: sum(row.sum_pushed for row in part.records)),
        ("  not for Stripe (Free)", lambda part: sum(row.minutes for row in part.records if not row.paid)),
        ("carried to a later period", lambda part: sum(row.carried_in for row in part.records)),
        ("alerts at 80 and 100 %", lambda part: sum(alert.business_id in part.ids for alert in part.evidence.alerts)),
    ),
    (
        ("Stripe's meter sums up to", lambda part: sum(part.evidence.summaries[each] for each in part.customers)),
        ("  on final invoices", lambda part: part.billed(final=True)),
        ("  on the next ones so far", lambda part: part.billed(final=False)),
        ("included in the plan", _Part.included),
        ("overage, billed", _Part.overage),
        ("unbilled (Free)", _Part.unbilled),
        ("waiting, nothing bills them", lambda part: sum(row.unbillable for row in part.records)),
        ("difference", _Part.difference),
    ),
)


def show_month(console: Console, evidence: Evidence) -> None:
    """The table by plan: minutes as the stand-ins know them, as they were counted, and as they are billed."""
    by_plan = [_Part(evidence, [each for each in evidence.signed if each.member.plan == code]) for code in PLANS]
    parts = [*by_plan, _Part(evidence, evidence.signed)]
    table = Table(box=None, pad_edge=False, width=min(console.width, WIDTH), padding=(0, 1))
    table.add_column("minutes, unless said otherwise", no_wrap=True, header_style="dim")
    for name in (*(plan.name for plan in PLANS.values()), "all"):
        table.add_column(name.replace("Professional", "Profess."), justify="right", no_wrap=True, header_style="bold")
    for group in _GROUPS:
        for words, figure in group:
            style = "" if words != "difference" else "bold green" if not parts[-1].difference() else "bold red"
            table.add_row(words, *(f"{figure(part):,}" for part in parts), style=style)
        if group is not _GROUPS[-1]:
            table.add_row()
    console.print(table)


def show_unusual(console: Console, evidence: Evidence) -> None:
    """Whose subscription is not as usual, and what that came to."""
    table = Table(box=None, pad_edge=False, width=min(console.width, WIDTH), padding=(0, 1), header_style="dim")
    for words in ("not as usual", "business"):
        table.add_column(words, no_wrap=True)
    for words in ("minutes", "they cost", "invoices", "in all"):
        table.add_column(words, justify="right", no_wrap=True)
    for signed in evidence.signed:
        member = signed.member
        if member.kind is None:
            continue
        uses = [use for use in evidence.uses if use.signed is signed and use.paid]
        invoices = [each for each in evidence.invoices if each["customer"] == signed.customer]
        cost = sum(member.cost(use.minutes) for use in uses)
        paid = sum(each["total"] for each in invoices)
        minutes = sum(use.minutes for use in uses)
        figures = (f"{minutes:,}", money(cost, member.currency), str(len(invoices)), money(paid, member.currency))
        table.add_row(member.kind, member.name, *figures)
    console.print(table)


def show_promises(console: Console, found: Sequence[Verdict]) -> None:
    """One line for each promise, and below them what speaks against those that are broken."""
    table = Table(box=None, pad_edge=False, width=min(console.width, WIDTH), padding=(0, 1), header_style="dim")
    table.add_column("promise", justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column("as the stand-ins' own books show")
    for verdict in found:
        outcome = Text("ok", style="green") if verdict.kept else Text("broken", style="bold red")
        table.add_row(verdict.promise, outcome, verdict.title, verdict.figures)
    console.print(table)
    for verdict in found:
        for fault in verdict.named_faults():
            console.print(f"promise {verdict.promise}: {fault}", style="red", markup=False, soft_wrap=True)


def show_where_to_look(console: Console, stage: Stage, evidence: Evidence) -> None:
    """For --keep: what can be looked at while everything is still running."""
    user, password = stage.flower_auth.split(":")
    some = next((use for use in evidence.uses if use.final), evidence.uses[0])
    lines = (
        f"Everything is still running; business time stands at {evidence.now:%a %d %b %Y %H:%M} UTC. Ctrl-C ends it.",
        "",
        f"Flower: {stage.flower_address}  (user {user}, password {password})",
        f"Receiver: {stage.settings['ALTIORA_PUBLIC_URL']}/health/backlog and /metrics",
        f"Portal of {some.signed.member.name}, as its customer sees it:",
        f"  {stage.settings['ALTIORA_STRIPE_API_BASE']}/_sandbox/stripe/portal/{some.signed.customer}",
        "Logs: " + str(stage.supervisor.folder),
        "",
        f"In another terminal, in this folder ({stage.env_file.parent.name}/{stage.env_file.name} tells where it is):",
        "  .venv/bin/altiora backlog",
        "  .venv/bin/altiora business list",
        f"  .venv/bin/altiora usage {some.signed.business_id}",
        "  .venv/bin/altiora events list --limit 5",
        "  .venv/bin/altiora doctor",
    )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_people(console: Console, stage: Stage, password: str, people: Sequence[DemoPerson]) -> None:
    """For --keep: who can sign in, and how. Whoever works for Altiora has a second factor."""
    api = stage.settings["ALTIORA_DASHBOARD_URL"]
    lines = (
        "",
        f"API: {api}/v1",
        f"  to read and to try: {api}/v1/docs",
        f"Mailbox: {stage.settings['ALTIORA_STRIPE_API_BASE']}/_sandbox/mail",
        f"People, all with the password {password}",
        *(f"  {each.email:<18} {each.what}" for each in people),
        "Second factors, each with its present code and the secret for an app:",
        *(f"  {each.email:<18} {each.code}  {each.secret}" for each in people if each.secret is not None),
        "Sign in, and look (a later code: .venv/bin/python -c",
        "  'import pyotp; print(pyotp.TOTP(\"the secret\").now())'):",
        f"  curl -s {api}/v1/sessions -H 'Origin: {api}' \\",
        "    -H 'Content-Type: application/json' \\",
        f'    -d \'{{"email": "{people[0].email}", "password": "{password}"}}\'',
        f"  curl -s {api}/v1/businesses -H 'Authorization: Bearer …'",
        "and then …/businesses/ID/calls, …/ID/agents, …/ID/members of one of them.",
    )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
