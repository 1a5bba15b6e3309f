"""What a price gives and costs: included minutes by its tiers, in the subscription's currency (50), and money (53)."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.businesses.consequences import Consequences
from pipeline.prices.money import money
from pipeline.prices.price_tiers import UNLIMITED, cost, included_minutes
from pipeline.providers.stripe_fields import Tier, read_meter, read_price
from pipeline.stripe_mirror import snapshots
from tests.worlds.breaking import breaks
from tests.worlds.stripe_objects import Json, price, subscription
from tests.worlds.world import PLAN_IDS, World, at

FREE, TWELVE = {"unit_amount": 0, "flat_amount": None}, {"unit_amount": 12, "flat_amount": None}


def tiers(*rows: tuple[int | None, str, str]) -> list[Tier]:
    return [Tier(up_to, Decimal(unit), Decimal(flat)) for up_to, unit, flat in rows]


@pytest.mark.parametrize(
    ("rows", "included"),
    [
        ([(500, "0", "0"), (None, "12", "0")], 500),
        ([(100, "0", "0"), (500, "0", "0"), (None, "12", "0")], 500),
        ([(None, "12", "0")], 0),
        ([(500, "0", "900"), (None, "12", "0")], 0),  # a flat amount is a price
        ([(500, "0.5", "0"), (None, "0", "0")], 0),
        ([(500, "0", "0"), (None, "0", "0")], UNLIMITED),
        ([(10**12, "0", "0"), (None, "12", "0")], UNLIMITED),  # more than a record's column holds
    ],
)
def test_50_the_leading_tiers_that_cost_nothing_are_included(rows, included):
    assert included_minutes(tiers(*rows)) == included
    assert cost(tiers(*rows), min(included, 10_000)) == (0 if rows[0][2] == "0" else 900)


@given(
    ends=st.lists(st.integers(1, 50), min_size=1, max_size=4),
    units=st.lists(st.integers(0, 30), min_size=5, max_size=5),
    minutes=st.integers(0, 260),
)
def test_70_what_minutes_cost_is_the_sum_of_each_ones_price(ends, units, minutes):
    bounds: list[int | None] = [sum(ends[: place + 1]) for place in range(len(ends))]
    made = [Tier(end, Decimal(unit), Decimal(0)) for end, unit in zip([*bounds, None], units, strict=False)]
    by_minute = [unit for end, unit, before in zip(bounds, units, [0, *bounds], strict=False)
                 for _ in range((end or 0) - (before or 0))]  # fmt: skip
    by_minute += [units[len(bounds)]] * minutes
    assert cost(made, minutes) == sum(by_minute[:minutes])


def test_70_each_tiers_share_is_rounded_half_up_once():
    assert cost(tiers((3, "0.5", "0"), (None, "0.5", "0")), 6) == 2 + 2  # 1.5 and 1.5
    assert cost(tiers((3, "1", "100"), (None, "2", "50")), 5) == 103 + 54
    assert cost(tiers((3, "1", "100"), (None, "2", "50")), 3) == 103


def test_50_a_fetched_price_shows_its_tiers_in_each_currency():
    shown = {
        "tiers": [FREE | {"up_to": 500}, TWELVE | {"up_to": None}],
        "tiers_mode": "graduated",
        "currency_options": {
            "usd": {"unit_amount": None},
            "eur": {"tiers": [FREE | {"up_to": 700}, {"unit_amount_decimal": "10.5", "up_to": None}]},
        },
    }
    read = read_price(price() | shown)
    assert read is not None
    assert read.tariffs == {
        "usd": (Tier(500, Decimal(0), Decimal(0)), Tier(None, Decimal(12), Decimal(0))),
        "eur": (Tier(700, Decimal(0), Decimal(0)), Tier(None, Decimal("10.5"), Decimal(0))),
    }


@pytest.mark.parametrize(
    ("shown", "tariffs"),
    [
        ({}, None),  # an event
        ({"tiers_mode": "volume", "tiers": [TWELVE | {"up_to": None}], "currency_options": {"usd": {}}}, {}),
        ({"tiers": [{"up_to": None}], "currency_options": {}}, {}),
        ({"tiers": [TWELVE | {"up_to": "many"}], "currency_options": {}}, {}),
        ({"tiers": "none", "currency_options": {"usd": 7, "\x00": {}}}, {}),
        ({"unit_amount": 900, "currency_options": {}}, {"usd": (Tier(None, Decimal(900), Decimal(0)),)}),
    ],
)
def test_50_what_is_not_shown_or_odd_is_no_tariff(shown, tariffs):
    read = read_price(price() | shown)
    assert read is not None
    assert read.tariffs == tariffs


@pytest.mark.parametrize(
    "odd",
    [
        {"lookup_key": "a\x00b"},
        {"lookup_key": "\ud800"},
        {"recurring": {"usage_type": "metered", "interval": "month", "interval_count": 10**12}},
        {"recurring": {"usage_type": "metered", "interval_count": -1}},
        {"tiers": [FREE | {"up_to": 10**15}, TWELVE | {"up_to": None}], "currency_options": {}},
        {"currency": "\x00"},
    ],
)
def test_50_no_field_of_a_price_is_more_than_the_database_takes(world, odd):
    fetched(world, price() | odd)
    tell(world, subscription())
    talk(world, 1)
    assert world.record(world.b).minutes == 1


@pytest.mark.parametrize("event_name", ["a\x00b", "\ud800", 7, None])
def test_45_a_meter_without_a_readable_name_is_none(event_name):
    assert read_meter({"id": "mtr_1", "event_name": event_name}) is None


@breaks(
    "pipeline/prices/money.py",
    "return 0 if code in _WHOLE else",
    "return 2 if code in _WHOLE else",
)
@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (2900, "usd", "29.00 USD"),
        (2900, "jpy", "2,900 JPY"),
        (2900, "kwd", "2.900 KWD"),
        (2900, "isk", "29.00 ISK"),
        (2900, "UGX", "29.00 UGX"),
        (-5, "eur", "-0.05 EUR"),
        (123_456_789, "krw", "123,456,789 KRW"),
        (-1_234_005, "bhd", "-1,234.005 BHD"),
    ],
)
def test_53_amounts_have_the_digits_that_stripe_counts(amount, currency, text):
    assert money(amount, currency) == text


# The records


@pytest.fixture
def world(engine, tmp_path):
    it = World(engine, tmp_path / "clock")
    with engine.begin() as connection:
        connection.exec_driver_sql("delete from subscriptions")
    return it


def fetched(world: World, object_: Json, when: str = "20 Nov 09:00") -> None:
    """Mirror a price as a fetch does."""
    read = read_price(object_)
    assert read is not None
    seen = next((row.snapshot_at for row in world.rows("select snapshot_at from stripe_prices")), None)
    snapshot = snapshots.Snapshot(read, at(when), None, fetched=True, seen=seen)
    consequences = Consequences()
    with world.engine.begin() as connection:
        target = snapshots.Mirror(
            connection,
            [snapshot],
            locked=set(),
            consequences=consequences,
            event_name="call_minutes",
            now=at(when),
        )
        target.apply(snapshot)
        consequences.settle(connection, at(when))


def graduated(included: int, **fields) -> Json:
    rows = [FREE | {"up_to": included}, TWELVE | {"up_to": None}]
    euros = {"tiers": [FREE | {"up_to": included + 100}, TWELVE | {"up_to": None}]}
    shown = {"tiers": rows, "tiers_mode": "graduated", "currency_options": {"usd": {"tiers": rows}, "eur": euros}}
    return price(**fields) | shown


def tell(world: World, object_: Json, when: str = "20 Nov 10:00") -> None:
    world.stripe_event(f"evt_{when}", "customer.subscription.created", object_, at(when))
    world.drain()


def talk(world: World, minutes: int, ended: str = "20 Nov 11:00") -> None:
    world.callback(f"call {ended}", ended=at(ended), CallDuration=minutes * 60)
    world.drain()


@breaks(
    "pipeline/usage/record_creation.py",
    "coalesce(tariff.included, p.included_minutes)",
    "p.included_minutes",
)
@pytest.mark.parametrize(("currency", "included"), [("usd", 600), ("eur", 700)])
def test_50_the_price_that_bills_says_what_is_included(world, currency, included):
    fetched(world, graduated(600))
    tell(world, subscription(currency=currency))
    talk(world, included - 100)
    record = world.record(world.b)
    assert (record.plan_id, record.included_minutes, record.currency) == (PLAN_IDS["starter"], included, currency)
    assert record.tiers[0] == [included, "0", "0"]
    assert [kind for kind, _ in world.alerts(world.b)] == ["minutes-80"]
    talk(world, 99, "20 Nov 11:30")
    assert [kind for kind, _ in world.alerts(world.b)] == ["minutes-80"]
    talk(world, 1, "20 Nov 11:40")
    assert [kind for kind, _ in world.alerts(world.b)] == ["minutes-80", "minutes-100"]


def test_50_a_price_whose_tiers_come_later_has_its_subscriptions_looked_at_again(world):
    tell(world, subscription())
    talk(world, 1)
    assert (world.record(world.b).included_minutes, world.record(world.b).tiers) == (500, None)  # the plan's, so far
    fetched(world, graduated(600), "20 Nov 12:00")
    assert world.wanted()["sub_new"] == "price-mapped"
    tell(world, subscription(), "20 Nov 12:01")
    assert world.record(world.b).included_minutes == 600


def test_50_and_33_who_pays_by_a_price_that_is_not_mapped_is_not_limited(world):
    fetched(world, graduated(600, plan=None) | {"product": {"id": "prod_1", "metadata": {}}})
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update businesses set plan_id = 1 where id = %s", (world.b,))
    tell(world, subscription(prices=[price(plan=None)]))
    talk(world, 700)
    record = world.record(world.b)
    assert (record.plan_id, record.included_minutes) == (PLAN_IDS["free"], 600)
    assert world.rows("select limited_until from businesses where id = %s", world.b) == [(None,)]


def test_50_volume_tiers_are_a_drift_and_the_plans_figure_stands(world):
    volume = price() | {"tiers_mode": "volume", "tiers": [TWELVE | {"up_to": None}], "currency_options": {"usd": {}}}
    fetched(world, volume)
    tell(world, subscription())
    talk(world, 1)
    assert (world.record(world.b).included_minutes, world.record(world.b).tiers) == (500, None)
    open_drifts = "select kind, subject from drifts where resolved_at is null"
    assert world.rows(open_drifts) == [("volume-tiers", "price:price_starter")]
