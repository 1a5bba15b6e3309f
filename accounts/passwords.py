"""Passwords: which are taken, how they are stored, and that finding out takes the same time for everybody.

Length and guessability, and no rules of composition and no expiry (NIST SP 800-63B); argon2id with OWASP's parameters.
"""

import threading
from collections.abc import Iterable

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from zxcvbn import zxcvbn

SHORTEST = 15
LONGEST = 256
#: Of zxcvbn's 0 to 4: "safely unguessable", 10^8 guesses or more.
SCORE = 3
#: zxcvbn's time grows with the length; what is longer than this is judged by its first part.
_JUDGED = 72

#: KiB, rounds and lanes (OWASP's password storage cheat sheet); the package's own take thirteen times as long.
_HASHER = PasswordHash((Argon2Hasher(memory_cost=19_456, time_cost=2, parallelism=1),))
#: Each takes 19 MiB and a whole core: more at once would only make all of them slow.
_AT_ONCE = threading.BoundedSemaphore(2)

#: Of a password that nobody knows, with the present parameters.
NOBODYS = "$argon2id$v=19$m=19456,t=2,p=1$k72/3LqnmpsFqtSHpAN8sg$dl/Ri6qfha2lwkDTeRcLGmlaqFVVZ5yXnB1VhHtk8fw"


class PasswordError(Exception):
    """A password that is not taken; the words say why."""


def check_password(password: str, about: Iterable[str]) -> None:
    """See that a new password is good. ``about`` is what others know of the person: name, address, businesses.

    Raises PasswordError.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise PasswordError(f"a password has {SHORTEST} to {LONGEST} characters; a few unrelated words make a good one")
    known = [part for text in about for part in (text, *text.replace("@", " ").replace(".", " ").split()) if part]
    judged = zxcvbn(password[:_JUDGED], user_inputs=known)
    if judged["score"] < SCORE:
        hints = [judged["feedback"]["warning"], *judged["feedback"]["suggestions"]]
        raise PasswordError(" ".join(["This one could be guessed.", *filter(None, hints)]))


def hash_password(password: str) -> str:
    """What is stored of a password."""
    with _AT_ONCE:
        return _HASHER.hash(password)


def verify_password(password: str, stored: str | None) -> tuple[bool, str | None]:
    """Whether it is the one that was hashed, and a new hash where ``stored`` has old parameters.

    Without ``stored`` it takes as long, and is wrong: whether somebody has an account can't be told by the time.
    """
    with _AT_ONCE:
        right, better = _HASHER.verify_and_update(password[:LONGEST], stored or NOBODYS)
    known = stored is not None and len(password) <= LONGEST
    return right and known, better if known else None
