"""What the documents tell an operator, compared with the code: names, commands, requests, SQL.

The requests to Stripe are sent to the stand-in, the SQL is run in a real database.
"""

import ast
import itertools
import json
import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import stripe
from stripe.params import WebhookEndpointCreateParams
from stripe.params.v2.core import EventDestinationCreateParams

from db.base import Base
from pipeline.reading import backlog
from pipeline.shared.drifts import DriftKind
from tests.worlds.commands import find_command
from tests.worlds.ledger import Ledger
from tests.worlds.stripe_stand_in import Host

REPOSITORY = Path(__file__).parents[2]
ACCOUNTS = (REPOSITORY / "docs/running-on-real-accounts.md").read_text()
OPERATIONS = (REPOSITORY / "docs/operations.md").read_text()


# docs/running-on-real-accounts.md


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", document, re.MULTILINE | re.DOTALL)


def requests(document: str) -> list[list[str]]:
    """The words of each curl command."""
    text = "\n".join(blocks(document, "sh")).replace("\\\n", " ")
    commands = re.findall(r"^ *curl (?:'[^']*'|[^\n'])*", text, re.MULTILINE)
    return [shlex.split(command) for command in commands]


def parameters(words: list[str]) -> list[tuple[str, str]]:
    given = [value for name, value in itertools.pairwise(words) if name == "-d"]
    return [(name, value) for name, _, value in (each.partition("=") for each in given)]


def test_the_requests_to_stripe_are_taken_by_the_stand_in(tmp_path):
    #: What the document calls the things that its requests make, in their order.
    names = iter(["mtr_…", "prod_…", "price_FLAT", "price_METERED", "cus_…", "sub_…"])
    ids: dict[str, str] = {}
    with Host().in_thread() as host, host.fresh(tmp_path) as it:
        for words in requests(ACCOUNTS) + requests(OPERATIONS):
            url = urlsplit(next(word for word in words if word.startswith("https://")))
            if url.netloc != "api.stripe.com" or url.path in {"/v1/webhook_endpoints", "/v2/core/event_destinations"}:
                continue
            assert words[words.index("-u") + 1] == "$STRIPE_KEY:"
            path = url.path.replace("mtr_…", ids.get("mtr_…", ""))
            params = {name: ids.get(value, value) for name, value in parameters(words)}
            answer = it.http.get(path, params=params) if "-G" in words else it.http.post(path, data=params)
            assert answer.status_code == 200, answer.text
            if "-G" not in words:
                ids[next(names)] = answer.json()["id"]
        assert ids.keys() >= {"price_METERED", "sub_…"}
        metered = it.sandbox.state.prices[ids["price_METERED"]]
        assert metered["recurring"]["meter"] == ids["mtr_…"]
        assert metered["metadata"] == {"altiora_plan": "starter"}
        assert it.client.v1.subscriptions.retrieve(ids["sub_…"]).customer == ids["cus_…"]


def test_stripes_events_are_asked_for_by_the_names_that_are_used():
    program = ast.parse((REPOSITORY / "pipeline/stripe_mirror/event_types.py").read_text())
    used = {
        node.value.value
        for node in ast.walk(program)
        if isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant)
    }
    (endpoint,) = [words for words in requests(ACCOUNTS) if any("webhook_endpoints" in word for word in words)]
    given = parameters(endpoint)
    assert {name.removesuffix("[]") for name, _ in given} <= set(WebhookEndpointCreateParams.__annotations__)
    assert dict(given)["api_version"] == stripe.api_version
    snapshots = {value for name, value in given if name == "enabled_events[]"}
    (destination,) = [words for words in requests(ACCOUNTS) if any("event_destinations" in word for word in words)]
    assert f"Stripe-Version: {stripe.api_version}" in destination
    body = json.loads(destination[destination.index("-d") + 1])
    assert set(body) <= set(EventDestinationCreateParams.__annotations__)
    assert snapshots | set(body["enabled_events"]) == used
    assert all(kind.startswith("v1.") for kind in body["enabled_events"])


