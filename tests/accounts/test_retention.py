"""What is kept of accounts, and for how long."""

from accounts.links import LinkKind, request_link
from accounts.retention import prune_accounts
from accounts.sessions import SessionEnd, end_sessions, refresh_session


def counts(people) -> dict[str, int]:
    tables = ("sessions", "refresh_tokens", "account_links", "link_tokens", "mails")
    return {table: people.one(f"select count(*) from {table}") for table in tables}


def test_what_lives_stays_and_what_is_long_over_goes_step_by_step(people, keys):
    ada = people.user("Ada")
    living, ended = people.session(ada), people.session(ada)
    refresh_session(people.engine, keys, living.token)
    with people.engine.begin() as connection:
        end_sessions(connection, ada, SessionEnd.SIGN_OUT, session_id=ended.session_id)
        link_id = request_link(connection, LinkKind.RESET, "ada@example.com")
    people.secret_of(link_id)
    people.run("update mails set state = 'sent', settled_at = now()")
    everything = {"sessions": 2, "refresh_tokens": 3, "account_links": 1, "link_tokens": 1, "mails": 1}
    prune_accounts(people.engine)
    assert counts(people) == everything
    people.run("update sessions set ended_at = ended_at - interval '2 days'")
    people.run("update link_tokens set expires_at = expires_at - interval '2 days'")
    prune_accounts(people.engine)
    assert counts(people) == everything | {"refresh_tokens": 2, "link_tokens": 0}
    people.run("update sessions set ended_at = ended_at - interval '90 days'")
    people.run("update mails set settled_at = settled_at - interval '91 days'")
    people.run("update account_links set created_at = created_at - interval '91 days'")
    prune_accounts(people.engine)
    assert counts(people) == {"sessions": 1, "refresh_tokens": 2, "account_links": 0, "link_tokens": 0, "mails": 0}
    assert refresh_session(people.engine, keys, living.token)
