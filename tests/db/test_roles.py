"""Each login of the database may do what `db/roles.py` says, and all else fails: login by login, table by table."""

from collections.abc import Set as AbstractSet
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import text

from accounts.access_tokens import AccessToken, sign_access_token
from accounts.rights import Role
from accounts.secret_keys import SecretKeys
from db import roles
from db.tenancy import CLOSED
from ops.processes import embedded, recipes
from ops.processes.supervisor import free_port
from pipeline.businesses import registration
from pipeline.shared.clock import machine_now
from tests.worlds.command_line import Altiora, use_environment
from tests.worlds.people import PASSWORD, People
from tests.worlds.webhooks import callback, from_twilio, get, send, start_receiver

PASSWORDS = {
    f"ALTIORA_{name}_PASSWORD": f"{name}-of-a-test"
    for name in ("OWNER", "RECEIVER", "WORKER", "STAFF", "TENANT", "READER")
}
_SEEN_BY_THE_RECEIVER = (
    *("alembic_version", "schema_serves", "claims", "credits", "drifts", "halts", "listings", "mails", "meter_pushes"),
    *("refreshes", "sources", "subscription_changes", "usage_records"),
)
WRITES = {
    "insert": "insert into {} default values",
    "update": "update {} set {column} = {column} where false",
    "delete": "delete from {} where false",
}
_ADDS = frozenset({"select", "insert"})
_ADDS_AND_CHANGES = _ADDS | {"update"}
#: What each login may do with a table, where it is not the same for all.
RIGHTS: dict[str, dict[str, AbstractSet[str]]] = {
    roles.RECEIVER: {
        "webhook_events": {"insert"},
        "resent_events": {"insert"},
        **{table: {"select"} for table in _SEEN_BY_THE_RECEIVER},
    },
    roles.WORKER: {
        "alembic_version": {"select"},
        "schema_serves": {"select"},
        "audit_entries": {"select", "insert"},
    },
    roles.STAFF: {
        "refreshes": _ADDS_AND_CHANGES,
        "webhook_events": frozenset({"select", "update"}),
        **dict.fromkeys(
            ("users", "account_links", "mails", "sessions", "refresh_tokens", "api_keys"), _ADDS_AND_CHANGES
        ),
        **dict.fromkeys(("businesses", "phone_numbers", "drifts", "ai_agents", "agent_scripts"), _ADDS_AND_CHANGES),
        "call_transcripts": _ADDS_AND_CHANGES,
        **dict.fromkeys(("idempotency_keys", "usage_alerts"), _ADDS_AND_CHANGES),
        **dict.fromkeys(("business_members", "recovery_codes", "attempt_limits"), _ADDS_AND_CHANGES | {"delete"}),
        **dict.fromkeys(("agent_knowledge", "phone_number_assignments"), _ADDS_AND_CHANGES | {"delete"}),
        **dict.fromkeys(("link_tokens", "known_devices", "audit_entries", "service_transitions"), _ADDS),
    },
    # Which rows of these it sees is another question (test_tenancy); of some it may do things with some columns.
    roles.TENANT: {
        **dict.fromkeys(CLOSED | {"drifts"}, frozenset[str]()),
        **dict.fromkeys(("users", "webhook_events"), frozenset[str]()),
        "api_keys": frozenset({"insert", "update"}),
        "mails": frozenset({"insert"}),
        "business_members": frozenset({"select", "delete"}),
        "account_links": _ADDS,
        **dict.fromkeys(("usage_alerts", "idempotency_keys"), _ADDS_AND_CHANGES),
        **dict.fromkeys(("ai_agents", "agent_scripts"), _ADDS),
        "agent_knowledge": _ADDS | {"delete"},
        "phone_number_assignments": _ADDS_AND_CHANGES | {"delete"},
        "call_transcripts": frozenset({"select"}),
        "audit_entries": _ADDS,
        "phone_numbers": frozenset({"select", "update"}),
    },
    roles.READER: dict.fromkeys(
        (
            *("sessions", "refresh_tokens", "link_tokens", "known_devices", "recovery_codes", "attempt_limits"),
            *("idempotency_keys", "users", "api_keys"),  # of the last two some columns
        ),
        frozenset[str](),
    ),
}
USUAL = {
    roles.RECEIVER: set(),
    roles.WORKER: {"select", "insert", "update", "delete"},
    roles.STAFF: {"select"},
    roles.TENANT: {"select"},
    roles.READER: {"select"},
}


def as_login(url: str, login: str) -> str:
    """The address of the same database for another login; the test's server asks nobody for a password."""
    return roles.address_of(url, login).replace("+psycopg", "")


