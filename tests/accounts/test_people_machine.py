"""In any order of what people do, each may do what the table says of what they are now, and their keys no more."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection

from accounts import actors, api_keys, links, members, users
from accounts.access_tokens import AccessToken
from accounts.links import LinkError, LinkKind
from accounts.members import MemberError
from accounts.rights import MEMBER_ROLES, SCOPES, STAFF_ROLES, ForbiddenError, Role, has_right, may_give, rights_of
from accounts.users import UserError
from tests.worlds.breaking import breaks
from tests.worlds.people import People
from tests.worlds.superuser import run_as_superuser

_USERS = 5
_BUSINESSES = 3
_ALL = sorted({right for role in Role for right in rights_of(role)})

somebody = st.integers(0, _USERS - 1)
some_business = st.integers(0, _BUSINESSES - 1)


class Key(NamedTuple):
    """A key that was made: of which business, by whom, and for what."""

    business: int
    maker: int
    scopes: frozenset[str]


class PeopleMachine(RuleBasedStateMachine):
    """The model is a few dictionaries: who owns what, who is what where, who is staff, who is out."""

    people: People

    @initialize()
    def begin(self) -> None:
        run_as_superuser(self.people.engine, "truncate users, businesses restart identity cascade")
        self.ids = [self.people.user(f"U{number}") for number in range(_USERS)]
        self.owners: dict[int, int] = {}
        self.roles: dict[tuple[int, int], Role] = {}
        self.staff: dict[int, Role] = {}
        self.out: set[int] = set()
        self.keys: dict[str, Key] = {}
        self.sessions: dict[int, int] = {}
        self.businesses = []
        for number in range(_BUSINESSES):
            self.businesses.append(self.people.business(f"B{number}", owner=self.ids[number]))
            self.owners[number] = number
        # One a person may be on Free: these pay, but for the last.
        self.people.run("update businesses set plan_id = (select id from subscription_plans where code = 'starter')")

    def try_it(self, step: Callable[[Connection], Any]) -> Any:
        """What it returns; None where it was refused, and nothing of it stays."""
        try:
            with self.people.engine.begin() as connection:
                return step(connection) or True
        except (MemberError, UserError, LinkError):
            return None

    def role(self, business: int, user: int) -> Role | None:
        return Role.OWNER if self.owners[business] == user else self.roles.get((business, user))

    def session(self, user: int) -> int:
        """One that is not over, of somebody who may have none: then it would be good for nothing all the same."""
        self.people.run("update sessions set ended_at = null where user_id = %s", self.ids[user])
        if user not in self.sessions:
            self.sessions[user] = self.people.session(self.ids[user], second_factor=True).session_id
        return self.sessions[user]

    def is_last_administrator(self, user: int) -> bool:
        present = {each for each, role in self.staff.items() if role is Role.ADMINISTRATOR} - self.out
        return present == {user}

    @rule(business=some_business, giver=somebody, user=somebody, role=st.sampled_from(MEMBER_ROLES))
    def invite(self, business: int, giver: int, user: int, role: Role) -> None:
        """Asked for and accepted at once; whether the giver may is looked at when it is accepted."""
        email = f"u{user}@example.com"

        def accept(connection: Connection) -> object:
            link_id = links.request_link(
                connection,
                LinkKind.INVITATION,
                email,
                business_id=self.businesses[business],
                role=role,
                invited_by=self.ids[giver],
            )
            link = links.link_with_id(connection, link_id)
            assert link is not None
            return links.accept_link(connection, links.make_secret(connection, link), None)

        may = giver not in self.out and may_give(self.role(business, giver) or self.staff.get(giver), role)
        takes = may and user not in self.out and self.role(business, user) is None
        assert bool(self.try_it(accept)) == takes
        if takes:
            self.roles[business, user] = role

    @rule(business=some_business, user=somebody, role=st.sampled_from(MEMBER_ROLES))
    def change_role(self, business: int, user: int, role: Role) -> None:
        there = (business, user) in self.roles
        done = self.try_it(
            lambda connection: members.set_member_role(connection, self.businesses[business], self.ids[user], role)
        )
        assert bool(done) == there
        if there:
            self.roles[business, user] = role

    @rule(business=some_business, user=somebody)
    def remove(self, business: int, user: int) -> None:
        done = self.try_it(
            lambda connection: members.remove_member(connection, self.businesses[business], self.ids[user])
        )
        assert bool(done) == (self.roles.pop((business, user), None) is not None)

    @rule(business=some_business, user=somebody)
    def hand_over(self, business: int, user: int) -> None:
        done = self.try_it(lambda connection: members.set_owner(connection, self.businesses[business], self.ids[user]))
        former = self.owners[business]
        takes = user not in self.out and user != former
        assert bool(done) == takes
        if takes:
            self.roles.pop((business, user), None)
            self.roles[business, former] = Role.ADMIN
            self.owners[business] = user

    @rule(user=somebody)
    def deactivate(self, user: int) -> None:
        done = self.try_it(lambda connection: users.deactivate_user(connection, self.ids[user]))
        assert bool(done) == (user not in self.owners.values() and not self.is_last_administrator(user))
        if done:
            self.out.add(user)

    @rule(user=somebody)
    def activate(self, user: int) -> None:
        self.try_it(lambda connection: users.activate_user(connection, self.ids[user]))
        self.out.discard(user)

    @rule(user=somebody, role=st.sampled_from([None, *STAFF_ROLES]))
    def hire(self, user: int, role: Role | None) -> None:
        done = self.try_it(lambda connection: users.set_staff_role(connection, self.ids[user], role and role.value))
        stays = role is not Role.ADMINISTRATOR and self.is_last_administrator(user)
        assert bool(done) == (not stays)
        if stays:
            return
        self.staff.pop(user, None)
        if role is not None:
            self.staff[user] = role

    @rule(business=some_business, maker=somebody, scopes=st.sets(st.sampled_from(sorted(SCOPES)), min_size=1))
    def make_key(self, business: int, maker: int, scopes: set[str]) -> None:
        with self.people.engine.begin() as connection:
            _, secret = api_keys.make_key(
                connection,
                business_id=self.businesses[business],
                user_id=self.ids[maker],
                name="a key",
                scopes=scopes,
                expires_at=None,
                livemode=False,
            )
        self.keys[secret] = Key(business, maker, frozenset(scopes))

    @invariant()
    def everybody_may_what_the_table_says_of_what_they_are(self) -> None:
        for user, user_id in enumerate(self.ids):
            with self.people.engine.connect() as connection:
                person = actors.person_of(connection, AccessToken(user_id, self.session(user)))
            assert (person is None) == (user in self.out)
            if person is None:
                continue
            assert person.staff_role == self.staff.get(user)
            for business, business_id in enumerate(self.businesses):
                role = self.role(business, user)
                assert person.roles.get(business_id) == role
                assert (business_id in person.businesses) == (role is not None)
                assert person.sees(business_id) == (role is not None or user in self.staff)

    @invariant()
    def a_key_does_no_more_than_its_scopes_and_its_maker_now(self) -> None:
        for secret, key in self.keys.items():
            with self.people.engine.connect() as connection:
                program = api_keys.program_of(connection, secret)
            assert program is not None, "it shrinks seven days later, and not at once"
            role = None if key.maker in self.out else self.role(key.business, key.maker) or self.staff.get(key.maker)
            for business, business_id in enumerate(self.businesses):
                assert program.sees(business_id) == (business == key.business)
                for right in _ALL:
                    may = (
                        business == key.business
                        and right in key.scopes
                        and role is not None
                        and has_right(right, {role})
                    )
                    assert self._may(program, right, business_id) == may, (right, role)

    def _may(self, program: api_keys.Program, right: str, business_id: int) -> bool:
        try:
            program.require(right, business_id)
        except ForbiddenError:
            return False
        return True

    @invariant()
    def a_business_has_one_owner_who_can_sign_in(self) -> None:
        found = self.people.rows(
            "select b.id, u.deactivated_at is null,"
            " exists (select from business_members m where m.business_id = b.id and m.user_id = b.owner_id)"
            " from businesses b join users u on u.id = b.owner_id"
        )
        assert sorted(found) == [(business_id, True, False) for business_id in self.businesses]


@breaks(
    "accounts/members.py",
    "    _change(connection, _REMOVE, business_id, user_id)\n    _change(connection, _SET",
    "    _change(connection, _SET",
)
@pytest.mark.parametrize("examples", [12, pytest.param(1_000, marks=[pytest.mark.soak, pytest.mark.timeout(3_000)])])
def test_in_any_order_of_what_people_do_rights_are_what_the_table_says(people, examples):
    quick = examples < 100
    run_state_machine_as_test(
        type("Machine", (PeopleMachine,), {"people": people}),
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            derandomize=quick,
            phases=[Phase.generate] if quick else list(Phase),
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
