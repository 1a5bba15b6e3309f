"""The second wall: what a tenant's login sees and writes, table by table, whatever our own code asks for."""

from datetime import datetime
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool

import db.models  # noqa: F401 - the tables register themselves
from db import roles
from db.base import Base
from db.engine import make_engine
from db.tenancy import CLOSED, SHARED, WALLS, build_walls, enter
from tests.worlds.breaking import breaks

TABLES = {table.name: table for table in Base.metadata.sorted_tables}
#: In the order in which rows can be added.
WALLED = [name for name in TABLES if name in WALLS]

_ONE = "2026-11-01T00:00:00+00:00"
_KINDS = {
    "account_links": "invitation",
    "subscription_changes": "keep",
    "usage_adjustments": "waiting",
    "usage_alerts": "agents",
}
_STATUSES = {"calls": "completed", "stripe_invoices": "paid", "idempotency_keys": 200}


def values_of(table: sa.Table, business: int) -> dict[str, Any]:
    """A row of this business. Ids of whatever it names are the business's own too."""
    given: dict[str, Any] = {
        "kind": _KINDS.get(table.name, "a test"),
        "status": _STATUSES.get(table.name, "active"),
        "role": "minutes" if table.name == "subscription_items" else "admin",
        "number": f"+1555000000{business}",
        "held": "[2026-11-01,)",
        "actor": f"user:{business}",
        "from_status": "active",
        "to_status": "active",
        "speaker": "agent",
        "provider": "twilio",
        "key": f"calls-{business}:completed",
        "period_end": "2026-12-01T00:00:00+00:00",
        "plan_id": 1,
        "call_sid": f"calls-{business}",
        "invoice_id": f"stripe_invoices-{business}",
    }
    row: dict[str, Any] = {}
    for column in table.columns:
        needed = not column.nullable and column.server_default is None and column.computed is None
        is_number = isinstance(column.type, sa.Integer | sa.Numeric)
        is_ours = column.name == "business_id" or (table.name, column.name) == ("mails", "user_id")
        if not (needed or is_ours or column.name == "owner_id"):
            continue
        if column.name in given:
            row[column.name] = given[column.name]
        elif is_number:
            row[column.name] = business if column.name.endswith("id") else 1
        elif isinstance(column.type, sa.TIMESTAMP):
            row[column.name] = datetime.fromisoformat(_ONE)
        elif isinstance(column.type, sa.LargeBinary):
            row[column.name] = bytes([business]) * 32
        elif isinstance(column.type, sa.JSON):
            row[column.name] = "{}"
        else:
            row[column.name] = f"{table.name}-{business}"
    return row


def add_row(connection: sa.Connection, name: str, business: int, **changed: Any) -> None:
    values = values_of(TABLES[name], business) | changed
    columns = ", ".join(f'"{column}"' for column in values)
    places = ", ".join(f"%({column})s" for column in values)
    connection.exec_driver_sql(f"insert into {name} ({columns}) overriding system value values ({places})", values)


@pytest.fixture
def owner(database_url):
    """Who may do everything; with rows of two businesses in every table that has a wall."""
    made = create_engine(database_url, poolclass=NullPool)
    with made.begin() as connection:
        for business in (1, 2):
            for name in WALLED:
                add_row(connection, name, business)
        # So that each refusal is the wall's: what a tenant may write of which table is another question (test_roles).
        connection.execute(text(f"grant all on all tables in schema public to {roles.TENANT}"))
    return made


@pytest.fixture
def tenant(owner, database_url):
    made = make_engine(roles.address_of(database_url, roles.TENANT), pool_size=1)
    yield made
    made.dispose()


def of(engine: Engine, name: str, *businesses: int) -> int:
    """How many rows somebody of these businesses sees."""
    with engine.begin() as connection:
        if businesses:
            enter(connection, businesses, businesses[0], f"user:{businesses[0]}")
        counted = connection.exec_driver_sql(f"select count(*) from {name}").scalar_one()
        assert counted == len(connection.exec_driver_sql(f"select * from {name}").all())
        return int(counted)


def test_every_table_has_a_wall_or_a_reason_for_none():
    assert set(TABLES) | {"alembic_version"} == set(WALLS) | SHARED | CLOSED
    assert not set(WALLS) & SHARED
    assert not set(WALLS) & CLOSED
    assert not SHARED & CLOSED
    # What names a business, or a row that does, has one.
    for name, table in TABLES.items():
        named = {key.column.table.name for key in table.foreign_keys} & (set(WALLS) - {"users"})
        assert not (("business_id" in table.columns or named) and name not in WALLS | dict.fromkeys(CLOSED)), name


def test_a_tenant_may_read_what_has_a_wall_or_is_the_same_for_all_and_nothing_else(database_url):
    with psycopg.connect(
        make_url(roles.address_of(database_url, roles.TENANT)).set(drivername="postgresql").render_as_string()
    ) as connection:
        readable = {
            name
            for (name,) in connection.execute(
                "select relname from pg_class where relnamespace = 'public'::regnamespace"
                " and relkind in ('r', 'v', 'm') and has_any_column_privilege(current_user, oid, 'select')"
            )
        }
    assert readable == (set(WALLS) | SHARED) - {"drifts"}


