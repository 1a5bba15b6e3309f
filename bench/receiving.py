"""The receiver: groups that are committed together, against one insert for each request."""

from collections.abc import Sequence
from datetime import UTC, datetime

from bench import traffic
from bench.figures import Figure, faster
from bench.sizes import Sizes
from bench.stage import CONNECTIONS, Stage
from bench.totals import WrongTotalsError
from bench.traffic import Business

#: One request in so many is Stripe's.
_STRIPE = 10


#: Senders at once in the figure that has a target: both providers open connections as they need them, so a burst, which
#: is when speed matters, comes over hundreds. Over fewer a group is smaller, and its commit is shared by fewer.
_BURST = 256


def measure(stage: Stage, businesses: Sequence[Business], sizes: Sizes) -> list[Figure]:
    """Signature, commit, answer, over connections that each wait for their answer; no worker runs."""
    now = datetime.now(UTC)
    requests = [
        traffic.stripe_request(index, now) if index % _STRIPE == 0 else traffic.twilio_request(call)
        for index, call in enumerate(traffic.calls(businesses, sizes.received, now))
    ]
    what = "receive / one insert for each request"
    with stage.receiver() as ours, stage.other_receiver("bench.singly:make") as yardstick:
        for port in (ours, yardstick):  # connections, prepared statements
            _run(stage, requests[: sizes.received // 10], port, _BURST)

        def rates(connections: int) -> tuple[list[float], list[float]]:
            pairs = [
                (
                    _run(stage, requests, ours, connections),
                    _run(stage, requests[: sizes.received_singly], yardstick, connections),
                )
                for _ in range(sizes.runs)
            ]
            return [grouped for grouped, _ in pairs], [singly for _, singly in pairs]

        return [
            faster(f"{what}, {_BURST} senders", *rates(_BURST), 2.5, 4),
            faster(f"{what}, {CONNECTIONS} senders", *rates(CONNECTIONS), None, None),
        ]


def _run(stage: Stage, requests: Sequence[bytes], port: int, connections: int) -> float:
    """Requests answered a second. Raises WrongTotalsError when not all are stored."""
    stage.reset()
    answers = stage.load(requests, port, connections=connections).answers()
    stored = stage.ask("select count(*) from webhook_events")
    if stored != len(requests):
        raise WrongTotalsError(f"{len(requests)} requests were answered 200, and {stored} are stored")
    return len(requests) / (max(answers.answered_at) - answers.first_sent_at)
