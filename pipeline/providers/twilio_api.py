"""Twilio, as this program uses it: the only file outside the sandbox that imports ``twilio``."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from twilio.base.exceptions import TwilioException  # type: ignore[import-untyped]  # twilio ships no types
from twilio.http.http_client import TwilioHttpClient  # type: ignore[import-untyped]  # as above
from twilio.rest import Client  # type: ignore[import-untyped]  # as above

from pipeline.shared.settings import TwilioSettings

#: For connecting and for each part of an answer: a page of a thousand calls takes its time.
TIMEOUT_SECONDS = 20.0
#: The largest page that Twilio gives.
PAGE = 1000

Json = dict[str, Any]


class TwilioApiError(Exception):
    """Twilio gave no answer, or refused; ``status`` is None without an answer. Try again later, whatever it is."""

    def __init__(self, status: int | None, words: str) -> None:
        super().__init__(f"{status or 'no answer'}: {words}")
        self.status = status


def rfc2822_instant(value: str | None) -> datetime | None:
    """A time as the API writes it, ``Fri, 18 Oct 2019 17:02:00 +0000``; None where there is none yet."""
    return parsedate_to_datetime(value) if value else None


class TwilioApi:
    """What Twilio knows of our calls and numbers, as its JSON shows it. May be shared by threads."""

    def __init__(self, settings: TwilioSettings) -> None:
        self.account_sid = settings.twilio_account_sid
        self._auth_token = settings.twilio_auth_token[0].get_secret_value()
        self._base = settings.twilio_api_base
        self._account = f"{self._base}/2010-04-01/Accounts/{self.account_sid}"
        self._threads = threading.local()

    def fetch_call(self, sid: str) -> Json | None:
        """One call, or None when Twilio knows none of that SID. Raises TwilioApiError."""
        return self._get(f"{self._account}/Calls/{quote(sid, safe='')}.json")

    def list_calls(self, started_after: datetime, started_before: datetime) -> Iterator[Json]:
        """The calls that started in ``[started_after, started_before)``, and those that never started.

        Twilio promises to filter by UTC dates only, so the exact filter is here. Pages may overlap, so one call may
        come twice. Raises TwilioApiError.
        """
        beyond = started_before.astimezone(UTC).date() + timedelta(days=1)
        params: dict[str, object] = {
            # Where times are honoured this saves most of a day's calls; cut to its date it asks for them all.
            "StartTime>": started_after.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "StartTime<": beyond.isoformat(),
            "PageSize": PAGE,
        }
        for call in self._pages("calls", f"{self._account}/Calls.json", params):
            started = rfc2822_instant(call["start_time"])
            if started is None or started_after <= started < started_before:
                yield call

    def usage_of_day(self, day: date, category: str) -> tuple[int, int]:
        """Calls and billed minutes of a category (``calls-inbound``, ``calls-outbound``) that started on a GMT day.

        Twilio rounds each call up to the minute. Raises TwilioApiError.
        """
        params: dict[str, object] = {
            "Category": category,
            "StartDate": day.isoformat(),
            "EndDate": day.isoformat(),
            "IncludeSubaccounts": "false",  # the default is true
            "PageSize": PAGE,
        }
        calls, minutes = 0, Decimal(0)
        for record in self._pages("usage_records", f"{self._account}/Usage/Records/Daily.json", params):
            calls += int(record["count"])
            minutes += Decimal(record["usage"])
        return calls, int(minutes)

    def list_numbers(self) -> Iterator[Json]:
        """The account's phone numbers, with the addresses that it calls. Raises TwilioApiError."""
        address = f"{self._account}/IncomingPhoneNumbers.json"
        return self._pages("incoming_phone_numbers", address, {"PageSize": PAGE})

    def _pages(self, kind: str, address: str, params: dict[str, object]) -> Iterator[Json]:
        query: dict[str, object] | None = params
        while True:
            page = self._get(address, query)
            if page is None:
                raise TwilioApiError(404, f"Twilio has no account {self.account_sid}")
            yield from page[kind]
            if not page["next_page_uri"]:
                return
            address, query = self._base + page["next_page_uri"], None

    def _get(self, address: str, params: dict[str, object] | None = None) -> Json | None:
        try:
            # The plain request: it gives Twilio's own JSON, and none of the package's conversions of dates.
            answer = self._client().request("GET", address, params=params)
        except (OSError, TwilioException) as error:  # what requests raises is an OSError
            raise TwilioApiError(None, str(error)) from error
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise TwilioApiError(answer.status_code, answer.text[:500])
        try:
            found: Json = json.loads(answer.text)
        except ValueError as error:
            raise TwilioApiError(None, f"the answer can't be read: {error}") from error
        return found

    def _client(self) -> Client:
        """The client of this thread: the package keeps the last answer in its client, where threads would mix them."""
        if not hasattr(self._threads, "client"):
            self._threads.client = Client(
                self.account_sid,
                self._auth_token,
                http_client=TwilioHttpClient(timeout=TIMEOUT_SECONDS),
                environment={"TWILIO_EDGE": "", "TWILIO_REGION": ""},  # the address is ours, never the environment's
            )
        client: Client = self._threads.client
        return client
