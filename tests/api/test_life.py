"""The life of a user by HTTP alone, as docs/api.md tells it."""


def test_the_life_of_a_user(api):
    # Sign up: a link comes by mail, and with it a name and a password.
    ada = api.browser()
    ada.post("/sign-ups", email="ada@example.com")
    secret = api.mail()
    assert ada.post("/links/look", secret=secret)["kind"] == "sign-up"
    ada.post("/links/accept", secret=secret, name="Ada Byron", password="seven lanterns under quartz")
    ada.post("/links/look", secret=secret, status=410)
    assert ada.sign_in("ada@example.com", "seven lanterns under quartz")["expires_in"] == 600
    assert ada.get("/me")["name"] == "Ada Byron"

    # A second factor.
    ada.secret = ada.post("/me/second-factor")["secret"]
    codes = ada.post("/me/second-factor/confirmations", code=ada.code())["recovery_codes"]
    assert len(codes) == 10
    assert (
        api.browser()
        .sign_in("ada@example.com", "seven lanterns under quartz", status=401)["type"]
        .endswith(":code-needed")
    )

    # A business on Free; one a person.
    bakery = ada.post("/businesses", name="Corner Bakery", time_zone="Europe/London")
    assert (bakery["plan"], bakery["service_status"]) == ("free", "active")
    ada.post("/businesses", name="Another", time_zone="UTC", status=409)
    here = f"/businesses/{bakery['id']}"

    # A colleague is invited, and becomes an admin.
    ada.post(f"{here}/invitations", email="bob@example.com", role="member")
    bob = api.browser()
    bob.post("/links/accept", secret=api.mail(), name="Bob", password="gravel orchid nineteen tubas")
    bob.sign_in("bob@example.com", "gravel orchid nineteen tubas")
    members = bob.get(f"{here}/members")["data"]
    assert [(each["name"], each["role"]) for each in members] == [("Ada Byron", "owner"), ("Bob", "member")]
    bob.post(f"{here}/invitations", email="zoe@example.com", role="member", status=403)
    ada.patch(f"{here}/members/{members[1]['user_id']}", role="admin")
    bob.post(f"{here}/invitations", email="zoe@example.com", role="member")
    assert [each["email"] for each in ada.get(f"{here}/invitations")["data"]] == ["zoe@example.com"]

    # A key for a program: made, used, revoked.
    key = ada.post(f"{here}/api-keys", name="till", scopes=["businesses:read"])
    program = api.client(key["secret"])
    assert program.get(here).json()["name"] == "Corner Bakery"
    assert program.get(f"{here}/members").status_code == 403
    ada.delete(f"{here}/api-keys/{key['id']}")
    assert program.get(here).status_code == 401

    # Another address: confirmed there, and all sessions end.
    ada.post("/me/email", email="ada@example.org")
    ada.post("/links/accept", secret=api.mail("ada@example.org"))
    ada.get("/me", status=401)
    ada.sign_in("ada@example.org", "seven lanterns under quartz", code=ada.code())

    # The password is lost and reset; the second factor stays.
    api.browser().post("/password-resets", email="ada@example.org")
    ada.post("/links/accept", secret=api.mail(), password="nine copper bridges at dawn")
    ada.get("/me", status=401)
    ada.sign_in("ada@example.org", "seven lanterns under quartz", status=401)
    ada.sign_in("ada@example.org", "nine copper bridges at dawn", status=401)
    ada.sign_in("ada@example.org", "nine copper bridges at dawn", code=codes[0])

    # All sessions ended; then the account, once the business is handed over.
    elsewhere = api.browser()
    elsewhere.sign_in("ada@example.org", "nine copper bridges at dawn", code=codes[1])
    assert len(ada.get("/sessions")["data"]) == 2
    ada.delete("/sessions")
    elsewhere.get("/me", status=401)
    ada.sign_in("ada@example.org", "nine copper bridges at dawn", code=codes[2])
    ada.delete("/me", status=409)
    ada.post(f"{here}/ownership", email="bob@example.com")
    bob.post("/links/accept", secret=api.mail())
    assert bob.get("/me")["businesses"][0]["role"] == "owner"
    ada.delete("/me")
    ada.sign_in("ada@example.org", "nine copper bridges at dawn", code=codes[3], status=401)

    # And who did what is in the trail.
    told = [(each["what"], each["by_right"]) for each in bob.get(f"{here}/audit-entries?limit=200")["data"]]
    assert told[::-1] == [
        ("business add", "oneself"),
        ("member invite", "members:write"),
        ("link invitation", "anybody"),
        ("member role", "members:write"),
        ("member invite", "members:write"),
        ("key make", "keys:write"),
        ("key revoke", "keys:write"),
        ("business hand-over", "ownership:write"),
        ("link ownership", "anybody"),
    ]
