"""The real Celery app with shorter waits, and with the trap of tests/worlds/lethal_app.py.

A lease outlives any call here too: the stand-ins answer within a second or two. Everything else is as in operation.
"""

from pipeline import drain
from pipeline.credits import credit_sending
from pipeline.events import fetch_requests
from pipeline.meter import push_sending
from pipeline.providers import outbox_sender
from pipeline.shared import halts
from pipeline.stripe_mirror import event_types, fetching
from pipeline.subscription_changes import sending
from tests.worlds.lethal_app import app as app  # noqa: PLC0414 - what `celery -A tests.soak.hurried_app` looks for

#: Seconds of machine time; from 15 to 120 otherwise.
WAITS = (
    (drain, "SET_ASIDE_SECONDS", 2),
    (drain, "STUCK_SECONDS", 4),
    (event_types, "CUSTOMER_RETRY_SECONDS", 3),
    (fetching, "UNCONFIRMED_SECONDS", 3),
    (fetch_requests, "LEASE_SECONDS", 10),
    (halts, "TRY_EVERY_SECONDS", 3),
    (outbox_sender, "LONGEST_BACKOFF_SECONDS", 4.0),
    (outbox_sender, "ACCOUNT_WAIT_SECONDS", 3.0),
    (push_sending, "ACCOUNT_WAIT_SECONDS", 3.0),
    *((module, "LEASE_SECONDS", 10) for module in (push_sending, credit_sending, sending)),
)

for module, name, seconds in WAITS:
    assert hasattr(module, name), f"{module.__name__} has no {name} any more"
    setattr(module, name, seconds)
