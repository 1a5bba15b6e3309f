"""What answers hold: the API as it is described (openapi.json). Handlers answer rows as they are; a test compares."""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from accounts.links import LinkKind
from accounts.rights import Role
from pipeline.businesses.service_rules import ServiceStatus
from pipeline.calls.transcripts import Speaker
from pipeline.closing.statement import Statement
from pipeline.events.outcomes import EventState
from pipeline.reading.period_money import PeriodMoney

T = TypeVar("T")


def _example(value: object) -> Any:
    return Field(examples=[value])


Id = Annotated[int, _example(12)]
Email = Annotated[str, _example("ada@example.com")]
Instant = Annotated[datetime, _example("2026-11-28T09:30:00.000000Z")]


class Output(BaseModel):
    """The base of every answer."""

    model_config = ConfigDict(extra="forbid")


class Page(Output, Generic[T]):
    """The newest first; ``next_cursor`` is null on the last page."""

    data: list[T]
    next_cursor: str | None


class InvalidParameter(Output):
    """What of the request is wrong."""

    name: str
    reason: str


class ProblemShown(BaseModel):
    """RFC 9457: what went wrong, and what to do."""

    type: Annotated[str, _example("urn:altiora:problem:forbidden")]
    title: str
    status: int
    detail: str
    invalid_parameters: list[InvalidParameter] = []
    right: str | None = None


class Status(Output):
    """What happens next."""

    status: str


class LinkShown(Output):
    """What a link is for."""

    kind: LinkKind
    email: Email
    has_account: bool
    business: str | None
    role: Role | None


class LinkDone(Output):
    """What a link has done."""

    kind: LinkKind
    email: Email
    business_id: Id | None


