"""Connections of the API, which are trusted for a moment after they were used."""

import contextlib
import time

import pytest
from sqlalchemy.exc import OperationalError

from db.engine import make_engine
from tests.worlds.breaking import breaks
from tests.worlds.superuser import superuser

_PID = "select pg_backend_pid()"


def pid_of(engine) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql(_PID).scalar_one())


@breaks("db/engine.py", "            made.dialect.do_ping(connection)\n", "            pass\n")
def test_one_that_was_closed_while_nobody_used_it_is_replaced_before_it_is(database_url, engine):
    trusting = make_engine(database_url, pool_size=1, trusted_seconds=0.1)
    before = pid_of(trusting)
    assert pid_of(trusting) == before
    end(engine, before)
    time.sleep(0.2)
    after = 0
    with contextlib.suppress(OperationalError):
        after = pid_of(trusting)
    assert after not in {0, before}, "nobody is told of it"
    trusting.dispose()


def test_one_that_was_closed_a_moment_after_costs_one_request(database_url, engine):
    trusting = make_engine(database_url, pool_size=1, trusted_seconds=60)
    end(engine, pid_of(trusting))
    time.sleep(0.1)
    with pytest.raises(OperationalError):
        pid_of(trusting)
    assert pid_of(trusting)
    trusting.dispose()


def end(engine, pid: int) -> None:
    """As a restart of the database does."""
    with superuser(engine) as connection:
        assert connection.exec_driver_sql("select pg_terminate_backend(%s)", (pid,)).scalar_one()
