"""The API: pages of a million calls, against the same statements without an API, and beside the webhooks."""

import contextlib
import csv
import http.client
import io
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psutil
from pydantic import SecretStr
from sqlalchemy import Connection

from accounts import sessions, users
from accounts.access_tokens import AccessToken, sign_access_token
from accounts.api_keys import make_key
from accounts.members import set_owner
from accounts.passwords import hash_password
from accounts.rights import Role
from accounts.secret_keys import SecretKeys
from api.answers import page_in_time
from bench import traffic
from bench.figures import Figure, faster, median, percentile, rate, slower
from bench.sizes import Sizes
from bench.stage import Load, Stage, wait_until
from bench.totals import WrongTotalsError
from bench.traffic import Business
from db import roles
from ops.processes import recipes
from ops.processes.supervisor import free_port
from pipeline.reading.calls import CallFilter

_SECRET: Final = "k" * 48
#: Requests at once: as many as an office has open.
_SENDERS: Final = 16
#: What the phone platform asks a second, and what Twilio sends beside a busy API.
_PLATFORM: Final = 200.0
_WEBHOOKS: Final = 300.0

_FILL = """
insert into calls (sid, business_id, number, direction, from_number, to_number, status, rank, started_at, ended_at,
                   seconds, minutes)
select 'CA' || lpad(to_hex(n), 32, '0'), %(business_id)s, %(number)s, 'inbound',
       '+1555' || lpad((n %% 9999)::text, 7, '0'), %(number)s, 'completed', 1,
       %(now)s::timestamptz - n * interval '10 s',
       %(now)s::timestamptz - n * interval '10 s' + interval '61 s', 61, 2
from generate_series(1, %(count)s) n
"""
_OLDEST = "select started_at, sid from calls where business_id = %s order by started_at, sid offset %s limit 1"


def measure(stage: Stage, businesses: Sequence[Business], sizes: Sizes) -> list[Figure]:
    """An owner who reads one business and pages through its calls; the phone platform; and CSV of all of it."""
    stage.reset()
    now = datetime.now(UTC)
    with stage.engine.begin() as connection:
        business_id = int(
            connection.exec_driver_sql(
                "select business_id from phone_numbers where number = %s", (businesses[0].number,)
            ).scalar_one()
        )
        about = {"business_id": business_id, "number": businesses[0].number, "now": now, "count": sizes.listed}
        connection.exec_driver_sql(_FILL, about)
        token, key = _people(connection, business_id)
        oldest = connection.exec_driver_sql(_OLDEST, (business_id, min(50, sizes.listed - 1))).one()
    stage.settle()
    here = f"/v1/businesses/{business_id}"
    last_page = f"{here}/calls?cursor={_cursor(business_id, oldest.started_at, oldest.sid)}"
    with (
        _api(stage, roles.TENANT) as (api, process_id),
        _api(stage, roles.STAFF, "api-without-wall") as (beside, _),
        stage.other_receiver("bench.bare:make") as bare,
        stage.other_receiver("bench.bare:make_in_threads") as threads,
        stage.receiver() as receiver,
    ):
        _see_alike(api, bare, here, token)
        calls = f"{here}/calls"
        rates = _rates(
            stage,
            sizes,
            {
                "business": (api, here, token),
                "bare business": (bare, f"/businesses/{business_id}", token),
                "first page": (api, calls, token),
                "bare page": (bare, f"/businesses/{business_id}/calls", token),
                "bare business in threads": (threads, f"/businesses/{business_id}", token),
                "bare page in threads": (threads, f"/businesses/{business_id}/calls", token),
                "page without wall": (beside, calls, token),
                "last page": (api, last_page, token),
                "nothing": (api, "/health/live", token),
            },
        )
        return [
            faster(
                "an authenticated read / bare psycopg", rates["business"], rates["bare business in threads"], 0.4, 0.6
            ),
            faster(
                f"a page of 50 of {sizes.listed:,} calls / bare",
                rates["first page"],
                rates["bare page in threads"],
                0.4,
                0.6,
            ),
            faster("the same / bare and asynchronous", rates["first page"], rates["bare page"], None, None),
            faster("the same / an empty answer of the framework", rates["first page"], rates["nothing"], None, None),
            slower("the same behind the second wall", rates["first page"], rates["page without wall"], 1.2, 1.1),
            slower("the last page, to the first", rates["last page"], rates["first page"], 1.3, 1.1),
            _runtime(stage, api, businesses[0].number, key, sizes),
            *_beside(stage, receiver, api, calls, token, median(rates["first page"]) / 4, businesses, sizes),
            _spreadsheet(api, process_id, here, token, sizes.listed),
        ]


