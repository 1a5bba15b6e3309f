"""A short demo as a newcomer runs it; and that its checks would see it if a promise were broken."""

import dataclasses
import functools
import itertools
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

from ops import cli
from ops.demo import command, figures, promises, report
from ops.demo import evidence as demo_evidence
from ops.demo.screen import LiveScreen, View
from ops.demo.world import PLANS, START, Kind, cast, minutes_of
from ops.processes import environment
from ops.processes.repository import REPOSITORY

#: As `altiora`, but beside a demo or `altiora up` that may be running in this clone.
ALTIORA_ELSEWHERE = """
import functools, pathlib, sys
from ops import cli
from ops.processes import environment
environment.published = functools.partial(environment.published, file=pathlib.Path(sys.argv.pop(1)))
cli.main()
"""


@pytest.fixture
def month(tmp_path_factory):
    """A demo that has run: its exit status, what it printed, and the evidence that it gathered."""
    gathered, told, signed_in = [], [], []
    show_people = report.show_people
    before = psutil.Process().children(recursive=True)  # the session's servers, where a test has asked for them

    def gather(*args, **kwargs):
        gathered.append(demo_evidence.gather(*args, **kwargs))
        return gathered[0]

    def show(*about):
        told.append(about)
        show_people(*about)

    file = tmp_path_factory.mktemp("altiora") / "env"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "published", functools.partial(environment.published, file=file))
        patch.setattr(command, "gather", gather)
        patch.setattr(report, "show_people", show)
        patch.setattr(command, "_wait", lambda running: signed_in.append(sign_in_as_printed(running, *told)))
        result = CliRunner().invoke(cli.app, ["demo", "--businesses", "5", "--days", "2", "--keep"])
    left = [each for each in psutil.Process().children(recursive=True) if each not in before]
    return SimpleNamespace(result=result, evidence=gathered[0], left=left, signed_in=signed_in)


def sign_in_as_printed(running, told):
    """By address: what each person of a kept demo is shown of themselves."""
    _, _, password, people = told
    found = {}
    address = running.settings["ALTIORA_DASHBOARD_URL"]
    with httpx.Client(base_url=f"{address}/v1", headers={"Origin": address}, timeout=30) as client:
        for each in people:
            body = {"email": each.email, "password": password} | ({"code": each.code} if each.secret else {})
            answer = client.post("/sessions", json=body)
            assert answer.status_code == 201, answer.text
            authorization = {"Authorization": f"Bearer {answer.json()['access_token']}"}
            businesses = client.get("/businesses", headers=authorization)
            assert businesses.status_code == 200, businesses.text
            found[each.email] = len(businesses.json()["data"])
            if each.what.startswith("owner of"):
                here = f"/businesses/{each.what.split()[2].strip(',')}"
                (agent,) = client.get(f"{here}/agents", headers=authorization).json()["data"]
                assert agent["numbers"]
                call = client.get(f"{here}/calls", headers=authorization).json()["data"][0]["sid"]
                said = client.get(f"{here}/calls/{call}/transcript", headers=authorization).json()["data"]
                assert len(said) == 4
    return found


def test_a_short_demo_and_what_would_be_seen_of_it(month):
    """One test, so that one process lives the month, however the tests are dealt out."""
    keeps_every_promise_and_leaves_nothing(month)
    whoever_it_names_can_sign_in(month)
    with_twilio_up_a_period_closes_from_complete_sources(month)
    was_worth_it(month)
    money_that_is_nowhere_is_seen(month)
    a_broken_promise_is_seen(month)


def keeps_every_promise_and_leaves_nothing(month):
    assert month.result.exit_code == 0, month.result.output
    assert "every promise was kept" in month.result.output
    assert all(verdict.kept for verdict in promises.verdicts(month.evidence))
    assert [verdict.promise for verdict in promises.verdicts(month.evidence)] == [
        "1",
        "2",
        "3",
        "4",
        "5",
        "5",
        "6",
        "7",
        "8",
        "9",
        "10",
    ]
    assert month.left == []


