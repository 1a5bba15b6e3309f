"""The commands as processes: what stands on which stream, how they end, and those that run until they are told to."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import redis

from ops.processes import environment as running
from ops.processes import recipes
from ops.processes.repository import REPOSITORY
from ops.processes.supervisor import free_port
from tasks.nudge import Nudge
from tests.worlds.world import World

USER, PASSWORD = "somebody", "hidden-word"


def run(environment, *arguments):
    """`altiora` as a shell runs it, from another folder."""
    return subprocess.run(
        [Path(sys.executable).with_name("altiora"), *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def wait_until(true, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def world(engine, tmp_path):
    return World(engine, tmp_path / "clock")


def start(processes, environment, *wanted):
    for process in wanted:
        process.start(processes, environment)


# How a command ends


@pytest.mark.parametrize(
    ("arguments", "changed", "status", "words"),
    [
        (("usage", "99"), {}, 1, "altiora: there is no business 99; `altiora business list` shows them\n"),
        (("backlog", "--jsn"), {}, 2, "No such option: --jsn"),
        (("backlog",), {"ALTIORA_DATABASE_URL": "mysql://x"}, 2, "altiora: ALTIORA_DATABASE_URL is wrong"),
    ],
)
def test_failures_are_a_sentence_on_standard_error(environment, arguments, changed, status, words):
    ended = run(environment | changed, *arguments)
    assert (ended.returncode, ended.stdout) == (status, "")
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_json_stands_alone_on_standard_output_whatever_is_logged(environment, world, tmp_path):
    """A close that finds no invoice logs an error, and a replay without a broker a warning."""
    world.callback()
    world.drain()
    world.now += timedelta(days=60)
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update usage_records set state = 'closing'")
    settings = environment | {
        "ALTIORA_CLOCK": str(tmp_path / "clock"),
        "ALTIORA_BROKER_URL": "redis://127.0.0.1:1/0",
    }
    closed = run(settings, "close", "--json")
    assert json.loads(closed.stdout)["closed"] == 1
    logged = [json.loads(line) for line in closed.stderr.splitlines()]
    assert [(line["event"], line["kind"]) for line in logged] == [
        ("drift", "incomplete-source"),
        ("drift", "no-invoice"),
    ]
    replayed = run(settings, "events", "replay", "1", "--json")
    assert json.loads(replayed.stdout) == {"replayed": 1}
    assert json.loads(replayed.stderr)["event"] == "broker-away"
    assert (closed.returncode, replayed.returncode) == (0, 0)


# Processes


def test_the_receiver_answers_and_ends_in_order(processes, environment):
    port = free_port()
    start(processes, environment, recipes.receiver(port))
    assert httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
    assert httpx.post(f"http://127.0.0.1:{port}/webhooks/stripe", json={}).status_code == 403
    assert processes.stop("receiver") == 0


def test_worker_beat_and_flower(processes, environment, world, tmp_path):
    """Beat alone leads the worker to an event; Flower shows both to whoever has the password, and obeys nobody."""
    key = world.callback()
    port = free_port()
    start(
        processes,
        environment,
        recipes.flower(port, f"{USER}:{PASSWORD}"),
        recipes.worker(name="first"),
        recipes.beat(tmp_path / "new" / "beat"),
    )
    wait_until(lambda: world.event(key) == ("processed", None))
    address = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{address}/").status_code == 401
    assert httpx.get(f"{address}/api/workers").status_code == 401
    with httpx.Client(base_url=address, auth=(USER, PASSWORD)) as client:
        (name,) = client.get("/api/workers?refresh=1").json()
        assert name.startswith("first@")

        def names():
            return {task["name"] for task in client.get("/api/tasks").json().values()}

        wait_until(lambda: "events.sweep" in names())
        assert client.post(f"/api/worker/shutdown/{name}").status_code == 403
    assert processes.alive()
    assert PASSWORD.encode() not in Path(f"/proc/{processes.pid('flower')}/cmdline").read_bytes()
    for each in ("beat", "first", "flower"):
        assert processes.stop(each) == 0
        for line in processes.log(each).read_text().splitlines():
            # Celery says these words on its own.
            if line not in {"", "worker: Warm shutdown (MainProcess)"}:
                assert json.loads(line)["level"] in {"info", "warning"}, line


def test_a_worker_works_for_the_queues_that_are_named(processes, environment, broker_url):
    start(processes, environment, recipes.worker(1, "usage,stripe"))
    nudge = Nudge(broker_url)
    with redis.Redis.from_url(broker_url) as client:
        nudge.send("events.drain")
        wait_until(lambda: client.llen("events") == 1)
        nudge.send("periods.close-due")
        wait_until(lambda: '"closed"' in processes.log("worker").read_text() or client.llen("usage") == 0)
        assert client.llen("events") == 1
    nudge.close()


def test_the_sandbox_serves_both_apis(processes, environment):
    stripe, twilio = free_port(), free_port()
    start(processes, environment, recipes.sandbox(stripe, twilio, "http://127.0.0.1:1"))
    key = {"Authorization": f"Bearer {environment['ALTIORA_STRIPE_API_KEY']}"}
    assert httpx.get(f"http://127.0.0.1:{stripe}/v1/billing/meters", headers=key).json()["data"] == []
    account, token = environment["ALTIORA_TWILIO_ACCOUNT_SID"], environment["ALTIORA_TWILIO_AUTH_TOKEN"]
    calls = f"http://127.0.0.1:{twilio}/2010-04-01/Accounts/{account}/Calls.json"
    assert httpx.get(calls, auth=(account, token)).json()["calls"] == []
    taken = run(environment, "sandbox", "--stripe-port", str(stripe), "--twilio-port", str(twilio))
    assert taken.returncode == 1
    assert f"port {stripe} or {twilio} can't be opened" in taken.stderr


def test_the_sandbox_owns_the_time_of_a_clock_file(processes, environment, tmp_path):
    options = ("--clock-file", str(tmp_path / "clock"), "--start", "2026-11-05T10:23:45", "--seed", "3")
    stripe = free_port()
    start(processes, environment, recipes.sandbox(stripe, free_port(), "http://127.0.0.1:1", *options))
    clock = httpx.get(f"http://127.0.0.1:{stripe}/_sandbox/clock").json()
    assert clock["now"] == (tmp_path / "clock").read_text() == "2026-11-05T10:23:45+00:00"


def test_what_runs_on_begins_anew_with_the_settings_of_what_runs_in_the_clone(tmp_path):
    """From any folder; a key of its own that names a real account is not mixed with a throwaway database."""
    settings = {"ALTIORA_DATABASE_URL": "postgresql://127.0.0.1:1/x", "ALTIORA_BROKER_URL": "redis://127.0.0.1:1/0"}
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("raise SystemExit('somebody else is called tasks too')")
    program = _UP.replace("environment.published =", "environment.read =").replace(
        "environment.published,", "environment.read,"
    )
    with running.published(settings, tmp_path / "env"):
        command = [sys.executable, "-P", "-c", program, tmp_path / "env", "beat", "--schedule", tmp_path / "beat"]
        with subprocess.Popen(
            command,
            cwd=tmp_path,
            env={"PATH": "", "ALTIORA_STRIPE_API_KEY": "sk_live_real"},
            stderr=subprocess.PIPE,
            text=True,
        ) as beat:
            try:
                assert beat.stderr is not None
                assert beat.stderr.readline() == "using .altiora/env of the running demo\n"
                assert "beat: Starting" in beat.stderr.readline()
                given = Path(f"/proc/{beat.pid}/environ").read_text().split("\0")
            finally:
                beat.terminate()
            assert {line for line in given if line.startswith("ALTIORA_")} == {f"{k}={v}" for k, v in settings.items()}


# Everything at once

#: `altiora up`, leaving its settings where the test says: those of the clone may be a running demo's.
_UP = """
import functools, pathlib, sys
from ops import cli
from ops.processes import environment
environment.published = functools.partial(environment.published, file=pathlib.Path(sys.argv.pop(1)))
cli.main()
"""


@pytest.mark.soak
@pytest.mark.timeout(300)  # it starts ten processes one after the other
def test_up_runs_everything_until_ctrl_c(tmp_path):
    """From nothing to a counted call, with the commands that it names itself."""
    file, port, api, flower = tmp_path / "run" / "env", free_port(), free_port(), free_port()
    options = ("up", "--port", str(port), "--api-port", str(api), "--flower-port", str(flower))
    with subprocess.Popen(
        [sys.executable, "-c", _UP, file, *options],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as up:
        try:
            said = []
            for line in up.stdout or ():
                said.append(line)
                if "altiora user add" in line:
                    break
            assert up.poll() is None, "".join(said)
            settings = running.read(file)
            assert run(settings, "doctor").returncode == 0
            add = ("business", "add", "Corner Bakery", "--plan", "free", "--time-zone", "Europe/London", "--json")
            assert json.loads(run(settings, *add).stdout) == {"id": 1}
            assert run(settings, "business", "add-number", "1", "+15550000001").returncode == 0
            address = f"{settings['ALTIORA_TWILIO_API_BASE']}/_sandbox/twilio/calls"
            assert f"curl {address} -d '" in "".join(said)
            httpx.post(address, json={"number": "+15550000001", "seconds": 1}).raise_for_status()

            def used():
                return json.loads(run(settings, "usage", "1", "--json").stdout)["records"]

            wait_until(lambda: [record["minutes"] for record in used()] == [1])
            with httpx.Client(
                base_url=f"http://127.0.0.1:{api}/v1", headers={"Origin": f"http://127.0.0.1:{api}"}
            ) as web:
                web.post("/sign-ups", json={"email": "ada@example.com"}).raise_for_status()
                mails = f"{settings['ALTIORA_STRIPE_API_BASE']}/_sandbox/mails"
                wait_until(lambda: httpx.get(mails).json())
                secret = httpx.get(mails).json()[0]["text"].partition("/link#")[2].split()[0]
                account = {"name": "Ada", "password": "seven lanterns under quartz"}
                web.post("/links/accept", json={"secret": secret} | account).raise_for_status()
                signing_in = {"email": "ada@example.com", "password": account["password"]}
                assert web.post("/sessions", json=signing_in).status_code == 201
            assert "Your account at Altiora" in httpx.get(mails.removesuffix("s")).text
            second = run({}, "up", "--port", str(port), "--api-port", str(api), "--flower-port", str(flower))
            assert second.returncode == 1
            assert f"port {port} of 127.0.0.1 can't be had" in second.stderr
        finally:
            up.send_signal(signal.SIGINT)
            rest = up.communicate(timeout=60)[0]
        assert up.returncode == 0, rest
    assert not file.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
