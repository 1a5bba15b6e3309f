"""Settings: read from the environment and `.env`, each process only those that it needs, and when it needs them.

Every name has the prefix ``ALTIORA_``. ``load`` turns what pydantic found into a sentence that names the
setting and says what to do; secrets are ``SecretStr`` and stand in no message.
"""

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_PREFIX: Final = "ALTIORA_"
#: The event name of our meter, unless the setting says another.
METER_EVENT_NAME: Final = "call_minutes"

#: What a newcomer needs to know to set it; shown when it is missing or wrong.
HELP = {
    "database_url": "the address of PostgreSQL 15 or newer, as postgresql://user:password@host:5432/altiora",
    "tenant_database_url": "the same address with the login altiora_tenant, for requests of those who belong to a"
    " business; without it the API's own login serves them, and only our code keeps tenants apart",
    "broker_url": "the address of Redis or Valkey 6.2 or newer, as redis://host:6379/0",
    "stripe_api_key": "a restricted or secret key of the account, sk_… or rk_…",
    "stripe_webhook_secret": "the signing secret whsec_… of the endpoint; several, comma-separated, while rotating",
    "stripe_api_base": "the address of Stripe's API, https://api.stripe.com unless it is a stand-in",
    "stripe_meter_event_name": "the event_name of the meter that counts call minutes",
    "stripe_settling_seconds": "how long after a push Stripe's sums are taken to be right; 3600 except in a simulation",
    "twilio_account_sid": "the account's SID, AC…",
    "twilio_auth_token": "the account's auth token; several, comma-separated, while rotating; the first signs ours",
    "twilio_api_base": "the address of Twilio's API, https://api.twilio.com unless it is a stand-in",
    "public_url": "the address by which Stripe and Twilio call us, as https://billing.example.com; Twilio signs it",
    "database_pooler": "true where PgBouncer in transaction mode stands before the database, else false (default)",
    "owner_password": "the password of altiora_owner, 12 characters or more; `altiora migrate --roles` sets it",
    "receiver_password": "the password of altiora_receiver, 12 characters or more; `altiora migrate --roles` sets it",
    "worker_password": "the password of altiora_worker, 12 characters or more; `altiora migrate --roles` sets it",
    "staff_password": "the password of altiora_staff, 12 characters or more; `altiora migrate --roles` sets it",
    "tenant_password": "the password of altiora_tenant, 12 characters or more; `altiora migrate --roles` sets it",
    "reader_password": "the password of altiora_reader, 12 characters or more; `altiora migrate --roles` sets it",
    "stripe_livemode": "true for live data, false for test data, as the key says; where a process has no key",
    "bill_child_legs": "true to bill the legs that <Dial> opens, false (the default) to bill parent legs only",
    "secret_keys": "random text of 32 characters or more (openssl rand -base64 48); several, comma-separated, while"
    " rotating; the first signs and encrypts",
    "dashboard_url": "the address by which people come to the dashboard and the API, as https://app.example.com; links"
    " in mails are made of it, and plain http is for 127.0.0.1 and localhost only",
    "trusted_proxies": "addresses or networks, comma-separated, of the proxies whose X-Forwarded-For is believed",
    "smtp_url": "the mail server, as smtps://user:password@host:465, or smtp:// with STARTTLS where it is offered",
    "mail_from": "who mails are from, as Altiora <billing@example.com>",
    "beat_pace": "how many times faster than written the beat schedule ticks; 1 except in a simulation",
}


class SettingsError(Exception):
    """A setting is missing or wrong. The message names each one and says what belongs there."""


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_file=Path(__file__).resolve().parents[2] / ".env",  # this clone's, wherever we were called
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
    )


