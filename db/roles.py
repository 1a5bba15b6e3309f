"""Who may do what in the database: six logins, and the one table of their rights.

`altiora migrate --roles` makes them, and `altiora migrate` keeps their rights in step with the tables. A database
without them works as well, with whatever login it is given. Which rows tenants' requests see of the tables that they
may read says db/tenancy.py. Time limits are set on the logins too, since a pooler passes on no options of a connection.
"""

from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from db.tenancy import SHARED, WALLS, build_walls

OWNER: Final = "altiora_owner"
"""Owns the tables and migrates them."""
RECEIVER: Final = "altiora_receiver"
"""Stores events and looks whether they are done: it changes none, and reads neither bodies nor calls."""
WORKER: Final = "altiora_worker"
"""Does the work: workers and the commands of operators. It makes no tables, and rewrites no history."""
STAFF: Final = "altiora_staff"
"""The API for Altiora's own people, and for accounts: it reads, and writes nothing that is billed."""
TENANT: Final = "altiora_tenant"
"""The API for whoever belongs to a business: rows of that business alone, and nothing that is billed."""
READER: Final = "altiora_reader"
"""Looks: a dashboard of figures, a person with a question."""

LOGINS: Final = (OWNER, RECEIVER, WORKER, STAFF, TENANT, READER)

#: Tables that the worker may not write at all, or only add to.
_FIXED: Final = {"alembic_version": "select", "schema_serves": "select", "audit_entries": "select, insert"}

#: What the API writes for staff; it reads everything.
_STAFF_WRITES: Final = {
    **dict.fromkeys(("users", "account_links", "mails", "sessions", "refresh_tokens", "api_keys"), "insert, update"),
    "idempotency_keys": "insert, update",
    **dict.fromkeys(("businesses", "phone_numbers"), "insert, update"),
    **dict.fromkeys(("business_members", "recovery_codes", "attempt_limits"), "insert, update, delete"),
    **dict.fromkeys(("link_tokens", "known_devices", "audit_entries", "service_transitions"), "insert"),
    **dict.fromkeys(("drifts", "usage_alerts", "ai_agents"), "insert, update"),
    **dict.fromkeys(("agent_knowledge", "phone_number_assignments"), "insert, update, delete"),
    **dict.fromkeys(("agent_scripts", "call_transcripts", "refreshes"), "insert, update"),
    "webhook_events": "update (state, reason, attempts, lone_deaths, due_at, processed_at, batch_limit)",
}

_OF_AGENT: Final = "name, language, personality, voice, prompt, greeting, settings"
#: What the API writes for tenants; it reads what has a wall, and what is the same for all.
_TENANT_WRITES: Final = {
    "businesses": "update (name, time_zone, contact_email, ended_at)",
    "business_members": "update (role), delete",
    "account_links": "insert, update (ended_at)",
    **dict.fromkeys(("api_keys", "idempotency_keys", "usage_alerts"), "insert, update"),
    **dict.fromkeys(("audit_entries", "mails"), "insert"),
    "call_transcripts": "update (content, redacted_at)",
    # By columns: an id that is taken ahead would be another tenant's next one.
    "ai_agents": f"insert (business_id, {_OF_AGENT}), update ({_OF_AGENT}, ended_at)",
    "agent_knowledge": "insert (agent_id, business_id, question, answer), update (question, answer), delete",
    "agent_scripts": "insert (agent_id, business_id, name, version, flow), update (ended_at)",
    "phone_numbers": "update (business_id, agent_id, label, free_from)",
    "phone_number_assignments": "insert (number, business_id, held, agent_id), update (held, agent_id), delete",
}
#: What a tenant sees some columns of, or nothing.
_TENANT_SEES_OF: Final = {
    "users": "id, email, name, second_factor, created_at, deactivated_at",
    "api_keys": """
    id, business_id, user_id, name, prefix, scopes, created_at, last_used_at, expires_at, shrunk_at, revoked_at
    """,
    "mails": "id",
    "webhook_events": "id, provider, key, type, state, reason, received_at, recovered",
}
_TENANT_SEES_NOT: Final = {"drifts"}

#: What people come in and stay in by, though only digests of it are stored: a reader of figures sees none of it.
_READER_SEES_NOT: Final = {
    *("sessions", "refresh_tokens", "link_tokens", "known_devices", "recovery_codes", "attempt_limits"),
    "idempotency_keys",
}
_READER_SEES_OF: Final = {
    "users": "id, email, name, staff_role, second_factor, created_at, deactivated_at",
    "api_keys": "id, business_id, user_id, name, prefix, scopes, created_at, last_used_at, expires_at, revoked_at",
}

#: What the receiver may do: the columns it sees of what it stores, and what backlog and metrics count.
_RECEIVER_RIGHTS: Final = (
    "insert on webhook_events, resent_events",
    """
    select (id, provider, key, type, state, reason, attempts, due_at, received_at, stored_at, processed_at)
    on webhook_events
    """,
    """
    select on alembic_version, schema_serves, claims, credits, drifts, halts, listings, mails, meter_pushes, refreshes,
    sources, subscription_changes, usage_records
    """,
    "select on sequence webhook_events_id_seq",
)