class Tokens(Output):
    """An access token; ``expires_in`` in seconds."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    session_id: Id


class SessionShown(Output):
    """Where somebody is signed in; ``present``: here."""

    id: Id
    present: bool
    created_at: Instant
    used_at: Instant
    device: str
    address: str
    second_factor: bool


class BusinessOfMine(Output):
    """A business that somebody belongs to, and what they may do there."""

    id: Id
    role: Role
    rights: list[str]


class Me(Output):
    """Who asks."""

    id: Id
    email: Email
    name: str
    second_factor: bool
    recovery_codes: Annotated[int, Field(description="how many are left")]
    staff_role: Role | None
    staff_rights: list[str]
    businesses: list[BusinessOfMine]
    session_id: Id
    proven_at: Instant


class Named(Output):
    """Somebody, as they are called now."""

    id: Id
    name: str


class OfferedFactor(Output):
    """A secret for an app, shown once; ``address`` is what a QR code of it says."""

    secret: str
    address: str


class RecoveryCodes(Output):
    """Each signs in once in place of a code; shown once."""

    recovery_codes: list[str]


class BusinessShown(Output):
    """A business."""

    id: Id
    name: Annotated[str, _example("Corner Bakery")]
    plan: Annotated[str, _example("starter")]
    time_zone: Annotated[str, _example("Europe/London")]
    contact_email: Annotated[str | None, _example("office@example.com")]
    numbers: Annotated[list[str], _example(["+15550000001"])]
    service_status: ServiceStatus | Literal["ended"]
    ended_at: Instant | None


class AgentShown(Output):
    """An agent; ``numbers``: those that it answers now."""

    id: Id
    business_id: Id
    name: Annotated[str, _example("Reception")]
    language: Annotated[str, _example("en-GB")]
    personality: str
    voice: str
    prompt: str
    greeting: str
    settings: dict[str, Any]
    created_at: Instant
    ended_at: Instant | None
    numbers: Annotated[list[str], _example(["+15550000001"])]


class KnowledgeShown(Output):
    """A question that callers ask, and what the agent answers."""

    id: Id
    business_id: Id
    agent_id: Id
    question: Annotated[str, _example("When are you open?")]
    answer: Annotated[str, _example("From six to two, but on Mondays.")]
    created_at: Instant


class ScriptShown(Output):
    """What an agent says: one version of a call flow."""

    id: Id
    business_id: Id
    agent_id: Id
    name: Annotated[str, _example("ordering")]
    version: Annotated[int, _example(3)]
    flow: dict[str, Any]
    created_at: Instant
    ended_at: Instant | None


class NumberShown(Output):
    """A number; ``since`` when the present agent, or none, answers it (null: ever since)."""

    number: Annotated[str, _example("+15550000001")]
    business_id: Id
    label: Annotated[str, _example("Shop")]
    agent_id: Id | None
    agent: Annotated[str | None, _example("Reception")]
    since: Instant | None


class CallShown(Output):
    """A call leg; ``minutes`` are billable by all that is known, ``counted_minutes`` those in its usage record."""

    sid: Annotated[str, _example("CA0123456789abcdef0123456789abcdef")]
    parent_sid: str | None
    business_id: Id
    number: Annotated[str | None, _example("+15550000001")]
    agent_id: Id | None
    direction: Annotated[str | None, _example("inbound")]
    from_number: Annotated[str | None, _example("+15551230000")]
    to_number: Annotated[str | None, _example("+15550000001")]
    status: Annotated[str, _example("completed")]
    started_at: Instant
    ended_at: Instant | None
    estimated: bool
    seconds: Annotated[int | None, _example(61)]
    minutes: Annotated[int, _example(2)]
    counted: bool
    counted_minutes: Annotated[int, _example(2)]
    usage_record_id: Id | None


class MessageShown(Output):
    """What was said; ``content`` is empty where it was redacted."""

    position: Annotated[int, _example(0)]
    speaker: Speaker
    content: Annotated[str, _example("Corner Bakery, good morning.")]
    language: str | None
    said_at: Instant | None
    redacted_at: Instant | None


class Appended(Output):
    """How many messages were not there before."""

    appended: int


class RuntimeKnowledge(Output):
    """A question, and its answer."""

    question: str
    answer: str


class RuntimeScript(Output):
    """What is said: the newest version of a call flow."""

    name: str
    version: int
    flow: dict[str, Any]


class RuntimeAgentShown(Output):
    """How an agent answers."""

    id: Id
    name: str
    language: str
    personality: str
    voice: str
    prompt: str
    greeting: str
    settings: dict[str, Any]
    knowledge: list[RuntimeKnowledge]
    scripts: list[RuntimeScript]


class RuntimeShown(Output):
    """Who answers a number; without an agent nobody does."""

    number: Annotated[str, _example("+15550000001")]
    business_id: Id
    service_status: ServiceStatus | Literal["ended"]
    agent: RuntimeAgentShown | None


class StatementShown(Output):
    """What was frozen when a period was closed, and what the period comes to by now.

    ``cost`` of the statement, what Twilio charged for its calls, is there for Altiora's staff alone.
    """

    usage_record_id: Id
    statement: Statement
    money: PeriodMoney


class BacklogShown(Output):
    """How much of a kind waits, and how old the oldest is; ``overdue``: older than is normal."""

    kind: Annotated[str, _example("dead")]
    count: int
    oldest_seconds: int | None
    overdue: bool


class EventShown(Output):
    """A stored event: ``said`` is its body, decoded. ``received_at`` is business time, the others machine time."""

    id: Id
    provider: Annotated[str, _example("twilio")]
    key: Annotated[str, _example("CA0123456789abcdef0123456789abcdef:completed")]
    type: str | None
    state: EventState
    reason: Annotated[str | None, _example("unknown-number +15550000009")]
    attempts: int
    received_at: Instant
    stored_at: Instant
    due_at: Instant
    processed_at: Instant | None
    recovered: bool
    content_type: str
    said: Any


class Replayed(Output):
    """How many events are applied again, and how many more there are of them."""

    replayed: int
    left: int


class MemberShown(Output):
    """Somebody who works in a business."""

    user_id: Id
    name: str
    email: Email
    role: Role
    joined_at: Instant
    second_factor: bool


class InvitationShown(Output):
    """Somebody who was mailed a link and has not answered."""

    id: Id
    kind: LinkKind
    email: Email
    role: Role | None
    invited_by: Id | None


class KeyShown(Output):
    """A key, without its secret; ``ends_at``: when it ends by itself."""

    id: Id
    name: str
    begins: Annotated[str, _example("alt_live_x7Qp")]
    scopes: list[str]
    made_by: Id | None
    created_at: Instant
    last_used_at: Instant | None
    expires_at: Instant | None
    ends_at: Instant | None
    revoked_at: Instant | None


class NewKeyShown(KeyShown):
    """A key and its secret, which is shown this once."""

    secret: str


class UserShown(Output):
    """A user, as Altiora's staff sees them."""

    id: Id
    email: Email
    name: str
    staff_role: Role | None
    second_factor: bool
    created_at: Instant
    deactivated_at: Instant | None
    last_seen_at: Instant | None
    businesses: list[int]


class EntryShown(Output):
    """An entry of the audit trail."""

    id: Id
    at: Instant
    who: Annotated[str, _example("user:7")]
    what: Annotated[str, _example("member role")]
    subject: Annotated[str, _example("user:9")]
    business_id: Id | None
    reason: str | None
    fields: list[str]
    detail: dict[str, Any]
    by_right: str | None
    request_id: str | None
