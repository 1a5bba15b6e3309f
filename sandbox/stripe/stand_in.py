"""The stand-in for Stripe as an ASGI app: its API, and beside it what is done to the account by hand."""

from starlette.applications import Starlette

from sandbox.faults import Faults, FaultyDoor
from sandbox.stripe.account.events import Deliver
from sandbox.stripe.account.state import Rules
from sandbox.stripe.api.credit_notes import CreditNotesApi
from sandbox.stripe.api.door import INSIDE, Door, refuse, unknown
from sandbox.stripe.api.invoices import InvoicesApi
from sandbox.stripe.api.meters import MetersApi
from sandbox.stripe.api.pauses import PausesApi
from sandbox.stripe.api.reductions import ReductionsApi
from sandbox.stripe.api.refunds import RefundsApi
from sandbox.stripe.api.schedules import SchedulesApi
from sandbox.stripe.by_hand import StripeAccount
from sandbox.stripe.control import control_routes
from sandbox.stripe.portal import portal_routes
from sandbox.timeline import Timeline


class StripeSandbox(StripeAccount):
    """A Stripe account behind its API.

    ``app`` is to be served with ``uvicorn.Config(app, http=HangUpProtocol)``, in the event loop that advances the
    timeline.
    """

    def __init__(self, timeline: Timeline, deliver: Deliver, faults: Faults, rules: Rules | None = None) -> None:
        super().__init__(timeline, deliver, rules)
        self._door = Door(self.state, self._events)
        apis = (
            self._catalogue,
            MetersApi(self.state, self._meters),
            self._subscriptions,
            PausesApi(self._billing),
            SchedulesApi(self._billing),
            InvoicesApi(self._billing),
            CreditNotesApi(self._billing),
            ReductionsApi(self.state),
            RefundsApi(self._billing),
        )
        routes = [
            *(route for api in apis for route in api.routes(self._door)),
            *control_routes(self, faults),
            *portal_routes(self),
        ]
        self.app = FaultyDoor(
            Starlette(routes=routes, exception_handlers={404: unknown, 405: unknown}),
            faults,
            service="stripe",
            paths=("/v1/", "/v2/"),
            refuse=refuse,
            inside=INSIDE,
        )
