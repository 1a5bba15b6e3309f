"""The API against its own description: whatever is asked, by it or against it, is answered as it says."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from accounts.access_tokens import AccessToken, sign_access_token
from api.description import FILE
from tests.worlds.cast import Cast

OPERATIONS = {
    found.ok().label: found.ok()  # type: ignore[union-attr]  # where one is malformed, this fails by saying so
    for found in schemathesis.openapi.from_dict(json.loads(FILE.read_text())).get_all_operations()
}

#: What a form can't say, so that what has the right form may be refused (410, 422) all the same.
BEYOND_FORM = {
    **{
        label: "a cursor is one that we have given"
        for label, operation in OPERATIONS.items()
        if any(each.name == "cursor" for each in operation.query)
    },
    "GET /v1/businesses/{business_id}/calls.csv": "an instant is one of our time",
    "GET /v1/businesses/{business_id}/usage": "the one instant is later than the other",
    "GET /v1/businesses/{business_id}/usage.csv": "as above",
    "POST /v1/businesses/{business_id}/numbers": "an id is written without a decimal point",
    "PATCH /v1/businesses/{business_id}/numbers/{number}": "as above",
    "POST /v1/numbers/{number}/moves": "as above",
    "POST /v1/webhook-events": "an id is one of its kind",
    "POST /v1/webhook-events/replays": "either the events are named, or what they have in common",
    "POST /v1/businesses/{business_id}/agents": "a name has visible characters",
    "PATCH /v1/businesses/{business_id}/agents/{agent_id}": "it says which state was read",
    "POST /v1/businesses/{business_id}/agents/{agent_id}/scripts": "a flow can be followed",
    "PUT /v1/businesses/{business_id}/agents/{agent_id}/scripts/{script_name}": "a flow, as above",
    "POST /v1/links/accept": "a secret is one that was mailed",
    "POST /v1/links/look": "a secret, as above",
    "POST /v1/me/password": "a password is hard to guess",
    "PATCH /v1/me": "a name has visible characters",
    "POST /v1/businesses/{business_id}/api-keys": "an expiry lies in the future",
    "PATCH /v1/businesses/{business_id}/api-keys/{key_id}": "an expiry, as above",
    "POST /v1/service-keys": "an expiry, as above",
    "POST /v1/businesses": "a time zone is one",
    "POST /v1/me/second-factor": "there is none yet",
    "POST /v1/me/second-factor/confirmations": "a code is right",
}

load_all_checks()
(positive_data_acceptance,) = CHECKS.get_by_names(["positive_data_acceptance"])

#: Who asks: staff, who may most; who owns a business, and who only works there; a program; nobody.
ACTORS = ("administrator", "owner", "member", "key", "nobody")


def headers_of(cast: Cast, actor: str, business_id: int) -> dict[str, str]:
    """As a browser of ours sends them, in a session of its own: what was asked before may have ended all others."""
    headers = {"Sec-Fetch-Site": "same-origin"}
    if actor == "key":
        headers |= {"Authorization": cast.client("key", business_id).headers["authorization"]}
    elif actor != "nobody":
        user_id, staff = cast.users[actor], actor == "administrator"
        begun = cast.people.session(user_id, staff=staff, second_factor=staff)
        token = sign_access_token(cast.people.keys, AccessToken(user_id, begun.session_id))
        headers |= {"Authorization": f"Bearer {token}"}
    return headers


EXAMPLES = pytest.mark.parametrize(
    "examples", [8, pytest.param(500, marks=[pytest.mark.soak, pytest.mark.timeout(3_600)])]
)


@EXAMPLES
def test_whatever_is_read_is_answered_as_described(api, people, examples):
    """All about one business, since nothing that is read changes anything."""
    cast = Cast(api, people)
    place = cast.place(1)
    headers = {actor: headers_of(cast, actor, place["business_id"]) for actor in ACTORS}
    for label in OPERATIONS:
        if label.startswith("GET "):
            ask_at_random(api, people, place, label, examples, headers.__getitem__)


@EXAMPLES
@pytest.mark.parametrize("label", [label for label in OPERATIONS if not label.startswith("GET ")])
def test_whatever_is_written_is_answered_as_described(api, people, label, examples):
    cast = Cast(api, people)
    place = cast.place(1)
    ask_at_random(api, people, place, label, examples, lambda actor: headers_of(cast, actor, place["business_id"]))


def ask_at_random(api, people, place, label, examples, headers) -> None:
    modes = {mode: OPERATIONS[label].as_strategy(generation_mode=mode) for mode in GenerationMode}

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(data=st.data(), actor=st.sampled_from(ACTORS), mode=st.sampled_from(list(modes)), there=st.booleans())
    def ask(data, actor, mode, there):
        case = data.draw(modes[mode])
        if there and mode is GenerationMode.POSITIVE:  # what is named is really there
            case.path_parameters.update({name: place[name] for name in case.path_parameters})
        case.headers.pop("Idempotency-Key", None)  # of another body it is refused, whatever the form
        people.run("delete from attempt_limits")
        people.run("update users set deactivated_at = null")
        case.call_and_validate(
            base_url=api.url,
            headers=headers(actor),
            excluded_checks=[positive_data_acceptance] if label in BEYOND_FORM else [],
        )

    ask()
