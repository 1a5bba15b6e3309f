"""The engine of this process: a connection must never be shared across a fork."""

import os

from sqlalchemy import Engine

from db.engine import make_engine
from pipeline.shared.settings import DatabaseSettings, load

_engines: dict[int, Engine] = {}


def engine() -> Engine:
    """The engine of this process, made on first use: also in a solo pool, and anew in every child."""
    pid = os.getpid()
    if pid not in _engines:
        _engines.clear()  # a parent's: its connections belong to the parent and are not closed here
        settings = load(DatabaseSettings)
        _engines[pid] = make_engine(settings.sqlalchemy_url, pooler=settings.database_pooler)
    return _engines[pid]


def dispose() -> None:
    """Close what this process has opened."""
    made = _engines.pop(os.getpid(), None)
    if made is not None:
        made.dispose()
