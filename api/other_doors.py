"""Where what an address does not do is done: a refusal (405) names the right door. The README has the whole table."""

from typing import Final

_B: Final = "/v1/businesses/{business_id}"
_CALL: Final = (
    "a call is what Twilio tells of it: where that is wrong ask Altiora, whose staff has Twilio asked again by POST"
    " /v1/webhook-events with kind call"
)
_RECORD: Final = (
    "its figures are those of its calls and are never written: where they are wrong ask Altiora, whose staff carries"
    " minutes and gives money back by `altiora drifts resolve`"
)
_SUBSCRIPTION: Final = (
    "it is changed at Stripe, and comes back from there: ask Altiora, whose staff does it by `altiora subscription`"
)
_INVOICE: Final = "invoices are Stripe's: ask Altiora, whose staff sees what is wrong with one by GET /v1/drifts"
_PLAN: Final = "plans are made, changed and retired by Altiora's staff: `altiora plans`"
_EVENT: Final = (
    "events are kept for 13 months as they came: POST /v1/webhook-events/replays applies one again,"
    " POST /v1/webhook-events/{id}/dismissals is done with it"
)
_FROZEN: Final = "a statement is frozen: what comes later stands in the next period, and under verification"

#: By the template of an address, what a 405 says beside the methods that it has.
DOORS: Final = {
    "/v1/users": "everybody comes in by one door: POST /v1/sign-ups, or an invitation",
    "/v1/users/{user_id}": (
        "nobody is deleted by others: POST /v1/users/{id}/deactivations; one's own account: DELETE /v1/me"
    ),
    f"{_B}/members": "people are invited: POST /v1/businesses/{id}/invitations",
    f"{_B}/calls": _CALL,
    f"{_B}/calls/{{sid}}": _CALL,
    f"{_B}/calls/{{sid}}/transcript": "the phone platform appends: POST /v1/runtime/calls/{sid}/messages",
    f"{_B}/calls/{{sid}}/transcript/{{position}}": "what was said is redacted (DELETE), and never rewritten",
    f"{_B}/agents/{{agent_id}}/scripts/{{script_name}}": "another text is a new version: PUT",
    f"{_B}/subscriptions": _SUBSCRIPTION,
    f"{_B}/subscription-changes": _SUBSCRIPTION,
    f"{_B}/usage-records": _RECORD,
    f"{_B}/usage-records/{{record_id}}": _RECORD,
    f"{_B}/usage": _RECORD,
    f"{_B}/statements": _FROZEN,
    f"{_B}/statements/{{record_id}}": _FROZEN,
    f"{_B}/invoices": _INVOICE,
    f"{_B}/invoices/{{invoice_id}}": _INVOICE,
    "/v1/plans": _PLAN,
    "/v1/plans/all": _PLAN,
    "/v1/webhook-events": _EVENT,
    "/v1/webhook-events/{event_id}": _EVENT,
    "/v1/meter-pushes": "a push is settled or released by `altiora pushes`",
    "/v1/drifts": "a difference is what a check finds: POST /v1/drifts/{id}/resolutions resolves it",
    "/v1/drifts/{drift_id}": "a difference is resolved: POST /v1/drifts/{id}/resolutions",
    "/v1/audit-entries": "the trail is added to by what is done, and by nobody else",
    f"{_B}/audit-entries": "the trail is added to by what is done, and by nobody else",
}
