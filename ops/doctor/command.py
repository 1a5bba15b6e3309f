"""`altiora doctor`: is everything there that the pipeline needs, and what is to be done about it?"""

import contextlib
from collections.abc import Iterator
from typing import Any

import typer

from ops.commands.database import Chosen, choose_settings
from ops.commands.output import AsJson, print_json, print_table
from ops.doctor.findings import Finding, fail, ok
from pipeline.shared.clock import ClockError, business_clock
from pipeline.shared.settings import (
    ApiSettings,
    BrokerSettings,
    DashboardSettings,
    DatabaseSettings,
    MailSettings,
    PublicSettings,
    RuleSettings,
    SecretKeySettings,
    SettingsError,
    StripeSettings,
    StripeWebhookSettings,
    TenantDatabaseSettings,
    TwilioSettings,
    load,
)

_KINDS: tuple[type[Any], ...] = (
    DatabaseSettings,
    BrokerSettings,
    StripeSettings,
    StripeWebhookSettings,
    TwilioSettings,
    PublicSettings,
    RuleSettings,
    TenantDatabaseSettings,
    ApiSettings,
    MailSettings,
)
#: Of the API: looked at where they are given, since who works without people's accounts needs none.
_OF_PEOPLE: tuple[type[Any], ...] = (DashboardSettings, SecretKeySettings)


def doctor(as_json: AsJson = False) -> None:
    """Look at settings, database, broker, Stripe and Twilio, and say what to do; status 1 when something fails."""
    from ops.doctor import accounts, servers  # noqa: PLC0415 - alembic, stripe and twilio are slow to load

    chosen: Chosen = None
    with contextlib.suppress(SettingsError):  # each one is told below
        chosen = choose_settings(*_KINDS)
    looks = {
        "settings": _settings(chosen),
        "database": servers.database(chosen),
        "broker": servers.broker(chosen),
        "sources": servers.sources(chosen),
        "stripe": accounts.stripe(chosen),
        "twilio": accounts.twilio(chosen),
    }
    rows = []
    for what, look in looks.items():
        # Without its settings nothing can be looked at; those that are missing are told by the first look.
        with contextlib.suppress(SettingsError):
            rows += [{"level": found.level, "what": what, "finding": found.words} for found in look]
    if as_json:
        print_json(rows)
    else:
        print_table(rows)
    if any(row["level"] == "fail" for row in rows):
        raise typer.Exit(1)


def _settings(chosen: Chosen) -> Iterator[Finding]:
    wrong = []
    for kind in (*_KINDS, *_OF_PEOPLE):
        try:
            load(kind, chosen)
        except SettingsError as error:
            if kind not in _OF_PEOPLE or "is missing" not in str(error):
                wrong.append(str(error))
    yield from map(fail, wrong)
    try:
        business_clock(chosen).now()
    except ClockError as error:
        yield fail(str(error))
        return
    if not wrong:
        yield ok("all are there")
