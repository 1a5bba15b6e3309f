"""The drain: against Celery tasks that do nothing, and against COPY of the same rows; and the worker's memory."""

import contextlib
import itertools
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil

from bench import totals, traffic
from bench.figures import Figure, faster, median
from bench.sizes import Sizes
from bench.stage import Stage, wait_until
from bench.traffic import Business, Call

_COPY = "copy webhook_events (provider, key, type, received_at, content_type, body) from stdin"
_PROCESSED = "select xmin from webhook_events where state = 'processed'"


def measure(stage: Stage, businesses: Sequence[Business], sizes: Sizes, *, long: bool) -> list[Figure]:
    """The figures of the drain, by a real worker of two children."""
    drained, copied, memory = _drain(stage, businesses, sizes, long=long)
    of_all = _drain_of_all(stage, sizes)
    noops, way = _best_noops(stage, sizes)
    return [
        faster("drain / no-op Celery tasks", drained, noops, 5, 10, f"No-op tasks are fastest with {way}."),
        faster("drain / COPY of the same rows", drained, copied, 0.15, 0.3),
        memory,
        faster(
            f"drain, calls of {sizes.businesses + sizes.crowd:,} businesses / of {sizes.businesses:,}",
            of_all,
            drained,
            0.4,
            0.7,
            "Each business's record is made on the way.",
        ),
    ]


def rows(calls: Sequence[Call], received_at: datetime) -> list[bytes]:
    """The events of these calls as the receiver stores them, in COPY's text format."""
    return [
        f"twilio\t{call.sid}:{call.status}:0:{index:016x}\tcall.{call.status}\t{received_at.isoformat()}\t"
        f"{traffic.FORM}\t\\\\x{call.body.hex()}\n".encode()
        for index, call in enumerate(calls)
    ]


def store(stage: Stage, lines: Sequence[bytes]) -> float:
    """Store events, all at once; returns events a second."""
    block = b"".join(lines)
    with contextlib.closing(stage.engine.raw_connection()) as connection:
        started = time.perf_counter()
        with connection.cursor().copy(_COPY) as copy:
            copy.write(block)
        connection.commit()
        return len(lines) / (time.perf_counter() - started)


def drain(stage: Stage, calls: Sequence[Call], before: Sequence[Call] = ()) -> tuple[float, float]:
    """Store these calls' events and have the running worker drain them; events a second of COPY and of the drain.

    ``before`` are the calls that were sent since the last reset.
    """
    copied = store(stage, rows(calls, datetime.now(UTC)))
    totals.expect(stage, [*before, *calls])
    started = time.time()
    stage.nudge(2)  # as many as there are children: a receiver under load sends them all the time
    totals.watch(stage)
    return copied, len(calls) / (stage.committed_at(_PROCESSED) - started)


def _drain(
    stage: Stage, businesses: Sequence[Business], sizes: Sizes, *, long: bool
) -> tuple[list[float], list[float], Figure]:
    drained: list[float] = []
    copied: list[float] = []
    now = datetime.now(UTC)
    with stage.worker() as process_id:
        stage.reset()
        drain(stage, traffic.calls(businesses, sizes.warm_up, now))
        before = _memory(process_id)
        events = sizes.warm_up
        calls = traffic.calls(businesses, sizes.drained, now)
        while len(drained) < sizes.runs or (long and events < sizes.drained_long):
            stage.reset()
            of_copy, of_drain = drain(stage, calls)
            copied.append(of_copy)
            drained.append(of_drain)
            events += len(calls)
        after = _memory(process_id)
    memory = Figure(
        what=f"memory after {events:,} / {sizes.warm_up:,} events",
        value=after / before,
        at_least=1.1,
        aim=1.02,
        ours=f"{after / 1e6:.0f} MB",
        beside=f"{before / 1e6:.0f} MB",
        less_is_better=True,
    )
    return drained[: sizes.runs], copied[: sizes.runs], memory


def _drain_of_all(stage: Stage, sizes: Sizes) -> list[float]:
    """Events a second where they are of the whole crowd, so that a batch of 500 has nearly as many businesses."""
    calls = traffic.calls(traffic.businesses(sizes.businesses + sizes.crowd), sizes.drained, datetime.now(UTC))
    with stage.worker():
        rates = []
        for _ in range(sizes.runs):
            stage.reset()
            rates.append(drain(stage, calls)[1])
    return rates


def _memory(process_id: int) -> float:
    """VmRSS of a worker's children, in bytes."""
    children = psutil.Process(process_id).children()
    statuses = [Path(f"/proc/{child.pid}/status").read_text() for child in children]
    return sum(int(status.partition("VmRSS:")[2].split()[0]) * 1024 for status in statuses)


def _best_noops(stage: Stage, sizes: Sizes) -> tuple[list[float], str]:
    """No-op tasks a second of the fastest way to run them, and which it was."""
    messages = _noop_messages(stage, sizes.noops)
    results = {}
    for pool, prefetch in itertools.product(("prefork", "solo"), sizes.prefetches):
        options = ("--loglevel", "warning", "--queues", "events", "--prefetch-multiplier", str(prefetch))
        with contextlib.ExitStack() as workers:
            if pool == "prefork":
                workers.enter_context(stage.other_worker("bench.noop", "noop", *options, "--concurrency", "2"))
            else:
                for number in (1, 2):
                    workers.enter_context(
                        stage.other_worker(
                            "bench.noop", f"noop-{number}", *options, "--pool", "solo", "--concurrency", "1"
                        )
                    )
            _noops(stage, messages[:100])  # until all of them have started
            rates = [_noops(stage, messages) for _ in range(sizes.runs)]
        named = "two children" if pool == "prefork" else "two solo workers"
        results[f"{named} and a prefetch of {prefetch}"] = rates
    way = max(results, key=lambda way: median(results[way]))
    return results[way], way


def _noop_messages(stage: Stage, count: int) -> list[bytes | str]:
    """The messages of so many no-op tasks, as Celery writes them."""
    from bench.noop import noop  # noqa: PLC0415 - it takes away what our application does beside a task

    noop.app.conf["broker_url"] = stage.broker_url
    with noop.app.producer_pool.acquire() as producer:
        for _ in range(count):
            noop.apply_async(producer=producer)
    messages = stage.broker.lrange("events", 0, -1)
    stage.broker.delete("events")
    return messages


def _noops(stage: Stage, messages: Sequence[bytes | str]) -> float:
    """Hand these messages to the workers all at once; returns tasks a second."""
    stage.broker.rpush("bench", *messages)
    started = time.perf_counter()
    stage.broker.rename("bench", "events")
    # A message that a worker holds stands in `unacked` until its task is done.
    wait_until(
        lambda: not stage.broker.llen("events") and not stage.broker.hlen("unacked"), "the no-op tasks", every=0.005
    )
    return len(messages) / (time.perf_counter() - started)
