"""Who asks, what they may, and the one transaction of a request, which is committed before the answer leaves.

Each route names what is needed by one of ``needs``, ``in_business``, ``over_businesses``, ``oneself`` and ``anybody``;
a test walks all of them. This is the first wall between tenants; the second is the database's own (db/tenancy.py).
"""

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from anyio import CancelScope, Semaphore, move_on_after
from fastapi import Depends, Request
from sqlalchemy import Connection, Engine
from starlette.concurrency import run_in_threadpool

from accounts import attempt_limits
from accounts.access_tokens import AccessToken, TokenError, read_access_token
from accounts.actors import Person, person_of
from accounts.api_keys import Program, note_use, program_of
from accounts.members import role_in
from accounts.rights import ForbiddenError, Role
from accounts.secret_keys import SecretKeys
from accounts.users import check_email, hold_user
from api.idempotency import Keeper, keeper_of
from api.inputs import Id
from api.problems import Problem, missing
from db.tenancy import enter
from pipeline.shared import trail

_BUSINESS = "select ended_at from businesses where id = %s"
#: A write holds it: whoever changes what somebody may there has to wait, or is seen.
_HELD = f"{_BUSINESS} for no key update"


#: Seconds that a request waits for its turn.
_PATIENCE = 10.0
_SESSION_OVER = "this session has ended: sign in again"


class _OfBusiness(Protocol):
    @property
    def business_id(self) -> int | None: ...


T = TypeVar("T", bound=_OfBusiness)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: who asks, in which transaction, and by which right."""

    connection: Connection
    actor: Person | Program
    right: str
    request_id: str
    keeper: Keeper | None
    """Of the answer, where it may be asked for again."""
    transaction: "Transaction[Any]"
    """Its transaction, which whoever answers ends."""
    business_id: int | None
    """The business that it is about; None: it is about none, or about Altiora's own."""

    def note(
        self,
        what: str,
        subject: str,
        *,
        business_id: int | None = None,
        fields: Sequence[str] = (),
        reason: str | None = None,
        detail: dict[str, Any] | None = None,
    ) -> None:
        """An entry of the trail, in the transaction of what it tells of."""
        about = business_id or self.business_id
        entry = trail.Entry(
            self.actor.who, what, subject, about, reason, fields, detail or {}, self.right, self.request_id
        )
        trail.note(self.connection, entry)

    def limit_mail(self, request: Request, email: str) -> None:
        """Count a mail that a person has us send to somebody. Raises LimitedError and UserError.

        Those of one business to an address don't count for another's, which would be told of them.
        """
        keys, whose = keys_of(request), f"business:{self.business_id} {check_email(email).lower()}"
        with engine_of(request).begin() as beside:
            attempt_limits.take(beside, keys, attempt_limits.MAILS_BY_USER, self.actor.who)
            attempt_limits.take(beside, keys, attempt_limits.MAILS_TO, whose)

    def see_others(self, *business_ids: int | None) -> None:
        """Altiora's own decide nothing about a business that they belong to. Raises Problem (403)."""
        if not self.actor.businesses.isdisjoint(business_ids):
            words = "this is about a business that you work in: somebody else of Altiora decides it"
            raise Problem(403, "forbidden", words, right=self.right)

    def own(self, found: T | None, what: str) -> T:
        """What was found by its id, if it is of the business that this is about. Raises Problem (404)."""
        if found is None or found.business_id != self.business_id:
            raise missing(what)
        return found

    @property
    def by_altiora(self) -> bool:
        """Whether it is asked by Altiora's own, of a business that they don't belong to."""
        return self.actor.for_altiora and self.business_id not in self.actor.businesses

    @property
    def role(self) -> Role | None:
        """What the person who asks is to the business, or at Altiora."""
        person = self.person
        return person.staff_role if self.business_id is None else person.role_in(self.business_id)

    @property
    def person(self) -> Person:
        """Who asks, where only a person may."""
        assert isinstance(self.actor, Person)
        return self.actor


@dataclass(frozen=True, slots=True)
class AskedOfBusiness(Asked):
    """A request about one business."""

    business_id: int
    ended_at: datetime | None
    again: Callable[[], contextlib.AbstractContextManager[Connection]]
    """Another transaction about the same: of what is sent when the first one is over."""

    def may(self, right: str) -> bool:
        """Whether who asks has another right there, too."""
        try:
            self.actor.require(right, self.business_id)
        except ForbiddenError:
            return False
        return True

    def see_living(self) -> None:
        """Raises Problem (409) where the business has ended."""
        if self.ended_at is not None:
            raise Problem(409, "conflict", "this business has ended")


@dataclass(frozen=True, slots=True)
class AskedOfBusinesses(Asked):
    """A request about several."""

    business_id: None = field(init=False, default=None)
    ids: Sequence[int] | None
    """Those that the actor belongs to; None: all there are."""


def engine_of(request: Request) -> Engine:
    """The engine of this application."""
    found: Engine = request.app.state.engine
    return found


def keys_of(request: Request) -> SecretKeys:
    """The secret keys of this application."""
    found: SecretKeys = request.app.state.keys
    return found


