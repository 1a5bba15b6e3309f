"""How Stripe says no: the error that a request ends with, in Stripe's shape."""

from typing import Any


class StripeError(Exception):
    """A refusal with its HTTP status and Stripe's words.

    ``executed`` says that the request had passed the check of its parameters: such an answer is kept under the
    request's idempotency key, while a failed check of parameters, a 409 and a 429 are not.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
        executed: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.executed = executed
        named = {"type": kind, "code": code, "message": message, "param": param}
        self.body: dict[str, Any] = {"error": {name: value for name, value in named.items() if value is not None}}


def missing(param: str) -> StripeError:
    return StripeError(400, f"Missing required param: {param}.", code="parameter_missing", param=param)


def invalid(param: str, message: str, code: str | None = None) -> StripeError:
    return StripeError(400, message, code=code, param=param)


def no_such(kind: str, identifier: str, param: str = "id") -> StripeError:
    """404 for an object named in the path (``id``), 400 for one that a parameter names."""
    return StripeError(
        404 if param == "id" else 400,
        f"No such {kind}: '{identifier}'",
        code="resource_missing",
        param=param,
        executed=True,
    )


def unknown_url(method: str, path: str) -> StripeError:
    return StripeError(404, f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs.")


def in_use() -> StripeError:
    """409: another request with this idempotency key is still being worked on."""
    return StripeError(
        409,
        "There is currently another in-progress request using this Idempotency Key. Try again later.",
        code="idempotency_key_in_use",
    )


def too_many(reason: str) -> StripeError:
    """429; ``reason`` is what the header names: ``global-rate``, ``resource-specific`` …"""
    return StripeError(
        429,
        "Request rate limit exceeded. Try again later, more slowly.",
        code="rate_limit",
        headers={"Stripe-Rate-Limited-Reason": reason},
    )


def server_error() -> StripeError:
    return StripeError(500, "An unknown error occurred", kind="api_error", executed=True)