def _secrets(value: object) -> object:
    """Split what one environment variable holds: secrets, comma-separated while a rotation lasts."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _see_address(address: str) -> None:
    """See that an address can be taken apart. Raises ValueError, without what stands in it: there may be a password."""
    try:
        port = urlsplit(address).port
    except ValueError:
        raise ValueError(
            "its host or port can't be read; a password's own /, @, : and # are written %2F, %40 …"
        ) from None
    if port == 0:
        raise ValueError("its port is 0")


def _base(address: str) -> str:
    """The address of an API, without a slash at its end."""
    if not address.startswith(("https://", "http://")):
        raise ValueError("it must begin with https://")
    _see_address(address)
    return address.rstrip("/")


def _is_live(key: SecretStr) -> bool:
    return "_live_" in key.get_secret_value()


Secrets = Annotated[tuple[SecretStr, ...], NoDecode, Field(min_length=1)]


def _is_postgres(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        if not value.get_secret_value().startswith(("postgresql://", "postgresql+psycopg://", "postgres://")):
            raise ValueError("it must begin with postgresql://")
        _see_address(value.get_secret_value())
    return value


def _for_sqlalchemy(address: SecretStr) -> str:
    """SQLAlchemy wants the driver in the scheme."""
    return "postgresql+psycopg://" + address.get_secret_value().split("://", 1)[1]


class DatabaseSettings(_Settings):
    database_url: SecretStr
    database_pooler: bool = False

    _checked = field_validator("database_url")(_is_postgres)

    @property
    def sqlalchemy_url(self) -> str:
        """The address for SQLAlchemy."""
        return _for_sqlalchemy(self.database_url)

    @property
    def libpq_url(self) -> str:
        """The address for psycopg itself, which is libpq's form."""
        return "postgresql://" + self.database_url.get_secret_value().split("://", 1)[1]


class TenantDatabaseSettings(_Settings):
    """The same database for tenants' requests, which have a login of their own; without it they share the API's."""

    tenant_database_url: SecretStr | None = None

    _checked = field_validator("tenant_database_url")(_is_postgres)

    @property
    def sqlalchemy_url(self) -> str | None:
        """The address for SQLAlchemy."""
        return None if self.tenant_database_url is None else _for_sqlalchemy(self.tenant_database_url)


class RoleSettings(_Settings):
    """The passwords of the six logins (db/roles.py), for whoever makes them; nobody else has them all."""

    owner_password: SecretStr = Field(min_length=12)
    receiver_password: SecretStr = Field(min_length=12)
    worker_password: SecretStr = Field(min_length=12)
    staff_password: SecretStr = Field(min_length=12)
    tenant_password: SecretStr = Field(min_length=12)
    reader_password: SecretStr = Field(min_length=12)

    @property
    def passwords(self) -> dict[str, SecretStr]:
        """By login."""
        return {
            "altiora_owner": self.owner_password,
            "altiora_receiver": self.receiver_password,
            "altiora_worker": self.worker_password,
            "altiora_staff": self.staff_password,
            "altiora_tenant": self.tenant_password,
            "altiora_reader": self.reader_password,
        }


class BrokerSettings(_Settings):
    broker_url: SecretStr

    @field_validator("broker_url")
    @classmethod
    def _is_redis(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("redis://", "rediss://")):
            raise ValueError("it must begin with redis:// or rediss://")
        _see_address(value.get_secret_value())
        return value

    beat_pace: float = Field(default=1.0, ge=1.0, le=1000.0)


class StripeWebhookSettings(_Settings):
    stripe_webhook_secret: Secrets

    _split = field_validator("stripe_webhook_secret", mode="before")(_secrets)


class StripeModeSettings(_Settings):
    """What applying events needs to know of the account; it does without the key."""

    stripe_livemode: bool | None = None
    stripe_api_key: SecretStr | None = None
    stripe_meter_event_name: str = Field(default=METER_EVENT_NAME, min_length=1, max_length=100)

    @property
    def livemode(self) -> bool:
        """Whether the account is the live one; events of the other mode are ignored. Raises SettingsError."""
        by_key = None if self.stripe_api_key is None else _is_live(self.stripe_api_key)
        if self.stripe_livemode is None and by_key is None:
            raise SettingsError(f"ALTIORA_STRIPE_LIVEMODE is missing: set it to {HELP['stripe_livemode']}")
        if None not in {self.stripe_livemode, by_key} and self.stripe_livemode != by_key:
            raise SettingsError("ALTIORA_STRIPE_LIVEMODE and ALTIORA_STRIPE_API_KEY are of different modes")
        return bool(by_key if self.stripe_livemode is None else self.stripe_livemode)