def request_id_of(request: Request) -> str:
    """As it stands in logs, answers and the trail."""
    return str(request.state.request_id)


A = TypeVar("A", bound=Asked)


class Transaction(Generic[A]):
    """A request and its transaction: begun in one thread, and ended in the next, which answers.

    Each hop to a thread and back is a tenth of a millisecond, so that there are two, and not one for each part.
    """

    def __init__(self, ask: "Callable[[Transaction[A]], contextlib.AbstractContextManager[A]]") -> None:
        self._made = ask(self)
        self._open = False

    def begin(self) -> A:
        """Who asks, and what they may. Raises Problem."""
        asked = self._made.__enter__()
        self._open = True
        return asked

    def __enter__(self) -> None:
        """What is done in the block is committed with it, or undone."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            self._open = False
            self._made.__exit__(kind, error, trace)

    @contextlib.asynccontextmanager
    async def asked(self, request: Request) -> AsyncIterator[A]:
        """As a route is handed it. Where nobody has answered (what was sent is no good) all is undone.

        So many at a time: with more, all connections were held by requests that waited for a thread, and all threads by
        requests that waited for a connection. Raises Problem (503) when it takes too long.
        """
        at_once: Semaphore = request.app.state.at_once
        with move_on_after(_PATIENCE) as waiting:
            await at_once.acquire()
        if waiting.cancelled_caught:
            raise Problem(503, "unavailable", "too many requests at once", headers={"Retry-After": "1"})
        try:
            asked = await run_in_threadpool(self.begin)
            try:
                yield asked
            finally:
                if self._open:
                    unanswered = RuntimeError("nobody has answered")
                    with CancelScope(shield=True):
                        await run_in_threadpool(self.__exit__, RuntimeError, unanswered, None)
        finally:
            at_once.release()


def see_parameters(request: Request) -> None:
    """What an address does not know is refused: a filter that is misspelled would find everything. Raises Problem."""
    known: frozenset[str] | None = getattr(request.scope["route"], "known", None)
    if known is not None and (unknown := sorted(request.query_params.keys() - known)):
        words = f"this address knows {', '.join(sorted(known)) or 'none'}"
        raise Problem(422, "invalid", "see invalid_parameters", invalid=[(each, words) for each in unknown[:20]])


def _actor(request: Request) -> Person | Program:
    """By the header alone: nothing of a URL, and no cookie, lets anybody do anything. Raises Problem."""
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not sent:
        raise _not_signed_in("send Authorization: Bearer and an access token, or an API key")
    found: Person | Program | None
    # By itself: whatever becomes of the request, a key's use is noted.
    with engine_of(request).connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        if sent.startswith("alt_"):
            found = program_of(connection, sent)
            words = "this API key is none, has ended, or was revoked"
            if found is not None and found.note_use:
                note_use(connection, found.key_id)
        else:
            try:
                found = person_of(connection, read_access_token(keys_of(request), sent))
                words = _SESSION_OVER
            except TokenError as error:
                raise _not_signed_in(str(error)) from error
    if found is None:
        raise _not_signed_in(words)
    request.state.actor = found.who
    see_parameters(request)
    return found


def _not_signed_in(words: str) -> Problem:
    return Problem(401, "not-signed-in", words, headers={"WWW-Authenticate": "Bearer"})


def needs(right: str, *, proven: bool = False) -> Any:
    """A route that wants this right as one of Altiora's own: over all businesses.

    ``proven``: password and code were given in the last minutes.
    """

    @contextlib.contextmanager
    def ask(request: Request, transaction: Transaction[Asked]) -> Iterator[Asked]:
        actor = _actor(request)
        _see_person(actor, proven=proven)
        actor.require(right)
        with _entered(request, actor, ()) as connection:
            keeper = keeper_of(request, connection, actor.who)
            yield _asked(Asked, request, connection, actor, right, keeper, transaction, None)

    async def dependency(request: Request) -> AsyncIterator[Asked]:
        async with Transaction[Asked](functools.partial(ask, request)).asked(request) as asked:
            yield asked

    return _named(dependency, right)


def in_business(right: str, *, proven: bool = False) -> Any:
    """A route that wants this right in the business of its path. What is not the actor's to see is not there.

    This is the one place that says of which business a request is; its transaction says so to the database too.
    """

    @contextlib.contextmanager
    def ask(request: Request, business_id: int, transaction: Transaction[AskedOfBusiness]) -> Iterator[AskedOfBusiness]:
        actor = _actor(request)
        if not actor.sees(business_id):
            raise missing("this business")
        with _entered(request, actor, {business_id}) as connection:
            found = connection.exec_driver_sql(_BUSINESS, (business_id,)).one_or_none()
            if found is None:
                raise missing("this business")
            _see_person(actor, proven=proven)
            actor.require(right, business_id)
            keeper = keeper_of(request, connection, actor.who)
            if request.method != "GET":
                found = connection.exec_driver_sql(_HELD, (business_id,)).one()
                if isinstance(actor, Person):
                    actor = _as_now(request, connection, actor, business_id)
                    actor.require(right, business_id)
            again = functools.partial(_entered, request, actor, {business_id})
            about = (business_id, found.ended_at, again)
            yield _asked(AskedOfBusiness, request, connection, actor, right, keeper, transaction, *about)

    async def dependency(request: Request, business_id: Id) -> AsyncIterator[AskedOfBusiness]:
        async with Transaction[AskedOfBusiness](functools.partial(ask, request, business_id)).asked(request) as asked:
            yield asked

    return _named(dependency, right)


def oneself(*, proven: bool = False, enrolling: bool = False, held: bool = True) -> Any:
    """A route about the person who asks. ``enrolling``: staff without a second factor too.

    A write holds the person, or what ended their sessions meanwhile would be overwritten; but for ``held``.
    """

    @contextlib.contextmanager
    def ask(request: Request, transaction: Transaction[Asked]) -> Iterator[Asked]:
        actor = _actor(request)
        if not isinstance(actor, Person):
            raise _a_key_is_nobody()
        _see_person(actor, proven=proven, enrolling=enrolling)
        with engine_of(request).begin() as connection:
            keeper = keeper_of(request, connection, actor.who)
            if held and request.method != "GET":
                hold_user(connection, actor.user_id)
                actor = _again(connection, actor)
            yield _asked(Asked, request, connection, actor, "oneself", keeper, transaction, None)

    async def dependency(request: Request) -> AsyncIterator[Asked]:
        async with Transaction[Asked](functools.partial(ask, request)).asked(request) as asked:
            yield asked

    return _named(dependency, "oneself")


def over_businesses() -> Any:
    """A route that lists what is in all the businesses of the person who asks; of staff, in all there are."""

    @contextlib.contextmanager
    def ask(request: Request, transaction: Transaction[AskedOfBusinesses]) -> Iterator[AskedOfBusinesses]:
        actor = _actor(request)
        if not isinstance(actor, Person):
            raise _a_key_is_nobody()
        _see_person(actor, proven=False)
        ids = None if actor.for_altiora else sorted(actor.businesses)
        with _entered(request, actor, ids or ()) as connection:
            yield _asked(AskedOfBusinesses, request, connection, actor, "oneself", None, transaction, ids)

    async def dependency(request: Request) -> AsyncIterator[AskedOfBusinesses]:
        async with Transaction[AskedOfBusinesses](functools.partial(ask, request)).asked(request) as asked:
            yield asked

    return _named(dependency, "oneself")


def anybody() -> Any:
    """A route for whoever comes."""

    async def dependency(request: Request) -> None:
        see_parameters(request)

    return _named(dependency, "anybody")


def _named(dependency: Callable[..., Any], right: str) -> Any:
    """Its transaction is committed before the answer leaves, and not after: function scope."""
    dependency.right = right  # type: ignore[attr-defined]  # for the test that walks all routes
    return Depends(dependency, scope="function")


@contextlib.contextmanager
def _entered(request: Request, actor: Person | Program, wanted: Collection[int]) -> Iterator[Connection]:
    """The transaction of a request about these businesses: Altiora's own, or a tenant's, who sees no others of them."""
    own = actor.businesses.intersection(wanted)
    if actor.for_altiora and not own:
        with engine_of(request).begin() as connection:
            yield connection
        return
    tenants: Engine = request.app.state.tenants
    with tenants.begin() as connection:
        enter(connection, own, actor.user_id if isinstance(actor, Person) else None, actor.who)
        yield connection


def _as_now(request: Request, connection: Connection, person: Person, business_id: int) -> Person:
    """What they are now that the business is held: who was read before may have been removed, or be less."""
    if connection.engine is engine_of(request):
        return _again(connection, person)
    # Behind the wall no session can be read.
    role = role_in(connection, business_id, person.user_id)
    others = {each: of for each, of in person.roles.items() if each != business_id}
    return replace(person, roles=others if role is None else others | {business_id: role})


def _again(connection: Connection, person: Person) -> Person:
    found = person_of(connection, AccessToken(person.user_id, person.session_id))
    if found is None:
        raise _not_signed_in(_SESSION_OVER)
    return found


def _asked(
    kind: type[A],
    request: Request,
    connection: Connection,
    actor: Person | Program,
    right: str,
    keeper: Keeper | None,
    transaction: Transaction[A],
    *about: Any,
) -> A:
    return kind(connection, actor, right, request_id_of(request), keeper, transaction, *about)


def _see_person(actor: Person | Program, *, proven: bool, enrolling: bool = False) -> None:
    if not isinstance(actor, Person):
        return
    if actor.may_only_enrol and not enrolling:
        raise Problem(
            403, "second-factor-needed", "staff sign in with a second factor: set one up, and sign in with it"
        )
    if proven and not actor.is_proven:
        raise Problem(403, "prove-again", "give password and code once more: POST /v1/me/proofs")


def _a_key_is_nobody() -> Problem:
    return Problem(403, "forbidden", "a key is nobody: sign in", right="oneself")
