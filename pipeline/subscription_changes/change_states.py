"""The states of a subscription change, and the only code that changes one."""

from enum import StrEnum


class ChangeState(StrEnum):
    """What has become of a subscription change, and the way out of each state."""

    PLANNED = "planned"
    """To be sent when due. Then SENDING, or DONE when its webhook comes first."""
    SENDING = "sending"
    """Handed to a worker until due_at. Then DONE, FAILED, or PLANNED again."""
    DONE = "done"
    """Stripe has it, by its answer or because a look showed it. No way out."""
    FAILED = "failed"
    """Stripe refused it for good. No way out."""
