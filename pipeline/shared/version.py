"""Which version of this program runs, from which commit: for a person who compares two machines."""

import os
import subprocess
from functools import cache
from pathlib import Path

#: Of what is deployed; CHANGELOG.md says what is in it. The package takes its version from here.
VERSION = "0.1.0"

_ROOT = Path(__file__).resolve().parents[2]


@cache
def commit() -> str:
    """The first 12 digits of the commit: ``ALTIORA_COMMIT``, which the image is built with, else this clone's own."""
    built = os.environ.get("ALTIORA_COMMIT", "")
    if built:
        return built[:12]
    if not (_ROOT / ".git").exists():  # installed somewhere: a clone around it would be another program's
        return "unknown"
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],  # noqa: S607 - whichever git a person would use here
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return asked.stdout.strip()
