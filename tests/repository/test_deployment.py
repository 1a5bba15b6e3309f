"""What is deployed, compared with the code, since no Docker runs here.

The commands of docker-compose.yml are parsed as our own command does, and what the image has is held against what they
import.
"""

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.processes.recipes import worker
from pipeline.shared import settings
from receiver.server import STOP_TIMEOUT
from tasks.beat import SENT_FILE, note_sent
from tasks.queues import QUEUES
from tests.worlds.commands import find_command

REPOSITORY = Path(__file__).parents[2]
COMPOSE_TEXT = (REPOSITORY / "docker-compose.yml").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "altiora-billing"}
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


#: What a person starts, or another service waits for the end of.
BY_HAND = {"migrate", "operator", "backups-folder"}
_LOGINS = {f"ALTIORA_{login}_PASSWORD" for login in ("OWNER", "RECEIVER", "WORKER", "STAFF", "TENANT", "READER")}
_KEYS = {"ALTIORA_STRIPE_API_KEY", "ALTIORA_TWILIO_AUTH_TOKEN"}
_OF_WORKER = {"BROKER_PASSWORD", "ALTIORA_WORKER_PASSWORD"}
SECRETS = {
    *(*_LOGINS, *_KEYS, "POSTGRES_PASSWORD", "BROKER_PASSWORD"),
    *("FLOWER_BASIC_AUTH", "ALTIORA_STRIPE_WEBHOOK_SECRET", "ALTIORA_SMTP_URL", "ALTIORA_SECRET_KEYS"),
}
HOLDERS: dict[str, set[str]] = {
    "backups-folder": set(),
    "backup": set(),
    "postgres": {"POSTGRES_PASSWORD"},
    "broker": {"BROKER_PASSWORD"},
    "migrate": {"POSTGRES_PASSWORD", *_LOGINS},
    "receiver": {
        *("BROKER_PASSWORD", "ALTIORA_RECEIVER_PASSWORD"),
        *("ALTIORA_STRIPE_WEBHOOK_SECRET", "ALTIORA_TWILIO_AUTH_TOKEN"),
    },
    "api": {"ALTIORA_STAFF_PASSWORD", "ALTIORA_TENANT_PASSWORD", "ALTIORA_SECRET_KEYS"},
    "worker-events": _OF_WORKER,
    "worker-usage": _OF_WORKER,
    "worker-stripe": _OF_WORKER | _KEYS | {"ALTIORA_SMTP_URL"},
    "operator": _OF_WORKER | _KEYS | {"ALTIORA_STRIPE_WEBHOOK_SECRET"},
    "beat": {"BROKER_PASSWORD"},
    "flower": {"BROKER_PASSWORD", "FLOWER_BASIC_AUTH"},
    "proxy": set(),
}


def options(words: list[str]) -> dict[str, str]:
    return {name: value for name, value in itertools.pairwise(words) if name.startswith("--")}


def seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration[:-1])


def instructions(name: str) -> list[str]:
    """What the Dockerfile says after each ``name``."""
    return [line.removeprefix(f"{name} ") for line in DOCKERFILE if line.startswith(f"{name} ")]


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
    limit = int(re.findall(r"task_time_limit = (\d+)", (REPOSITORY / "tasks/app.py").read_text())[0])
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
    if name == "backups-folder":  # a new volume is root's: it hands the folder over, knows no secret, and ends
        assert (service["user"], service["cap_add"], service.get("environment")) == ("0:0", ["CHOWN"], None)
    else:
        user, _, group = service["user"].partition(":")
        assert int(user) > 0
        assert int(group) > 0
        assert "cap_add" not in service
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["restart"] == ("no" if name in BY_HAND else "unless-stopped")
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert not {"privileged", "network_mode", "pid", "devices"} & set(service)
    if name not in {*BY_HAND, "receiver"}:  # they end by themselves; the image's own
        assert service["healthcheck"]["test"]


def test_only_the_proxy_can_be_reached_from_elsewhere():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.pop("proxy") == ["80:8080", "443:8443"]
    assert set(published) == {"receiver", "flower"}
    for name, ports in published.items():
        (port,) = ports
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)
        assert options(OURS[name]["command"])["--port"] == port.rpartition(":")[2]
    assert yaml.safe_load(COMPOSE_TEXT)["networks"]["inside"] == {"internal": True}
    outside = {name for name, service in SERVICES.items() if service["networks"] != ["inside"]}
    assert outside == {"receiver", "flower", "worker-stripe", "proxy", "operator"}


def test_everything_waits_for_the_tables():
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in set(OURS) - {"migrate"}:
        assert OURS[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}


