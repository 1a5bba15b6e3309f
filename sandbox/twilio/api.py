"""Twilio's HTTP API as far as the bookkeeping of calls needs it: calls, their list, numbers, daily usage."""

import base64
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from typing import TypeVar
from urllib.parse import urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.twilio.account import Number, TwilioAccount
from sandbox.twilio.calls import API_VERSION, LONGEST_SECONDS, TwilioCall
from sandbox.twilio.usage import CATEGORIES, UsageDay, usage_days

DEFAULT_PAGE_SIZE, LARGEST_PAGE_SIZE = 50, 1000

PAGING = frozenset({"Page", "PageSize", "PageToken"})
USAGE_PARAMETERS = PAGING | {"Category", "StartDate", "EndDate", "IncludeSubaccounts"}

#: The span that no filter narrows.
EVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))

MESSAGES = {
    20001: (400, "Bad request"),
    20003: (401, "Authenticate"),
    20404: (404, "The requested resource was not found"),
    20429: (429, "Too Many Requests"),
    20500: (500, "An internal server error has occurred"),
}


Listed = TypeVar("Listed", TwilioCall, Number, UsageDay)


class TwilioError(Exception):
    """An answer other than 200, by Twilio's own code."""

    def __init__(self, code: int, message: str = "") -> None:
        self.code = code
        self.status, default = MESSAGES[code]
        super().__init__(message or default)


def refusal(error: TwilioError) -> Response:
    """The answer in Twilio's shape for errors."""
    body = {
        "code": error.code,
        "message": str(error),
        "more_info": f"https://www.twilio.com/docs/errors/{error.code}",
        "status": error.status,
    }
    headers = {"WWW-Authenticate": 'Basic realm="Twilio API"'} if error.status == 401 else {}
    return Response(orjson.dumps(body), error.status, headers, "application/json")


