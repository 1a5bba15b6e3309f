"""``make bench``: the figures of this machine beside their yardsticks, measured in one run, and their targets."""

import argparse
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence

from bench import asking, closing_periods, draining, explaining, much_stored, receiving, traffic, walls, whole_way
from bench.figures import Figure, table
from bench.sizes import FULL, SMALL, Sizes
from bench.stage import BenchError, Stage, stage
from bench.totals import WrongTotalsError
from bench.traffic import Business
from ops.processes.embedded import EmbeddedError
from ops.processes.supervisor import SupervisorError
from pipeline.shared import logs

Section = Callable[[Stage, Sequence[Business], Sizes], list[Figure]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. 1 when totals are wrong, never because of a speed; 2 when it can't be measured."""
    options = _options(arguments)
    logs.configure(logging.ERROR)  # to standard error: figures stand alone on the other
    sections = _sections(long=options.long)
    sizes = SMALL if options.small else FULL
    everybody = traffic.businesses(sizes.businesses + sizes.crowd)
    businesses = everybody[: sizes.businesses]
    figures: list[Figure] = []
    started = time.monotonic()
    try:
        with stage(everybody) as made:
            for name, section in sections.items():
                if not options.section or name in options.section:
                    begun = time.monotonic()
                    figures += section(made, businesses, sizes)
                    print(f"{name}: measured in {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    except WrongTotalsError as error:
        print(f"WRONG TOTALS: {error}", file=sys.stderr)
        return 1
    except (BenchError, EmbeddedError, SupervisorError) as error:
        print(error, file=sys.stderr)
        return 2
    about = {
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "runs": sizes.runs,
        "seconds": round(time.monotonic() - started),
        "totals": "right",
    }
    if options.json:
        print(json.dumps({**about, "figures": [figure.as_json() for figure in figures]}, indent=2))
    else:
        print(table(figures))
        print(f"Medians of {sizes.runs}, on {os.cpu_count()} processors that all of it shares; {about['seconds']} s.")
        print("Totals were right, record by record, also during the load.")
    return 0


def _sections(*, long: bool) -> dict[str, Section]:
    sections: dict[str, Section] = {
        "drain": lambda made, businesses, sizes: draining.measure(made, businesses, sizes, long=long),
        "receive": receiving.measure,
        "whole": whole_way.measure,
    }
    if long:
        sections["stored"] = much_stored.measure
    sections["explain"] = explaining.measure
    sections["walls"] = walls.measure
    sections["api"] = asking.measure
    sections["close"] = lambda made, _, sizes: closing_periods.measure(made, sizes)
    return sections


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = list(_sections(long=True))
    parser.add_argument("section", nargs="*", choices=[*names, []], help="only these: " + ", ".join(names))
    parser.add_argument("--long", action="store_true", help="also a million events and ten million calls")
    parser.add_argument("--small", action="store_true", help="tiny counts: shows that it runs, measures nothing")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
