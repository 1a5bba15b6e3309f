"""Our own secret keys, and what is derived of them: one key for each purpose, so that none stands for another.

``ALTIORA_SECRET_KEYS`` holds several while one is being replaced: the first signs and encrypts, all of them read.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr


class Purpose(StrEnum):
    """What a derived key is for; the label of its derivation (RFC 5869)."""

    ACCESS = "altiora access token"
    REFRESH = "altiora refresh token"
    TOTP = "altiora second factor"
    LIMITS = "altiora attempt limits"
    REQUESTS = "altiora requests that may be sent again"


@dataclass(frozen=True, slots=True)
class Key:
    """A key of 32 bytes for one purpose; ``id`` names it in what it has signed, and tells nothing of it."""

    id: str
    secret: bytes = field(repr=False)


class SecretKeys:
    """The keys of one purpose each. ``secrets`` are those of the setting, the present one first."""

    def __init__(self, secrets: Sequence[SecretStr]) -> None:
        self._keys = {purpose: [_derive(each, purpose) for each in secrets] for purpose in Purpose}
        self._fernet = MultiFernet([Fernet(base64.urlsafe_b64encode(key.secret)) for key in self._keys[Purpose.TOTP]])

    def present(self, purpose: Purpose) -> Key:
        """The key that signs."""
        return self._keys[purpose][0]

    def by_id(self, purpose: Purpose, key_id: object) -> Key | None:
        """The key of this name, if it is one of ours."""
        return next((key for key in self._keys[purpose] if key.id == key_id), None)

    def all_of(self, purpose: Purpose) -> Sequence[Key]:
        """The present key and those before it."""
        return self._keys[purpose]

    def digest(self, purpose: Purpose, message: bytes) -> bytes:
        """HMAC-SHA256 with the present key."""
        return hmac.digest(self.present(purpose).secret, message, "sha256")

    def encrypt(self, secret: str) -> bytes:
        """``secret`` for the database, which alone gives nothing away."""
        return self._fernet.encrypt(secret.encode())

    def decrypt(self, stored: bytes) -> str:
        """What was encrypted. Raises LookupError where none of the keys is the one that it was encrypted with."""
        try:
            return self._fernet.decrypt(stored).decode()
        except InvalidToken as error:
            raise LookupError(
                "a second factor is encrypted with a key that is not in ALTIORA_SECRET_KEYS any more: add that key"
                " again, or reset the factor (altiora user reset-second-factor)"
            ) from error


def sha256(secret: str) -> bytes:
    """The digest by which a random secret of ours is known in the database; it has 160 bits or more of its own."""
    return hashlib.sha256(secret.encode()).digest()


def _derive(secret: SecretStr, purpose: Purpose) -> Key:
    derived = HKDF(SHA256(), length=32, salt=None, info=purpose.encode()).derive(secret.get_secret_value().encode())
    return Key(hashlib.sha256(b"id" + derived).hexdigest()[:12], derived)
