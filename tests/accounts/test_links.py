"""The one door: what each link does, once, for its own address, and only while who sent it may."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from accounts import links, members, users
from accounts.links import Accepted, LinkError, LinkKind, NewAccount, accept_link, open_link, request_link
from accounts.members import MemberError
from accounts.passwords import PasswordError, verify_password
from accounts.rights import Role
from accounts.sessions import living_sessions
from accounts.users import UserError
from tests.worlds.breaking import breaks
from tests.worlds.people import PASSWORD

NEW = NewAccount("Ada Byron", "seven lanterns under quartz")


def secret(people, kind: LinkKind, email: str = "ada@example.com", **about) -> str:
    with people.engine.begin() as connection:
        link_id = request_link(connection, kind, email, **about)
    return str(people.secret_of(link_id))


def accept(people, its: str, new: NewAccount | None = None) -> Accepted:
    with people.engine.begin() as connection:
        return accept_link(connection, its, new)


def test_signing_up_makes_an_account_with_this_address_once(people):
    its = secret(people, LinkKind.SIGN_UP, "Ada@Example.com")
    with people.engine.begin() as connection:
        link, known = open_link(connection, its)
    assert (link.kind, link.email, known) == (LinkKind.SIGN_UP, "Ada@example.com", False)
    for new, error in (
        (None, UserError),
        (NewAccount("", NEW.password), UserError),
        (NewAccount("A", "x"), PasswordError),
    ):
        with pytest.raises(error):
            accept(people, its, new)
    done = accept(people, its, NEW)
    (account,) = people.rows("select id, email, name, password_hash from users")
    assert account[:3] == (done.user_id, "Ada@example.com", "Ada Byron")
    assert verify_password(NEW.password, account[3]) == (True, None)
    for again in (its, its + "x", "", "\0", "é" * 5_000):
        with pytest.raises(LinkError, match="ask for a new one"):
            accept(people, again, NEW)


@breaks(
    "accounts/links.py", '    return _open(connection, _BY_DIGEST + " for update of l", secret)\n', "    return link\n"
)
def test_of_eight_who_use_a_link_at_once_one_does(people):
    people.user("Ada")
    its = secret(people, LinkKind.RESET)
    together = threading.Barrier(8)

    def use(_: int) -> bool:
        with people.engine.connect() as connection:
            connection.exec_driver_sql("select 1")
            together.wait(10)
            try:
                accept_link(connection, its, NEW)
            except LinkError:
                return False
            connection.commit()
            return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(use, range(8))) == 1
    assert people.one("select count(*) from account_links where ended_at is null") == 0


def test_who_has_an_account_signs_up_for_nothing(people):
    its = secret(people, LinkKind.SIGN_UP)
    people.user("Ada")
    with pytest.raises(LinkError, match="sign in"):
        accept(people, its, NEW)


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        (LinkKind.SIGN_UP, 1_800),
        (LinkKind.RESET, 1_800),
        (LinkKind.ADDRESS, 1_800),
        (LinkKind.STAFF, 1_800),
        (LinkKind.INVITATION, 7 * 86_400),
        (LinkKind.OWNERSHIP, 7 * 86_400),
    ],
)
def test_a_link_is_good_for_so_long_after_it_was_mailed(people, kind, seconds):
    about = {"user_id": people.user("Ada")} if kind is LinkKind.ADDRESS else {}
    if kind in {LinkKind.INVITATION, LinkKind.OWNERSHIP}:
        about = {"business_id": people.business("Bakery"), "role": Role.MEMBER}
    its = secret(people, kind, **about)
    people.pass_time(seconds - 10)
    with people.engine.begin() as connection:
        assert open_link(connection, its)
    people.pass_time(11)
    with pytest.raises(LinkError, match="too old"):
        accept(people, its, NEW)


def test_a_newer_link_takes_the_place_of_one_of_the_same_kind_and_each_mail_of_one_works(people):
    older = secret(people, LinkKind.RESET)
    invited = secret(people, LinkKind.INVITATION, business_id=people.business("Bakery"), role=Role.MEMBER)
    with people.engine.begin() as connection:
        link_id = request_link(connection, LinkKind.RESET, "ADA@example.com")
    first, second = people.secret_of(link_id), people.secret_of(link_id)
    with people.engine.begin() as connection:
        with pytest.raises(LinkError):
            open_link(connection, older)
        assert [open_link(connection, each)[0].id for each in (first, second)] == [link_id, link_id]
        assert open_link(connection, invited)


def test_a_reset_sets_the_password_ends_all_sessions_and_keeps_the_second_factor(people):
    ada, bob = people.user("Ada"), people.user("Bob")
    people.enrol(ada)
    for each in (ada, bob):
        people.session(each)
    its = secret(people, LinkKind.RESET, "ADA@example.com")
    with pytest.raises(PasswordError):
        accept(people, its, NewAccount("", "ada@example.com 1"))
    accept(people, its, NewAccount("", NEW.password))
    with people.engine.connect() as connection:
        account = users.user_with_id(connection, ada)
        assert account is not None
        assert verify_password(NEW.password, account.password_hash)[0]
        assert account.second_factor
        assert account.name == "Ada"
        assert living_sessions(connection, ada) == []
        assert len(living_sessions(connection, bob)) == 1
    assert people.rows("select kind, user_id from mails order by id desc limit 1") == [("password-changed", ada)]


@pytest.mark.parametrize("gone", [True, False])
def test_there_is_nothing_to_reset_for_who_is_not_there(people, gone):
    if gone:
        people.run("update users set deactivated_at = now() where id = %s", people.user("Ada"))
    with pytest.raises(LinkError, match="sign up"):
        accept(people, secret(people, LinkKind.RESET), NEW)


def test_a_new_address_counts_when_it_is_confirmed(people):
    ada = people.user("Ada")
    people.session(ada)
    its = secret(people, LinkKind.ADDRESS, "ada@example.org", user_id=ada, former_email="ada@example.com")
    assert people.one("select email from users") == "ada@example.com"
    accept(people, its)
    assert people.one("select email from users") == "ada@example.org"
    assert people.one("select ended_by from sessions") == "address"


def test_an_address_that_somebody_else_has_by_now_is_not_taken(people):
    ada = people.user("Ada")
    its = secret(people, LinkKind.ADDRESS, "bob@example.com", user_id=ada, former_email="ada@example.com")
    people.user("Bob")
    with pytest.raises(UserError, match="already"):
        accept(people, its)
    assert people.one("select email from users where id = %s", ada) == "ada@example.com"


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("role", [Role.ADMIN, Role.MEMBER, Role.BILLING])
def test_an_invitation_makes_a_member(people, known, role):
    owner = people.user("Olga")
    bakery = people.business("Bakery", owner=owner)
    ada = people.user("Ada") if known else None
    its = secret(people, LinkKind.INVITATION, business_id=bakery, role=role, invited_by=owner)
    done = accept(people, its, None if known else NEW)
    assert ada in {None, done.user_id}
    with people.engine.connect() as connection:
        assert [(each.user_id, each.role) for each in members.members_of(connection, bakery)] == [
            (owner, Role.OWNER),
            (done.user_id, role),
        ]
        assert links.open_invitations(connection, bakery) == []
    again = secret(people, LinkKind.INVITATION, business_id=bakery, role=role, invited_by=owner)
    with pytest.raises(MemberError, match="already"):
        accept(people, again)


@breaks("accounts/links.py", "    if not may:\n", "    if False:\n")
@pytest.mark.parametrize(
    "since",
    [
        "delete from business_members where user_id = %s",
        "update business_members set role = 'member' where user_id = %s",
        "update users set deactivated_at = now() where id = %s",
    ],
)
def test_an_invitation_is_worth_what_its_inviter_may_when_it_is_accepted(people, since):
    boris = people.user("Boris")
    bakery = people.business("Bakery", owner=people.user("Olga"), admin=boris)
    its = secret(people, LinkKind.INVITATION, business_id=bakery, role=Role.ADMIN, invited_by=boris)
    people.run(since, boris)
    with pytest.raises(LinkError, match="may not invite any more"):
        accept(people, its, NEW)
    assert people.one("select count(*) from users where email = 'ada@example.com'") == 0


def test_an_invitation_that_was_taken_back_is_good_no_more(people):
    bakery = people.business("Bakery", owner=people.user("Olga"))
    its = secret(people, LinkKind.INVITATION, business_id=bakery, role=Role.MEMBER)
    with people.engine.begin() as connection:
        (invited,) = links.open_invitations(connection, bakery)
        assert links.end_link(connection, invited.id)
        assert not links.end_link(connection, invited.id)
    with pytest.raises(LinkError):
        accept(people, its, NEW)


def test_a_business_is_handed_over_and_who_had_it_stays_as_an_admin(people):
    olga, ada = people.user("Olga"), people.user("Ada")
    bakery = people.business("Bakery", owner=olga, member=ada)
    its = secret(people, LinkKind.OWNERSHIP, business_id=bakery, invited_by=olga)
    done = accept(people, its)
    assert (done.user_id, done.former_owner_id) == (ada, olga)
    with people.engine.connect() as connection:
        assert [(each.user_id, each.role) for each in members.members_of(connection, bakery)] == [
            (ada, Role.OWNER),
            (olga, Role.ADMIN),
        ]
    back = secret(people, LinkKind.OWNERSHIP, "zoe@example.com", business_id=bakery, invited_by=olga)
    with pytest.raises(LinkError):
        accept(people, back, NEW)  # she owns it no more


def test_staff_come_in_by_a_link_too_and_lose_their_other_sessions(people):
    root, ada = people.user("Root", staff=Role.ADMINISTRATOR), people.user("Ada")
    people.session(ada)
    its = secret(people, LinkKind.STAFF, staff_role=Role.SUPPORT, invited_by=root)
    accept(people, its)
    assert people.one("select staff_role from users where id = %s", ada) == "support"
    assert people.one("select ended_by from sessions where user_id = %s", ada) == "staff"
    other = secret(people, LinkKind.STAFF, "zoe@example.com", staff_role=Role.OPERATOR, invited_by=ada)
    with pytest.raises(LinkError):
        accept(people, other, NEW)


@pytest.mark.parametrize(
    "email", ["", "ada", "ada@", "@example.com", "a b@example.com", "ada@example.com\n", "a\0@b.com"]
)
def test_what_is_no_address_is_refused_in_words(people, email):
    with pytest.raises(UserError, match="no address"), people.engine.begin() as connection:
        request_link(connection, LinkKind.SIGN_UP, email)


def test_no_secret_and_no_password_is_in_a_dump(people):
    its = secret(people, LinkKind.SIGN_UP)
    accept(people, its, NEW)
    begun = people.session(people.one("select id from users"))
    totp, codes = people.enrol(begun.user_id)
    tables = [
        name
        for (name,) in people.rows(
            "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
        )
    ]
    dump = "".join(str(row) for name in tables for row in people.rows(f"select t::text from {name} t"))
    assert "Ada Byron" in dump
    for each in (its, NEW.password, PASSWORD, begun.token, totp, *codes):
        assert each not in dump
        assert each.encode().hex() not in dump


@breaks(
    "accounts/members.py",
    "    owner = users.hold_user(connection, user_id)  # or two at once would each be the first\n",
    "    owner = users.user_with_id(connection, user_id)\n",
)
def test_of_eight_businesses_on_free_that_somebody_makes_at_once_one_is_made(people):
    ada = people.user("Ada")
    made = [people.business(f"B{number}") for number in range(8)]
    together = threading.Barrier(8)

    def own(business_id: int) -> bool:
        with people.engine.connect() as connection:
            connection.exec_driver_sql("select 1")
            together.wait(10)
            try:
                members.set_owner(connection, business_id, ada)
            except MemberError:
                return False
            connection.commit()
            return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(own, made)) == 1


def test_who_has_a_business_on_free_is_handed_no_other(people):
    ada, olga = people.user("Ada"), people.user("Olga")
    people.business("Florist", owner=ada)
    bakery = people.business("Bakery", owner=olga)
    with pytest.raises(MemberError, match="one a person"):
        accept(people, secret(people, LinkKind.OWNERSHIP, business_id=bakery, invited_by=olga))
    people.run("update businesses set ended_at = now() where owner_id = %s", ada)
    accept(people, secret(people, LinkKind.OWNERSHIP, business_id=bakery, invited_by=olga))


@breaks("accounts/users.py", "    hold_user(connection, user_id)  # or somebody hands them a business meanwhile\n", "")
@pytest.mark.parametrize("first", ["handed over", "deactivated"])
def test_nobody_who_was_deactivated_is_handed_a_business_at_the_same_moment(people, first):
    bob = people.user("Bob")
    bakery = people.business("Bakery", owner=people.user("Ada"))

    def hand_over(connection):
        members.set_owner(connection, bakery, bob)

    def deactivate(connection):
        users.deactivate_user(connection, bob)

    def try_it(step):
        try:
            with people.engine.begin() as connection:
                step(connection)
        except (members.MemberError, users.UserError) as error:
            return str(error)
        return ""

    one, other = (hand_over, deactivate) if first == "handed over" else (deactivate, hand_over)
    with ThreadPoolExecutor(1) as pool, people.engine.connect() as connection:
        one(connection)
        refused = pool.submit(try_it, other)
        with pytest.raises(TimeoutError):
            refused.result(timeout=0.5)  # it waits
        connection.commit()
        assert refused.result(timeout=10).startswith(("they own", "this account was deactivated"))
    assert people.one(
        "select u.deactivated_at is null or b.owner_id <> u.id from users u, businesses b where u.id = %s", bob
    )
