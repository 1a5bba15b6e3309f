"""Rounding: whole minutes, the same in Python and in SQL."""

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from pipeline.usage.rounding import billable_minutes, billable_minutes_sql

#: Increments, in seconds.
STEPS = (1, 6, 15, 30, 60, 61, 90, 300, 3_600)


@pytest.mark.parametrize(
    ("seconds", "increment", "minutes"),
    [(0, 60, 0), (1, 60, 1), (60, 60, 1), (61, 60, 2), (61, 1, 2), (59, 30, 1), (91, 90, 3), (3_601, 3_600, 120)],
)
def test_seconds_are_rounded_up_to_the_increment_and_then_to_minutes(seconds, increment, minutes):
    assert billable_minutes(seconds, increment) == minutes


@given(st.integers(0, 200_000), st.sampled_from(STEPS))
def test_it_is_the_smallest_number_of_minutes_that_holds_the_smallest_number_of_increments(seconds, increment):
    steps = ceil(Fraction(seconds, increment))
    assert billable_minutes(seconds, increment) == ceil(Fraction(steps * increment, 60))


def test_sql_rounds_as_python_does(engine):
    legs = [(seconds, step) for step in STEPS for seconds in range(4_000)]
    asked = text(
        f"select {billable_minutes_sql('leg.seconds', 'leg.step')}"
        " from unnest(cast(:seconds as int[]), cast(:steps as int[])) with ordinality as leg(seconds, step, at)"
        " order by leg.at"
    )
    with engine.connect() as connection:
        rounded = connection.execute(asked, {"seconds": [leg[0] for leg in legs], "steps": [leg[1] for leg in legs]})
        assert rounded.scalars().all() == [billable_minutes(seconds, step) for seconds, step in legs]
