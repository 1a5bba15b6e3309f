"""Which code a test of a rule is about: broken once, it must be red. `make mutate` breaks each and runs its test."""

from collections.abc import Callable
from typing import Any

import pytest


def breaks(file: str, right: str, wrong: str) -> Callable[[Any], Any]:
    """Without this the rule is as it was, or as somebody would have it who doesn't know it.

    ``right`` stands in ``file`` once; ``wrong`` in its place raises nothing by itself. The name of the test begins with
    the number of its case, if it has one.
    """
    mark: Callable[[Any], Any] = pytest.mark.breaks(file=file, right=right, wrong=wrong)
    return mark
