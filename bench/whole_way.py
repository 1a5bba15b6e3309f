"""The whole way, from the HTTP request to the right total: how many a second, and how long each takes."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime

from bench import totals, traffic, usual
from bench.figures import Figure, faster, median, percentile, rate
from bench.sizes import Sizes
from bench.stage import Stage, wait_until
from bench.totals import WrongTotalsError
from bench.traffic import Business, Call
from db import roles

_PROCESSED = "select xmin from webhook_events where state = 'processed'"
_VISIBLE = """
select split_part(key, ':', 1), extract(epoch from pg_xact_commit_timestamp(xmin))::float8
from webhook_events where state = 'processed'
"""


def measure(stage: Stage, businesses: Sequence[Business], sizes: Sizes) -> list[Figure]:
    """At full speed against a task for each event, then at half of that speed how long an event takes."""
    now = datetime.now(UTC)
    calls = traffic.calls(businesses, sizes.whole, now)
    with stage.receiver() as port, stage.worker():
        _run(stage, calls[: sizes.whole // 10], port)
        full = [_run(stage, calls, port) for _ in range(sizes.runs)]
        half = median(full) / 2
        steady = int(half * sizes.steady_seconds)
        even = [_steady(stage, traffic.calls(businesses, steady, now), port, half) for _ in range(sizes.runs)]
        uneven_calls = traffic.calls(businesses, steady, now, busiest=100)
        uneven = [_steady(stage, uneven_calls, port, half) for _ in range(sizes.runs)]
    usual = _usual(stage, calls[: sizes.usual], sizes.runs)
    return [faster("whole way / one task for each event", full, usual, 10, 20), *_times(half, even, uneven, businesses)]


def _times(
    half: float, even: Sequence["_Steady"], uneven: Sequence["_Steady"], businesses: Sequence[Business]
) -> list[Figure]:
    answered_50, answered_99 = (median([run.answered(percent) for run in even]) for percent in (50, 99))
    seen_50, seen_99 = (median([run.seen(percent) for run in even]) for percent in (50, 99))
    others = {business.number for business in businesses[1:]}
    beside_equals, beside_busy = (median([run.seen(99, of=others) for run in runs]) for runs in (even, uneven))
    return [
        Figure(
            what=f"webhook answer, p99 at {rate(half)}",
            value=answered_99,
            unit="ms",
            at_least=50,
            aim=25,
            ours=f"p50 {answered_50:.1f} ms",
            less_is_better=True,
        ),
        Figure(
            what="answer to visible total, p99",
            value=seen_99,
            unit="ms",
            at_least=2000,
            aim=500,
            ours=f"p50 {seen_50:.1f} ms",
            less_is_better=True,
        ),
        Figure(
            what="others' p99 beside one 100 x as busy",
            value=beside_busy / beside_equals,
            at_least=2,
            aim=1.2,
            ours=f"{beside_busy:.0f} ms",
            beside=f"{beside_equals:.0f} ms",
            less_is_better=True,
        ),
    ]


class _Steady:
    """The times of a load below full speed, in milliseconds, call by call."""

    def __init__(self, calls: Sequence[Call], answers: Sequence[float], seen: Sequence[float]) -> None:
        self._numbers = [call.business.number for call in calls]
        self._answers = answers
        self._seen = seen

    def answered(self, percent: int) -> float:
        """From the moment that the request was due to its answer."""
        return percentile(self._answers, percent)

    def seen(self, percent: int, of: set[str] | None = None) -> float:
        """From the answer to the commit of the total, of all or of these numbers."""
        mine = [
            seconds for number, seconds in zip(self._numbers, self._seen, strict=True) if of is None or number in of
        ]
        return percentile(mine, percent)


def _run(stage: Stage, calls: Sequence[Call], port: int) -> float:
    """Events a second, from the first request sent to the last total committed."""
    stage.reset()
    totals.expect(stage, calls)
    load = stage.load([traffic.twilio_request(call) for call in calls], port)
    totals.watch(stage, sending=load.running)
    return len(calls) / (stage.committed_at(_PROCESSED) - load.answers().first_sent_at)


def _steady(stage: Stage, calls: Sequence[Call], port: int, per_second: float) -> _Steady:
    stage.reset()
    totals.expect(stage, calls)
    load = stage.load([traffic.twilio_request(call) for call in calls], port, per_second)
    totals.watch(stage, sending=load.running)
    answers = load.answers()
    with stage.engine.connect() as connection:
        visible: dict[str, float] = dict(connection.exec_driver_sql(_VISIBLE).all())
    return _Steady(
        calls,
        [1000 * (at - due) for at, due in zip(answers.answered_at, answers.due_at, strict=True)],
        [1000 * (visible[call.sid] - at) for call, at in zip(calls, answers.answered_at, strict=True)],
    )


def _usual(stage: Stage, calls: Sequence[Call], runs: int) -> list[float]:
    """Events a second of the pipeline written the usual way; its totals are checked too, at the end."""
    usual.Base.metadata.create_all(stage.engine)
    with stage.engine.begin() as connection:
        for table in usual.Base.metadata.tables:
            connection.exec_driver_sql(f"grant all on {table} to {roles.WORKER}")
    requests = [traffic.twilio_request(call) for call in calls]
    rates = []
    with (
        stage.other_receiver("bench.usual:make") as port,
        stage.other_worker("bench.usual:celery", "usual", "--concurrency", "2"),
    ):
        for warm in (True, *(False for _ in range(runs))):
            sent = requests[: len(requests) // 10] if warm else requests
            with stage.engine.begin() as connection:
                connection.exec_driver_sql("truncate usual_events, usual_calls, usual_usage")
            stage.settle()
            answers = stage.load(sent, port).answers()
            wait_until(
                lambda: not stage.ask("select exists (select from usual_events where not processed)"), "the usual tasks"
            )
            _check_usual(stage, calls[: len(sent)])
            if not warm:
                done_at = stage.committed_at("select xmin from usual_events")
                rates.append(len(sent) / (done_at - answers.first_sent_at))
    return rates


def _check_usual(stage: Stage, calls: Sequence[Call]) -> None:
    expected: Counter[tuple[str, date]] = Counter()
    for call in calls:
        if call.counted:
            expected[call.business.name, usual.month_of(call.ended_at)] += call.minutes
    with stage.engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "select b.name, u.month, u.minutes from usual_usage u join businesses b on b.id = u.business_id"
        )
        found = {(name, month): minutes for name, month, minutes in rows}
    if found != expected:
        raise WrongTotalsError("the pipeline written the usual way has other minutes than were sent")