def _people(connection: Connection, business_id: int) -> tuple[str, str]:
    """The owner's access token, and the phone platform's key."""
    keys = SecretKeys([SecretStr(_SECRET)])
    owner = users.add_user(connection, "owner@example.com", "Owner", hash_password("violet harbour kettle 1907"))
    set_owner(connection, business_id, owner)
    root = users.add_user(connection, "root@example.com", "Root", hash_password("violet harbour kettle 1907"))
    users.set_staff_role(connection, root, Role.ADMINISTRATOR)
    begun = sessions.begin_session(
        connection, owner, staff=False, second_factor=False, device="bench", address="127.0.0.1"
    )
    _, key = make_key(
        connection,
        business_id=None,
        user_id=root,
        name="phone platform",
        scopes=["runtime:read"],
        livemode=False,
        expires_at=None,
    )
    return sign_access_token(keys, AccessToken(owner, begun.session_id)), key


@contextlib.contextmanager
def _api(stage: Stage, tenants: str, name: str = "api") -> Iterator[tuple[int, int]]:
    """The API, whose tenants' requests have this login; gives its port and its process id."""
    port = free_port()
    settings = stage.environment | {
        "ALTIORA_SECRET_KEYS": _SECRET,
        "ALTIORA_TENANT_DATABASE_URL": roles.address_of(stage.database_url, tenants),
        "ALTIORA_DASHBOARD_URL": f"http://127.0.0.1:{port}",
    }
    process = recipes.api(port)
    process_id = recipes.Process(name, process.argv, process.ready, login=process.login).start(
        stage.supervisor, settings
    )
    yield port, process_id
    stage.supervisor.stop(name)


def _cursor(business_id: int, started_at: datetime, sid: str) -> str:
    """As the API gives it on the page before the last."""
    answer = page_in_time(
        lambda _before, _rows: [None, None],
        lambda _: (started_at, sid),
        limit=1,
        cursor=None,
        filters=[business_id, CallFilter()],
    )
    return str(json.loads(bytes(answer.body))["next_cursor"])


