"""The real Celery app, with a trap: whoever decodes a body that holds the word below is killed like by the kernel."""

import os
import signal

from pipeline.calls import call_reports
from pipeline.events import worker_deaths
from tasks.app import app as app  # noqa: PLC0414 - what `celery -A tests.worlds.lethal_app` looks for

# Instead of minutes between its deaths, unless a test has the time.
worker_deaths.LONE_WAIT_SECONDS = int(os.environ.get("LETHAL_LONE_WAIT_SECONDS", "2"))

LETHAL = b"kill-the-worker"
_decode = call_reports.decode_report


def _lethal(event_id, key, content_type, body, received_at, account_sid):
    if LETHAL in body:
        os.kill(os.getpid(), signal.SIGKILL)
    return _decode(event_id, key, content_type, body, received_at, account_sid)


call_reports.decode_report = _lethal