@pytest.fixture
def logins(database_url, environment, monkeypatch):
    """The test's database, whose logins have been given their rights by the command."""
    use_environment(monkeypatch, environment | PASSWORDS | {"ALTIORA_DATABASE_URL": database_url})
    said = Altiora()("migrate", "--roles")
    assert " ".join(said.split()).endswith(f"Logins: {', '.join(sorted(roles.LOGINS))}.")
    return database_url


def test_the_command_makes_the_logins_where_none_is(processes, environment, monkeypatch):
    url = embedded.start_postgres(processes)
    use_environment(monkeypatch, environment | PASSWORDS | {"ALTIORA_DATABASE_URL": url})
    assert Altiora()("migrate") == "The database is up to date.\n", "it works without them"
    with psycopg.connect(as_login(url, "postgres")) as connection:
        assert connection.execute("select from pg_policy").rowcount == 0
        assert roles.existing(connection) == set()
    Altiora()("migrate", "--roles")
    with psycopg.connect(as_login(url, "postgres")) as connection:
        assert roles.existing(connection) == set(roles.LOGINS)
        assert connection.execute("select from pg_policy").rowcount > 20
    with psycopg.connect(as_login(url, roles.TENANT)) as connection:
        assert connection.execute("select count(*) from businesses").fetchone() == (0,)


def _tables(url: str) -> dict[str, str]:
    """Each table and one of its columns."""
    with psycopg.connect(as_login(url, roles.OWNER)) as connection:
        return dict(
            connection.execute(
                "select relname, min(attname) from pg_class join pg_attribute on attrelid = pg_class.oid"
                " where relnamespace = 'public'::regnamespace and relkind = 'r' and attnum > 0 and not attisdropped"
                " group by 1"
            ).fetchall()
        )


def _may(connection: psycopg.Connection, statement: str, table: str, column: str = "") -> bool:
    composed = sql.SQL(statement).format(sql.Identifier(table), column=sql.Identifier(column))
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(composed)
    except psycopg.errors.InsufficientPrivilege as error:
        return "row-level security" in str(error)  # it may, and the row is another's
    except psycopg.errors.ReadOnlySqlTransaction:
        return False
    except psycopg.Error:  # it may, and the row is none
        return True
    return True


@pytest.mark.parametrize("login", [roles.RECEIVER, roles.WORKER, roles.STAFF, roles.TENANT, roles.READER])
def test_what_a_login_may_not_do_fails(logins, login):
    tables = _tables(logins)
    assert len(tables) > 35
    with psycopg.connect(as_login(logins, login), autocommit=True) as connection:
        for table, column in tables.items():
            allowed = RIGHTS[login].get(table, USUAL[login])
            done = {verb for verb, statement in WRITES.items() if _may(connection, statement, table, column)}
            if _may(connection, "select * from {} limit 0", table):
                done.add("select")
            assert done == allowed, f"{login} on {table}"
            for never in ("truncate {}", "drop table {}", "alter table {} add column x int", "lock table {}"):
                assert not _may(connection, never, table) or (
                    never.startswith("lock") and {"update", "delete"} & set(allowed)
                ), never
        assert not _may(connection, "create table {} (x int)", "new")
        assert not _may(connection, "create role {}", "new")
        assert not _may(connection, "alter role {} password 'x'", roles.OWNER)
        assert not _may(connection, "copy {} to program 'true'", "alembic_version")


def test_the_receiver_reads_no_body(logins):
    with psycopg.connect(as_login(logins, roles.RECEIVER), autocommit=True) as connection:
        assert _may(connection, "select state, due_at from {}", "webhook_events")
        assert not _may(connection, "select body from {}", "webhook_events")


def test_who_reads_figures_reads_nothing_that_somebody_could_come_in_by(logins):
    with psycopg.connect(as_login(logins, roles.READER), autocommit=True) as connection:
        assert _may(connection, "select id, email, name from {}", "users")
        assert _may(connection, "select name, prefix, scopes from {}", "api_keys")
        for column in ("password_hash", "totp_secret", "totp_offered", "totp_step"):
            assert not _may(connection, "select {column} from {}", "users", column)
        assert not _may(connection, "select secret_sha256 from {}", "api_keys")


