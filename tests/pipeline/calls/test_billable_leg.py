"""The billable leg: the same legs by Python and by SQL."""

from itertools import product

import pytest

from pipeline.calls.billable_leg import WHY_NOT_BILLED, is_billable_leg

LEGS = list(product(("completed", "busy", "in-progress"), (None, 0, 61), (None, "CA1")))


@pytest.mark.parametrize("bill_child_legs", [False, True])
def test_sql_bills_the_legs_that_python_bills(engine, bill_child_legs):
    asked = (
        f"select {WHY_NOT_BILLED} is null"
        " from unnest(%(statuses)s::text[], %(seconds)s::int[], %(parents)s::text[])"
        " with ordinality as c(status, seconds, parent_sid, at) order by c.at"
    )
    statuses, seconds, parents = (list(each) for each in zip(*LEGS, strict=True))
    about = {"statuses": statuses, "seconds": seconds, "parents": parents, "bill_child_legs": bill_child_legs}
    with engine.connect() as connection:
        billed = connection.exec_driver_sql(asked, about).scalars().all()
    assert billed == [is_billable_leg(*leg, bill_child_legs=bill_child_legs) for leg in LEGS]


def test_a_child_leg_is_billed_only_by_the_setting():
    assert is_billable_leg("completed", 61, None, bill_child_legs=False)
    assert not is_billable_leg("completed", 61, "CA1", bill_child_legs=False)
    assert is_billable_leg("completed", 61, "CA1", bill_child_legs=True)
    assert not is_billable_leg("completed", None, None, bill_child_legs=True)
    assert not is_billable_leg("busy", 0, None, bill_child_legs=True)
