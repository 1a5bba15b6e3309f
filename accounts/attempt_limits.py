"""How often something may be tried: in PostgreSQL, since an emptied broker would forget it.

One instant for each bucket (GCRA): when all that was used up is there again. Buckets are named by a keyed digest, so
that the table tells nobody's address. By the machine clock.
"""

import math
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv6Address, ip_address
from typing import Final

from sqlalchemy import Connection

from accounts.secret_keys import Purpose, SecretKeys

# Nothing is written, and nothing returned, by an attempt that is one too many: trying on costs the caller no more.
_TAKE = """
insert into attempt_limits as l (bucket, full_at) values (%(bucket)s, clock_timestamp() + %(each)s)
on conflict (bucket) do update set full_at = greatest(l.full_at, clock_timestamp()) + %(each)s
where greatest(l.full_at, clock_timestamp()) + %(each)s <= clock_timestamp() + %(all)s
returning full_at
"""

_WAIT = """
select extract(epoch from full_at + %(each)s - %(all)s - clock_timestamp())
from attempt_limits where bucket = %(bucket)s
"""


@dataclass(frozen=True, slots=True)
class Limit:
    """``count`` attempts at once, and one more each time that ``every`` / ``count`` has passed."""

    name: str
    count: int
    every: timedelta


#: Signing in from one address, whatever the account: an office shares one.
SIGN_IN_BY_ADDRESS: Final = Limit("sign-in by address", 60, timedelta(minutes=10))
#: Signing in to one account from devices that it does not know: nobody else can lock its person out.
SIGN_IN_BY_ACCOUNT: Final = Limit("sign-in by account", 10, timedelta(minutes=15))
#: The same from one device that it knows.
SIGN_IN_BY_DEVICE: Final = Limit("sign-in by device", 20, timedelta(minutes=15))
#: Codes of the second factor, of one account: there are a million, and three are good at a time.
CODES: Final = Limit("codes", 10, timedelta(minutes=15))
#: Mails to one address, and those that one network address asks for.
MAILS_TO: Final = Limit("mails to", 5, timedelta(hours=1))
MAILS_BY_ADDRESS: Final = Limit("mails by address", 30, timedelta(hours=1))
#: Mails that one person has sent to others: invitations, a new owner, an address.
MAILS_BY_USER: Final = Limit("mails by user", 50, timedelta(days=1))
#: Links that were opened or guessed.
LINKS_BY_ADDRESS: Final = Limit("links by address", 60, timedelta(minutes=10))


class LimitedError(Exception):
    """One attempt too many. ``seconds``: until the next one is taken."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many attempts: try again in {seconds} s")
        self.seconds = seconds


def take(connection: Connection, keys: SecretKeys, limit: Limit, whose: str) -> None:
    """Count an attempt. Raises LimitedError.

    In a transaction of its own, which is committed whatever becomes of the attempt.
    """
    about = _about(keys, limit, whose)
    if connection.exec_driver_sql(_TAKE, about).first() is None:
        seconds = connection.exec_driver_sql(_WAIT, about).scalar() or 0
        raise LimitedError(max(1, math.ceil(seconds)))


def network(address: str) -> str:
    """Whose address it is, as limits see it: of IPv6 one has a /64 (2^64 addresses) at home."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Address(int(parsed) >> 64 << 64)) + "/64"
    return str(parsed)


def _about(keys: SecretKeys, limit: Limit, whose: str) -> dict[str, object]:
    bucket = keys.digest(Purpose.LIMITS, f"{limit.name}\0{whose}".encode())
    return {"bucket": bucket, "each": limit.every / limit.count, "all": limit.every}
