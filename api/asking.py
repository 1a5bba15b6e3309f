"""Who asks, what they may, and the one transaction of a request, which is committed before the answer leaves.

Each route names what is needed by one of ``needs``, ``oneself`` and ``anybody``; a test walks all of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import Connection, Engine

from accounts import attempt_limits
from accounts.access_tokens import TokenError, read_access_token
from accounts.actors import Person, person_of
from accounts.api_keys import Program, note_use, program_of
from accounts.secret_keys import SecretKeys
from api.idempotency import Keeper, keeper_of
from api.problems import Problem, missing
from pipeline.shared import trail

_EXISTS = "select exists (select from businesses where id = %s)"
_LARGEST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: who asks, in which transaction, and by which right."""

    connection: Connection
    actor: Person | Program
    right: str
    request_id: str
    keeper: Keeper | None = None
    """Of the answer, where it may be asked for again."""

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
        entry = trail.Entry(
            self.actor.who, what, subject, business_id, reason, fields, detail or {}, self.right, self.request_id
        )
        trail.note(self.connection, entry)

    def limit_mail(self, request: Request, email: str) -> None:
        """Count a mail that a person has us send to somebody. Raises LimitedError."""
        keys = keys_of(request)
        attempt_limits.take(self.connection, keys, attempt_limits.MAILS_BY_USER, self.actor.who)
        attempt_limits.take(self.connection, keys, attempt_limits.MAILS_TO, email.lower())

    @property
    def person(self) -> Person:
        """Who asks, where only a person may."""
        assert isinstance(self.actor, Person)
        return self.actor


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


def _actor(request: Request, connection: Connection) -> Person | Program:
    """By the header alone: nothing of a URL, and no cookie, lets anybody do anything. Raises Problem."""
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not sent:
        raise _not_signed_in("send Authorization: Bearer and an access token, or an API key")
    found: Person | Program | None
    if sent.startswith("alt_"):
        found = program_of(connection, sent)
        words = "this API key is none, has ended, or was revoked"
    else:
        try:
            found = person_of(connection, read_access_token(keys_of(request), sent))
            words = "this session has ended: sign in again"
        except TokenError as error:
            raise _not_signed_in(str(error)) from error
    if found is None:
        raise _not_signed_in(words)
    request.state.actor = found.who
    return found


def _not_signed_in(words: str) -> Problem:
    return Problem(401, "not-signed-in", words, headers={"WWW-Authenticate": "Bearer"})


def _transaction(request: Request) -> Iterator[tuple[Connection, Person | Program]]:
    with engine_of(request).begin() as connection:
        actor = _actor(request, connection)
        if isinstance(actor, Program) and actor.note_use:
            with engine_of(request).begin() as beside:  # noted whatever becomes of the request
                note_use(beside, actor.key_id)
        yield connection, actor


#: Function scope: it is committed before the answer leaves, and not after.
_Transaction = Annotated[tuple[Connection, Person | Program], Depends(_transaction, scope="function")]


def needs(right: str, *, proven: bool = False) -> Callable[..., Asked]:
    """The dependency of a route that wants this right: in the business of its path, or, without one, as staff.

    ``proven``: password and code were given in the last minutes. What is not the actor's to see is not there.
    """

    def dependency(request: Request, given: _Transaction) -> Asked:
        connection, actor = given
        business = str(request.path_params.get("business_id", ""))
        business_id = int(business) if business.isascii() and business.isdigit() else None
        if business and (business_id is None or not _is_there(connection, actor, business_id)):
            raise missing("this business")
        _see_person(actor, proven=proven)
        actor.require(right, business_id)
        keeper = keeper_of(request, connection, actor.who)
        return Asked(connection, actor, right, request_id_of(request), keeper)

    dependency.right = right  # type: ignore[attr-defined]  # for the test that walks all routes
    return dependency


def oneself(*, proven: bool = False, enrolling: bool = False) -> Callable[..., Asked]:
    """The dependency of a route about the person who asks. ``enrolling``: staff without a second factor too."""

    def dependency(request: Request, given: _Transaction) -> Asked:
        connection, actor = given
        if not isinstance(actor, Person):
            raise Problem(403, "forbidden", "a key is nobody: sign in", right="oneself")
        if not enrolling:
            _see_person(actor, proven=proven)
        keeper = keeper_of(request, connection, actor.who)
        return Asked(connection, actor, "oneself", request_id_of(request), keeper)

    dependency.right = "oneself"  # type: ignore[attr-defined]  # as above
    return dependency


def anybody() -> Callable[[], None]:
    """The dependency of a route for whoever comes."""

    def dependency() -> None:
        return None

    dependency.right = "anybody"  # type: ignore[attr-defined]  # as above
    return dependency


def _is_there(connection: Connection, actor: Person | Program, business_id: int) -> bool:
    """Whether there is such a business for the actor; staff and service keys see whatever there is, and no more."""
    if not actor.sees(business_id) or business_id > _LARGEST_ID:
        return False
    return bool(connection.exec_driver_sql(_EXISTS, (business_id,)).scalar_one())


def _see_person(actor: Person | Program, *, proven: bool) -> None:
    if not isinstance(actor, Person):
        return
    if actor.may_only_enrol:
        raise Problem(
            403, "second-factor-needed", "staff sign in with a second factor: set one up, and sign in with it"
        )
    if proven and not actor.is_proven:
        raise Problem(403, "prove-again", "give password and code once more: POST /v1/me/proofs")