def whoever_it_names_can_sign_in(month):
    (seen,) = month.signed_in
    names = ("ada", "ben", "cleo", "dora", "eli", "sam", "olga", "ruth")
    assert [seen[f"{name}@example.com"] for name in names] == [2, 1, 2, 1, 1, 5, 5, 5]
    printed = month.result.output.partition("API: ")[2].splitlines()
    assert max(map(len, printed)) <= 100  # a command is on one line
    assert sum("@example.com" in line for line in printed) == 8 + 3 + 1


def with_twilio_up_a_period_closes_from_complete_sources(month):
    """A label that is usually on would warn nobody."""
    closed = [row.statement["sources"] for row in month.evidence.records.values() if row.statement is not None]
    assert len(closed) > 3
    assert closed.count("complete") >= 0.9 * len(closed), closed


def was_worth_it(month):
    """Each part of the main job has happened: otherwise its checks would hold with nothing to check."""
    evidence = month.evidence
    plans_with_minutes = {use.signed.member.plan for use in evidence.uses if use.minutes}
    assert plans_with_minutes == set(PLANS)
    assert {record.state for record in evidence.records.values()} == {"open", "closed"}
    assert any(use.final and use.quantity for use in evidence.uses)
    assert evidence.pushes
    assert evidence.mishaps == {"broker": 1, "stripe": 1}


def changed(row, **columns):
    return SimpleNamespace(**row._asdict() | columns)


def change_first(mapping, change):
    first = next(iter(mapping))
    return {**mapping, first: change(mapping[first])}


def lose_a_stored_callback(evidence):
    lost = next((call["sid"], call["status"]) for call in evidence.ledger if call["callback"] == "delivered")
    return {"callbacks": {key: received for key, received in evidence.callbacks.items() if key != lost}}


def lose_a_stored_stripe_event(evidence):
    return {"stripe_events": set(sorted(evidence.stripe_events)[1:])}


def leave_an_event(evidence):
    return {"states": evidence.states | {"pending": 1}}


def forget_a_call(evidence):
    sid = evidence.billable[0]["sid"]
    return {"calls": {key: row for key, row in evidence.calls.items() if key != sid}}


def count_a_call_twice(evidence):
    sid = next(call["sid"] for call in evidence.billable if call["seconds"])
    row = evidence.calls[sid]
    return {"calls": evidence.calls | {sid: changed(row, counted_minutes=2 * row.counted_minutes)}}


def bury_an_event(evidence):
    return {"dead": [SimpleNamespace(provider="twilio", key="CA1:completed", type="call.completed", reason="why")]}


def leave_a_trace(evidence):
    return {"traces": 1}


def add_a_minute_to_a_record(evidence):
    return {"records": change_first(evidence.records, lambda row: changed(row, minutes=row.minutes + 1))}


def push_a_minute_too_many(evidence):
    """Everything of ours agrees with itself, and Stripe bills another sum."""
    uses = list(evidence.uses)
    place = next(n for n, use in enumerate(uses) if use.signed.customer and not use.final)
    uses[place] = dataclasses.replace(uses[place], quantity=uses[place].quantity + 1)
    return {"uses": uses}


def take_a_push_twice(evidence):
    return {"meter_events": [*evidence.meter_events, evidence.meter_events[0]]}


def change_a_frozen_push(evidence):
    first, *others = evidence.meter_events
    return {"meter_events": [first | {"value": first["value"] + 1}, *others]}


def lose_a_sent_push(evidence):
    return {"meter_events": evidence.meter_events[1:]}


def count_in_another_period(evidence):
    """A minute that the ledger has in one period is in another period's record."""
    uses = list(evidence.uses)
    for place, use in enumerate(uses):
        if use.minutes:
            uses[place] = dataclasses.replace(use, minutes=use.minutes - 1)
            return {"uses": uses}
    raise AssertionError


def bill_less_than_counted(evidence):
    uses = list(evidence.uses)
    place = next(n for n, use in enumerate(uses) if use.final and use.quantity)
    uses[place] = dataclasses.replace(uses[place], quantity=uses[place].quantity - 1)
    return {"uses": uses}


