"""Pruning: raw events go after 13 months, except those that have had no effect yet."""

from datetime import UTC, datetime, timedelta

from pipeline.events import retention
from tests.worlds.ledger import Ledger

NOW = datetime(2027, 12, 20, tzinfo=UTC)
OLD = datetime(2026, 11, 20, tzinfo=UTC)


def test_old_events_are_deleted_in_batches_and_waiting_and_dead_ones_never(engine, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 2)
    ledger = Ledger(engine)
    for number, (state, received_at) in enumerate(
        [("processed", OLD - timedelta(seconds=1))] * 5
        + [("processed", OLD), ("ignored", OLD - timedelta(days=9)), ("pending", OLD - timedelta(days=9))]
        + [("dead", OLD - timedelta(days=9))]
    ):
        ledger.insert(
            "webhook_events",
            provider="stripe",
            key=f"evt_{number}",
            state=state,
            reason="not-needed",
            received_at=received_at,
            content_type="application/json",
            body=b"{}",
        )
    assert retention.prune_events(engine, NOW) == 6
    assert [row.state for row in ledger.rows("select state from webhook_events order by id")] == [
        "processed",
        "pending",
        "dead",
    ]
