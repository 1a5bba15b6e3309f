"""`make soak SEEDS=100`: so many months with every kind of fault, each in a process of its own.

One result file for each seed, in the folder ``.altiora/soak``: what is there already is not run again, so that it can
be stopped and go on, and be shared by several clones. Ends with 1 when a seed is wrong, and says how to run it again.
"""

import argparse
import dataclasses
import faulthandler
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from ops.processes.repository import REPOSITORY

RESULTS = REPOSITORY / ".altiora" / "soak"
#: Seconds after which a seed is wrong whatever it does; one takes about a minute.
LONGEST = 240


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak SEEDS=n", description=__doc__)
    parser.add_argument("seeds", type=int, nargs="?", default=100, help="how many, from the first on")
    parser.add_argument("--first", type=int, default=1, help="the first one")
    parser.add_argument("--seed", type=int, help="run this one alone, and again where it has a result")
    asked = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if asked.seed is not None:
        return _run_here(asked.seed)
    seeds = range(asked.first, asked.first + asked.seeds)
    for seed in seeds:
        if not _file(seed).exists():
            _run_apart(seed)
        result = json.loads(_file(seed).read_text())
        print(f"{seed:6}  {'WRONG' if result['wrong'] else 'right'}  {result['seconds']:5.1f} s", flush=True)
        if result["wrong"]:
            print("\n".join(f"        {each}" for each in result["wrong"]))
            print(f"        again: .venv/bin/python -m tests.soak --seed {seed}", flush=True)
    return _summary([json.loads(_file(seed).read_text()) for seed in seeds])


def _file(seed: int) -> Path:
    return RESULTS / f"seed-{seed:05}.json"


def _run_here(seed: int) -> int:
    from tests.soak.month import live

    faulthandler.dump_traceback_later(LONGEST, exit=True)
    outcome = live(seed, RESULTS)
    _file(seed).write_text(json.dumps(dataclasses.asdict(outcome), indent=1) + "\n")
    print("\n".join(outcome.wrong) or "right", f"{outcome.seconds} s")
    return int(bool(outcome.wrong))


def _run_apart(seed: int) -> None:
    """In a process of its own: what it leaves behind, or what ends it, is not the next one's."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--seed", str(seed)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if not _file(seed).exists():
        (RESULTS / f"seed-{seed}-broken.log").write_text(done.stderr)
        words = (done.stderr.strip().splitlines() or ["no word"])[-1]
        broken = {"seed": seed, "seconds": 0.0, "calls": 0, "minutes": 0, "faults": {}, "wrong": [f"broken: {words}"]}
        _file(seed).write_text(json.dumps(broken, indent=1) + "\n")


def _summary(results: list[dict[str, Any]]) -> int:
    wrong = [result["seed"] for result in results if result["wrong"]]
    kinds: Counter[str] = Counter()
    for result in results:
        kinds.update(result["faults"].keys())
    print()
    for kind, count in sorted(kinds.items()):
        print(f"{count:6}  {kind}")
    print(f"{sum(kinds.values()):6}  faults in {sum(result['calls'] for result in results):,} calls")
    print(f"{len(results) - len(wrong)} of {len(results)} right" + (f"; wrong: {wrong}" if wrong else ""))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
