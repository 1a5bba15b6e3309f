"""What is deployed, and what the documents tell an operator: compared with the code, since no Docker runs here.

The commands of docker-compose.yml are parsed as our own command does, what the image has is held against what they
import, and the requests and the SQL of the documents are run against the stand-in and a real database.
"""

import ast
import itertools
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import stripe
import yaml
from stripe.params import WebhookEndpointCreateParams
from stripe.params.v2.core import EventDestinationCreateParams
from typer.main import get_command

from ops.cli import app
from ops.processes import worker
from pipeline import backlog, pushes, settings
from receiver.server import STOP_TIMEOUT
from tasks.queues import QUEUES
from tests.ledger import EVENT_NAME, NOON, Ledger
from tests.stripe_stand_in import Host

REPOSITORY = Path(__file__).parents[1]
ACCOUNTS = (REPOSITORY / "docs/running-on-real-accounts.md").read_text()
OPERATIONS = (REPOSITORY / "docs/operations.md").read_text()
COMPOSE_TEXT = (REPOSITORY / "docker-compose.yml").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "altiora-billing"}
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
LOCK = (REPOSITORY / "requirements.txt").read_text()


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command of `altiora` that these words name, and the words that are left."""
    command: Any = get_command(app)
    context = command.make_context("altiora", ["backlog"])
    while hasattr(command, "list_commands"):
        assert words, "a command is missing"
        name, *words = words
        command = command.get_command(context, name)
        assert command is not None, f"there is no command {name}"
    return command, words


def options(words: list[str]) -> dict[str, str]:
    return {name: value for name, value in itertools.pairwise(words) if name.startswith("--")}


def seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration[:-1])


# docker-compose.yml


@pytest.mark.parametrize("name", OURS)
def test_each_service_runs_a_command_as_it_exists(name, monkeypatch):
    for variable in OURS[name]["environment"]:
        monkeypatch.setenv(variable, "user:password")
    program, *words = OURS[name]["command"]
    assert program == "altiora"
    command, rest = find_command(words)
    command.make_context(words[0], rest)


def test_the_workers_together_consume_every_queue_and_are_started_as_by_hand():
    consumed: list[str] = []
    for name, service in OURS.items():
        if "worker" in service["command"]:
            given = options(service["command"])
            assert set(given) == set(options([*worker(queues="events").argv]))
            consumed += given["--queues"].split(",")
            assert f" {given['--name']}@$$HOSTNAME" in service["healthcheck"]["test"][1], name
    assert sorted(consumed) == sorted(QUEUES)


def test_stopping_leaves_time_for_what_runs():
    limit = int(re.findall(r"task_time_limit=(\d+)", (REPOSITORY / "tasks/app.py").read_text())[0])
    for service in OURS.values():
        if "worker" in service["command"]:
            assert seconds(service["stop_grace_period"]) > limit
    assert seconds(OURS["receiver"]["stop_grace_period"]) > STOP_TIMEOUT


def test_there_is_one_beat_and_it_remembers():
    (beat,) = [service for service in OURS.values() if "beat" in service["command"]]
    assert not {"scale", "deploy"} & set(beat)
    folder = beat["volumes"][0].split(":")[1]
    assert options(beat["command"])["--schedule"].startswith(f"{folder}/")
    assert folder in beat["healthcheck"]["test"][-1]


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_may_do_more_than_it_must(name):
    service = SERVICES[name]
    user, _, group = service["user"].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & set(service)
    if name not in {"migrate", "receiver"}:  # it ends by itself; the image's own
        assert service["healthcheck"]["test"]


def test_only_the_receiver_and_flower_can_be_reached_and_only_from_the_machine():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"receiver", "flower"}
    for name, ports in published.items():
        (port,) = ports
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)
        assert options(OURS[name]["command"])["--port"] == port.rpartition(":")[2]
    assert yaml.safe_load(COMPOSE_TEXT)["networks"]["inside"] == {"internal": True}
    outside = {name for name, service in SERVICES.items() if service["networks"] != ["inside"]}
    assert outside == {"receiver", "flower", "worker-stripe"}


def test_everything_waits_for_the_tables():
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in set(OURS) - {"migrate"}:
        assert OURS[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}


def test_no_password_has_a_default():
    used = re.findall(r"\$\{(\w+)(.*?)\}", COMPOSE_TEXT)
    assert {name for name, _ in used} == {"POSTGRES_PASSWORD", "BROKER_PASSWORD", "FLOWER_BASIC_AUTH"}
    assert all(rest == f":?set {name} in .env" for name, rest in used)
    assert re.search(r"\$\$BROKER_PASSWORD", SERVICES["broker"]["command"][-1])


def test_the_servers_are_pinned_and_the_broker_keeps_what_it_is_given():
    for name in ("postgres", "broker"):
        assert re.search(r":\d+\.\d+", SERVICES[name]["image"])
    words = shlex.split(SERVICES["broker"]["command"][-1])
    assert options(words) | {"--appendonly": "yes", "--maxmemory-policy": "noeviction"} == options(words)


# .env.example


def test_the_example_of_the_settings_names_each_one_says_what_it_is_and_gives_nothing_away():
    lines = (REPOSITORY / ".env.example").read_text().splitlines()
    given = {}
    for number, line in enumerate(lines):
        if line and not line.startswith("#"):
            name, _, given[name] = line.partition("=")
            before = lines[:number]
            while before and before[-1] and not before[-1].startswith("#"):
                before.pop()
            assert before[-1].startswith("# "), f"{name} has no comment"
    kinds = settings._Settings.__subclasses__()
    fields = {name: field for kind in kinds for name, field in kind.model_fields.items()}
    assert set(fields) == set(settings.HELP)
    for_compose = set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT))
    assert set(given) == {f"ALTIORA_{name.upper()}" for name in fields} | for_compose | {"ALTIORA_CLOCK"}
    for name, value in given.items():
        if value:
            default = fields[name.removeprefix("ALTIORA_").lower()].default
            assert value.lower() in {str(default).lower(), f"{default:g}" if isinstance(default, float) else None}


# Dockerfile


def instructions(name: str) -> list[str]:
    return [line.removeprefix(f"{name} ") for line in DOCKERFILE if line.strip().startswith(f"{name} ")]


def test_the_image_runs_as_nobody_in_particular_and_hears_its_signals():
    last = [line.split()[0] for line in DOCKERFILE if re.match("[A-Z]+ ", line)]
    assert instructions("USER") == [OURS["receiver"]["user"]]
    assert not {"RUN", "COPY", "ADD"} & set(last[last.index("USER") :])
    for line in (*instructions("CMD"), *instructions("HEALTHCHECK")):
        assert isinstance(json.loads(line[line.index("[") :]), list), "the exec form: no shell stands between"
    assert json.loads(instructions("CMD")[0]) == OURS["receiver"]["command"]
    assert {line.split()[0] for line in instructions("FROM")} == {"python:3.11-slim-bookworm"}
    assert any("--require-hashes -r requirements.txt" in line for line in instructions("RUN"))
    assert not re.search(r"https?://|index-url", re.sub(r"http://127\.0\.0\.1", "", "\n".join(DOCKERFILE)))


def test_the_image_has_all_of_our_code_that_it_runs_and_nothing_else():
    copied = {words[0].rstrip("/") for line in instructions("COPY") if (words := line.split())[0] != "--from=packages"}
    packages = set(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    assert copied == packages - {"bench", "sandbox"} | {"requirements.txt"}
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied


#: Stands for the image: what the lock of the running system does not name can't be imported.
IMAGE = """
import importlib.metadata, re, sys

