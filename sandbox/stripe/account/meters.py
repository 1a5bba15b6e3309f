"""Meters and their events: what is taken at once, what turns out wrong later, and the sums that can be read back."""

import asyncio
import math
from collections import defaultdict
from decimal import Decimal, InvalidOperation

from sandbox.stripe.account.events import Events, cause, zulu
from sandbox.stripe.account.state import MeterEvent, Object, State, instant, new_id
from sandbox.stripe.api.errors import StripeError, invalid, too_many

LONGEST_NAME = 100
PAST_SECONDS = 35 * 24 * 3600
FUTURE_SECONDS = 5 * 60
IDENTIFIER_SECONDS = 24 * 3600.0
DECIMAL_PLACES = 12
SAMPLES = 3
WINDOWS = {"hour": 3600, "day": 86400}


def total(events: list[MeterEvent], formula: str) -> Decimal:
    """What a meter makes of some events."""
    if formula == "count":
        return Decimal(len(events))
    if formula == "last":
        return max(events, key=lambda event: event.at).value if events else Decimal(0)
    return sum((event.value for event in events), Decimal(0))


class Meters:
    """The meters of the account and what they were told."""

    def __init__(self, state: State, events: Events) -> None:
        self._state = state
        self._events = events
        self._identifiers: dict[str, float] = {}
        self._working: set[tuple[str, str]] = set()
        self._invalid: list[_InvalidEventError] = []
        self._invalid_since = 0
        self._reporting: asyncio.Task[None] | None = None

    def create(self, event_name: str, display_name: str, formula: str, customer_key: str, value_key: str) -> Object:
        if any(meter["event_name"] == event_name for meter in self._state.meters.values()):
            raise invalid("event_name", f"A meter with event_name {event_name} already exists.")
        now = self._state.now
        meter: Object = {
            "id": new_id("mtr_test"),
            "object": "billing.meter",
            "created": now,
            "customer_mapping": {"event_payload_key": customer_key, "type": "by_id"},
            "default_aggregation": {"formula": formula},
            "display_name": display_name,
            "event_name": event_name,
            "event_time_window": None,
            "livemode": False,
            "status": "active",
            "status_transitions": {"deactivated_at": None},
            "updated": now,
            "value_settings": {"event_payload_key": value_key},
        }
        self._state.meters[meter["id"]] = meter
        self._events.emit("billing.meter.created", meter)
        return meter

    def deactivate(self, meter: Object) -> None:
        now = self._state.now
        meter.update(status="inactive", updated=now, status_transitions={"deactivated_at": now})
        self._events.emit("billing.meter.deactivated", meter)

    def reactivate(self, meter: Object) -> None:
        meter.update(status="active", updated=self._state.now, status_transitions={"deactivated_at": None})
        self._events.emit("billing.meter.reactivated", meter)

    async def record(self, event_name: str, payload: dict[str, str], identifier: str, at: int | None) -> Object:
        """Take one meter event. Being taken says nothing about being billed: most faults are reported later.

        Raises 429 while another event of the same customer and meter is being worked on, and 400 for an identifier
        that was used in the last 24 hours by any customer.
        """
        working = (event_name, payload.get("stripe_customer_id", ""))
        if working in self._working:
            raise too_many("resource-specific")
        self._working.add(working)
        try:
            await asyncio.sleep(self._state.rules.latency_seconds)
            return self._take(event_name, payload, identifier, at)
        finally:
            self._working.discard(working)

    def _take(self, event_name: str, payload: dict[str, str], identifier: str, at: int | None) -> Object:
        used = self._identifiers.get(identifier)
        if used is not None and self._state.machine_now - used < IDENTIFIER_SECONDS:
            raise StripeError(
                400,
                f"An event already exists with identifier {identifier}.",
                headers={"stripe-should-retry": "false"},
                executed=True,
            )
        now = self._state.now
        at = now if at is None else at
        if all((each["event_name"], each["status"]) != (event_name, "active") for each in self._state.meters.values()):
            raise invalid("event_name", f"No active meter found for event name {event_name}.")
        try:
            event = self._checked(event_name, payload, identifier, at)
        except _InvalidEventError as fault:
            if self._state.rules.synchronous_checks:
                raise StripeError(400, fault.message, code=fault.code) from fault
            self._report(fault)
        else:
            self._state.meter_events.setdefault((event.meter, event.customer), []).append(event)
        self._identifiers[identifier] = self._state.machine_now
        return {
            "object": "billing.meter_event",
            "created": now,
            "event_name": event_name,
            "identifier": identifier,
            "livemode": False,
            "payload": payload,
            "timestamp": at,
        }

    def _checked(self, event_name: str, payload: dict[str, str], identifier: str, at: int) -> MeterEvent:
        meter = next(
            each
            for each in self._state.meters.values()
            if (each["event_name"], each["status"]) == (event_name, "active")
        )

        def wrong(code: str, message: str) -> _InvalidEventError:
            return _InvalidEventError(meter, code, message, identifier)

        customer_key = meter["customer_mapping"]["event_payload_key"]
        if not payload.get(customer_key):
            raise wrong("meter_event_no_customer_defined", f"Customer mapping key {customer_key} not found in payload.")
        customer = payload[customer_key]
        if self._state.customers.get(customer, {"deleted": True}).get("deleted"):
            raise wrong("meter_event_customer_not_found", f"No customer was found with id {customer}.")
        value_key = meter["value_settings"]["event_payload_key"]
        if value_key not in payload:
            raise wrong("meter_event_value_not_found", f"Value key {value_key} not found in payload.")
        try:
            value = Decimal(payload[value_key])
        except InvalidOperation:
            value = Decimal("nan")
        exponent = value.as_tuple().exponent
        if not isinstance(exponent, int):
            raise wrong("meter_event_invalid_value", f"Value {payload[value_key]} is not a number.")
        if -exponent > DECIMAL_PLACES:
            raise wrong("meter_event_value_too_many_digits", f"Value {payload[value_key]} has too many digits.")
        now = self._state.now
        if at < now - PAST_SECONDS:
            raise wrong("timestamp_too_far_in_past", f"Timestamp {at} is more than 35 days in the past.")
        if at > now + FUTURE_SECONDS:
            raise wrong("timestamp_in_future", f"Timestamp {at} is more than 5 minutes in the future.")
        visible = self._state.machine_now + self._state.rules.settling_seconds
        return MeterEvent(meter["id"], customer, identifier, value, at, now, visible)

    def _report(self, fault: "_InvalidEventError") -> None:
        if self._reporting is None or self._reporting.done():
            self._invalid_since = self._state.now
            self._reporting = asyncio.create_task(self._report_later())
        self._invalid.append(fault)

    async def _report_later(self) -> None:
        await asyncio.sleep(self._state.rules.report_seconds)
        faults, self._invalid = self._invalid, []
        by_meter: dict[str, list[_InvalidEventError]] = defaultdict(list)
        for fault in faults:
            by_meter[fault.meter["id"] if fault.meter else ""].append(fault)
        for meter, its in by_meter.items():
            kind = "v1.billing.meter.error_report_triggered" if meter else "v1.billing.meter.no_meter_found"
            related = {"id": meter, "type": "billing.meter", "url": f"/v1/billing/meters/{meter}"} if meter else None
            self._events.emit_thin(kind, self._error_report(its), related)
        await self._events.flush()

    def _error_report(self, faults: "list[_InvalidEventError]") -> Object:
        """Counts are true, but only some events are named: a report can't be relied on to name each."""
        by_code: dict[str, list[_InvalidEventError]] = defaultdict(list)
        for fault in faults:
            by_code[fault.code].append(fault)
        types = [
            {
                "code": code,
                "error_count": len(its),
                "sample_errors": [{"error_message": it.message, "request": self._named(it)} for it in its[:SAMPLES]],
            }
            for code, its in by_code.items()
        ]
        events = "event" if len(faults) == 1 else "events"
        return {
            "developer_message_summary": f"There is {len(faults)} invalid {events}",
            "reason": {"error_count": len(faults), "error_types": types},
            "validation_start": zulu(instant(self._invalid_since)),
            "validation_end": zulu(instant(self._state.now + 1)),
        }

    def _named(self, fault: "_InvalidEventError") -> Object:
        if self._state.rules.request_in_reports:
            return {"id": fault.request.request_id, "idempotency_key": fault.request.idempotency_key}
        return {"identifier": fault.request.idempotency_key or fault.identifier}

    def used(self, meter: str, customer: str, start: int, end: int) -> list[MeterEvent]:
        """The events so far with a timestamp in ``[start, end)``."""
        return [event for event in self._state.meter_events.get((meter, customer), []) if start <= event.at < end]

    def summaries(self, meter: Object, customer: str, start: int, end: int, window: str | None) -> list[Object]:
        """Sums of what is visible by now, newest first: one for the whole time, or one per hour or day with events."""
        unit = WINDOWS.get(window or "", 60)
        for name, moment in (("start_time", start), ("end_time", end)):
            if moment % unit:
                aligned = {60: "minute", 3600: "hour", 86400: "UTC day"}[unit]
                raise invalid(name, f"{name} must be aligned with {aligned} boundaries: {moment}")
        if start >= end:
            raise invalid("end_time", "end_time must be after start_time")
        width = WINDOWS.get(window or "", math.inf)
        groups: dict[int, list[MeterEvent]] = defaultdict(list)
        for event in self.used(meter["id"], customer, start, end):
            if event.visible_from <= self._state.machine_now:
                groups[0 if width == math.inf else event.at - event.at % int(width)].append(event)
        return [
            {
                "id": f"mtrusg_{meter['id']}_{customer}_{first or start}_{unit}",
                "object": "billing.meter_event_summary",
                "aggregated_value": float(total(its, meter["default_aggregation"]["formula"])),
                "end_time": int(first + width) if window else end,
                "livemode": False,
                "meter": meter["id"],
                "start_time": first if window else start,
            }
            for first, its in sorted(groups.items(), reverse=True)
        ]


class _InvalidEventError(Exception):
    """A meter event that was taken and can't be counted; ``meter`` is None where no meter has its name."""

    def __init__(self, meter: Object | None, code: str, message: str, identifier: str) -> None:
        super().__init__(message)
        self.meter = meter
        self.code = code
        self.message = message
        self.identifier = identifier
        self.request = cause.get()
