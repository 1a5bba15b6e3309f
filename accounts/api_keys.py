"""API keys of programs: shown once, known by a digest, and never able to do more than who made them can do now.

``alt_live_`` or ``alt_test_``, 32 random characters, and a checksum by which scanners for leaked secrets know one.
"""

import secrets
import string
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from accounts.rights import SCOPES, SERVICE_SCOPES, ForbiddenError, Role, has_right
from accounts.secret_keys import sha256
from pipeline.shared.business_locks import lock_businesses

RANDOM: Final = 32
#: Characters by which people recognise a key in a list.
SHOWN: Final = 13
#: After its maker lost a right that it has, a key ends in so long.
SHRUNK_LASTS: Final = timedelta(days=7)
#: Its last use is written down no more often than this.
USE_NOTED_EVERY: Final = timedelta(minutes=1)

_ALPHABET: Final = string.ascii_letters + string.digits
_CHECKSUM: Final = 6

_ADD = """
insert into api_keys (business_id, user_id, name, prefix, secret_sha256, scopes, expires_at)
values (%(business_id)s, %(user_id)s, %(name)s, %(prefix)s, %(sha256)s, %(scopes)s, %(expires_at)s)
returning id
"""

_FIELDS = """
k.id, k.business_id, k.user_id, k.name, k.prefix, k.scopes, k.created_at, k.last_used_at, k.expires_at, k.shrunk_at,
k.revoked_at
"""

_LIST = f"select {_FIELDS} from api_keys k where business_id is not distinct from %s order by id desc"  # noqa: S608 - constants
_ONE = f"select {_FIELDS} from api_keys k where id = %s"  # noqa: S608 - as above

_BY_DIGEST = """
select k.id, k.business_id, k.user_id, k.scopes,
       case when u.deactivated_at is not null then null
            when b.owner_id = k.user_id then 'owner' else coalesce(m.role, u.staff_role) end as role,
       coalesce(k.last_used_at < now() - %(noted_every)s::interval, true) as note_use
from api_keys k
left join users u on u.id = k.user_id
left join businesses b on b.id = k.business_id
left join business_members m on m.business_id = k.business_id and m.user_id = k.user_id
where k.secret_sha256 = %(sha256)s and k.revoked_at is null and (k.expires_at is null or k.expires_at > now())
  and (k.shrunk_at is null or k.shrunk_at > now() - %(shrunk_lasts)s::interval)
"""

_NOTE_USE = "update api_keys set last_used_at = date_trunc('minute', now()) where id = %s"
_CHANGE = """
update api_keys set name = %(name)s, scopes = %(scopes)s, expires_at = %(expires_at)s
where id = %(id)s and revoked_at is null
"""
_ROTATE = """
update api_keys set secret_sha256 = %(sha256)s, prefix = %(prefix)s, user_id = %(user_id)s, shrunk_at = null
where id = %(id)s and revoked_at is null
"""
_REVOKE = "update api_keys set revoked_at = now() where id = %s and revoked_at is null"
_SHRINK = """
update api_keys set shrunk_at = coalesce(shrunk_at, now())
where business_id = %(business_id)s and user_id = %(user_id)s and revoked_at is null and not scopes <@ %(has)s
returning id
"""


class ApiKeyError(Exception):
    """What was asked for a key can't be; the words say why."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as people see it: never its secret."""

    id: int
    business_id: int | None
    user_id: int | None
    name: str
    prefix: str
    scopes: Sequence[str]
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    shrunk_at: datetime | None
    revoked_at: datetime | None

    @property
    def ends_at(self) -> datetime | None:
        """When it ends by itself."""
        ends = [self.expires_at, self.shrunk_at and self.shrunk_at + SHRUNK_LASTS]
        return min((each for each in ends if each is not None), default=None)


@dataclass(frozen=True, slots=True)
class Program:
    """A program whose request it is. ``maker_role`` is what who made its key is now to the business, or at Altiora."""

    key_id: int
    business_id: int | None
    scopes: frozenset[str]
    maker_role: Role | None
    note_use: bool

    @property
    def who(self) -> str:
        """As the audit trail names it."""
        return f"key:{self.key_id}"

    @property
    def for_altiora(self) -> bool:
        """Whether it is the phone platform's, over all businesses."""
        return self.business_id is None

    @property
    def businesses(self) -> frozenset[int]:
        """The one that it belongs to."""
        return frozenset() if self.business_id is None else frozenset({self.business_id})

    def sees(self, business_id: int) -> bool:
        """Whether it may know that there is such a business."""
        return self.business_id in {business_id, None}

    def require(self, right: str, business_id: int | None = None) -> None:
        """See that it has a right. Raises ForbiddenError."""
        if self.business_id is None:  # the phone platform's: for every business, by its scopes alone
            if right not in self.scopes & SERVICE_SCOPES or self.maker_role is not Role.ADMINISTRATOR:
                raise ForbiddenError(right)
            return
        may = right in self.scopes and self.maker_role is not None and has_right(right, {self.maker_role})
        if business_id != self.business_id or not may:
            raise ForbiddenError(right)


