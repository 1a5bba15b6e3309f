"""Yardstick: a Celery task that does nothing, in an application with exactly our settings.

What our tasks have beyond settings is taken away from it: it writes no log line and binds nothing to it.
"""

from celery import signals

from tasks.app import app

for signal in (signals.setup_logging, signals.task_prerun, signals.task_postrun):
    signal.receivers.clear()


@app.task(name="events.noop")
def noop() -> None:
    """Do nothing."""