def test_no_view_and_no_function_gets_past_the_wall(owner):
    with owner.connect() as connection:
        views = connection.execute(
            text(
                "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('v', 'm')"
                " and (relkind = 'm' or not coalesce(reloptions, '{}') @> '{security_invoker=true}')"
            )
        )
        functions = connection.execute(
            text("select proname from pg_proc where pronamespace = 'public'::regnamespace and prosecdef")
        )
        assert (views.all(), functions.all()) == ([], [])


def test_no_login_is_a_member_of_another_or_goes_round_the_wall(owner):
    with owner.connect() as connection:
        members = connection.execute(
            text("select 1 from pg_auth_members join pg_roles on pg_roles.oid = member where rolname like 'altiora%'")
        )
        assert members.all() == []
        bypass = text("select 1 from pg_roles where starts_with(rolname, 'alt') and (rolbypassrls or rolsuper)")
        assert connection.execute(bypass).all() == []


@breaks("db/tenancy.py", "p.sid = call_sid", "p.sid is not null")
@pytest.mark.parametrize("name", WALLED)
def test_a_tenant_sees_its_own_rows_alone(owner, tenant, name):
    assert of(owner, name) == 2
    assert of(tenant, name) == 0
    assert of(tenant, name, 1) == 1
    assert of(tenant, name, 2) == 1
    assert of(tenant, name, 3) == 0
    assert of(tenant, name, 1, 2) == (1 if name == "idempotency_keys" else 2)  # whoever belongs to both
    assert of(tenant, name) == 0, "the same session, after its transaction"


@breaks("db/tenancy.py", "using ({sees}) with check ({sees})", "using ({sees}) with check (true)")
@pytest.mark.parametrize("name", WALLED)
def test_a_tenant_changes_nothing_of_another(owner, tenant, name):
    def everything() -> list[Any]:
        with owner.connect() as connection:
            return list(connection.exec_driver_sql(f"select t::text from {name} t order by 1").scalars())

    table = TABLES[name]
    column = next(iter(table.columns)).name
    with owner.begin() as connection:
        before = everything()
        row = connection.exec_driver_sql(f"select * from {name} limit 1").one()._asdict()
    assert row
    with tenant.connect() as connection:

        def attempt(statement: str, *values: Any) -> int | str:
            enter(connection, [1], 1, "user:1")
            try:
                return int(connection.exec_driver_sql(statement, values or None).rowcount)
            except DBAPIError as error:
                return error.orig.sqlstate  # type: ignore[union-attr, no-any-return]
            finally:
                connection.rollback()

        generated = {each.name for each in table.columns if each.identity is not None or each.computed is not None}
        plain = next(each.name for each in table.columns if each.name not in generated)
        # Its own: where nothing names it, and where rows may be changed at all.
        # A transcript is left empty, or not at all.
        left = "" if name != "call_transcripts" else ", content = '', redacted_at = now()"
        assert attempt(f'update {name} set "{plain}" = "{plain}"{left}') in {1, "P0001"}
        assert attempt(f"delete from {name}") in {1, "23503", "P0001"}
        enter(connection, [1], 1, "user:1")
        with pytest.raises(DBAPIError, match="row-level security policy") as refused:
            add_row(connection, name, 2, **({column: 3} if column == "id" and column in generated else {}))
        assert not isinstance(refused.value, IntegrityError)
        connection.rollback()
        if name == "phone_numbers":
            let_go = "update phone_numbers set business_id = null, agent_id = null where number = '+15550000001'"
            assert attempt(let_go) == 1
        for to_another in {"business_id", "actor", "owner_id"} & set(row):
            other = 2 if to_another != "actor" else "user:2"
            expected = {1} if to_another == "owner_id" else {"42501", "23503", "P0001"}
            assert attempt(f"update {name} set {to_another} = %s", other) in expected
    assert everything() == before


def test_a_key_of_another_tenant_s_agent_is_refused_though_checks_of_keys_pass_the_wall_by(owner, tenant):
    with owner.begin() as connection:  # which names its agent
        connection.exec_driver_sql("delete from agent_knowledge")
        connection.exec_driver_sql("delete from agent_scripts")
    for statement in (
        "insert into agent_knowledge (agent_id, business_id, question, answer) values (2, 1, 'x', 'x')",
        "insert into agent_scripts (agent_id, business_id, name, flow) values (2, 1, 'x', '{}')",
        "update phone_numbers set agent_id = 2",
    ):
        with tenant.connect() as connection:
            enter(connection, [1], 1, "user:1")
            with pytest.raises(IntegrityError, match="agent_id_fkey"):
                connection.exec_driver_sql(statement)
            connection.rollback()
            enter(connection, [1], 1, "user:1")
            connection.exec_driver_sql(statement.replace("(2,", "(1,").replace("= 2", "= 1"))
            connection.rollback()


