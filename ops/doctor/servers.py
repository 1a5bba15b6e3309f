"""What `altiora doctor` looks at on our side: PostgreSQL and the broker."""

from collections.abc import Iterator

import redis
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from db import roles, schema_version
from db.seed import PLANS
from ops.commands.database import Chosen, reading
from ops.commands.output import WrongError, age
from ops.doctor.findings import Finding, fail, ok, warn
from pipeline.events import heartbeats
from pipeline.shared.clock import ClockError, business_clock
from pipeline.shared.drifts import DriftKind
from pipeline.shared.settings import BrokerSettings, TenantDatabaseSettings, load

# Of subscriptions that live: in classic mode; with an add-on whose period is another one than the minutes', which an
# upgrade's new anchor would renew; and whose minutes are not billed by the month.
_UNSETTLING = """
select (select count(*) from subscriptions where ended_at is null and billing_mode = 'classic') as classic,
       (select count(distinct s.id) from subscriptions s
        join subscription_items i on i.subscription_id = s.id and i.role = 'add-on'
        join stripe_prices addon on addon.id = i.price_id
        join stripe_prices minutes on minutes.id = s.metered_price_id
        where s.ended_at is null and (addon.billing_interval, addon.interval_count)
              <> (minutes.billing_interval, minutes.interval_count)) as other_intervals,
       (select count(*) from subscriptions s join stripe_prices p on p.id = s.metered_price_id
        where s.ended_at is null and (p.billing_interval, p.interval_count) <> ('month', 1)) as not_monthly,
       (select coalesce(jsonb_object_agg(kind, number), '{}') from (
         select kind, count(*) as number from drifts where resolved_at is null group by kind) by_kind) as differences
"""

_CONNECTED = """
select distinct application_name, usename from pg_stat_activity
where datname = current_database() and starts_with(application_name, 'altiora')
order by 1, 2
"""

#: Differences that say how an account is set up, rather than what has happened.
_SET_UP = (
    DriftKind.PAID_PLAN_UNBILLED,
    DriftKind.SECOND_CUSTOMER,
    DriftKind.SECOND_METERED_SUBSCRIPTION,
    DriftKind.SECOND_MINUTES_ITEM,
    DriftKind.SECOND_PLAN,
    DriftKind.UNMAPPED_PRICE,
    DriftKind.VOLUME_TIERS,
    DriftKind.BILLING_THRESHOLDS,
    DriftKind.COLLECTION_GIVEN_AWAY,
    DriftKind.ACCOUNT_REFUSED,
)

#: PostgreSQL's, as it counts itself, and that of Redis' protocol.
_OLDEST_POSTGRES = 150_000
_OLDEST_REDIS = (6, 2)


def database(chosen: Chosen) -> Iterator[Finding]:
    """Reachable, new enough, migrated, with the plans."""
    try:
        with reading(chosen) as connection:
            yield from _database(connection)
    except WrongError as error:
        yield fail(str(error))
        return
    yield from _tenants(chosen)


def _database(connection: Connection) -> Iterator[Finding]:
    number, name = connection.exec_driver_sql(
        "select current_setting('server_version_num')::int, current_setting('server_version')"
    ).one()
    if number < _OLDEST_POSTGRES:
        yield fail(f"PostgreSQL {name} is too old: use 15 or newer")
        return
    yield ok(f"PostgreSQL {name} answers")
    present = connection.exec_driver_sql("select max(version_num) from alembic_version").scalar_one()
    if present < schema_version.CODE:
        yield warn(f"its tables are at {present}, this version comes with {schema_version.CODE}: run `altiora migrate`")
    else:
        yield ok(f"its tables are up to date ({present})")
    yield from _logins(connection)
    yield from _unsettling(connection)
    plans = set(connection.exec_driver_sql("select code from subscription_plans").scalars())
    missing = [plan["code"] for plan in PLANS if plan["code"] not in plans]
    if missing:
        yield fail(f"plans are missing ({', '.join(missing)}): run `altiora seed`")
    else:
        yield ok(f"{len(plans)} plans are there")


def _logins(connection: Connection) -> Iterator[Finding]:
    """Who we are there, and as whom our processes work: each should have only its own rights (db/roles.py)."""
    user, superuser = connection.exec_driver_sql(
        "select rolname, rolsuper from pg_roles where rolname = current_user"
    ).one()
    connected = connection.exec_driver_sql(_CONNECTED).all()
    yield ok(f"connected there: {', '.join(f'{name} as {login}' for name, login in connected)}")
    if superuser:
        yield ok(f"{user} may do everything there; `altiora migrate --roles` makes logins that may do only their own")


