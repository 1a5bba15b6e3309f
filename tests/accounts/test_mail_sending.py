"""Mails over real SMTP: once where all goes well, at least once where an answer is lost, and never silently not."""

import pytest
from pydantic import SecretStr

from accounts import mail_sending
from accounts.links import LinkKind, open_link, request_link
from accounts.mail_sending import send_due_mails
from accounts.mails import MailKind, plan_mail
from accounts.rights import Role
from pipeline.shared.settings import MailSettings
from tests.worlds.mail_server import MailServer

DASHBOARD = "https://app.example.com"


@pytest.fixture
def server():
    with MailServer().running() as it:
        yield it


def send(people, url: str | None) -> dict[str, int]:
    settings = MailSettings(smtp_url=SecretStr(url) if url else None, mail_from="Altiora <billing@example.com>")
    return dict(send_due_mails(people.engine, settings, DASHBOARD))


def ask(people, kind: LinkKind, email: str = "ada@example.com", **about) -> int:
    with people.engine.begin() as connection:
        return request_link(connection, kind, email, **about)


def states(people) -> list[tuple[str, str | None]]:
    return list(people.rows("select state, answer from mails order by id"))


def test_a_link_is_mailed_and_its_secret_is_nowhere_else(people, server):
    link_id = ask(people, LinkKind.SIGN_UP)
    assert people.rows("select * from link_tokens") == [], "before it is sent there is none"
    assert send(people, server.url) == {"sent": 1}
    assert send(people, server.url) == {}
    (mail,) = server.mails
    assert (mail["to"], mail["from"], mail["subject"]) == (
        "ada@example.com",
        "Altiora <billing@example.com>",
        "Your account at Altiora",
    )
    secret = server.secret()
    for part in ("plain", "html"):
        body = mail.get_body((part,))
        assert body is not None
        assert f"{DASHBOARD}/link#{secret}" in body.get_content()
    with people.engine.begin() as connection:
        assert open_link(connection, secret)[0].id == link_id
    assert secret not in str(people.rows("select encode(token_sha256, 'escape') from link_tokens"))


def test_without_a_server_mails_wait_and_nothing_is_claimed(people):
    ask(people, LinkKind.SIGN_UP)
    assert send(people, None) == {}
    assert people.rows("select state, attempts from mails") == [("planned", 0)]


def test_what_a_mail_says_depends_on_who_gets_it(people, server):
    people.user("Ada")
    for kind in (LinkKind.SIGN_UP, LinkKind.RESET):
        ask(people, kind)
        ask(people, kind, "zoe@example.com")
    assert send(people, server.url) == {"sent": 3, "void": 1}
    assert sorted((mail["to"], mail["subject"]) for mail in server.mails) == [
        ("ada@example.com", "A new password"),
        ("ada@example.com", "You have an account already"),
        ("zoe@example.com", "Your account at Altiora"),
    ]


def test_a_server_that_is_away_or_says_later_is_asked_again(people, server):
    ask(people, LinkKind.SIGN_UP)
    assert send(people, "smtp://127.0.0.1:1") == {"planned": 1}
    assert states(people) == [("planned", "ConnectionRefusedError")]
    server.answers = ["451 later"]
    for answer in ("451", "250"):
        people.pass_time(120)
        send(people, server.url)
        assert states(people)[0][1] == answer
    assert len(server.mails) == 1


def test_what_is_refused_for_good_has_failed_without_the_servers_words(people, server):
    ask(people, LinkKind.SIGN_UP, "nobody@example.com")
    ask(people, LinkKind.SIGN_UP, "ada@example.com")
    server.answers = ["554 spam"]
    assert send(people, server.url) == {"failed": 2}
    assert states(people) == [("failed", "550"), ("failed", "554")]


