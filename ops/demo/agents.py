"""What a kept demo has to look at beside its figures: agents that answer, what they know and say, some transcripts."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, Engine

from pipeline.agents import agents, knowledge, scripts
from pipeline.agents.agents import AgentCard
from pipeline.businesses import registration
from pipeline.calls import transcripts
from pipeline.calls.transcripts import Message, Speaker
from pipeline.reading.calls import CallFilter, list_calls
from pipeline.reading.numbers import list_numbers
from pipeline.shared.rows import NEWEST_INSTANT

_CARD = AgentCard(
    name="Reception",
    language="en-GB",
    personality="Calm and brief, and never in a hurry.",
    voice="alto",
    prompt="You answer the telephone of a small business. Help, or take a message; promise nothing.",
    greeting="Good morning, how can I help?",
    settings={"speed": 1.0},
)
_KNOWLEDGE = {
    "When are you open?": "From eight to six, on Saturdays until one.",
    "Where can I park?": "In the yard behind the house.",
    "Can I pay by card?": "Yes, with any card.",
}
_FLOW = {
    "steps": [
        {"id": "greeting", "say": "Good morning, how can I help?", "next": "wish"},
        {
            "id": "wish",
            "say": "Would you like an appointment, or to leave a message?",
            "choices": [{"when": "an appointment", "next": "appointment"}, {"when": "a message", "next": "message"}],
            "otherwise": "message",
        },
        {"id": "appointment", "say": "On which day?"},
        {"id": "message", "say": "I am listening."},
    ]
}
_SAID = (
    (Speaker.AGENT, "Good morning, how can I help?"),
    (Speaker.CALLER, "Are you open on Saturday?"),
    (Speaker.AGENT, "On Saturdays until one."),
    (Speaker.CALLER, "Thank you, good-bye."),
)
#: Calls of each business whose transcripts are there.
_TRANSCRIBED = 5


def add_agents(engine: Engine, business_ids: Sequence[int], now: datetime) -> None:
    """One for each of these businesses, who answers all its numbers. ``now``: business time."""
    with engine.begin() as connection:
        for business_id in business_ids:
            _add(connection, business_id, now)


def _add(connection: Connection, business_id: int, now: datetime) -> None:
    agent_id = agents.add_agent(connection, business_id, _CARD, now)
    for question, answer in _KNOWLEDGE.items():
        knowledge.add_knowledge(connection, agent_id, question, answer)
    scripts.add_script(connection, agent_id, "appointments", _FLOW)
    for held in list_numbers(connection, business_id):
        registration.describe_number(connection, business_id, held.number, agent_id, "Main line", now)
    for call in list_calls(connection, business_id, CallFilter(), NEWEST_INSTANT, _TRANSCRIBED):
        said = [Message(place, speaker, content, None, "en") for place, (speaker, content) in enumerate(_SAID)]
        transcripts.append_messages(connection, call.sid, said)
