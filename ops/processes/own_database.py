"""A database of our own, made ready for every process: tables, plans, and the logins with their rights and walls."""

import secrets

import psycopg
from sqlalchemy import make_url

from db import migrate, roles


def prepare(database_url: str) -> None:
    """Bring it to this version's tables, and make the logins. ``database_url``: for SQLAlchemy, of its superuser."""
    migrate.upgrade(database_url)
    address = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address) as connection:
        # Nobody is asked for a password: whoever reaches the socket is let in.
        roles.make_logins(connection, {login: secrets.token_urlsafe() for login in roles.LOGINS})