#: Of every session of these logins; db/engine.py and receiver/pool.py say the same where nothing stands between.
_LIMITS: Final = {
    RECEIVER: {"statement_timeout": "10s"},
    WORKER: {"lock_timeout": "2s", "statement_timeout": "45s", "idle_in_transaction_session_timeout": "50s"},
    STAFF: {"lock_timeout": "2s", "statement_timeout": "20s", "idle_in_transaction_session_timeout": "30s"},
    TENANT: {"lock_timeout": "2s", "statement_timeout": "20s", "idle_in_transaction_session_timeout": "30s"},
    READER: {"lock_timeout": "2s", "statement_timeout": "45s", "default_transaction_read_only": "on"},
}

_TABLES = "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' order by 1"

# What belongs to somebody else; a sequence of an identity column goes with its table.
_OTHERS = """
select case relkind when 'S' then 'sequence' else 'table' end, relname from pg_class c
where relnamespace = 'public'::regnamespace and relowner <> %(owner)s::regrole
  and (relkind = 'r' or relkind = 'S' and not exists (
    select from pg_depend d where d.objid = c.oid and d.deptype = 'i'))
union all
select 'function', oid::regprocedure::text from pg_proc p
where pronamespace = 'public'::regnamespace and proowner <> %(owner)s::regrole and not exists (
  select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
"""


def address_of(address: str, login: str) -> str:
    """The address of the same database for another login, which has no password or the same one."""
    return make_url(address).set(username=login).render_as_string(hide_password=False)


def make_logins(connection: psycopg.Connection, passwords: Mapping[str, str]) -> None:
    """Make the logins that are not there, set the passwords of all, and their rights.

    ``passwords`` by login. Whoever is connected must be allowed to make logins and owns the tables, or is a superuser.
    """
    present = existing(connection)
    for login in LOGINS:
        verb = "alter" if login in present else "create"
        secret = connection.pgconn.encrypt_password(passwords[login].encode(), login.encode(), b"scram-sha-256")
        _run(
            connection,
            verb + " role {} with login nosuperuser nocreatedb nocreaterole noinherit password {}",
            sql.Identifier(login),
            sql.Literal(secret.decode()),
        )
        for name, value in {"timezone": "UTC", **_LIMITS.get(login, {})}.items():
            _run(
                connection,
                "alter role {} set {} = {}",
                *(sql.Identifier(login), sql.Identifier(name), sql.Literal(value)),
            )
    # Whoever makes the logins must be one of the owner's to hand the tables over.
    _run(connection, "grant {} to current_user", sql.Identifier(OWNER))
    give_rights(connection)


def existing(connection: psycopg.Connection) -> set[str]:
    """Those of the logins that are there."""
    found = connection.execute("select rolname from pg_roles where rolname = any(%s)", (list(LOGINS),))
    return {name for (name,) in found}


def give_rights(connection: psycopg.Connection) -> None:
    """Have each login that is there own or may do what this file says, and no more. Repeating it changes nothing."""
    present = existing(connection)
    if OWNER in present:
        _run(connection, "grant usage, create on schema public to {}", sql.Identifier(OWNER))
        for kind, name in connection.execute(_OTHERS, {"owner": OWNER}).fetchall():
            named = sql.SQL(name) if kind == "function" else sql.Identifier(name)
            _run(connection, f"alter {kind} {{}} owner to {{}}", named, sql.Identifier(OWNER))
    tables = [name for (name,) in connection.execute(_TABLES)]
    for login in sorted(present - {OWNER}):
        to = sql.Identifier(login)
        _run(connection, "revoke all on all tables in schema public from {}", to)
        _run(connection, "revoke all on all sequences in schema public from {}", to)
        _run(connection, "grant usage on schema public to {}", to)
        if login == RECEIVER:
            for rights in _RECEIVER_RIGHTS:
                _run(connection, f"grant {rights} to {{}}", to)
        elif login == STAFF:
            _run(connection, "grant usage, select on all sequences in schema public to {}", to)
            for table in tables:
                _run(connection, "grant select on {} to {}", sql.Identifier(table), to)
            for table, rights in _STAFF_WRITES.items():
                _run(connection, f"grant {rights} on {{}} to {{}}", sql.Identifier(table), to)
        elif login == TENANT:  # and no sequence, which tells how many there are of all tenants' together
            for table in sorted((WALLS.keys() | SHARED) - _TENANT_SEES_NOT):
                columns = f" ({_TENANT_SEES_OF[table]})" if table in _TENANT_SEES_OF else ""
                _run(connection, f"grant select{columns} on {{}} to {{}}", sql.Identifier(table), to)
            for table, rights in _TENANT_WRITES.items():
                _run(connection, f"grant {rights} on {{}} to {{}}", sql.Identifier(table), to)
        elif login == READER:
            for table in tables:
                columns = f" ({_READER_SEES_OF[table]})" if table in _READER_SEES_OF else ""
                if table not in _READER_SEES_NOT:
                    _run(connection, f"grant select{columns} on {{}} to {{}}", sql.Identifier(table), to)
        else:
            _run(connection, "grant usage, select on all sequences in schema public to {}", to)
            for table in tables:
                rights = _FIXED.get(table, "select, insert, update, delete")
                _run(connection, f"grant {rights} on {{}} to {{}}", sql.Identifier(table), to)

    if {TENANT, RECEIVER} <= present:
        build_walls(connection, TENANT, RECEIVER)


def _run(connection: psycopg.Connection, statement: str, *parts: sql.Composable) -> None:
    connection.execute(sql.SQL(statement).format(*parts))