def test_others_see_all_rows(owner, database_url):
    for login in (roles.WORKER, roles.STAFF, roles.READER):
        engine = create_engine(roles.address_of(database_url, login), poolclass=NullPool)
        assert [of(engine, name) for name in ("businesses", "calls", "call_transcripts")] == [2, 2, 2], login


def test_the_receiver_stores_what_stripe_and_twilio_send_and_nothing_else(owner, database_url):
    statement = (
        "insert into webhook_events (provider, key, type, received_at, content_type, body)"
        " values (%s, 'k', 't', now(), '', '')"
    )
    with owner.begin() as connection:
        connection.exec_driver_sql("alter table webhook_events drop constraint webhook_events_provider_check")
    receiver, worker = (
        create_engine(roles.address_of(database_url, login), poolclass=NullPool)
        for login in (roles.RECEIVER, roles.WORKER)
    )
    with receiver.connect() as connection:
        for provider in ("stripe", "twilio"):
            connection.exec_driver_sql(statement, (provider,))
            connection.rollback()
        with pytest.raises(DBAPIError, match="row-level security"):
            connection.exec_driver_sql(statement, ("operator",))
    with worker.begin() as connection:
        connection.exec_driver_sql(statement, ("operator",))


def test_a_wall_that_stands_is_left_alone_and_one_that_fell_is_built_again(owner, database_url):
    address = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)

    def walls() -> dict[tuple[str, str], int]:
        with owner.connect() as connection:
            found = connection.exec_driver_sql("select polrelid::regclass::text, polname, oid from pg_policy")
            return {(table, name): oid for table, name, oid in found}

    stood = walls()
    assert len(stood) == 2 * len(WALLS) + 6
    with psycopg.connect(address) as connection:
        build_walls(connection, roles.TENANT, roles.RECEIVER)
        assert walls() == stood
        connection.execute(sql.SQL("drop policy tenant on calls"))
        connection.execute(sql.SQL("comment on policy tenant on users is 'true'"))
        build_walls(connection, roles.TENANT, roles.RECEIVER)
    now = walls()
    assert {each for each in stood if stood[each] != now[each]} == {("calls", "tenant"), ("users", "tenant")}


@pytest.mark.parametrize("name", ["usage_records", "subscriptions", "audit_entries", "businesses", "business_members"])
def test_the_wall_is_a_condition_of_an_index(owner, tenant, name):
    with tenant.begin() as connection:
        enter(connection, [1], 1, "user:1")
        connection.exec_driver_sql("set local enable_seqscan = off")
        plan = "\n".join(connection.exec_driver_sql(f"explain select * from {name}").scalars())
    assert "current_setting" in plan.split("Index Cond", 1)[1], plan


# As the login really is, with its own grants: what would lead from a fault of ours to somebody else


@pytest.mark.parametrize(
    "statement",
    [
        # Links by which somebody comes to an account, to Altiora, or to a business in another's name.
        "insert into account_links (kind, email, business_id, staff_role) values ('staff', 'x', 1, 'administrator')",
        "insert into account_links (kind, email, business_id, user_id) values ('invitation', 'x', 1, 2)",
        "insert into account_links (kind, email, business_id) values ('ownership', 'x', 1)",
        "insert into account_links (kind, email, business_id, invited_by) values ('ownership', 'x', 1, 2)",
        "insert into account_links (kind, email) values ('reset', 'x')",
        "update account_links set email = 'x'",
        "insert into mails (kind, link_id, business_id) values ('invitation', 2, 1)",
        "update business_members set user_id = 2",
        "update businesses set owner_id = 1",
        "update businesses set plan_id = 4",
        "update phone_numbers set business_id = 1 where business_id is null",
        "update usage_records set minutes = 0",
        "insert into ai_agents (id, business_id, name) overriding system value values (99, 1, 'x')",
        "insert into phone_number_assignments (number, business_id, held) values ('+15550000009', 1, '[2026-11-01,)')",
        "update call_transcripts set content = 'x'",
        "delete from calls",
        "select last_value from businesses_id_seq",
        "update attempt_limits set full_at = now()",
        "select password_hash from users",
        "select totp_secret from users",
        "select secret_sha256 from api_keys",
        "select body from webhook_events",
        "set role altiora_staff",
    ],
)
def test_what_the_tenants_login_may_not_do(database_url, statement):
    owner = create_engine(database_url, poolclass=NullPool)
    with owner.begin() as connection:
        for business in (1, 2):
            for name in WALLED:
                add_row(connection, name, business)
        connection.exec_driver_sql("insert into phone_numbers (number) values ('+15550000009')")
    tenant = create_engine(roles.address_of(database_url, roles.TENANT), poolclass=NullPool)
    with tenant.connect() as connection:
        enter(connection, [1], 1, "user:1")
        found = []
        try:
            found.append(connection.exec_driver_sql(statement).rowcount)
        except DBAPIError as error:
            found.append(error.orig.sqlstate)  # type: ignore[union-attr]
        assert found[0] in {0, "42501", "23514"}
        connection.rollback()
        enter(connection, [1], 1, "user:1")
        connection.exec_driver_sql(
            "insert into account_links (kind, email, business_id, invited_by) values ('ownership', 'x', 1, 1)"
        )