def test_a_mail_whose_answer_was_lost_comes_twice_and_both_links_work(people, server):
    ask(people, LinkKind.SIGN_UP)
    server.loses_answers = 1
    assert send(people, server.url) == {"planned": 1}
    people.pass_time(120)
    assert send(people, server.url) == {"sent": 1}
    first, second = server.secret(0), server.secret(1)
    assert first != second
    with people.engine.begin() as connection:
        assert open_link(connection, first)[0] == open_link(connection, second)[0]


def test_who_died_while_sending_is_followed_by_somebody(people, server):
    ask(people, LinkKind.SIGN_UP)
    people.run("update mails set state = 'sending', due_at = now() + interval '2 minutes', attempts = 1")
    assert send(people, server.url) == {}
    people.pass_time(121)
    assert send(people, server.url) == {"sent": 1}


def test_a_link_that_is_replaced_or_that_nobody_waits_for_is_not_sent(people, server):
    ask(people, LinkKind.RESET)
    people.user("Ada")
    ask(people, LinkKind.RESET)
    ask(people, LinkKind.SIGN_UP, "zoe@example.com")
    people.run("update mails set created_at = created_at - interval '2 days' where kind = 'sign-up'")
    assert send(people, server.url) == {"void": 2, "sent": 1}


def test_invitations_name_who_invites_and_where_to(people, server):
    olga = people.user("Olga")
    bakery = people.business("Bakery & Söhne", owner=olga)
    ask(people, LinkKind.INVITATION, business_id=bakery, role=Role.BILLING, invited_by=olga)
    ask(people, LinkKind.OWNERSHIP, business_id=bakery, invited_by=olga)
    send(people, server.url)
    plain, html = (server.mails[0].get_body((kind,)) for kind in ("plain", "html"))
    assert plain is not None
    assert html is not None
    assert "Olga invites you to work in Bakery & Söhne, as billing." in plain.get_content()
    assert "Bakery &amp; Söhne" in html.get_content()
    assert server.mails[1]["subject"] == "Bakery & Söhne shall be yours"


@pytest.mark.parametrize("kind", [kind for kind in MailKind if kind.value not in set(LinkKind)])
def test_each_notice_has_words(people, server, kind):
    ada = people.user("Ada")
    bakery = people.business("Bakery", owner=ada)
    link_id = None
    if kind is MailKind.ADDRESS_CHANGING:
        link_id = ask(people, LinkKind.ADDRESS, "new@example.com", user_id=ada, former_email="ada@example.com")
    with people.engine.begin() as connection:
        plan_mail(connection, kind, link_id=link_id, user_id=None if link_id else ada, business_id=bakery)
    send(people, server.url)
    mail = server.mails[-1]
    assert mail["to"] == "ada@example.com"
    body = mail.get_body(("plain",))
    assert body is not None
    assert DASHBOARD in body.get_content()
    assert "/link#" not in body.get_content()


def test_a_name_that_would_be_another_header_is_only_a_name(people, server):
    olga = people.user("Olga")
    bakery = people.business("Bakery", owner=olga)
    people.run("update businesses set name = E'Bakery\\r\\nBcc: all@example.com' where id = %s", bakery)
    ask(people, LinkKind.INVITATION, business_id=bakery, role=Role.MEMBER, invited_by=olga)
    send(people, server.url)
    assert [mail["bcc"] for mail in server.mails] == [None] * len(server.mails)
    assert server.mails[0]["subject"] == "Bakery Bcc: all@example.com invites you"


def test_one_that_can_not_be_written_stops_no_other(people, server, monkeypatch):
    first, second = ask(people, LinkKind.SIGN_UP), ask(people, LinkKind.SIGN_UP, "zoe@example.com")
    written = mail_sending.write_mail

    def breaks(connection, dashboard, mail):
        if mail.link_id == first:
            raise ValueError("a text that nobody foresaw")
        return written(connection, dashboard, mail)

    monkeypatch.setattr(mail_sending, "write_mail", breaks)
    assert send(people, server.url) == {"unwritten": 1, "sent": 1}
    assert people.rows("select state from mails where link_id = %s", second) == [("sent",)]
