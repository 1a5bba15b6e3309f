"""Where this program lies."""

from pathlib import Path

#: Where processes start: names like ``tasks`` are found there first.
REPOSITORY = Path(__file__).resolve().parents[2]
