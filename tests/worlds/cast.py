"""Everybody who may ask the API for something, each with a client, for tests that ask the same of all of them."""

import json
from datetime import timedelta
from typing import Any

from accounts.api_keys import make_key
from accounts.links import LinkKind, request_link
from accounts.rights import SCOPES, Role
from pipeline.agents import agents, knowledge, scripts
from pipeline.agents.agents import AgentCard
from pipeline.businesses import registration
from pipeline.calls import transcripts
from pipeline.shared.clock import machine_now
from tests.worlds.api import Api
from tests.worlds.people import People

CARD = AgentCard("Reception", "en", "", "", "", "Hello.", {})
#: As one of our pages asks, which has read the present state of what it changes.
_AS_A_PAGE = {"Sec-Fetch-Site": "same-origin", "If-Match": "*"}


#: A closed period, its invoice, its call with what told of it and is dead, and a difference; each gives its id.
_BILLED = (
    """
    with made as (
      insert into usage_records
        (business_id, plan_id, period_start, period_end, included_minutes, calls, seconds, minutes, opened_at)
      values (%(business_id)s, 1, '2026-10-01T00:00Z', '2026-11-01T00:00Z', 50, 1, 61, 2, now())
      returning id),
    billed as (
      insert into stripe_invoices (id, business_id, status, created_at, amount_due_cents, currency, snapshot_at)
      values ('in_' || %(business_id)s, %(business_id)s, 'paid', now(), 4900, 'usd', now()))
    insert into calls (sid, business_id, number, status, rank, started_at, ended_at, seconds, minutes, counted,
                       counted_seconds, counted_minutes, usage_record_id)
    select %(sid)s, %(business_id)s, %(number)s, 'completed', 1, '2026-10-05T12:00Z', '2026-10-05T12:01:01Z', 61, 2,
           true, 61, 2, id
    from made returning usage_record_id
    """,
    """
    insert into webhook_events (provider, key, type, received_at, content_type, body, state, reason)
    values ('twilio', %(sid)s || ':completed', 'completed', now(), 'application/x-www-form-urlencoded', 'CallSid=x',
            'dead', 'unknown-number ' || %(number)s)
    returning id
    """,
    """
    insert into drifts (kind, subject, business_id, expected, actual, evidence, repair, found_at)
    values ('stripe-sum', 'record:' || %(business_id)s, %(business_id)s, '1', '2', '{}', 'look', now()) returning id
    """,
)
_OCTOBER = {"start": "2026-10-01T00:00:00+00:00", "end": "2026-11-01T00:00:00+00:00"}
_STATEMENT = {
    "plan": "free",
    "plan_name": "Free",
    "increment_seconds": 60,
    "period": _OCTOBER,
    "for_stripe": False,
    "calls": 1,
    "calls_sha256": "0" * 64,
    "seconds": 61,
    "minutes": 2,
    "included": 50,
    "overage": 0,
    "unbilled": 0,
    "adjustments": 0,
    "written_off": 0,
    "each_adjustment": [],
    "pushed": 0,
    "gaps": [],
    "sources": "complete",
    "pushes": {"count": 0, "minutes": 0, "by_state": {}},
    "cost": {"USD": "-0.0085"},
    "dead_of_nobody": 0,
    "closed_at": "2026-11-01T01:00:00+00:00",
}


