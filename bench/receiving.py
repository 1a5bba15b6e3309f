"""The receiver: groups that are committed together, against one insert for each request."""

from collections.abc import Sequence
from datetime import UTC, datetime

from bench import traffic
from bench.figures import Figure, faster
from bench.sizes import Sizes
from bench.stage import Stage
from bench.totals import WrongTotalsError
from bench.traffic import Business

#: One request in so many is Stripe's.
_STRIPE = 10


def measure(stage: Stage, businesses: Sequence[Business], sizes: Sizes) -> list[Figure]:
    """Signature, commit, answer, over 64 connections that each wait for their answer; no worker runs."""
    now = datetime.now(UTC)
    requests = [
        traffic.stripe_request(index, now) if index % _STRIPE == 0 else traffic.twilio_request(call)
        for index, call in enumerate(traffic.calls(businesses, sizes.received, now))
    ]
    grouped, singly = [], []
    with stage.receiver() as ours, stage.other_receiver("bench.singly:make") as yardstick:
        for port in (ours, yardstick):  # connections, prepared statements
            _run(stage, requests[: sizes.received // 10], port)
        for _ in range(sizes.runs):
            grouped.append(_run(stage, requests, ours))
            singly.append(_run(stage, requests[: sizes.received_singly], yardstick))
    return [faster("receive / one insert for each request", grouped, singly, 2.5, 4)]


def _run(stage: Stage, requests: Sequence[bytes], port: int) -> float:
    """Requests answered a second. Raises WrongTotalsError when not all are stored."""
    stage.reset()
    answers = stage.load(requests, port).answers()
    stored = stage.ask("select count(*) from webhook_events")
    if stored != len(requests):
        raise WrongTotalsError(f"{len(requests)} requests were answered 200, and {stored} are stored")
    return len(requests) / (max(answers.answered_at) - answers.first_sent_at)
