"""Call flows: those that a call can go through are taken, and of all others it is said what is wrong."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.agents.call_flow import FlowError, check_flow
from tests.worlds.breaking import breaks


def flow(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"steps": list(steps)}


ORDERING = flow(
    {"id": "greeting", "say": "Corner Bakery, good morning.", "next": "what"},
    {
        "id": "what",
        "say": "Would you like to order, or to ask something?",
        "choices": [{"when": "to order", "next": "order"}, {"when": "to ask", "next": "greeting"}],
        "otherwise": "person",
    },
    {"id": "order", "say": "What shall it be?"},
    {"id": "person", "say": "One moment.", "transfer_to": "+15550000001"},
)


def test_a_flow_that_can_be_followed_is_taken():
    check_flow(ORDERING)
    check_flow(flow({"id": "a", "say": "Hello."}))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "has steps"),
        ({"steps": []}, "1 to 200"),
        ({"steps": {}}, "has steps"),
        ({"steps": [1]}, "step 1 has no id"),
        (flow({"id": "a", "say": "x"}) | {"more": 1}, "nothing else"),
        (flow(*({"id": f"s{n}", "say": "x", "next": f"s{n + 1}"} for n in range(201))), "1 to 200"),
        (flow({"id": "A", "say": "x"}), "no id of small letters"),
        (flow({"id": "a", "say": "x", "next": "b"}), "step a leads to b, which is not there"),
        (flow({"id": "a", "say": "x"}, {"id": "a", "say": "y"}), "two steps are called a"),
        (flow({"id": "a", "say": "x"}, {"id": "b", "say": "y"}), "nothing leads to step b"),
        (flow({"id": "a", "say": "x", "next": "b"}, {"id": "b", "say": "y"}, {"id": "c", "say": "z"}), "to step c"),
        (flow({"id": "a"}), "says nothing and leads nowhere"),
        (flow({"id": "a", "say": ""}), "a text of 1 to"),
        (flow({"id": "a", "say": "a\0b"}), "a text of 1 to"),
        (flow({"id": "a", "say": 1}), "a text of 1 to"),
        (flow({"id": "a", "say": "x" * 2_001}), "1 to 2000 characters"),
        (flow({"id": "a", "say": "x", "shout": "y"}), "has shout"),
        (flow({"id": "a", "say": "x", "next": "a", "transfer_to": "+15550000001"}), "goes on in one way"),
        (flow({"id": "a", "say": "x", "otherwise": "a"}), "has otherwise, and no choices"),
        (flow({"id": "a", "say": "x", "choices": [{"when": "y"}]}), "a choice has when and next"),
        (flow({"id": "a", "say": "x", "choices": "y"}), "its choices are a list"),
        (flow({"id": "a", "say": "x", "transfer_to": "555"}), "E.164"),
        (flow({"id": "a", "say": "x", "choices": []}), "a list of 1 to 20"),
        (flow({"id": "a", "next": "b"}, {"id": "b", "next": "a"}), "round and round, and nothing is said"),
    ],
    ids=lambda part: part if isinstance(part, str) else "flow",
)
def test_what_is_wrong_is_said(wrong, words):
    with pytest.raises(FlowError, match=words):
        check_flow(wrong)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["id", "say", "next", "a", "b"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "say", "next"]), inner, max_size=3)
    ),
)


@breaks("pipeline/agents/call_flow.py", "if missing := sorted(followers - set(ids)):", "if missing := []:")
@given(
    st.lists(
        st.fixed_dictionaries(
            {"id": st.sampled_from("abcd"), "say": st.just("x")},
            optional={"next": st.sampled_from("abcde")} | {"more": _JSON},
        )
        | _JSON,
        max_size=5,
    )
)
def test_a_flow_that_is_taken_can_be_followed_to_its_end_or_round_and_round(steps):
    try:
        check_flow({"steps": steps})
    except FlowError:
        return
    by_id = {step["id"]: step for step in steps}
    step = steps[0]
    for _ in range(10):
        if "next" not in step:
            break
        step = by_id[step["next"]]