def test_no_password_has_a_default():
    used = re.findall(r"\$\{(\w+)(.*?)\}", COMPOSE_TEXT)
    demanded = {name for name, rest in used if rest == f":?set {name} in .env"}
    assert demanded >= SECRETS
    assert {name for name, rest in used if rest.startswith(":-")} == {name for name, _ in used} - demanded
    assert all(rest.startswith(":-") for name, rest in used if name not in demanded)
    assert re.search(r"\$\$BROKER_PASSWORD", SERVICES["broker"]["command"][-1])


@pytest.mark.parametrize("name", SERVICES)
def test_each_container_is_handed_only_the_secrets_that_its_work_needs(name):
    given = str(SERVICES[name].get("environment", {})) + str(SERVICES[name].get("command", ""))
    assert "env_file" not in SERVICES[name]
    assert {secret for secret in SECRETS if secret in given} == HOLDERS[name]
    addresses = set(re.findall(r"postgresql://(\w+):", given))
    assert addresses == {
        "migrate": {"altiora"},
        "receiver": {"altiora_receiver"},
        "api": {"altiora_staff", "altiora_tenant"},
    }.get(name, {"altiora_worker"} if "ALTIORA_WORKER_PASSWORD" in HOLDERS[name] else set())


def test_the_servers_are_pinned_and_the_broker_keeps_what_it_is_given():
    for name in ("postgres", "broker"):
        assert re.search(r":\d+\.\d+", SERVICES[name]["image"])
    words = shlex.split(SERVICES["broker"]["command"][-1])
    assert options(words) | {"--appendonly": "yes", "--maxmemory-policy": "noeviction"} == options(words)


def verdict(program: str) -> int:
    with pytest.raises(SystemExit) as ended:
        exec(program, {})
    return int(ended.value.code or 0)


def test_beat_is_well_while_it_sends(tmp_path):
    folder = OURS["beat"]["volumes"][0].split(":")[1]
    program = OURS["beat"]["healthcheck"]["test"][-1].replace(folder, str(tmp_path))
    note_sent(tmp_path)
    assert verdict(program) == 0
    sent = tmp_path / SENT_FILE
    sent.write_text(str(float(sent.read_text()) - 90))
    os.utime(sent, times=(time.time() + 9_000,) * 2)
    assert verdict(program) == 1, "whatever the file's own times say"


@pytest.mark.parametrize(
    ("name", "path"), [("receiver", "/health/live"), ("api", "/health/live"), ("flower", "/healthcheck")]
)
def test_a_door_is_well_while_it_answers(name, path):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == path else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    (of_image,) = instructions("HEALTHCHECK")
    check = json.loads(of_image[of_image.index("[") :]) if name == "receiver" else OURS[name]["healthcheck"]["test"]
    port = options(OURS[name]["command"])["--port"]
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        program = check[-1].replace(f", {port},", f", {server.server_port},")
        assert verdict(program) == 0
        assert verdict(program.replace(path, "/elsewhere")) == 1
        server.shutdown()


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


def test_the_image_runs_as_nobody_in_particular_and_hears_its_signals():
    last = [line.split()[0] for line in DOCKERFILE if re.match("[A-Z]+ ", line)]
    assert instructions("USER") == [OURS["receiver"]["user"]]
    assert not {"RUN", "COPY", "ADD"} & set(last[last.index("USER") :])
    for line in (*instructions("CMD"), *instructions("HEALTHCHECK")):
        assert isinstance(json.loads(line[line.index("[") :]), list), "the exec form: no shell stands between"
    assert json.loads(instructions("CMD")[0]) == OURS["receiver"]["command"]
    assert {line.split()[0] for line in instructions("FROM")} == {"python:3.11-slim-bookworm"}
    assert any("--require-hashes -r requirements.txt" in line for line in instructions("RUN"))
    assert not re.search(r"https?://|--index", re.sub(r"http://127\.0\.0\.1", "", "\n".join(DOCKERFILE)))


def test_the_image_has_all_of_our_code_that_it_runs_and_nothing_else():
    copied = {words[0].rstrip("/") for line in instructions("COPY") if (words := line.split())[0] != "--from=packages"}
    setuptools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {name.rstrip("*") for name in setuptools["packages"]["find"]["include"]}
    assert packages == {path.parent.name for path in REPOSITORY.glob("*/__init__.py")} - {"tests"}
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
ours = {"accounts", "api", "db", "ops", "pipeline", "receiver", "schedules", "tasks"}
missing = missing - ours | {"sandbox", "bench", "tests"}

class Image:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"{name} is not in the image")

sys.meta_path.insert(0, Image())
"""

IN_THE_IMAGE = {
    "receiver": "import receiver.app, receiver.server",
    "api": "import api.app, api.server",
    "worker": "from tasks.app import app; app.loader.import_default_modules(); app.connection().transport",
    "flower": "import flower.command, ops.commands.run",
    "operator": "from ops.commands import backlog, businesses, events, schema; import ops.doctor.command",
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
