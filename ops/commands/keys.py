"""`altiora key`: the API keys of programs."""

from typing import Annotated

import typer

from accounts import api_keys
from ops.commands.audit import Reason, record
from ops.commands.business_argument import find
from ops.commands.database import choose_settings, reading, transaction
from ops.commands.output import AsJson, WrongError, print_json, print_table, say

app = typer.Typer(add_completion=False, no_args_is_help=True, help="API keys: which there are, and ending one.")


@app.command("list")
def list_(
    business: Annotated[
        str | None, typer.Argument(metavar="BUSINESS", help="Its id, or its exact name; without it the service keys.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the keys of a business, or the phone platform's, the newest first."""
    with reading(choose_settings()) as connection:
        found = api_keys.list_keys(connection, None if business is None else find(connection, business))
    if as_json:
        print_json(found)
        return
    print_table(
        (
            {
                "id": str(each.id),
                "name": each.name,
                "begins": each.prefix,
                "scopes": ", ".join(each.scopes),
                "last used": each.last_used_at or "never",
                "ends": each.revoked_at or each.ends_at or "",
            }
            for each in found
        ),
        numbers=["id"],
        nothing="There are no keys.",
    )


@app.command()
def revoke(
    key: Annotated[int, typer.Argument(metavar="ID", help="As `altiora key list` shows it.")], reason: Reason = None
) -> None:
    """End a key at once; programs that use it are refused from the next request on."""
    with transaction(choose_settings()) as connection:
        found = api_keys.key_with_id(connection, key)
        if found is None:
            raise WrongError(f"there is no key {key}; `altiora key list BUSINESS` shows them")
        if not api_keys.revoke_key(connection, key):
            raise WrongError(f"key {key} was revoked already")
        subject = f"key:{key}"
        record(connection, "key revoke", subject, business_id=found.business_id, reason=reason, fields=["revoked_at"])
    say(f"Key {key} ({found.name}) is good no more.")