class TwilioApi:
    """The API's routes over one account.

    With ``filters_by_day`` only the date of ``StartTime`` and ``EndTime`` counts: Twilio's prose promises no more
    than days, its examples show times too. ``repeat_rate`` says, at each request, how often a page begins with the
    call that the page before it ended with, as happens when the list grows under the reader.
    """

    def __init__(
        self, account: TwilioAccount, random: Random, repeat_rate: Callable[[], float], *, filters_by_day: bool
    ) -> None:
        self._account = account
        self._random = random
        self._repeat_rate = repeat_rate
        self._filters_by_day = filters_by_day
        base = f"/{API_VERSION}/Accounts/{{account_sid}}"
        self.routes = [
            Route(f"{base}/Calls.json", self._list_calls),
            Route(f"{base}/Calls/{{call_sid}}.json", self._fetch_call),
            Route(f"{base}/IncomingPhoneNumbers.json", self._list_numbers),
            Route(f"{base}/Usage/Records/Daily.json", self._list_usage),
        ]

    async def _fetch_call(self, request: Request) -> Response:
        self._authenticate(request)
        call = self._account.call(request.path_params["call_sid"])
        if call is None:
            raise TwilioError(20404, f"The requested resource {request.url.path} was not found")
        return _json(self._shown(call))

    async def _list_calls(self, request: Request) -> Response:
        self._authenticate(request)
        query = request.query_params
        started, ended = self._window(request, "StartTime"), self._window(request, "EndTime")
        earliest = max(started[0], ended[0] - timedelta(seconds=LONGEST_SECONDS)) if ended[0] > EVER[0] else started[0]
        now = self._account.timeline.now
        tests: list[Callable[[TwilioCall], bool]] = []
        if started != EVER:
            tests.append(lambda call: started[0] <= call.start < started[1])
        if ended != EVER:  # a call that did not complete has no EndTime
            tests.append(lambda call: call.status_at(now) == "completed" and ended[0] <= call.end < ended[1])
        shows: dict[str, Callable[[TwilioCall], str | None]] = {
            "To": lambda call: call.to,
            "From": lambda call: call.from_,
            "ParentCallSid": lambda call: call.parent_sid,
            "Status": lambda call: call.status_at(now),
        }
        wanted = [(show, query[name]) for name, show in shows.items() if query.get(name)]
        found = [
            call
            for call in self._account.calls(since=earliest)
            if all(test(call) for test in tests) and all(show(call) == value for show, value in wanted)
        ]
        return self._page(request, "calls", found, self._shown)

    async def _list_numbers(self, request: Request) -> Response:
        self._authenticate(request)
        wanted = request.query_params.get("PhoneNumber", "")
        found = [number for number in self._account.numbers.values() if wanted in number.phone_number]
        return self._page(request, "incoming_phone_numbers", found, self._number)

    async def _list_usage(self, request: Request) -> Response:
        """Usage by GMT day. Stricter than Twilio: a parameter that it does not have is refused, not ignored."""
        self._authenticate(request)
        query = request.query_params
        if unknown := query.keys() - USAGE_PARAMETERS:
            raise TwilioError(20001, f"Usage Records have no parameter {', '.join(sorted(unknown))}")
        if query.get("IncludeSubaccounts", "true") not in {"true", "false"}:
            raise TwilioError(20001, "IncludeSubaccounts is true or false")
        category = query.get("Category")
        if category is not None and category not in CATEGORIES:
            raise TwilioError(20001, f"Category '{category}' is not one that calls fall into")
        now = self._account.timeline.now
        first = self._day("StartDate", query.get("StartDate"), now.astimezone(UTC).date())
        last = self._day("EndDate", query.get("EndDate"), now.astimezone(UTC).date())
        if last < first:
            raise TwilioError(20001, "EndDate is before StartDate")
        calls = self._account.calls(since=datetime.combine(first, time(), UTC))
        found = usage_days(calls, CATEGORIES if category is None else [category], first, last, now)
        return self._page(request, "usage_records", found, lambda record: record.shown(self._account.account_sid, now))

    def _day(self, name: str, given: str | None, default: date) -> date:
        if given is None:
            return default
        try:
            return datetime.strptime(given, "%Y-%m-%d").replace(tzinfo=UTC).date()
        except ValueError:
            raise TwilioError(20001, f"{name} '{given}' is not YYYY-MM-DD") from None

    def _authenticate(self, request: Request) -> None:
        account = self._account
        expected = base64.b64encode(f"{account.account_sid}:{account.auth_token}".encode()).decode()
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic" or not secrets.compare_digest(given.encode(), expected.encode()):
            raise TwilioError(20003)
        if request.path_params["account_sid"] != account.account_sid:
            raise TwilioError(20404, f"The requested resource {request.url.path} was not found")

    def _window(self, request: Request, name: str) -> tuple[datetime, datetime]:
        """The half-open span that ``name``, ``name>`` (at or after) and ``name<`` (at or before) allow."""
        query = request.query_params
        low, high = EVER
        if given := query.get(name):
            low = self._instant(name, given)
            whole_day = self._filters_by_day or "T" not in given
            high = low + (timedelta(days=1) if whole_day else timedelta(seconds=1))
        if given := query.get(f"{name}>"):
            low = max(low, self._instant(name, given))
        if given := query.get(f"{name}<"):
            high = min(high, self._instant(name, given) + timedelta(seconds=1))  # whole seconds: at or before
        return low, high

    def _instant(self, name: str, given: str) -> datetime:
        try:
            instant = datetime.fromisoformat(given)
        except ValueError:
            raise TwilioError(20001, f"{name} '{given}' is neither YYYY-MM-DD nor YYYY-MM-DDThh:mm:ssZ") from None
        instant = instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
        return instant.replace(hour=0, minute=0, second=0) if self._filters_by_day else instant

    def _page(
        self, request: Request, key: str, found: Sequence[Listed], shown: Callable[[Listed], dict[str, object]]
    ) -> Response:
        """One page of ``found``. The token in ``next_page_uri`` names the last item, so that nothing is skipped."""
        query = request.query_params
        try:
            size = min(int(query.get("PageSize", DEFAULT_PAGE_SIZE)), LARGEST_PAGE_SIZE)
            page = int(query.get("Page", 0))
            first = 0
            if token := query.get("PageToken"):
                first = next(i for i, item in enumerate(found) if item.sid == token[2:]) + 1
                if self._random.random() < self._repeat_rate():
                    first -= 1
        except (ValueError, StopIteration):
            raise TwilioError(20001, "Invalid Page, PageSize or PageToken") from None
        if size < 1 or page < 0:
            raise TwilioError(20001, "PageSize begins at 1 and Page at 0")
        items = found[first : first + size]
        base = [(name, value) for name, value in query.multi_items() if name not in PAGING]

        def uri(number: int, token: str = "") -> str:
            place = [("PageSize", str(size)), ("Page", str(number))] + ([("PageToken", token)] if token else [])
            return f"{request.url.path}?{urlencode(base + place)}"

        more = items and first + size < len(found)
        return _json(
            {
                key: [shown(item) for item in items],
                "page": page,
                "page_size": size,
                "start": page * size,
                "end": page * size + max(len(items) - 1, 0),
                "uri": uri(page, query.get("PageToken", "")),
                "first_page_uri": uri(0),
                "next_page_uri": uri(page + 1, f"PA{items[-1].sid}") if more else None,
                "previous_page_uri": uri(page - 1) if page else None,
            }
        )

    def _shown(self, call: TwilioCall) -> dict[str, object]:
        number = self._account.numbers[call.number]
        return call.resource(self._account.timeline.now, number.sid)

    def _number(self, number: Number) -> dict[str, object]:
        account_sid = self._account.account_sid
        return {
            "sid": number.sid,
            "account_sid": account_sid,
            "phone_number": number.phone_number,
            "friendly_name": number.phone_number,
            "status_callback": number.status_callback,
            "status_callback_method": "POST",
            "capabilities": {"voice": True, "sms": False, "mms": False, "fax": False},
            "api_version": API_VERSION,
            "status": "in-use",
            "uri": f"/{API_VERSION}/Accounts/{account_sid}/IncomingPhoneNumbers/{number.sid}.json",
        }


def _json(content: dict[str, object]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
