"""The Twilio stand-in's Usage Records, by Twilio's own client: GMT days of the start, each call rounded on its own."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import httpx
import pytest

from tests.sandbox.twilio.test_account import OURS, SID, START, TOKEN, World
from tests.worlds.asgi_server import serving_in_thread

DAILY = f"/2010-04-01/Accounts/{SID}/Usage/Records/Daily.json"


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def ask(world: World, query: str) -> httpx.Response:
    with serving_in_thread(world.twilio.app) as address:
        return httpx.get(f"{address}{DAILY}?{query}", auth=(SID, TOKEN))


def test_usage_is_by_gmt_day_of_the_start_and_every_call_is_rounded_up_by_itself(world):
    midnight = datetime(2026, 11, 6, tzinfo=UTC)
    world.twilio.place_call(OURS, START, 61)
    world.twilio.place_call(OURS, midnight - timedelta(seconds=1), 1)
    world.twilio.place_call(OURS, midnight, 600)
    world.twilio.place_call(OURS, START, 30, status="busy")
    world.twilio.place_call(OURS, START, 59, direction="outbound-api")
    world.twilio.place_call(OURS, START + timedelta(hours=30), 3600)  # still going on
    world.pass_time(hours=30, minutes=10)
    with world.client() as client:
        days = {"start_date": date(2026, 11, 5), "end_date": date(2026, 11, 6)}
        found = client.usage.records.daily.list(category="calls-inbound", include_subaccounts=False, **days)
        assert [(each.start_date, each.count, each.usage) for each in found] == [
            (date(2026, 11, 6), "1", "10"),
            (date(2026, 11, 5), "2", "3"),
        ]
        assert (found[1].price, found[1].price_unit, found[1].usage_unit) == (Decimal("0.0255"), "usd", "minutes")
        (out,) = client.usage.records.daily.list(
            category="calls-outbound", start_date=date(2026, 11, 5), end_date=date(2026, 11, 5)
        )
        assert (out.count, out.usage) == ("1", "1")


def test_without_a_category_all_are_listed_and_figures_are_strings(world):
    world.twilio.place_call(OURS, START, 61)
    world.pass_time(minutes=10)
    rows = ask(world, "StartDate=2026-11-05&EndDate=2026-11-09").json()["usage_records"]
    assert [(row["category"], row["start_date"], row["count"], row["usage"]) for row in rows] == [
        ("calls", "2026-11-05", "1", "2"),
        ("calls-inbound", "2026-11-05", "1", "2"),
        ("calls-outbound", "2026-11-05", "0", "0"),
    ]
    assert all(isinstance(row[name], str) for row in rows for name in ("count", "usage", "price", "as_of"))


@pytest.mark.parametrize(
    "query",
    [
        "Category=calls-of-cthulhu",
        "StartDate=2026-11-05T10:00:00Z",
        "StartDate=20261105",
        "StartDate=2026-11-05&EndDate=2026-11-04",
        "StartTime=2026-11-05",
        "IncludeSubaccounts=no",
    ],
)
def test_nonsense_is_refused(world, query):
    answer = ask(world, query)
    assert (answer.status_code, answer.json()["code"]) == (400, 20001)


def test_usage_is_paged(world):
    world.pass_time(hours=72)
    first = ask(world, "Category=calls&StartDate=2026-11-05&EndDate=2026-11-08&PageSize=3").json()
    assert len(first["usage_records"]) == 3
    rest = ask(world, first["next_page_uri"].partition("?")[2]).json()
    assert [row["start_date"] for row in rest["usage_records"]] == ["2026-11-05"]
    assert rest["next_page_uri"] is None