def leave_a_period_open(evidence):
    records = {
        key: changed(row, state="closing") if row.state == "closed" else row for key, row in evidence.records.items()
    }
    return {"records": records}


def push_after_finalisation(evidence):
    last = max(evidence.meter_events, key=lambda event: event["timestamp"])
    late = last | {"received": (evidence.now + timedelta(days=60)).isoformat()}
    return {"meter_events": [late if event is last else event for event in evidence.meter_events]}


def close_by_the_machines_clock(evidence):
    records = {
        key: changed(row, closed_at=row.period_end) if row.closed_at else row for key, row in evidence.records.items()
    }
    return {"records": records}


def receive_by_the_machines_clock(evidence):
    return {"callbacks": {key: START - timedelta(days=30) for key in evidence.callbacks}}


def close_without_a_word_on_its_sources(evidence):
    key, closed = next((key, row) for key, row in evidence.records.items() if row.state == "closed")
    statement = {name: value for name, value in closed.statement.items() if name != "sources"}
    return {"records": evidence.records | {key: changed(closed, statement=statement)}}


def differ_from_its_events(evidence):
    return {"rebuild_differences": ["a call is lost"]}


def charge_a_cent_too_much(evidence):
    uses = list(evidence.uses)
    place = next(n for n, use in enumerate(uses) if use.final)
    uses[place] = dataclasses.replace(uses[place], amount=uses[place].amount + 1)
    return {"uses": uses}


def take_something_off(evidence):
    first, *others = evidence.invoices
    off = first | {"total": first["total"] - 10, "total_discount_amounts": [{"amount": 10}]}
    return {"invoices": [off, *others]}


def forget_a_coupon(evidence):
    """All who pay were promised something off, and no renewal has it."""
    signed = [
        dataclasses.replace(it, member=dataclasses.replace(it.member, kind=Kind.COUPON)) for it in evidence.signed
    ]
    return {"signed": signed}


def charge_a_fee_twice(evidence):
    customer, cents = next(iter(evidence.fees.items()))
    return {"fees": evidence.fees | {customer: 2 * cents}}


def tell_of_money_that_is_not_owed(evidence):
    paying = {use.signed.business_id for use in evidence.uses if use.paid}
    return {"told": [SimpleNamespace(business_id=each, kind="over-billed", amount=90) for each in paying]}


def money_that_is_nowhere_is_seen(month):
    for tamper in (
        charge_a_cent_too_much,
        take_something_off,
        forget_a_coupon,
        charge_a_fee_twice,
        tell_of_money_that_is_not_owed,
    ):
        tampered = dataclasses.replace(month.evidence, **tamper(month.evidence))
        broken = [verdict.title for verdict in promises.verdicts(tampered) if not verdict.kept]
        assert broken == ["in money too"], tamper.__name__


def test_every_kind_of_subscription_is_among_the_businesses():
    members = [member for member in cast(40, 30, seed=1) if member.kind is not None]
    assert [member.kind for member in members] == list(Kind)
    (returning,) = [member for member in members if member.kind is Kind.RETURNS]
    assert returning.left is not None
    assert returning.back is not None
    bounds = list(returning.periods(returning.back + timedelta(days=40)))
    assert [returning.pays(each) for each in bounds].count(False) >= 1
    assert all(before[1] == after[0] for before, after in itertools.pairwise(bounds))
    a_month = PLANS["starter"].flat_cents
    (yearly,) = [member for member in members if member.kind is Kind.YEARLY]
    assert yearly.fees(START + timedelta(days=31)) == 10 * PLANS[yearly.plan].flat_cents
    (leaving,) = [member for member in members if member.kind is Kind.LEAVES]
    assert leaving.fees(START + timedelta(days=90)) == PLANS[leaving.plan].flat_cents
    usual = next(member for member in cast(40, 30, seed=1) if member.plan == "starter" and member.kind is None)
    assert usual.fees(START) == a_month
    assert usual.fees(START + timedelta(days=29)) == 2 * a_month
    assert [member.cost(501) for member in members if member.plan == "starter"][:2] == [12, 12]


