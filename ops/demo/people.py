"""The people of a demo that is kept: somebody of each role, in two businesses and at Altiora, and how they sign in."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import pyotp
from sqlalchemy import Connection, Engine

from accounts import members, second_factor, users
from accounts.passwords import hash_password
from accounts.rights import Role
from accounts.secret_keys import SecretKeys
from pipeline.shared.clock import machine_now

#: By name: the role in each of the two businesses, or at Altiora. Some work in both.
_CAST: dict[str, tuple[Role | None, Role | None] | Role] = {
    "ada": (Role.OWNER, Role.MEMBER),
    "ben": (Role.ADMIN, None),
    "cleo": (Role.MEMBER, Role.ADMIN),
    "dora": (Role.BILLING, None),
    "eli": (None, Role.OWNER),
    "sam": Role.SUPPORT,
    "olga": Role.OPERATOR,
    "ruth": Role.ADMINISTRATOR,
}


@dataclass(frozen=True, slots=True)
class DemoPerson:
    """Somebody who can sign in. ``secret``: of the second factor, base32, for who has one."""

    email: str
    what: str
    secret: str | None

    @property
    def code(self) -> str | None:
        """The present code of the second factor."""
        return None if self.secret is None else pyotp.TOTP(self.secret).now()


def add_people(engine: Engine, keys: SecretKeys, business_ids: Sequence[int]) -> tuple[str, list[DemoPerson]]:
    """Make them, in the first two of these businesses; returns the password that all of them have, and who they are."""
    password = secrets.token_urlsafe(15)
    hashed = hash_password(password)
    made = []
    with engine.begin() as connection:
        for name, roles in _CAST.items():
            email = f"{name}@example.com"
            user_id = users.add_user(connection, email, name.title(), hashed)
            if isinstance(roles, Role):
                users.set_staff_role(connection, user_id, roles.value)
                made.append(DemoPerson(email, f"Altiora's {roles}", _second_factor(connection, keys, user_id)))
                continue
            parts = []
            for business_id, role in zip(business_ids, roles, strict=False):
                if role is Role.OWNER:
                    members.set_owner(connection, business_id, user_id)
                elif role is not None:
                    members.add_member(connection, business_id, user_id, role)
                if role is not None:
                    parts.append(f"{role} of {business_id}")
            made.append(DemoPerson(email, ", ".join(parts), None))
    return password, made


def _second_factor(connection: Connection, keys: SecretKeys, user_id: int) -> str:
    """Set up by the code of half a minute ago, since each is taken once: the present one is for signing in."""
    secret = second_factor.offer(connection, keys, user_id)
    before = machine_now() - timedelta(seconds=second_factor.STEP)
    second_factor.enrol(connection, keys, user_id, pyotp.TOTP(secret).at(before))
    return secret
