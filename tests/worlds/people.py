"""People, their businesses and what they hold, for tests of accounts and of the API."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyotp
from pydantic import SecretStr
from sqlalchemy import Engine

from accounts import links, members, second_factor, sessions, users
from accounts.passwords import hash_password
from accounts.rights import Role
from accounts.secret_keys import SecretKeys
from pipeline.businesses import registration
from pipeline.shared.clock import machine_now

PASSWORD = "violet harbour kettle 1907"
#: Hashed once: it takes a while, and is the same for all.
_HASH = hash_password(PASSWORD)
SECRET = SecretStr("k" * 40)


@dataclass
class People:
    """A database with people in it."""

    engine: Engine
    keys: SecretKeys

    def run(self, statement: str, *values: Any) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(statement, values or None)

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(statement, values or None)]

    def one(self, statement: str, *values: Any) -> Any:
        ((value,),) = self.rows(statement, *values)
        return value

    def user(self, name: str, *, staff: Role | None = None) -> int:
        """Somebody with PASSWORD and an address at example.com."""
        with self.engine.begin() as connection:
            user_id = users.add_user(connection, f"{name.lower()}@example.com", name, _HASH)
            if staff is not None:
                users.set_staff_role(connection, user_id, staff.value)
        return user_id

    def business(self, name: str, owner: int | None = None, **others: int) -> int:
        """A business on Free; ``others`` by the names of their roles."""
        with self.engine.begin() as connection:
            business_id = registration.add_business(
                connection, name=name, plan="free", time_zone="UTC", stripe_customer=None, now=machine_now()
            )
            if owner is not None:
                # One a person may be on Free; tests give somebody several.
                connection.exec_driver_sql("update businesses set owner_id = %s where id = %s", (owner, business_id))
            for role, user_id in others.items():
                members.add_member(connection, business_id, user_id, Role(role))
        return business_id

    def enrol(self, user_id: int) -> tuple[str, list[str]]:
        """A second factor; returns its secret and the recovery codes. The present code is used up."""
        with self.engine.begin() as connection:
            secret = second_factor.offer(connection, self.keys, user_id)
            codes = second_factor.enrol(connection, self.keys, user_id, pyotp.TOTP(secret).now())
            connection.exec_driver_sql("update users set totp_step = totp_step - 5 where id = %s", (user_id,))
        return secret, codes

    def session(self, user_id: int, *, staff: bool = False, second_factor: bool = False) -> sessions.Refreshed:
        with self.engine.begin() as connection:
            return sessions.begin_session(
                connection, user_id, staff=staff, second_factor=second_factor, device="a test", address="127.0.0.1"
            )

    def secret_of(self, link_id: int) -> str:
        """A secret as the mail of this link has it."""
        with self.engine.begin() as connection:
            link = links.link_with_id(connection, link_id)
            assert link is not None
            return links.make_secret(connection, link)

    def state(self) -> str:
        """A digest of every row, but of the trail, of what is counted, and of when something was last used."""
        tables = [
            name
            for (name,) in self.rows(
                "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
                " and relname not in ('audit_entries', 'attempt_limits', 'idempotency_keys') order by 1"
            )
        ]
        rows = " union all ".join(
            f"select to_jsonb(t) - '{{used_at,last_used_at}}'::text[] as row from {name} t" for name in tables
        )
        return str(self.one(f"select md5(string_agg(row::text, ',' order by row::text)) from ({rows}) everything"))

    def pass_time(self, seconds: float) -> None:
        """As if so much time had passed since everything that has happened."""
        ago = timedelta(seconds=seconds)
        for table, columns in {
            "users": ("secured_at",),
            "sessions": ("created_at", "used_at", "proven_at", "ends_at"),
            "refresh_tokens": ("created_at", "used_at"),
            "link_tokens": ("created_at", "expires_at"),
            "account_links": ("created_at",),
            "api_keys": ("created_at", "last_used_at", "expires_at", "shrunk_at"),
            "attempt_limits": ("full_at",),
            "mails": ("created_at", "due_at"),
        }.items():
            sets = ", ".join(f"{column} = {column} - %(ago)s" for column in columns)
            with self.engine.begin() as connection:
                connection.exec_driver_sql(f"update {table} set {sets}", {"ago": ago})
