"""What one task found to do for another: a nudge, which may be lost, since beat asks for all of it anyway."""

from collections.abc import Collection
from functools import cache

from pipeline.shared.settings import BrokerSettings, load
from tasks.nudge import Nudge


@cache
def _nudge() -> Nudge:
    return Nudge(load(BrokerSettings).broker_url.get_secret_value())


def send(task_names: Collection[str]) -> None:
    """Have these tasks run soon. Returns at once and never raises."""
    for task_name in sorted(task_names):
        _nudge().send(task_name)
