"""Yardstick: billing written the usual way, with a Celery task for each event.

A Starlette endpoint verifies the signature, inserts the event, commits and calls ``delay``; a task takes the event,
gets or creates the call and the month's usage, adds the minutes and marks the event, in one transaction with row
locks. It is right: no event is counted twice, none is lost while broker and workers live. It has the same server, the
same signature check, SQLAlchemy's ORM, and Celery's defaults but for late acknowledgement. What it lacks beside ours
(subscriptions' periods, limits, closing, reports out of order, a lost message) would only make it slower.
"""

from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qsl

from celery import Celery, signals
from sqlalchemy import BigInteger, Engine, ForeignKey, Identity, UniqueConstraint, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from db.engine import make_engine
from db.models import PhoneNumber
from pipeline.providers.webhook_signatures import SignatureError, verify_twilio_signature
from pipeline.shared.settings import BrokerSettings, DatabaseSettings, PublicSettings, TwilioSettings, load


class _Configuration:
    task_acks_late = True
    task_ignore_result = True
    task_default_queue = "usual"

    @property
    def broker_url(self) -> str:
        return load(BrokerSettings).broker_url.get_secret_value()


celery = Celery("usual")
celery.config_from_object(_Configuration())

sessions = sessionmaker[Session]()


class Base(DeclarativeBase):
    pass


class UsualEvent(Base):
    __tablename__ = "usual_events"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    body: Mapped[str]
    received_at: Mapped[datetime]
    processed: Mapped[bool] = mapped_column(default=False)


class UsualCall(Base):
    __tablename__ = "usual_calls"

    sid: Mapped[str] = mapped_column(primary_key=True)
    business_id: Mapped[int]
    status: Mapped[str]
    seconds: Mapped[int]
    minutes: Mapped[int]
    ended_at: Mapped[datetime]
    event_id: Mapped[int] = mapped_column(ForeignKey(UsualEvent.id))


class UsualUsage(Base):
    __tablename__ = "usual_usage"
    __table_args__ = (UniqueConstraint("business_id", "month"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    business_id: Mapped[int]
    month: Mapped[date]
    calls: Mapped[int] = mapped_column(default=0)
    seconds: Mapped[int] = mapped_column(default=0)
    minutes: Mapped[int] = mapped_column(default=0)


def month_of(instant: datetime) -> date:
    """Its months are calendar months in UTC."""
    return instant.astimezone(UTC).date().replace(day=1)


@celery.task(acks_late=True)
def process(event_id: int) -> None:
    """Apply one event."""
    with sessions.begin() as session:
        event = session.get(UsualEvent, event_id, with_for_update=True)
        if event is None or event.processed:
            return
        params = dict(parse_qsl(event.body, keep_blank_values=True))
        if session.get(UsualCall, params["CallSid"]) is None:
            _count(session, event_id, params)
        event.processed = True


def _count(session: Session, event_id: int, params: dict[str, str]) -> None:
    business_id = session.scalar(select(PhoneNumber.business_id).where(PhoneNumber.number == params["To"]))
    if business_id is None:
        return
    seconds = int(params["CallDuration"])
    call = UsualCall(
        sid=params["CallSid"],
        business_id=business_id,
        status=params["CallStatus"],
        seconds=seconds,
        minutes=-(-seconds // 60) if params["CallStatus"] == "completed" else 0,
        ended_at=parsedate_to_datetime(params["Timestamp"]),
        event_id=event_id,
    )
    session.add(call)
    if call.status == "completed":
        usage = _usage(session, business_id, month_of(call.ended_at))
        usage.calls += 1
        usage.seconds += seconds
        usage.minutes += call.minutes


def _usage(session: Session, business_id: int, month: date) -> UsualUsage:
    """Get or create, locked."""
    wanted = select(UsualUsage).filter_by(business_id=business_id, month=month).with_for_update()
    usage = session.scalar(wanted)
    if usage is None:
        new = {"business_id": business_id, "month": month, "calls": 0, "seconds": 0, "minutes": 0}
        session.execute(insert(UsualUsage).values(new).on_conflict_do_nothing())
        usage = session.scalars(wanted).one()
    return usage


@signals.worker_process_init.connect
def _connect(**_: object) -> None:
    sessions.configure(bind=_engine())


def _engine() -> Engine:
    return make_engine(load(DatabaseSettings).sqlalchemy_url, pool_size=20)


def make() -> Starlette:
    """The endpoint."""
    sessions.configure(bind=_engine())
    url = load(PublicSettings).public_url
    tokens = load(TwilioSettings).twilio_auth_token

    async def voice(request: Request) -> Response:
        body = await request.body()
        form = parse_qsl(body.decode(), keep_blank_values=True)
        try:
            verify_twilio_signature(
                url + request.url.path,
                form,
                body,
                signature=request.headers.get("x-twilio-signature"),
                signature_settings=None,
                tokens=tokens,
            )
        except SignatureError as error:
            return Response(str(error), 403)
        await run_in_threadpool(_store, dict(form), body)
        return Response()

    return Starlette(routes=[Route("/webhooks/twilio/voice", voice, methods=["POST"])])


def _store(params: dict[str, str], body: bytes) -> None:
    key = f"{params['CallSid']}:{params['CallStatus']}:{params.get('SequenceNumber', '')}"
    new = insert(UsualEvent).values(key=key, body=body.decode(), received_at=datetime.now(UTC), processed=False)
    with sessions.begin() as session:
        event_id = session.scalar(new.on_conflict_do_nothing().returning(UsualEvent.id))
    if event_id is not None:
        process.delay(event_id)