def plain(name):
    return re.sub("[-_.]+", "-", name).lower()

locked = {plain(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", open("requirements.txt").read(), re.M)}
found = importlib.metadata.packages_distributions()
missing = {module for module, names in found.items() if not locked & {plain(name) for name in names}}
missing = missing - {"db", "pipeline", "schedules", "tasks", "receiver", "ops"} | {"sandbox", "bench", "tests"}

class Image:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"{name} is not in the image")

sys.meta_path.insert(0, Image())
"""

IN_THE_IMAGE = {
    "receiver": "import receiver.app, receiver.server",
    "worker": "from tasks.app import app; app.loader.import_default_modules(); app.connection().transport",
    "flower": "import flower.command, ops.run",
    "migrate": "import ops.schema, alembic.script as s; from db.migrate import config;"
    " s.ScriptDirectory.from_config(config()).get_heads()",
    "an operator": "import ops.backlog, ops.businesses, ops.doctor_accounts, ops.doctor_servers, ops.events, ops.usage",
    "altiora": "from ops.cli import main; sys.argv = ['altiora', '--help']; main()",
}


@pytest.mark.parametrize("who", IN_THE_IMAGE)
def test_the_lock_of_the_image_holds_what_its_commands_import(who, poisoned_broker):
    program = IMAGE + IN_THE_IMAGE[who]
    environment = {"ALTIORA_BROKER_URL": poisoned_broker, "PATH": ""}
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr


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
    asked: list[str] = []
    ids: dict[str, str] = {}
    with Host().in_thread() as host, host.fresh(tmp_path) as it:
        for words in requests(ACCOUNTS) + requests(OPERATIONS):
            url = urlsplit(next(word for word in words if word.startswith("https://")))
            if url.netloc != "api.stripe.com" or url.path in {"/v1/webhook_endpoints", "/v2/core/event_destinations"}:
                continue
            assert words[words.index("-u") + 1] == "$STRIPE_KEY:"
            params = [(name, ids.get(value, value)) for name, value in parameters(words)]
            path = url.path.replace("mtr_…", ids.get("mtr_…", ""))
            looks = "-G" in words
            answer = it.http.get(path, params=dict(params)) if looks else it.http.post(path, data=dict(params))
            assert answer.status_code == 200, answer.text
            made = answer.json()
            asked.append(path)
            if "id" in made:
                ids[made["id"].split("_")[0] + "_…"] = made["id"]
        (subscription,) = it.sandbox.state.subscriptions.values()
        assert {item["price"]["recurring"]["usage_type"] for item in subscription["items"]["data"]} <= {
            "licensed",
            "metered",
        }
    assert [path.split("/")[2] for path in asked] == [
        *("billing", "products", "prices", "prices", "customers", "subscriptions", "billing")
    ]


def test_stripes_events_are_asked_for_by_the_names_that_are_used():
    program = ast.parse((REPOSITORY / "pipeline/stripe_events.py").read_text())
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
    called = re.findall(r'f?"/(v[12]/[a-z_/]+?)/?(?:"|\{)', (REPOSITORY / "pipeline/stripe_api.py").read_text())
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
    code = "\n".join(path.read_text() for path in sorted((REPOSITORY / "pipeline").glob("*.py")))
    reasons = set(re.findall(r'"dead", "([a-z-]+)"', code)) | set(re.findall(r'UnlinkedError\("([a-z-]+)"', code))
    reasons |= set(re.findall(r"state = 'dead', reason = '([a-z-]+)'", code))
    assert {"unreadable", "unknown-customer", "kills-its-worker"} <= reasons
    told = {code.split(" ")[0] for code in first_cells(OPERATIONS)}
    assert reasons <= told
    kinds = set()
    for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Attribute) and call.func.attr == "report":
            words = [each for part in call.args[:2] for each in ast.walk(part) if isinstance(each, ast.Constant)]
            kinds |= {each.value for each in words if re.fullmatch("[a-z]+(-[a-z]+)*", str(each.value))}
    kinds |= set(re.findall(r'^KIND = "([a-z-]+)"', code, re.MULTILINE))
    kinds -= {"failed"}  # a push's state, on which its kind depends
    assert {"unmapped-price", "record-sum"} <= kinds
    assert kinds <= told


@pytest.mark.parametrize("document", ["docs/operations.md", "docs/running-on-real-accounts.md"])
def test_every_command_that_a_document_names_exists(document):
    text = (REPOSITORY / document).read_text()
    commands = "\n".join(blocks(text, "sh"))
    spans = re.findall(r"`(altiora [^`…]*)", text)
    lines = re.findall(r"^ *(?:.*(?:exec receiver|xargs -n \d) )?(altiora [^|#]*)", commands, re.MULTILINE)
    assert len(spans) > 5
    assert len(lines) > 3
    for words in map(shlex.split, [*spans, *lines]):
        command, rest = find_command([word for word in words[1:] if word != "…"])
        known = {name for option in command.params for name in option.opts}
        assert {word for word in rest if word.startswith("--")} <= known, words


def test_the_sql_for_a_person_does_what_it_says(engine):
    ledger = Ledger(engine)
    record = ledger.paying(100)
    ledger.sent(record, 40)  # all that the backup knows of; it planned 10 more, and Stripe has 70
    ledger.push(record, 10, NOON.replace(second=0))
    waiting, resolve, void, note = blocks(OPERATIONS, "sql")
    for block in (waiting, resolve, void):
        ledger.run(block)
    assert ledger.one("select count(*) from meter_pushes where state = 'planned'") == 0
    assert "\\set record 12\n" in note
    statement = re.sub(r"^ *\\set .*\n", "", note, flags=re.MULTILINE)
    ledger.run(statement.replace(":record", str(record)).replace(":minutes", "30"))
    assert ledger.row("usage_records", record).pushed_minutes == 70
    with engine.begin() as connection:
        pushes.plan(connection, [ledger.row("usage_records", record).business_id], EVENT_NAME, NOON)
    assert ledger.one("select minutes from meter_pushes where state = 'planned'") == 30