class StripeSettings(_Settings):
    stripe_api_key: SecretStr
    stripe_api_base: str = "https://api.stripe.com"
    stripe_meter_event_name: str = Field(default=METER_EVENT_NAME, min_length=1, max_length=100)
    stripe_settling_seconds: int = Field(default=3600, ge=0)

    @field_validator("stripe_api_base")
    @classmethod
    def _no_trailing_slash(cls, value: str) -> str:
        return _base(value)

    @property
    def livemode(self) -> bool:
        """Whether the key is a live one: sk_live_… or rk_live_…; events of the other mode are ignored."""
        return _is_live(self.stripe_api_key)


class TwilioAccountSettings(_Settings):
    """Whose calls are billed."""

    twilio_account_sid: str = Field(pattern="^AC[0-9a-fA-F]{32}$")


class TwilioSettings(_Settings):
    twilio_account_sid: str = Field(pattern="^AC[0-9a-fA-F]{32}$")
    twilio_auth_token: Secrets
    twilio_api_base: str = "https://api.twilio.com"

    _split = field_validator("twilio_auth_token", mode="before")(_secrets)

    @field_validator("twilio_api_base")
    @classmethod
    def _no_trailing_slash(cls, value: str) -> str:
        return _base(value)


class PublicSettings(_Settings):
    public_url: str

    @field_validator("public_url")
    @classmethod
    def _no_trailing_slash(cls, value: str) -> str:
        return _base(value)


class SecretKeySettings(_Settings):
    """What tokens are signed and second factors encrypted with; other keys are derived of each."""

    secret_keys: Secrets

    _split = field_validator("secret_keys", mode="before")(_secrets)

    @field_validator("secret_keys")
    @classmethod
    def _are_long(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(each.get_secret_value()) < 32 for each in value):
            raise ValueError("one of them is shorter than 32 characters")
        return value


class DashboardSettings(_Settings):
    dashboard_url: str

    @field_validator("dashboard_url")
    @classmethod
    def _is_safe(cls, value: str) -> str:
        value = _base(value)
        parts = urlsplit(value)
        if parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "localhost"}:
            raise ValueError("sessions over plain http could be read by anybody on the way")
        if parts.path or parts.query or parts.fragment or parts.username is not None:
            raise ValueError("it is scheme, host and port, and nothing else")
        return value


class ApiSettings(_Settings):
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _are_networks(cls, value: object) -> object:
        parts = _secrets(value)
        if isinstance(parts, list):
            for each in parts:
                try:
                    ip_network(each)
                except ValueError:
                    raise ValueError(f"{each} is no address or network") from None
        return parts


class MailSettings(_Settings):
    """How mails leave; without an address of a server they wait."""

    smtp_url: SecretStr | None = None
    mail_from: str = "Altiora <no-reply@localhost>"

    @field_validator("smtp_url")
    @classmethod
    def _is_smtp(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            if not value.get_secret_value().startswith(("smtp://", "smtps://")):
                raise ValueError("it must begin with smtp:// or smtps://")
            _see_address(value.get_secret_value())
        return value


class RuleSettings(_Settings):
    bill_child_legs: bool = False


S = TypeVar("S", bound=_Settings)


def load(kind: type[S], values: Mapping[str, str] | None = None) -> S:
    """Read the settings of one kind. Raises SettingsError, one sentence for each setting that is wrong.

    From ``values``, by their whole names, and from nothing else; None is this process's environment and `.env`.
    """
    given: dict[str, Any] = {}
    if values is not None:
        names = {field: f"{_PREFIX}{field.upper()}" for field in kind.model_fields}
        given = {field: values[name] for field, name in names.items() if values.get(name)}
        # No variable begins so: what the process itself has must not fill in what is missing.
        given |= {"_env_prefix": "=", "_env_file": None}
    try:
        return kind(**given)
    except ValidationError as error:
        sentences = []
        for problem in error.errors(include_input=False, include_url=False):
            name = str(problem["loc"][0]) if problem["loc"] else ""
            fault = "is missing" if problem["type"] == "missing" else "is wrong"
            if problem["type"] == "value_error":  # a sentence of ours; the library's are about its own types
                fault += f" ({problem['ctx']['error']})"
            sentences.append(f"{_PREFIX}{name.upper()} {fault}: set it to {HELP.get(name, 'a valid value')}")
        raise SettingsError("; ".join(sentences)) from None
