"""`altiora close`: closing the billing periods that are due."""

import logging

from ops.commands.database import choose_settings, engine
from ops.commands.output import AsJson, print_json, say
from pipeline.closing import period_close
from pipeline.shared import logs
from pipeline.shared.clock import business_clock


def close(as_json: AsJson = False) -> None:
    """Close the billing periods that are due, now and once; beat does it all the time."""
    logs.configure(logging.WARNING)
    chosen = choose_settings()
    with engine(chosen) as made:
        counts = period_close.close_due(made, business_clock(chosen).now())
    done = {name: counts[name] for name in ("closing", "closed", "settled", "requested")}
    if as_json:
        print_json(done)
    else:
        say(
            f"{done['closing']} records began to close, {done['closed']} closed, {done['settled']} settled with their"
            f" invoice; {done['requested']} objects are to be fetched first."
        )