def _tenants(chosen: Chosen) -> Iterator[Finding]:
    """Whether the login of tenants' requests is one that sees nothing until it is told whose the request is."""
    settings = load(TenantDatabaseSettings, chosen)
    if settings.sqlalchemy_url is None:
        return
    engine = create_engine(settings.sqlalchemy_url, poolclass=NullPool, connect_args={"connect_timeout": 5})
    try:
        with engine.connect() as connection:
            login, seen = connection.exec_driver_sql("select current_user, count(*) from businesses").one()
    except DBAPIError:
        yield fail("tenants' requests can't reach it: see that ALTIORA_TENANT_DATABASE_URL is right")
        return
    if login != roles.TENANT or seen:
        yield fail(
            f"tenants' requests come as {login}, for whom no wall stands: ALTIORA_TENANT_DATABASE_URL is for"
            f" {roles.TENANT}, which `altiora migrate --roles` makes"
        )
    else:
        yield ok(f"{login} sees no business until a request says whose it is")


def _unsettling(connection: Connection) -> Iterator[Finding]:
    """What a subscription may have that works, and can cost minutes or money: one line each, and what to do."""
    found = connection.exec_driver_sql(_UNSETTLING).one()
    if found.classic:
        yield warn(
            f"{_many(found.classic, 'subscription')} in classic billing mode: a change of price in Stripe's dashboard"
            " gives its usage away; change plans by `altiora subscription`, or migrate them there"
        )
    if found.other_intervals:
        yield warn(
            f"{_many(found.other_intervals, 'subscription')} with an add-on of another interval than its minutes: an"
            " upgrade begins a new period and renews that too; look at `altiora subscription upgrade --dry-run` first"
        )
    if found.not_monthly:
        yield warn(
            f"{_many(found.not_monthly, 'subscription')} whose minutes are not billed by the month: its own periods"
            " make the records, and its price's minutes are for each of them; see that the price means that"
        )
    for kind in _SET_UP:
        if kind in found.differences:
            yield warn(f"{_many(found.differences[kind], 'difference')} {kind}: {kind.repair}; `altiora drifts list`")


def _many(count: int, one: str) -> str:
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def sources(chosen: Chosen) -> Iterator[Finding]:
    """When each source was last heard, and whether it has been silent for longer than it usually is."""
    try:
        with reading(chosen) as connection:
            found = heartbeats.read_heartbeats(connection, business_clock(chosen).now())
    except (WrongError, ClockError):
        return  # other looks have told it
    for source in found:
        if source.silent_seconds is None:
            yield ok(f"{source.name}: nothing has come yet")
            continue
        words = f"{source.name}: last heard {age(source.silent_seconds)} ago"
        if source.too_silent:
            yield fail(
                f"{words}, usual are {age(source.normal_seconds)}: see that its requests reach us and are let in"
            )
        else:
            yield ok(words)


def broker(chosen: Chosen) -> Iterator[Finding]:
    """Reachable, new enough, and set up so that it keeps what it is given."""
    client = redis.Redis.from_url(
        load(BrokerSettings, chosen).broker_url.get_secret_value(), socket_timeout=5, socket_connect_timeout=5
    )
    try:
        with client:
            about = client.info()
    except (redis.RedisError, OSError) as error:
        yield fail(f"the broker can't be reached ({error}): see that it runs and that ALTIORA_BROKER_URL is right")
        return
    # Valkey tells two versions: its own, and that of Redis which it is like.
    version = str(about["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_REDIS:
        yield fail(f"Redis {version} is too old: use Redis or Valkey 6.2 or newer")
    else:
        yield ok(f"{about.get('server_name', 'redis')} {about.get('valkey_version', version)} answers")
    if about.get("maxmemory_policy") == "noeviction":
        yield ok("it evicts nothing (noeviction)")
    else:
        yield warn(
            f"it may drop messages when its memory is full ({about.get('maxmemory_policy')}): set maxmemory-policy to"
            " noeviction; what is dropped waits for the next sweep"
        )
    if about.get("aof_enabled"):
        yield ok("it writes an append-only file")
    else:
        yield warn(
            "it forgets its messages when it restarts: set appendonly to yes; what is lost waits for the next sweep"
        )
