"""What an agent says in a call, step by step, and which step follows which: the form of it, and what is wrong.

A flow is ``{"steps": [...]}``; the first step is where a call begins. Each has an ``id`` and what is said (``say``),
and goes on to ``next``, or by what the caller says (``choices``, each with ``when`` and ``next``, and ``otherwise``),
or to a person (``transfer_to``, a number in E.164); a step with none of these ends the call.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

MOST_STEPS: Final = 200
MOST_CHOICES: Final = 20
_LONGEST: Final = {"id": 40, "say": 2_000, "when": 200, "next": 40, "otherwise": 40, "transfer_to": 16}
_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_E164: Final = re.compile(r"\+[1-9][0-9]{1,14}")
_KEYS: Final = frozenset({"id", "say", "next", "choices", "otherwise", "transfer_to"})


class FlowError(Exception):
    """A flow that nobody could follow; the words name the step."""


def check_flow(flow: Mapping[str, Any]) -> None:
    """See that a call can go through it. Raises FlowError."""
    steps = flow.get("steps")
    if set(flow) != {"steps"} or not isinstance(steps, list) or not 1 <= len(steps) <= MOST_STEPS:
        raise FlowError(f"a flow has steps, 1 to {MOST_STEPS} of them, and nothing else")
    ids: list[str] = []
    for number, step in enumerate(steps, 1):
        ids.append(_checked(step, number))
    if len(set(ids)) < len(ids):
        twice = next(each for each in ids if ids.count(each) > 1)
        raise FlowError(f"two steps are called {twice}")
    by_id = {step["id"]: step for step in steps}
    leads = {step["id"]: set(_followers(step)) for step in steps}
    for step_id, followers in leads.items():
        if missing := sorted(followers - set(ids)):
            raise FlowError(f"step {step_id} leads to {missing[0]}, which is not there")
    for step in steps:
        silent = step
        for _ in steps:
            if "say" in silent or "next" not in silent:
                break
            silent = by_id[silent["next"]]
        else:
            raise FlowError(f"from step {step['id']} the call goes round and round, and nothing is said")
    reached: set[str] = set()
    waiting = [ids[0]]
    while waiting:
        step_id = waiting.pop()
        if step_id not in reached:
            reached.add(step_id)
            waiting += leads[step_id]
    if lost := [each for each in ids if each not in reached]:
        raise FlowError(f"nothing leads to step {lost[0]}")


def _checked(step: object, number: int) -> str:
    """The id of a step whose own form is right."""
    if not isinstance(step, dict) or not isinstance(step.get("id"), str) or not _ID.fullmatch(step["id"]):
        raise FlowError(f"step {number} has no id of small letters, digits, - and _")
    step_id: str = step["id"]
    if unknown := sorted(set(step) - _KEYS):
        raise FlowError(f"step {step_id} has {unknown[0][:40]}, which no step has")
    choices = step.get("choices", [])
    if not isinstance(choices, list) or ("choices" in step and not 1 <= len(choices) <= MOST_CHOICES):
        raise FlowError(f"step {step_id}: its choices are a list of 1 to {MOST_CHOICES}")
    for choice in choices:
        if not isinstance(choice, dict) or set(choice) != {"when", "next"}:
            raise FlowError(f"step {step_id}: a choice has when and next, and nothing else")
    for name, value in [*step.items(), *(pair for choice in choices for pair in choice.items())]:
        if name != "choices" and not (
            isinstance(value, str) and 1 <= len(value) <= _LONGEST[name] and "\0" not in value
        ):
            raise FlowError(f"step {step_id}: {name} is a text of 1 to {_LONGEST[name]} characters")
    ways = [name for name in ("next", "choices", "transfer_to") if name in step]
    if len(ways) > 1:
        raise FlowError(f"step {step_id} has {ways[0]} and {ways[1]}: a step goes on in one way")
    if "otherwise" in step and "choices" not in step:
        raise FlowError(f"step {step_id} has otherwise, and no choices")
    if "transfer_to" in step and not _E164.fullmatch(step["transfer_to"]):
        raise FlowError(f"step {step_id}: transfer_to is a number in E.164, as +15550000001")
    if "say" not in step and not ways:
        raise FlowError(f"step {step_id} says nothing and leads nowhere")
    return step_id


def _followers(step: Mapping[str, Any]) -> Iterator[str]:
    for name in ("next", "otherwise"):
        if name in step:
            yield step[name]
    for choice in step.get("choices", ()):
        yield choice["next"]
