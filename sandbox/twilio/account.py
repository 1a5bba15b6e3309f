"""A Twilio account in the sandbox: its numbers, its calls, and the callbacks that are sent about them."""

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any

from sandbox.delivery import Delivery
from sandbox.timeline import Timeline
from sandbox.twilio.calls import DIRECTIONS, FINAL_STATUSES, LONGEST_SECONDS, RINGING, TwilioCall

STATUS_CALLBACK_PATH = "/webhooks/twilio/voice"

#: How long after a call's end its price becomes known, in seconds.
PRICED_AFTER = (3 * 60, 45 * 60)

#: The events before the final one that callbacks can be asked for, with the CallStatus that each arrives with.
PROGRESS = {"initiated": "initiated", "ringing": "ringing", "answered": "in-progress"}
EVENTS = frozenset({*PROGRESS, "completed"})


@dataclass(frozen=True, slots=True)
class Number:
    """A phone number of the account; an empty ``status_callback`` sends no callbacks."""

    sid: str
    phone_number: str
    status_callback: str


class TwilioAccount:
    """The numbers and calls of one account, as far as business time has come."""

    def __init__(
        self, timeline: Timeline, delivery: Delivery, account_sid: str, auth_token: str, *, seed: int = 1
    ) -> None:
        self.timeline = timeline
        self.account_sid = account_sid
        self.auth_token = auth_token
        self.numbers: dict[str, Number] = {}
        self._delivery = delivery
        self._random = Random(seed)
        self._calls: dict[str, TwilioCall] = {}
        self._by_start: list[TwilioCall] = []

    def add_number(self, phone_number: str, status_callback: str | None = None) -> Number:
        """Buy a number, or change its status callback; None means the receiver's own address."""
        url = self._delivery.public_url + STATUS_CALLBACK_PATH if status_callback is None else status_callback
        known = self.numbers.get(phone_number)
        number = Number(known.sid if known else self._sid("PN"), phone_number, url)
        self.numbers[phone_number] = number
        return number

    def place_call(
        self,
        number: str,
        at: datetime,
        seconds: int,
        status: str = "completed",
        direction: str = "inbound",
        *,
        other: str = "+15005550001",
        child_of: str | None = None,
        events: Iterable[str] = ("completed",),
        without: Iterable[str] = (),
        late_seconds: int = 0,
    ) -> TwilioCall:
        """Plan a call on ``number`` that starts at ``at`` and lasts ``seconds``, with ``other`` on the far end.

        ``seconds`` of a call that is not completed are those of its ringing. ``child_of`` is the parent leg's SID and
        makes this a leg that ``<Dial>`` opened. ``events`` are those that callbacks are sent for; the final one needs
        ``completed``. ``without`` names parameters that its callbacks lack. ``late_seconds`` is how long after its
        end Twilio shows the call and sends its callbacks. Raises ValueError, or KeyError for a parent that does not
        exist.
        """
        if status not in FINAL_STATUSES or not 0 <= seconds <= LONGEST_SECONDS:
            raise ValueError(f"a call ends as one of {', '.join(sorted(FINAL_STATUSES))}, after 0 s to 24 h")
        events = frozenset(events)
        if direction not in DIRECTIONS or not events <= EVENTS:
            raise ValueError(f"directions are {', '.join(sorted(DIRECTIONS))}; events are {', '.join(sorted(EVENTS))}")
        if child_of is not None:
            number, direction = self._calls[child_of].number, "outbound-dial"
        if number not in self.numbers:
            self.add_number(number)
        at = at.astimezone(UTC).replace(microsecond=0)
        end = at + timedelta(seconds=seconds)
        inbound = direction == "inbound"
        call = TwilioCall(
            sid=self._sid("CA"),
            account_sid=self.account_sid,
            number=number,
            from_=other if inbound else number,
            to=number if inbound else other,
            direction=direction,
            start=at,
            end=end,
            seconds=seconds if status == "completed" else 0,
            status=status,
            parent_sid=child_of,
            priced_at=end + timedelta(seconds=self._random.randint(*PRICED_AFTER)),
            without=frozenset(without),
            shown_from=end + timedelta(seconds=late_seconds) if late_seconds else None,
        )
        self._calls[call.sid] = call
        bisect.insort(self._by_start, call, key=_start)
        self._plan_callbacks(call, events)
        return call

    def correct_call(self, sid: str, seconds: int) -> TwilioCall:
        """Let Twilio find out later that a completed call lasted ``seconds``; it sends no callback about that.

        Raises KeyError for a call that does not exist and ValueError for one that has not completed.
        """
        call = self._calls[sid]
        if call.status_at(self.timeline.now) != "completed" or not 0 <= seconds <= LONGEST_SECONDS:
            raise ValueError("only a completed call can be corrected, to 0 s to 24 h")
        call.seconds = seconds
        call.end = call.start + timedelta(seconds=seconds)
        return call

    def call(self, sid: str) -> TwilioCall | None:
        """The call with this SID, once it exists."""
        call = self._calls.get(sid)
        return call if call is not None and call.start - RINGING <= self.timeline.now and self._shown(call) else None

    def calls(self, since: datetime | None = None) -> list[TwilioCall]:
        """The calls that are shown by now, newest first; ``since`` leaves out those that started before it."""
        return [call for call in self._existing(since) if self._shown(call)]

    def _existing(self, since: datetime | None = None) -> list[TwilioCall]:
        first = 0 if since is None else bisect.bisect_left(self._by_start, since, key=_start)
        return self._by_start[first : bisect.bisect_right(self._by_start, self.timeline.now + RINGING, key=_start)][
            ::-1
        ]

    def ledger(self) -> list[dict[str, Any]]:
        """The stand-in's own record of every call that exists by now, oldest first: what a bill is checked against.

        ``callback`` is what became of the final callback: none (not asked for), pending, delivered or lost.
        """
        now = self.timeline.now
        return [
            {
                "sid": call.sid,
                "number": call.number,
                "from": call.from_,
                "to": call.to,
                "start": call.start.isoformat(),
                "end": call.end.isoformat(),
                "seconds": call.seconds,
                "status": call.status_at(now),
                "direction": call.direction,
                "parent_sid": call.parent_sid,
                "callback": call.callback,
                "price": None if (price := call.price_at(now)) is None else str(price),
            }
            for call in reversed(self._existing())
        ]

    def _shown(self, call: TwilioCall) -> bool:
        return call.shown_from is None or call.shown_from <= self.timeline.now

    def _plan_callbacks(self, call: TwilioCall, events: frozenset[str]) -> None:
        happens = {"initiated": call.start - RINGING, "ringing": call.start - RINGING + timedelta(seconds=1)}
        if call.status == "completed":
            happens["answered"] = call.start
        happens["completed"] = call.end
        if call.status == "canceled" and call.direction == "outbound-api":
            return  # canceled while it was queued: Twilio tells nobody
        wanted = [event for event in happens if event in events]
        # Calls through the API number all their events, as real callbacks show; inbound and dialled legs those sent.
        numbered = list(happens) if call.direction == "outbound-api" else wanted
        for event in wanted:
            status = PROGRESS.get(event, call.status)
            at = happens[event]
            self.timeline.at(
                max(at, call.shown_from or at), partial(self._send, call, status, at, numbered.index(event))
            )

    async def _send(self, call: TwilioCall, status: str, at: datetime, sequence: int) -> None:
        url = self.numbers[call.number].status_callback
        if not url:
            return
        final = status in FINAL_STATUSES
        if final:
            call.callback = "pending"

        def settled(answered: bool) -> None:
            if final:
                call.callback = "delivered" if answered else "lost"

        await self._delivery.twilio(url, call.callback_params(status, at, sequence), settled)

    def _sid(self, prefix: str) -> str:
        return f"{prefix}{self._random.getrandbits(128):032x}"


def _start(call: TwilioCall) -> datetime:
    return call.start