def make_key(
    connection: Connection,
    *,
    business_id: int | None,
    user_id: int | None,
    name: str,
    scopes: Collection[str],
    expires_at: datetime | None,
    livemode: bool,
) -> tuple[int, str]:
    """A new key; returns its id and its secret, which nobody can show again. Without a business a service key.

    Raises ApiKeyError.
    """
    _see_scopes(scopes, service=business_id is None)
    if business_id is not None:  # or its maker loses a right meanwhile, and nobody looks at this one
        lock_businesses(connection, [business_id])
    secret = new_secret(livemode=livemode)
    about = {
        "business_id": business_id,
        "user_id": user_id,
        "name": name,
        "prefix": secret[:SHOWN],
        "sha256": sha256(secret),
        "scopes": sorted(scopes),
        "expires_at": expires_at,
    }
    return int(connection.exec_driver_sql(_ADD, about).scalar_one()), secret


def program_of(connection: Connection, secret: str) -> Program | None:
    """Whose key it is; None for one that is none, or is good no more."""
    if not is_well_formed(secret):
        return None
    about = {"sha256": sha256(secret), "noted_every": USE_NOTED_EVERY, "shrunk_lasts": SHRUNK_LASTS}
    row = connection.exec_driver_sql(_BY_DIGEST, about).one_or_none()
    if row is None:
        return None
    role = None if row.role is None else Role(row.role)
    return Program(row.id, row.business_id, frozenset(row.scopes), role, row.note_use)


def note_use(connection: Connection, key_id: int) -> None:
    """It was used, this minute."""
    connection.exec_driver_sql(_NOTE_USE, (key_id,))


def list_keys(connection: Connection, business_id: int | None) -> list[StoredKey]:
    """The keys of a business, or the service keys, the newest first; those that were revoked too."""
    return [StoredKey(*row) for row in connection.exec_driver_sql(_LIST, (business_id,))]


def key_with_id(connection: Connection, key_id: int, *, hold: bool = False) -> StoredKey | None:
    """The key with this id; ``hold``: nobody else changes it until this transaction ends."""
    row = connection.exec_driver_sql(_ONE + (" for no key update" if hold else ""), (key_id,)).one_or_none()
    return None if row is None else StoredKey(*row)


def change_key(connection: Connection, key: StoredKey) -> None:
    """Store its name, scopes and expiry. Raises ApiKeyError."""
    _see_scopes(key.scopes, service=key.business_id is None)
    about = {"id": key.id, "name": key.name, "scopes": sorted(key.scopes), "expires_at": key.expires_at}
    if not connection.exec_driver_sql(_CHANGE, about).rowcount:
        raise ApiKeyError("this key was revoked: make another one")


def rotate_key(connection: Connection, key_id: int, user_id: int, *, livemode: bool) -> str:
    """A new secret for a key; the old one is good no more, and ``user_id`` is its maker now. Raises ApiKeyError."""
    secret = new_secret(livemode=livemode)
    about = {"id": key_id, "sha256": sha256(secret), "prefix": secret[:SHOWN], "user_id": user_id}
    if not connection.exec_driver_sql(_ROTATE, about).rowcount:
        raise ApiKeyError("this key was revoked: make another one")
    return secret


def revoke_key(connection: Connection, key_id: int) -> bool:
    """End a key at once; False where it had ended."""
    return connection.exec_driver_sql(_REVOKE, (key_id,)).rowcount > 0


def shrink_keys(connection: Connection, business_id: int, user_id: int, role: Role | None) -> list[int]:
    """Somebody's role has changed: their keys that have more scopes than they have rights end in a while.

    Returns the ids of those keys; whoever calls it tells the owner.
    """
    has = sorted(right for right in SCOPES if role is not None and has_right(right, {role}))
    about: dict[str, object] = {"business_id": business_id, "user_id": user_id, "has": has}
    return list(connection.exec_driver_sql(_SHRINK, about).scalars())


def new_secret(*, livemode: bool) -> str:
    """A new key's text."""
    mode = "live" if livemode else "test"
    random = "".join(secrets.choice(_ALPHABET) for _ in range(RANDOM))
    return f"alt_{mode}_{random}{_checksum(random)}"


def is_well_formed(secret: str) -> bool:
    """Whether it can be a key of ours, by its form and checksum alone."""
    prefix, random = secret[:9], secret[9:-_CHECKSUM]
    return (
        prefix in {"alt_live_", "alt_test_"}
        and len(random) == RANDOM
        and all(each in _ALPHABET for each in random)
        and secret[-_CHECKSUM:] == _checksum(random)
    )


def _checksum(random: str) -> str:
    number, digits = zlib.crc32(random.encode()), ""
    while number:
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits.rjust(_CHECKSUM, _ALPHABET[0])


def _see_scopes(scopes: Collection[str], *, service: bool) -> None:
    known = SERVICE_SCOPES if service else SCOPES
    if not scopes or set(scopes) - known:
        raise ApiKeyError(f"the scopes of a key are one or more of {', '.join(sorted(known))}")
