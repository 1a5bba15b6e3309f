"""`altiora user`: who may sign in."""

import contextlib
from collections.abc import Iterator
from typing import Annotated

import typer
from sqlalchemy import Connection

from accounts import links, mail_sending, second_factor
from accounts import users as people
from accounts.links import LinkKind
from accounts.mails import MailKind, plan_mail
from accounts.rights import Role
from accounts.users import Account
from ops.commands.audit import Reason, record
from ops.commands.database import Chosen, choose_settings, reading, transaction
from ops.commands.output import AsJson, WrongError, print_json, print_table, say
from pipeline.shared.settings import DashboardSettings, DatabaseSettings, load

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Who may sign in: users, and Altiora's own staff.")

UserArgument = Annotated[str, typer.Argument(metavar="USER", help="The number of a user, or the address.")]


def find_user(connection: Connection, user: str) -> Account:
    """The user with this number or address. Raises WrongError."""
    by_number = user.isascii() and user.isdigit()
    found = people.user_with_id(connection, int(user)) if by_number else people.user_with_email(connection, user)
    if found is None:
        raise WrongError(f"there is no user {user}; `altiora user list` shows them")
    return found


def invite(connection: Connection, chosen: Chosen, kind: LinkKind, email: str, **about: int | Role | None) -> str:
    """Plan the mail with a link, and make one of its own for whoever runs the command; returns the address of that."""
    try:
        link_id = links.request_link(connection, kind, email, **about)  # type: ignore[arg-type]  # of its own names
    except people.UserError as error:
        raise WrongError(str(error)) from error
    link = links.link_with_id(connection, link_id)
    assert link is not None
    return mail_sending.link_address(load(DashboardSettings, chosen).dashboard_url, links.make_secret(connection, link))


def say_link(address: str, email: str, lasts: str) -> None:
    """Tell where the link leads."""
    say(f"A mail is on its way to {email}. Whoever opens this link, within {lasts}, is taken for them:")
    say(f"  {address}")


@contextlib.contextmanager
def _change(chosen: Chosen) -> Iterator[Connection]:
    try:
        with transaction(chosen) as connection:
            yield connection
    except people.UserError as error:
        raise WrongError(str(error)) from error


@app.command()
def add(
    email: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="Where the link is mailed, and who signs in with it.")
    ],
    staff: Annotated[
        Role | None, typer.Option(help="Of Altiora's own people: support reads, operators act, administrators decide.")
    ] = None,
    reason: Reason = None,
) -> None:
    """Let somebody in, by a link to choose a name and a password. For the first administrator it is printed too."""
    if staff is not None and staff not in {Role.SUPPORT, Role.OPERATOR, Role.ADMINISTRATOR}:
        raise typer.BadParameter("support, operator or administrator", param_hint="--staff")
    chosen = choose_settings(DatabaseSettings, DashboardSettings)
    with _change(chosen) as connection:
        address = invite(connection, chosen, LinkKind.STAFF, email, staff_role=staff)
        detail = {"staff_role": staff and staff.value}
        record(connection, "user add", "users", reason=reason, detail=detail)
    say_link(address, email, "30 minutes")


@app.command("list")
def list_(
    q: Annotated[str, typer.Argument(metavar="TEXT", help="Part of a name or an address.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show users, the newest first."""
    with reading(choose_settings()) as connection:
        found = people.list_users(connection, q)
    if as_json:
        print_json(found)
        return
    print_table(
        (
            {
                "id": str(each.id),
                "name": each.name,
                "address": each.email,
                "staff": each.staff_role or "",
                "businesses": ", ".join(map(str, each.businesses)),
                "second factor": "yes" if each.second_factor else "no",
                "state": "deactivated" if each.deactivated_at else "",
            }
            for each in found
        ),
        numbers=["id"],
        nothing="There is nobody yet: altiora user add --staff administrator ADDRESS",
    )


@app.command()
def disable(user: UserArgument, reason: Reason = None) -> None:
    """End all sessions of somebody and let them sign in no more. Who owns a business hands it over first."""
    with _change(choose_settings()) as connection:
        account = find_user(connection, user)
        if not people.deactivate_user(connection, account.id):
            raise WrongError(f"user {account.id} is deactivated already")
        record(connection, "user disable", f"user:{account.id}", reason=reason, fields=["deactivated_at"])
    say(f"User {account.id} is signed out everywhere and may not sign in. Back: altiora user enable {account.id}")


@app.command()
def enable(user: UserArgument, reason: Reason = None) -> None:
    """Let somebody sign in again."""
    with _change(choose_settings()) as connection:
        account = find_user(connection, user)
        if not people.activate_user(connection, account.id):
            raise WrongError(f"user {account.id} is not deactivated")
        record(connection, "user enable", f"user:{account.id}", reason=reason, fields=["deactivated_at"])
    say(f"User {account.id} may sign in again.")


@app.command("reset-password")
def reset_password(user: UserArgument, reason: Reason = None) -> None:
    """Mail somebody a link for a new password; the second factor stays. The link is printed too."""
    chosen = choose_settings(DatabaseSettings, DashboardSettings)
    with _change(chosen) as connection:
        account = find_user(connection, user)
        address = invite(connection, chosen, LinkKind.RESET, account.email)
        record(connection, "user reset-password", f"user:{account.id}", reason=reason)
    say_link(address, f"user {account.id}", "30 minutes")


@app.command("reset-second-factor")
def reset_second_factor(
    user: UserArgument, reason: Annotated[str, typer.Option(help="How you know who asked.")]
) -> None:
    """Take somebody's second factor away, who has lost phone and recovery codes. They are told by mail."""
    with _change(choose_settings()) as connection:
        account = find_user(connection, user)
        if not second_factor.remove(connection, account.id):
            raise WrongError(f"user {account.id} has no second factor")
        plan_mail(connection, MailKind.SECOND_FACTOR_OFF, user_id=account.id)
        record(connection, "user reset-second-factor", f"user:{account.id}", reason=reason, fields=["totp_secret"])
    say(f"User {account.id} signs in with the password alone; staff then may only set a new second factor up.")
