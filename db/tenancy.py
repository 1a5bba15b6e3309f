"""Whose a row is: the second wall between tenants, which PostgreSQL keeps whatever a query of ours forgets.

`altiora migrate` builds it for the login of tenants' requests (db/roles.py); for all others the tables stay as they
are. It is closed by default: a transaction sees nothing until ``enter`` has said whose it is, and a table that is not
named here is not readable at all. Checks of foreign and unique keys pass the wall by, so that a child carries its
parent's business in its own key where a tenant writes it (ai_agents).
"""

from collections.abc import Collection
from typing import Final

import psycopg
from psycopg import sql
from sqlalchemy import Connection

# As parameters, so that an id never becomes SQL; until this transaction ends, so that a pooler hands nothing on.
_ENTER: Final = """
select set_config('altiora.businesses', %(businesses)s, true), set_config('altiora.user', %(user)s, true),
       set_config('altiora.actor', %(actor)s, true)
"""

# A setting that was set once in a session is '' afterwards, and not null.
_BUSINESSES: Final = "any(nullif(current_setting('altiora.businesses', true), '')::bigint[])"
_USER: Final = "nullif(current_setting('altiora.user', true), '')::bigint"

_OF_BUSINESS: Final = f"business_id = {_BUSINESSES}"


def _child(parent: str, matches: str) -> str:
    return f"exists (select from {parent} p where {matches})"


#: By table: which rows a tenant's transaction sees, and may write. A parent's own wall stands in each child's.
WALLS: Final = {
    "businesses": f"id = {_BUSINESSES}",
    **dict.fromkeys(
        (
            *("agent_knowledge", "agent_scripts", "ai_agents", "api_keys", "audit_entries"),
            *("business_members", "calls", "credits", "drifts", "former_customers", "meter_pushes"),
            *("phone_number_assignments", "service_transitions", "stripe_invoices", "subscription_changes"),
            *("subscriptions", "usage_adjustments", "usage_alerts", "usage_records"),
        ),
        _OF_BUSINESS,
    ),
    # What gives nothing but work in the business: by none of the others somebody comes to an account, or to Altiora.
    "account_links": (
        f"{_OF_BUSINESS} and kind in ('invitation', 'ownership') and user_id is null and staff_role is null"
    ),
    "mails": (
        f"{_OF_BUSINESS} and (link_id is null"
        " or exists (select from account_links p where p.id = link_id and p.business_id = mails.business_id))"
    ),
    # One that nobody holds can be had, and is what is left of one that is let go.
    "phone_numbers": f"business_id is null or {_OF_BUSINESS}",
    "call_transcripts": _child("calls", "p.sid = call_sid"),
    # What was told of its own calls: that, and how it ended, but not the bodies (db/roles.py).
    "webhook_events": "provider = 'twilio' and " + _child("calls", "p.sid = split_part(key, ':', 1)"),
    "stripe_invoice_lines": _child("stripe_invoices", "p.id = invoice_id"),
    "stripe_sums": _child("usage_records", "p.id = usage_record_id"),
    "subscription_items": _child("subscriptions", "p.id = subscription_id"),
    # Oneself, and who works in the same businesses.
    "users": (
        f"id = {_USER} or exists (select from businesses p where p.owner_id = users.id)"  # noqa: S608 - constants
        " or exists (select from business_members p where p.user_id = users.id)"
    ),
    "idempotency_keys": "actor = current_setting('altiora.actor', true)",
}

#: What a tenant may add, or change, where that is less than it sees.
_ADDS: Final = {
    "account_links": f"invited_by = {_USER}",
    "phone_number_assignments": (
        "exists (select from phone_numbers p where p.number = phone_number_assignments.number"
        " and p.business_id = phone_number_assignments.business_id)"
    ),
}
#: Which rows, and how they may be left.
_CHANGES: Final = {
    # Its own, or one that it takes.
    "phone_numbers": (f"{_OF_BUSINESS} or business_id is null and twilio_sid is not null", "true"),
    "ai_agents": ("ended_at is null", "true"),
    "call_transcripts": ("true", "content = '' and redacted_at is not null"),
}

