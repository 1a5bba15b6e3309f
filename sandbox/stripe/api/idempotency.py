"""Idempotency keys of v1: the first answer to a key is kept for 24 h of machine time and given again, even a 500."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sandbox.stripe.account.state import Object, State
from sandbox.stripe.api.errors import StripeError

KEPT_SECONDS = 24 * 3600.0
LONGEST_KEY = 255


@dataclass
class Answer:
    """What a request is answered with."""

    status: int
    body: Object
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class _Kept:
    request: str
    at: float
    answer: Answer | None = None


def refused(error: StripeError) -> Answer:
    return Answer(error.status, error.body, error.headers)


class IdempotencyKeys:
    """The keys seen and their answers."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._kept: dict[str, _Kept] = {}

    async def answer(self, key: str | None, request: str, execute: Callable[[], Awaitable[Answer]]) -> Answer:
        """Execute the request, or answer as the first time. ``request`` is its method, path and parameters.

        Kept is whatever the request ended with once it was being executed, so also a 500; a failed check of its
        parameters, a 409 or a 429 leave the key free.
        """
        if key is None:
            return await _answer_of(execute, lambda: None)
        if len(key) > LONGEST_KEY:
            raise StripeError(400, f"Idempotency-Key must be at most {LONGEST_KEY} characters; it has {len(key)}.")
        kept = self._kept.get(key)
        if kept is not None and self._state.machine_now - kept.at < KEPT_SECONDS:
            return _again(key, request, kept)
        kept = self._kept[key] = _Kept(request, self._state.machine_now)
        kept.answer = await _answer_of(execute, lambda: self._kept.pop(key))
        return kept.answer


def _again(key: str, request: str, kept: _Kept) -> Answer:
    if kept.answer is None:
        raise StripeError(
            409,
            f"There is currently another in-progress request using this Idempotency Key ({key}). Try again later.",
            code="idempotency_key_in_use",
        )
    if kept.request != request:
        raise StripeError(
            400,
            "Keys for idempotent requests can only be used with the same parameters they were first used with. "
            f"Try using a key other than '{key}' if you meant to execute a different request.",
            kind="idempotency_error",
        )
    return Answer(kept.answer.status, kept.answer.body, {**kept.answer.headers, "Idempotent-Replayed": "true"})


async def _answer_of(execute: Callable[[], Awaitable[Answer]], forget: Callable[[], object]) -> Answer:
    try:
        return await execute()
    except StripeError as error:
        if not error.executed:
            forget()
        return refused(error)
    except BaseException:
        forget()
        raise
