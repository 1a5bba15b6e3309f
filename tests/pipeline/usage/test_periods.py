"""Periods by arithmetic: no gap, no overlap, every instant in one; and rounding."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shared.months import add_months
from pipeline.usage.periods import (
    anchored_period,
    calendar_month,
    minute_ceil,
    minute_floor,
)
from pipeline.usage.rounding import billable_minutes
from tests.worlds.breaking import breaks
from tests.worlds.world import at

ZONES = ["UTC", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia"]
_FIRST, _LAST = datetime(2015, 1, 2), datetime(2035, 1, 1)  # noqa: DTZ001 - hypothesis wants naive bounds
instants = st.datetimes(_FIRST, _LAST, timezones=st.just(UTC))


@given(anchor=instants, instant=instants)
def test_an_anchored_period_holds_its_instant_and_touches_its_neighbours(anchor, instant):
    period = anchored_period(anchor, instant)
    assert instant in period
    assert anchored_period(anchor, period.end).start == period.end
    assert anchored_period(anchor, period.start - timedelta(microseconds=1)).end == period.start


@given(zone=st.sampled_from(ZONES), instant=instants)
def test_a_calendar_month_holds_its_instant_and_touches_its_neighbours(zone, instant):
    month = calendar_month(zone, instant)
    assert instant in month
    assert calendar_month(zone, month.end).start == month.end
    assert timedelta(days=27) < month.end - month.start < timedelta(days=33)


@breaks(
    "pipeline/usage/periods.py",
    "tzinfo=None, fold=0)",
    "tzinfo=None)",
)
@pytest.mark.parametrize("minutes", [-1, 0, 30, 59, 60, 90, 119, 120])
def test_78_a_month_whose_first_midnight_comes_twice_begins_at_the_first(minutes):
    """At 1:00 on 1 November 2026 the clocks of Havana go back to midnight: 04:00 and 05:00 UTC are both 0:00."""
    first = datetime(2026, 11, 1, 4, tzinfo=UTC)
    month = calendar_month("America/Havana", first + timedelta(minutes=minutes))
    assert (month.end if minutes < 0 else month.start) == first


def test_20_the_day_of_the_anchor_is_kept():
    anchor = at("31 Oct 09:00")
    ends = [add_months(anchor, month).strftime("%d %b") for month in range(1, 6)]
    assert ends == ["30 Nov", "31 Dec", "31 Jan", "28 Feb", "31 Mar"]
    assert anchored_period(anchor, at("28 Feb 08:59")).end == at("28 Feb 09:00")


@pytest.mark.parametrize(("seconds", "minutes"), [(0, 0), (1, 1), (59, 1), (60, 1), (61, 2), (86400, 1440)])
def test_seconds_are_rounded_up_to_minutes(seconds, minutes):
    assert billable_minutes(seconds, 60) == minutes


@given(seconds=st.integers(0, 100_000), increment=st.integers(1, 3600))
def test_billed_minutes_cover_the_seconds_and_less_than_an_increment_and_a_minute_more(seconds, increment):
    billed = billable_minutes(seconds, increment) * 60
    assert seconds <= billed < seconds + increment + 60


@given(instant=instants)
def test_minutes_around_an_instant(instant):
    floor, ceil = minute_floor(instant), minute_ceil(instant)
    assert floor <= instant <= ceil
    assert ceil - floor == (timedelta(0) if floor == instant else timedelta(minutes=1))
