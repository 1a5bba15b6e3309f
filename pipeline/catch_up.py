"""Catching up after a backup was restored: from Twilio what was called, from Stripe what was changed and what it has.

Since the backup people called, subscriptions changed and minutes were pushed, and this database knows of none of it.
Meanwhile it decides nothing (``pipeline/shared/restores.py``). Each step can be repeated, and so can the whole: a run
that stops anywhere is simply started again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Connection, Engine

from pipeline.calls import call_listing
from pipeline.calls.call_fetching import CallFetcher
from pipeline.drain import Drain, DrainSettings
from pipeline.events import fetch_requests
from pipeline.events.listings import Listing, listed_until
from pipeline.meter import forgotten_pushes
from pipeline.providers.stripe_api import StripeApi
from pipeline.providers.twilio_api import TwilioApi
from pipeline.shared import drifts, restores
from pipeline.shared.clock import Clock, machine_now
from pipeline.shared.drifts import DriftKind
from pipeline.stripe_mirror import missed_events
from pipeline.stripe_mirror.fetching import StripeFetcher
from pipeline.subscription_changes import change_states

#: So long, in seconds of machine time, one step may go without getting anywhere: a fetch that failed is due again.
PATIENCE_SECONDS = 120
#: Numbers of businesses that are passed over at most, for those that were given away after the backup.
MOST_PASSED_OVER = 10_000

# Everything of Stripe's that lives, or that money may have gone back of since.
_WANTED = """
select 'subscription', stripe_id from subscriptions where ended_at is null
union all select 'price', id from stripe_prices
union all select 'meter', id from stripe_meters
"""
_WANTED_INVOICES = """
select 'invoice', id from stripe_invoices
where status in ('draft', 'open') or created_at > %(now)s - interval '100 days'
"""

# What waits since before this run: what comes in meanwhile is the workers'.
_UNFETCHED = """
select kind, object_id, coalesce(error, 'not tried yet') from refreshes
where mark > fetched_mark and mark <= %(newest)s order by 1, 2 limit 5
"""
_UNAPPLIED = "select count(*) from webhook_events where state = 'pending' and due_at <= now() and id <= %(newest)s"
_NEWEST_MARK = "select coalesce(max(mark), 0) from refreshes"
_NEWEST_EVENT = "select coalesce(max(id), 0) from webhook_events"

# A number that a business had which is forgotten must not become another one's: Stripe's objects name it.
_SKIP_NUMBERS = """
with last as (select nextval(pg_get_serial_sequence('businesses', 'id')) as id)
select max(nextval(pg_get_serial_sequence('businesses', 'id')))
from last, generate_series(1, least(%(most)s, %(named)s - last.id))
"""


class CatchUpError(Exception):
    """It could not go on, and nothing is sent meanwhile; the words say why, and it can be started again."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """What a restored database was told."""

    calls: int
    """Events that the listing of Twilio's calls led to."""
    voided: int
    """Pushes of before the backup that are not sent any more."""
    records: int
    """Records that were compared with Stripe's sums."""
    minutes: int
    """Minutes that Stripe had and that were forgotten here."""
    changes: int
    """Subscription changes of before the backup that a person has to look at: differences ``change-refused``."""
    forgotten: tuple[int, ...]
    """Numbers of businesses that customers at Stripe name, and that are not here."""