def test_the_key_is_said_to_need_what_is_called():
    called = re.findall(
        r'f?"/(v[12]/[a-z_/]+?)/?(?:"|\{)', (REPOSITORY / "pipeline/providers/stripe_api.py").read_text()
    )
    section = ACCOUNTS.partition("## 5.")[2].partition("## 6.")[0]
    assert called
    assert {path for path in called if f"`/{path}`" not in section} == set()


# docs/operations.md


def first_cells(document: str) -> set[str]:
    """What stands in code in the first cell of a table's rows."""
    return {
        code for line in re.findall(r"^\|([^|]*)\|", document, re.MULTILINE) for code in re.findall("`(.*?)`", line)
    }


def test_every_kind_of_backlog_is_explained_with_its_limit():
    kinds = re.findall(r"select \d+, '([a-z-]+)'", backlog.BACKLOG_SQL)
    assert len(kinds) >= 11
    rows = {row[0]: row[1] for row in re.findall(r"^\| `([a-z-]+)` \|[^|]*\|([^|]*)\|", OPERATIONS, re.MULTILINE)}
    assert set(kinds) <= set(rows)
    units = {"s": 1, "min": 60, "h": 3600}
    told = {kind: rows[kind].split() for kind in kinds}
    assert {kind: int(words[0]) * units[words[1]] for kind, words in told.items() if words} == backlog.LIMITS


def test_every_reason_to_be_dead_and_every_difference_is_explained():
    code = "\n".join(path.read_text() for path in sorted((REPOSITORY / "pipeline").rglob("*.py")))
    reasons = set(re.findall(r'EventState\.DEAD, "([a-z-]+)"', code))
    reasons |= set(re.findall(r'UnlinkedError\("([a-z-]+)"', code))
    reasons |= set(re.findall(r"then reason else '([a-z-]+)' end", code))
    assert {"unreadable", "unknown-customer", "kills-its-worker"} <= reasons
    told = {code.split(" ")[0] for code in first_cells(OPERATIONS)}
    assert reasons <= told
    assert set(DriftKind) <= told


@pytest.mark.parametrize("document", ["docs/operations.md", "docs/running-on-real-accounts.md"])
def test_every_command_that_a_document_names_exists(document):
    text = (REPOSITORY / document).read_text()
    commands = "\n".join(blocks(text, "sh"))
    spans = re.findall(r"`(altiora [^`…]*)", text)
    lines = re.findall(r"^ *(?:.*(?:exec receiver|xargs -n \d) )?(altiora [^|#\n]*)", commands, re.MULTILINE)
    assert len(spans) > 5
    assert len(lines) > 3
    for words in map(shlex.split, [*spans, *lines]):
        command, rest = find_command([word for word in words[1:] if word != "…"])
        known = {name for option in command.params for name in option.opts}
        assert {word for word in rest if word.startswith("--")} <= known, words


def test_the_sql_for_a_person_does_what_it_says(engine):
    (waiting,) = blocks(OPERATIONS, "sql")
    Ledger(engine).run(waiting)


def test_no_document_names_a_file_that_is_gone():
    folders = sorted(folder.name for folder in REPOSITORY.iterdir() if (folder / "__init__.py").is_file())
    path = re.compile(rf"(?<![\w/.])((?:{'|'.join(folders)}|docs)/[\w./-]*[\w/])")
    named = {
        (document.name, found)
        for document in [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
        for found in path.findall(document.read_text())
    }
    assert len(named) > 40
    assert {each for each in named if not (REPOSITORY / each[1]).exists()} == set()


def test_every_question_of_where_is_has_its_file():
    text = (REPOSITORY / "docs" / "where-is.md").read_text()
    questions, _, answers = text.partition("## Answers")
    numbers = re.findall(r"^(\d+)\. ", questions, re.MULTILINE)
    assert len(numbers) == 32
    assert re.findall(r"^\| (\d+) \| `[^`]+`", answers, re.MULTILINE) == numbers


def test_the_readme_lists_as_many_tables_as_there_are():
    readme = (REPOSITORY / "README.md").read_text()
    assert f"({len(Base.metadata.tables) + 1} rows)" in readme  # Alembic has one of its own
