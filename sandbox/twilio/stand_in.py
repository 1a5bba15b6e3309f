"""The stand-in for Twilio as one ASGI app: the API behind its faults, and the routes that steer it."""

from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from sandbox.control import instant_of, steering
from sandbox.delivery import Delivery
from sandbox.faults import Faults, FaultyDoor
from sandbox.timeline import Timeline
from sandbox.twilio.account import TwilioAccount
from sandbox.twilio.api import TwilioApi, TwilioError, refusal
from sandbox.twilio.calls import API_VERSION


class TwilioSandbox(TwilioAccount):
    """A Twilio account with its API. ``app`` also serves, below ``/_sandbox/twilio``:

    - ``GET ledger``: the record of every call so far (see TwilioAccount.ledger),
    - ``POST calls``: plan a call, with the arguments of TwilioAccount.place_call (``at`` in ISO 8601, default now),
    - ``POST correct-call`` with ``sid`` and ``seconds``, ``POST numbers`` with ``number`` and ``status_callback``.
    """

    def __init__(
        self,
        timeline: Timeline,
        delivery: Delivery,
        faults: Faults,
        account_sid: str,
        auth_token: str,
        *,
        seed: int = 1,
        filters_by_day: bool = False,
    ) -> None:
        super().__init__(timeline, delivery, account_sid, auth_token, seed=seed)
        api = TwilioApi(self, faults.random, lambda: faults.duplicate, filters_by_day=filters_by_day)
        door = Middleware(FaultyDoor, faults=faults, service="twilio", paths=(f"/{API_VERSION}",), refuse=_refuse)
        self.app = Starlette(
            routes=[
                *api.routes,
                steering("/_sandbox/twilio/ledger", self._ledger, method="GET"),
                steering("/_sandbox/twilio/calls", self._place_call),
                steering("/_sandbox/twilio/correct-call", self._correct_call),
                steering("/_sandbox/twilio/numbers", self._add_number),
            ],
            middleware=[door],
            exception_handlers={TwilioError: _refused},
        )

    async def _ledger(self, _: dict[str, Any]) -> object:
        return self.ledger()

    async def _place_call(self, given: dict[str, Any]) -> object:
        at = instant_of(given["at"]) if "at" in given else self.timeline.now
        call = self.place_call(**given | {"at": at})
        return {"sid": call.sid, "start": call.start.isoformat(), "end": call.end.isoformat()}

    async def _correct_call(self, given: dict[str, Any]) -> object:
        call = self.correct_call(given["sid"], given["seconds"])
        return {"sid": call.sid, "end": call.end.isoformat(), "seconds": call.seconds}

    async def _add_number(self, given: dict[str, Any]) -> object:
        number = self.add_number(given["number"], given.get("status_callback"))
        return {"sid": number.sid, "number": number.phone_number, "status_callback": number.status_callback}


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, TwilioError)
    return refusal(error)


def _refuse(status: int) -> Response:
    return refusal(TwilioError({401: 20003, 429: 20429, 500: 20500}[status]))