#: What is nobody's, and the same for all.
SHARED: Final = frozenset({"alembic_version", "schema_serves", "stripe_prices", "subscription_plans"})

#: Tables that no tenant's request touches: secrets of accounts, other people's webhooks, and how we work.
CLOSED: Final = frozenset(
    {
        *(
            "attempt_limits",
            "claims",
            "database_identity",
            "halts",
            "known_devices",
            "link_tokens",
            "listings",
            "recovery_codes",
        ),
        *("refresh_tokens", "refreshes", "resent_events", "sessions", "sources", "stripe_customers", "stripe_meters"),
    }
)

_PRESENT: Final = """
select tablename, policyname, obj_description(p.oid)
from pg_policies
join pg_policy p on p.polname = policyname and p.polrelid = format('%I.%I', schemaname, tablename)::regclass
where schemaname = 'public'
"""

#: For everybody there is no wall; what a tenant has is one that comes on top of it.
_OPEN: Final = "create policy everybody on {table} using (true)"
_WALL: Final = "create policy tenant on {table} as restrictive to {tenant} using ({sees}) with check ({sees})"
_ADDING: Final = "create policy tenant_adds on {table} as restrictive for insert to {tenant} with check ({sees})"
_CHANGING: Final = """
create policy tenant_changes on {table} as restrictive for update to {tenant} using ({sees}) with check ({leaves})
"""
_RECEIVED: Final = """
create policy receiver on {table} as restrictive for insert to {receiver} with check (provider in ('stripe', 'twilio'))
"""


def enter(connection: Connection, businesses: Collection[int], user_id: int | None, actor: str) -> None:
    """Say whose this transaction is: it sees rows of these businesses, and of no other, until it ends.

    ``actor`` as the audit trail names it.
    """
    about = {
        "businesses": "{" + ",".join(str(int(each)) for each in sorted(businesses)) + "}",
        "user": "" if user_id is None else str(int(user_id)),
        "actor": actor,
    }
    connection.exec_driver_sql(_ENTER, about)


def build_walls(connection: psycopg.Connection, tenant: str, receiver: str) -> None:
    """Have each policy be as this file says. What is as it was is not touched, since a change locks its table."""
    present = {(table, policy): comment for table, policy, comment in connection.execute(_PRESENT)}
    logins = {"tenant": sql.Identifier(tenant), "receiver": sql.Identifier(receiver)}
    wanted = [
        *(("everybody", table, _OPEN, "", "") for table in WALLS),
        *(("tenant", table, _WALL, sees, "") for table, sees in WALLS.items()),
        *(("tenant_adds", table, _ADDING, sees, "") for table, sees in _ADDS.items()),
        *(("tenant_changes", table, _CHANGING, sees, leaves) for table, (sees, leaves) in _CHANGES.items()),
        ("receiver", "webhook_events", _RECEIVED, "", ""),
    ]
    for policy, table, statement, sees, leaves in wanted:
        names = {"table": sql.Identifier(table), "policy": sql.Identifier(policy)}
        made = sql.SQL(statement).format(**names, **logins, sees=sql.SQL(sees), leaves=sql.SQL(leaves))
        # The policy's comment is how it was made: the text that PostgreSQL has of it is none to compare with.
        text = " ".join(made.as_string(connection).split())
        if present.get((table, policy)) == text:
            continue
        for each in (
            sql.SQL("drop policy if exists {policy} on {table}").format(**names),
            made,
            sql.SQL("comment on policy {policy} on {table} is {text}").format(**names, text=sql.Literal(text)),
            sql.SQL("alter table {table} enable row level security").format(**names),
        ):
            connection.execute(each)
