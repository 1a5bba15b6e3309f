"""`altiora close`: closing the billing periods that are due."""

import logging

from ops.database import engine
from ops.output import AsJson, print_json, say
from pipeline import closing, logs
from pipeline.clock import business_clock


def close(as_json: AsJson = False) -> None:
    """Close the billing periods that are due, now and once; beat does it all the time."""
    logs.configure(logging.WARNING)
    with engine() as made:
        counts = closing.close_due(made, business_clock().now())
    done = {name: counts[name] for name in ("closing", "closed", "settled", "requested")}
    if as_json:
        print_json(done)
    else:
        say(
            f"{done['closing']} records began to close, {done['closed']} closed, {done['settled']} settled with their"
            f" invoice; {done['requested']} objects are to be fetched first."
        )
