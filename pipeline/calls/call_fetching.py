"""Fetching single calls from Twilio: those that callbacks told too little of, or contradictory things."""

from sqlalchemy import Engine

from pipeline.calls import calls_from_api
from pipeline.events import fetch_requests
from pipeline.events.fetch_requests import FetchError, FetchRequest
from pipeline.providers.twilio_api import TwilioApi, TwilioApiError
from pipeline.shared.clock import Clock, machine_now

#: The reason of events that are set aside until their call has been fetched.
AWAITING_CALL = "awaiting-call"


class CallFetcher:
    """Fetches the calls that are due. ``follow_ups`` collects the tasks that then have something to do."""

    def __init__(self, engine: Engine, api: TwilioApi, clock: Clock) -> None:
        self.follow_ups: set[str] = set()
        self._engine = engine
        self._api = api
        self._clock = clock

    def run(self) -> dict[str, int]:
        """Fetch what is due; returns how many calls were ``fetched`` and how many ``failed``."""
        return fetch_requests.fetch_due(self._engine, {"call": self._call})

    def _call(self, due: FetchRequest) -> None:
        asked_at = machine_now()
        try:
            call = self._api.fetch_call(due.object_id)
        except TwilioApiError as error:
            raise FetchError(str(error), costs_attempt=error.status not in {401, 403, 429}) from error
        with self._engine.begin() as connection:
            stored = calls_from_api.store_news(
                connection,
                [] if call is None else [call],
                account_sid=self._api.account_sid,
                machine_now=asked_at,
                now=self._clock.now(),
                recovered=False,
            )
            fetch_requests.mark_fetched(connection, due)
            if fetch_requests.release_events(connection, AWAITING_CALL, f"{due.object_id}:") or stored:
                self.follow_ups.add("events.drain")