def test_each_process_works_with_its_own_login(logins, environment, processes, engine, monkeypatch):
    from tests.receiver.test_receiver_outages import count, eventually

    url = {login: as_login(logins, login) for login in roles.LOGINS}
    recipes.worker(1).start(processes, environment | {"ALTIORA_DATABASE_URL": url[roles.WORKER]})
    port = start_receiver(processes, environment | {"ALTIORA_DATABASE_URL": url[roles.RECEIVER]})
    for number in range(5):
        assert send(port, from_twilio(callback(number))).status == 200
    eventually(lambda: count(engine, "state = 'pending'") == 0)
    assert send(port, from_twilio(callback(1))).status == 200  # of which a dead one is wished back
    for path in ("/health/ready", "/metrics"):
        assert get(port, path).status == 200
    assert "altiora_database_up 1.0" in get(port, "/metrics").body.decode()
    use_environment(monkeypatch, environment | {"ALTIORA_DATABASE_URL": url[roles.READER]})
    Altiora()("backlog")
    assert "read-only" in Altiora()("seed", status=1)
    use_environment(monkeypatch, environment | {"ALTIORA_DATABASE_URL": url[roles.OWNER]})
    Altiora()("migrate")
    use_environment(monkeypatch, environment | PASSWORDS | {"ALTIORA_DATABASE_URL": url[roles.WORKER]})
    assert "run it once as the database's superuser" in " ".join(Altiora()("migrate", "--roles", status=1).split())


def test_the_api_works_with_its_own_login(logins, environment, processes, engine):
    people = People(engine, SecretKeys([SecretStr(environment["ALTIORA_SECRET_KEYS"])]))
    ada, bob = people.user("Ada"), people.user("Bob")
    root = people.user("Root", staff=Role.ADMINISTRATOR)
    port = free_port()
    own = {"ALTIORA_DATABASE_URL": as_login(logins, roles.STAFF), "ALTIORA_DASHBOARD_URL": f"http://127.0.0.1:{port}"}
    recipes.api(port).start(processes, environment | own)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        client.headers["Origin"] = own["ALTIORA_DASHBOARD_URL"]

        def ask(method: str, path: str, *statuses: int, **body: object) -> Any:
            answer = client.request(method, f"/v1{path}", json=body or None)
            assert answer.status_code in (statuses or (200, 201, 202, 204)), (path, answer.text)
            return answer.json() if answer.content else {}

        ask("POST", "/sign-ups", email="zoe@example.com")
        ask("POST", "/links/accept", secret=people.secret_of(1), name="Zoe", password="gravel orchid nineteen tubas")
        token = ask("POST", "/sessions", email="ada@example.com", password=PASSWORD)["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        ask("POST", "/sessions/refresh")
        ask("POST", "/me/proofs", password=PASSWORD)
        ask("POST", "/me/second-factor")
        business_id = ask("POST", "/businesses", name="Bakery", time_zone="UTC")["id"]
        here = f"/businesses/{business_id}"
        with engine.begin() as connection:
            registration.add_number(connection, business_id, "+15550001111", None, machine_now())
        people.run("insert into business_members select max(id), %s, 'member', now() from businesses", bob)
        key = ask("POST", f"{here}/api-keys", name="till", scopes=["businesses:read"])
        ask("POST", f"{here}/api-keys/{key['id']}/rotations")
        ask("PATCH", f"{here}/members/{bob}", role="admin")
        ask("POST", f"{here}/invitations", email="y@example.com", role="member")
        ask("GET", f"{here}/audit-entries")
        ask("DELETE", f"{here}/members/{bob}")
        ask("DELETE", f"{here}/api-keys/{key['id']}")
        ask("PATCH", here, name="Renamed")
        ask("DELETE", here)
        assert people.one("select business_id from phone_numbers") is None
        ask("POST", "/me/password", password="gravel orchid nineteen tubas")
        ask("DELETE", "/sessions")
        signed = sign_access_token(
            people.keys, AccessToken(root, people.session(root, staff=True, second_factor=True).session_id)
        )
        people.enrol(root)
        client.headers["Authorization"] = f"Bearer {signed}"
        ask("GET", "/users")
        other = people.business("Florist", owner=bob)
        with engine.begin() as connection:
            registration.add_number(connection, other, "+15550001112", None, machine_now())
        ask("DELETE", f"/businesses/{other}")
        ask("POST", f"/users/{ada}/deactivations", reason="a test")
        assert client.get("/health/ready").status_code == 200
        assert "server" not in client.get("/metrics").headers


def test_passwords_are_kept_as_digests_and_limits_belong_to_the_logins(logins, administration):
    with administration.connect() as connection:
        secrets = connection.execute(
            text("select rolpassword from pg_authid where starts_with(rolname, 'altiora_')")
        ).scalars()
        assert all(secret.startswith("SCRAM-SHA-256$") for secret in secrets)
    with psycopg.connect(as_login(logins, roles.WORKER)) as connection:
        assert connection.execute("show lock_timeout").fetchone() == ("2s",)
        assert connection.execute("show timezone").fetchone() == ("UTC",)
    with psycopg.connect(as_login(logins, roles.READER)) as connection:
        assert connection.execute("show transaction_read_only").fetchone() == ("on",)
