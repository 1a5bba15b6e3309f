"""The states of a meter push, and the only code that changes one."""

from enum import StrEnum


class PushState(StrEnum):
    """What has become of a meter push, and the way out of each state."""

    PLANNED = "planned"
    """To be sent when due. Then SENDING, or VOID when its period can't be billed any more."""
    SENDING = "sending"
    """Handed to a worker until due_at. Then SENT, FAILED, PLANNED again, or UNKNOWN."""
    SENT = "sent"
    """Stripe has it. Then FAILED, when Stripe reports it invalid later."""
    FAILED = "failed"
    """Refused for good; blocks its record. Then RELEASED, by an operator."""
    RELEASED = "released"
    """Was failed; its minutes may be planned anew. No way out."""
    UNKNOWN = "unknown"
    """Sent, and without an answer until the identifier's window ended. Then SENT, VOID or FAILED: never sent again."""
    VOID = "void"
    """Too late for its period: never sent, or not on the finalised invoice. No way out."""