def _get(path: str, token: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def _rates(stage: Stage, sizes: Sizes, asked: dict[str, tuple[int, str, str]]) -> dict[str, list[float]]:
    """Answers a second of each, one after the other in every round."""
    rates: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(sizes.runs + 1):
        for name, (port, path, token) in asked.items():
            answers = stage.load([_get(path, token)] * sizes.asked, port, connections=_SENDERS).answers()
            rates[name].append(sizes.asked / (max(answers.answered_at) - answers.first_sent_at))
    # The first round of each prepares statements and fills caches.
    return {name: each[1:] for name, each in rates.items()}


def _answer(port: int, path: str, token: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
    found = json.loads(connection.getresponse().read())
    connection.close()
    return found


def _see_alike(api: int, bare: int, here: str, token: str) -> None:
    mine = [each["sid"] for each in _answer(api, f"{here}/calls", token)["data"]]
    others = [each["sid"] for each in _answer(bare, f"{here.removeprefix('/v1')}/calls", token)["data"]]
    if mine != others or len(mine) != 50:
        raise WrongTotalsError("the API shows other calls than the statement gives")


def _p99(stage: Stage, requests: Sequence[bytes], port: int, a_second: float) -> float:
    """In milliseconds, from when a request was due."""
    answers = stage.load(requests, port, rate=a_second).answers()
    took = [1000 * (at - due) for due, at in zip(answers.due_at, answers.answered_at, strict=True)]
    return percentile(took, 99)


def _runtime(stage: Stage, port: int, number: str, key: str, sizes: Sizes) -> Figure:
    requests = [_get(f"/v1/runtime/numbers/{number}", key)] * int(_PLATFORM * sizes.steady_seconds)
    times = [_p99(stage, requests, port, _PLATFORM) for _ in range(sizes.runs)]
    return Figure(
        what=f"who answers a number, p99 at {rate(_PLATFORM)}",
        value=median(times),
        unit="ms",
        at_least=None,
        aim=None,
        ours=f"{median(times):.1f} ms",
        less_is_better=True,
    )


def _beside(
    stage: Stage,
    receiver: int,
    api: int,
    path: str,
    token: str,
    pages: float,
    businesses: Sequence[Business],
    sizes: Sizes,
) -> list[Figure]:
    """Webhooks alone, and beside pages of calls at a quarter of what the API does with both cores for itself."""
    alone, beside = [], []
    for round_ in range(sizes.runs):
        now = datetime.now(UTC) + timedelta(seconds=round_)
        sent = traffic.calls(businesses, int(_WEBHOOKS * sizes.steady_seconds) * 2, now, seed=100 + round_)
        requests = [traffic.twilio_request(call) for call in sent]
        half = len(requests) // 2
        alone.append(_p99(stage, requests[:half], receiver, _WEBHOOKS))
        asked = [_get(path, token)] * int(pages * sizes.steady_seconds)
        with _background(stage, asked, api, pages):
            beside.append(_p99(stage, requests[half:], receiver, _WEBHOOKS))
    return [
        Figure(
            what=f"webhook answer, p99 at {rate(_WEBHOOKS)}, beside {rate(pages)} pages",
            value=median(beside) / median(alone),
            at_least=1.3,
            aim=1.1,
            ours=f"{median(beside):.1f} ms",
            beside=f"{median(alone):.1f} ms",
            less_is_better=True,
        )
    ]


@contextlib.contextmanager
def _background(stage: Stage, requests: Sequence[bytes], port: int, a_second: float) -> Iterator[None]:
    folder = stage.supervisor.folder / "background"
    folder.mkdir(exist_ok=True)
    load = Load(folder, requests, port, a_second, _SENDERS)
    yield
    wait_until(lambda: not load.running(), "the load of pages")


def _spreadsheet(port: int, process_id: int, here: str, token: str, calls: int) -> Figure:
    """All calls as CSV: how much more memory the API has at most while it sends them."""
    api = psutil.Process(process_id)
    before = most = api.memory_info().rss
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    began = datetime.now(UTC)
    connection.request("GET", f"{here}/calls.csv", headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    rows = csv.DictReader(io.TextIOWrapper(answer, "utf-8", newline=""))
    lines = minutes = 0
    for row in rows:
        lines, minutes = lines + 1, minutes + int(row["minutes"])
        if lines % 5_000 == 0:
            most = max(most, api.memory_info().rss)
    took = (datetime.now(UTC) - began).total_seconds()
    connection.close()
    if (lines, minutes) != (calls, 2 * calls):
        raise WrongTotalsError(f"{calls} calls are stored, and the CSV has {lines} with {minutes} minutes")
    return Figure(
        what=f"memory while {calls:,} calls are sent as CSV",
        value=(most - before) / 2**20,
        unit="MB",
        at_least=64,
        aim=16,
        ours=f"{lines / took:,.0f} rows/s",
        beside=f"{before / 2**20:.0f} MB before",
        less_is_better=True,
    )