class Cast:
    """Everybody, with their clients; and for each request a business of its own with all of its people."""

    def __init__(self, api: Api, people: People) -> None:
        self.api, self.people = api, people
        self.users = {name: people.user(name.title()) for name in ("stranger", "member", "billing", "admin", "owner")}
        self.strangers = people.business("Florist", owner=self.users["stranger"])
        self.elsewhere = people.business("Garage")
        self.clients = {"nobody": api.client()}
        self.clients |= {name: api.signed_in(user_id) for name, user_id in self.users.items()}
        self.other_session = people.session(self.users["owner"]).session_id
        for role in (Role.SUPPORT, Role.OPERATOR, Role.ADMINISTRATOR):
            user_id = self.users[role.value] = people.user(role.value.title(), staff=role)
            people.enrol(user_id)
            self.clients[role.value] = api.signed_in(user_id, staff=True, second_factor=True)
        for client in self.clients.values():
            client.headers.update(_AS_A_PAGE)

    def _key(self, business_id: int | None, maker: str, *scopes: str, **about: Any) -> tuple[int, str]:
        with self.people.engine.begin() as connection:
            return make_key(
                connection,
                business_id=business_id,
                user_id=self.users[maker],
                name="a test",
                scopes=scopes,
                livemode=False,
                **({"expires_at": None} | about),
            )

    def place(self, number: int) -> dict[str, Any]:
        """A new business, and what a path may name of it."""
        others = {role: self.users[role] for role in ("admin", "member", "billing")}
        business_id = self.people.business("Bakery", owner=self.users["owner"], **others)
        victim = self.people.user(f"Victim{number}")
        with self.people.engine.begin() as connection:
            connection.exec_driver_sql(
                "insert into business_members (business_id, user_id, role) values (%s, %s, 'member')",
                (business_id, victim),
            )
            invitation = request_link(
                connection, LinkKind.INVITATION, "zoe@example.com", business_id=business_id, role=Role.MEMBER
            )
            connection.exec_driver_sql(
                "update businesses set plan_id = (select id from subscription_plans where code = 'enterprise')"
                " where id = %s",
                (business_id,),
            )
            agent = agents.add_agent(connection, business_id, CARD, machine_now())
            entry = knowledge.add_knowledge(connection, agent, "Do you have rye?", "On Fridays.")
            mobile = f"+1555{business_id:07}"
            registration.add_number(connection, business_id, mobile, None, machine_now())
            connection.exec_driver_sql(
                "update phone_numbers set business_id = null, agent_id = null where business_id = %s", (self.elsewhere,)
            )
            free = f"+1444{business_id:07}"
            connection.exec_driver_sql(
                "insert into phone_numbers (number, twilio_sid) values (%s, %s)", (free, f"PN{business_id:032x}")
            )
            about = {"business_id": business_id, "sid": f"CA{business_id:032x}", "number": mobile}
            record, event, drift = (connection.exec_driver_sql(each, about).scalar_one() for each in _BILLED)
            frozen = _STATEMENT | {"business": {"id": business_id, "name": "Bakery", "time_zone": "UTC"}}
            connection.exec_driver_sql(
                "update usage_records set state = 'closed', closed_at = now(), statement = %s where id = %s",
                (json.dumps(frozen), record),
            )
            first = transcripts.Message(0, transcripts.Speaker.AGENT, "Hello.", None, None)
            transcripts.append_messages(connection, f"CA{business_id:032x}", [first])
            scripts.add_script(connection, agent, "ordering", {"steps": [{"id": "greeting", "say": "Hello."}]})
        key, _ = self._key(business_id, "owner", "businesses:read")
        return {
            "business_id": business_id,
            "user_id": victim,
            "invitation_id": invitation,
            "key_id": key,
            "agent_id": agent,
            "entry_id": entry,
            "script_name": "ordering",
            "number": mobile,
            "free_number": free,
            "elsewhere_id": self.elsewhere,
            "sid": f"CA{business_id:032x}",
            "position": 0,
            "record_id": record,
            "invoice_id": f"in_{business_id}",
            "event_id": event,
            "drift_id": drift,
            "service_key_id": self._key(None, "administrator", "runtime:read")[0],
            "session_id": self.other_session,
        }

    def client(self, actor: str, business_id: int):
        """A client of this actor; keys are of this business."""
        yesterday = machine_now() - timedelta(days=1)
        keys = {
            "unscoped": lambda: self._key(
                business_id, "owner", "members:read" if self.reads_business else "businesses:read"
            ),
            "key": lambda: self._key(business_id, "owner", *SCOPES),
            "foreign": lambda: self._key(self.strangers, "stranger", *SCOPES),
            "expired": lambda: self._key(business_id, "owner", *SCOPES, expires_at=yesterday),
            "service": lambda: self._key(None, "administrator", "runtime:read", "transcripts:write"),
        }
        if actor not in keys:
            return self.clients[actor]
        client = self.api.client(keys[actor]()[1])
        client.headers.update(_AS_A_PAGE)
        return client

    reads_business = False
