"""Stripe's idempotency key of a row that is sent."""


def idempotency_key(identifier: str, server_errors: int) -> str:
    """The identifier; after a 5xx, which Stripe would replay under the old key, a new one that begins with it."""
    return identifier if server_errors == 0 else f"{identifier}:{server_errors + 1}"