def a_broken_promise_is_seen(month):
    for promise, tamper in (
        ("1", lose_a_stored_callback),
        ("1", lose_a_stored_stripe_event),
        ("2", leave_an_event),
        ("3", forget_a_call),
        ("3", count_a_call_twice),
        ("4", bury_an_event),
        ("4", leave_a_trace),
        ("5", add_a_minute_to_a_record),
        ("5", push_a_minute_too_many),
        ("6", take_a_push_twice),
        ("6", change_a_frozen_push),
        ("6", lose_a_sent_push),
        ("7", count_in_another_period),
        ("7", bill_less_than_counted),
        ("7", leave_a_period_open),
        ("7", push_after_finalisation),
        ("8", close_without_a_word_on_its_sources),
        ("9", differ_from_its_events),
        ("10", close_by_the_machines_clock),
        ("10", receive_by_the_machines_clock),
    ):
        tampered = dataclasses.replace(month.evidence, **tamper(month.evidence))
        broken = {verdict.promise for verdict in promises.verdicts(tampered) if not verdict.kept}
        assert promise in broken, tamper.__name__


@pytest.mark.parametrize(
    ("stop", "step", "status"),
    [
        (signal.SIGINT, "tables and plans", 130),
        pytest.param(signal.SIGTERM, "businesses sign up", 143, marks=pytest.mark.soak),
    ],
)
def test_a_demo_that_is_stopped_leaves_nothing(tmp_path, stop, step, status):
    with subprocess.Popen(
        [sys.executable, "-c", ALTIORA_ELSEWHERE, tmp_path / "env", "demo", "--businesses", "5", "--days", "2"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            next(line for line in process.stdout if line.startswith(step))
            started = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(stop)
            process.stdout.read()
            assert process.wait(60) == status
        finally:
            process.kill()
    assert started
    _, alive = psutil.wait_procs(started, timeout=5)
    assert alive == []
    assert not (tmp_path / "env").exists()


def test_the_businesses_are_those_of_the_issue():
    members = cast(40, 30, seed=1)

    assert len({member.name for member in members}) == 40
    assert {member.plan for member in members} == set(PLANS)
    assert len({member.time_zone for member in members}) == 10
    assert any(member.anchor and member.anchor.day == 31 for member in members)
    assert all(member.anchor.second % 2 for member in members if member.anchor)
    end = START + timedelta(days=30)
    assert all(any(START < bounds[1] < end for bounds in member.periods(end)) for member in members if member.anchor)


def test_new_yorks_november_is_an_hour_longer():
    (member,) = [each for each in cast(5, 2, seed=1) if each.plan == "free" and each.time_zone == "America/New_York"]

    october, november = list(member.periods(START + timedelta(days=20)))

    assert f"{october[1]:%d %b %H:%M}" == "01 Nov 04:00"
    assert f"{november[1]:%d %b %H:%M}" == "01 Dec 05:00"


@pytest.mark.parametrize(("seconds", "minutes"), [(0, 0), (1, 1), (59, 1), (60, 1), (61, 2), (3600, 60)])
def test_every_minute_that_was_begun(seconds, minutes):
    assert minutes_of(seconds) == minutes


def test_the_panel_cuts_nothing_at_80_columns(tmp_path):
    news = "A bakery with quite a long name in Königs Wusterhausen has used 80 % of 2,000 minutes; limited until 21 Nov"
    with (tmp_path / "screen").open("w") as file:
        console = Console(width=80, force_terminal=True, color_system=None, file=file)
        shown = LiveScreen(console)
        shown.news(datetime(2026, 11, 20, 12, 30, tzinfo=UTC), [news])
        shown.update(View(datetime(2026, 11, 20, 12, 31, tzinfo=UTC), 0.5, figures.Totals(), 1, 2.0, 0, ""))
        console.print(shown._render())
    words = (tmp_path / "screen").read_text().replace("│", " ").split()
    assert "20 Nov 12:30 " + news in " ".join(words)
    assert "Fri 20 Nov 2026 12:31 UTC" in " ".join(words)