@dataclass(frozen=True, slots=True)
class CatchUp:
    """One run. ``settling`` is how long Stripe's sums may be behind; ``say`` tells a person what is going on."""

    engine: Engine
    stripe: StripeApi
    twilio: TwilioApi
    clock: Clock
    settings: DrainSettings
    settling: timedelta
    say: Callable[[str], None]

    def run(self) -> CaughtUp:
        """Catch up, and let everything go on. Raises CatchUpError, StripeApiError, TwilioApiError, LookupError."""
        with self.engine.begin() as connection:
            since = restores.hold(connection)
            voided = forgotten_pushes.void_unsettled(connection, self.clock.now())
            changes = self._give_up_changes(connection)
        self.say("Nothing is sent or closed until this has ended; workers and receiver may run meanwhile.")
        forgotten = self._fetch()
        calls = self._list()
        self._wait_until(since + self.settling)
        records, minutes = forgotten_pushes.take_over(
            self.engine, self.stripe, self.settings.meter_event_name, self.clock.now()
        )
        self.say(f"{records} records compared with Stripe's sums, {minutes} minutes taken over.")
        with self.engine.begin() as connection:
            restores.set_caught_up(connection)
        return CaughtUp(calls, voided, records, minutes, changes, forgotten)

    def _give_up_changes(self, connection: Connection) -> int:
        given_up = change_states.fail_before_restore(connection)
        for change in given_up:
            drifts.report(
                connection,
                DriftKind.CHANGE_REFUSED,
                f"change:{change.id}",
                business_id=change.business_id,
                expected=f"{change.kind} at Stripe",
                actual="it was wanted before a backup that was restored: look whether it is done, and still wanted",
                now=self.clock.now(),
            )
        return len(given_up)

    def _fetch(self) -> tuple[int, ...]:
        """Bring the mirror to what Stripe shows; returns the businesses that customers name and that are not here."""
        event_name = self.settings.meter_event_name
        missed_events.recover_events(self.engine, self.stripe, self.clock.now())
        forgotten = missed_events.sweep_customers(self.engine, self.stripe)
        missed_events.sweep_subscriptions(self.engine, self.stripe, event_name)
        for wanted in (_WANTED, _WANTED_INVOICES):
            with self.engine.begin() as connection:
                found = connection.exec_driver_sql(wanted, {"now": self.clock.now()})
                keys: list[tuple[str, str]] = [(kind, its) for kind, its in found]
                fetch_requests.request_fetches(connection, dict.fromkeys(keys, "restored"))
                newest = connection.exec_driver_sql(_NEWEST_MARK).scalar_one()
            self._until_done("fetched", partial(self._fetch_some, newest))
        self.say("Customers, subscriptions, invoices and prices are as Stripe shows them.")
        if forgotten:
            with self.engine.begin() as connection:
                connection.exec_driver_sql(_SKIP_NUMBERS, {"named": max(forgotten), "most": MOST_PASSED_OVER})
        return tuple(sorted(forgotten))

    def _list(self) -> int:
        """Bring in what Twilio shows since the backup, and apply it."""
        wanted = self.clock.now() - call_listing.UNDERWAY
        calls = 0

        def some() -> str | None:
            nonlocal calls
            calls += call_listing.list_due(self.engine, self.twilio, self.clock, at_once=True)
            with self.engine.connect() as connection:
                until = listed_until(connection, Listing.CALLS)
            return None if until is not None and until >= wanted else "another process lists Twilio's calls"

        self._until_done("listed", some)
        with self.engine.connect() as connection:
            newest = connection.exec_driver_sql(_NEWEST_EVENT).scalar_one()
        self._until_done("applied", partial(self._apply_some, newest))
        self.say(f"Twilio's calls are listed and applied: {calls} were news.")
        return calls

    def _fetch_some(self, newest_mark: int) -> str | None:
        StripeFetcher(self.engine, self.stripe, self.clock, self.settings.meter_event_name).run()
        CallFetcher(self.engine, self.twilio, self.clock).run()
        with self.engine.connect() as connection:
            left = connection.exec_driver_sql(_UNFETCHED, {"newest": newest_mark}).all()
        return "; ".join(f"{kind} {object_id}: {error}" for kind, object_id, error in left) or None

    def _apply_some(self, newest_event: int) -> str | None:
        Drain(self.engine, self.settings, self.clock).run()
        with self.engine.connect() as connection:
            newest_mark = connection.exec_driver_sql(_NEWEST_MARK).scalar_one()
            pending = connection.exec_driver_sql(_UNAPPLIED, {"newest": newest_event}).scalar_one()
        left = self._fetch_some(newest_mark)
        return f"{pending} events are pending" if pending else left

    def _until_done(self, what: str, some: Callable[[], str | None]) -> None:
        """Repeat ``some``, which returns what is left, until nothing is. Raises CatchUpError after a while."""
        until, before = time.monotonic() + PATIENCE_SECONDS, None
        while (left := some()) is not None:
            if left != before:
                until, before = time.monotonic() + PATIENCE_SECONDS, left
            if time.monotonic() > until:
                raise CatchUpError(f"not all can be {what}: {left}")
            time.sleep(1)

    def _wait_until(self, settled: datetime) -> None:
        """Until Stripe's sums have what was sent before everything stopped."""
        wait = (settled - machine_now()).total_seconds()
        if wait > 0:
            self.say(f"Waiting until {settled:%H:%M:%S} UTC: Stripe's sums may be so far behind.")
            time.sleep(wait)
