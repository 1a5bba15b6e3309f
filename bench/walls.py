"""What the second wall costs: the reads of a tenant's page, behind it and by a login for which none stands."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine

from bench import draining, traffic
from bench.figures import Figure, slower
from bench.sizes import Sizes
from bench.stage import Stage
from bench.totals import WrongTotalsError
from bench.traffic import Business
from db import roles
from db.engine import make_engine
from db.tenancy import enter
from pipeline.reading.businesses import newest_businesses
from pipeline.reading.period_calls import period_calls
from pipeline.reading.usage import read_usage

_NEWEST_RECORD = "select id from usage_records where business_id = %s order by period_start desc limit 1"


def measure(stage: Stage, businesses: Sequence[Business], sizes: Sizes) -> list[Figure]:
    """Each business with its own calls: what it is, its usage, and the calls of its newest period."""
    stage.reset()
    now = datetime.now(UTC)
    with stage.worker():
        draining.drain(stage, traffic.calls(businesses, sizes.drained, now))
    with stage.engine.connect() as connection:
        ids = connection.exec_driver_sql("select distinct business_id from usage_records order by 1").scalars().all()
    rates: dict[str, list[float]] = {roles.STAFF: [], roles.TENANT: []}
    engines = {login: make_engine(roles.address_of(stage.database_url, login), pool_size=1) for login in rates}
    for _ in range(sizes.runs + 1):
        read = {}
        for login, engine in engines.items():
            began = time.perf_counter()
            read[login] = [_read(engine, each, now, walled=login == roles.TENANT) for each in ids]
            rates[login].append(len(ids) / (time.perf_counter() - began))
        if read[roles.STAFF] != read[roles.TENANT]:
            raise WrongTotalsError("a tenant is shown other figures of its own than the staff are")
    for engine in engines.values():
        engine.dispose()
    # The first round of each prepares statements and fills caches.
    return [slower("a tenant's page behind the second wall", rates[roles.TENANT][1:], rates[roles.STAFF][1:], 1.5, 1.1)]


def _read(engine: Engine, business_id: int, now: datetime, *, walled: bool) -> object:
    with engine.begin() as connection:
        if walled:
            enter(connection, [business_id], None, "bench")
        return _page(connection, business_id, now)


def _page(connection: Connection, business_id: int, now: datetime) -> object:
    record_id = connection.exec_driver_sql(_NEWEST_RECORD, (business_id,)).scalar()
    calls = [] if record_id is None else period_calls(connection, record_id)
    named = newest_businesses(connection, [business_id], before=business_id + 1, limit=1)
    return named, read_usage(connection, business_id, now), calls
