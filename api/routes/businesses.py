"""Businesses: those that somebody belongs to, and to staff all of them."""

from typing import Annotated

from starlette.responses import Response

from accounts.members import set_owner
from accounts.users import check_email
from api.answers import USUAL_LIMIT, Cursor, Json, Limit, page
from api.asking import Asked, AskedOfBusiness, AskedOfBusinesses, in_business, oneself, over_businesses
from api.inputs import Email, Input, Name, Q
from api.outputs import BusinessShown, Page
from api.problems import missing
from api.routers import router_of
from pipeline.businesses import registration
from pipeline.reading.businesses import ListedBusiness, ShownBusiness, newest_businesses, read_business
from pipeline.shared.clock import business_clock

router = router_of("businesses", "/businesses")

Reads = Annotated[AskedOfBusiness, in_business("businesses:read")]
Writes = Annotated[AskedOfBusiness, in_business("businesses:write")]
Ends = Annotated[AskedOfBusiness, in_business("businesses:end", proven=True)]
ReadsBilling = Annotated[AskedOfBusiness, in_business("operations:read")]
Lists = Annotated[AskedOfBusinesses, over_businesses()]
Oneself = Annotated[Asked, oneself()]


class NewBusiness(Input):
    """A business, which begins on the plan Free. ``time_zone``: an IANA name; calendar months are local to it."""

    name: Name
    time_zone: Name


class ChangedBusiness(Input):
    """What of a business may be changed; what is not named stays. ``contact_email`` null: nobody beside its owner."""

    name: Name | None = None
    time_zone: Name | None = None
    contact_email: Email | None = None


def _shown(business: ListedBusiness) -> dict[str, object]:
    now = business_clock().now()
    return {
        "id": business.id,
        "name": business.name,
        "plan": business.plan,
        "time_zone": business.time_zone,
        "contact_email": business.contact_email,
        "numbers": business.numbers,
        "service_status": business.service_status(now),
        "ended_at": business.ended_at,
    }


def _read(asked: Asked, business_id: int) -> Json:
    found = newest_businesses(asked.connection, [business_id], before=business_id + 1, limit=1)
    if not found:
        raise missing("this business")
    return Json(_shown(found[0]))


@router.get("", response_model=Page[BusinessShown])
def list_businesses(asked: Lists, q: Q = "", limit: Limit = USUAL_LIMIT, cursor: Cursor = None) -> Response:
    """The businesses that the person belongs to; of staff all."""
    return page(
        lambda before, rows: newest_businesses(asked.connection, asked.ids, q=q, before=before, limit=rows),
        lambda business: business.id,
        _shown,
        limit=limit,
        cursor=cursor,
        filters=q,
    )


@router.post("", status_code=201, response_model=BusinessShown)
def add_business(body: NewBusiness, asked: Oneself) -> Response:
    """A business of one's own, on the plan Free; one that is free and lives is all that somebody may have."""
    person, now = asked.person, business_clock().now()
    business_id = registration.add_business(
        asked.connection, name=body.name, plan="free", time_zone=body.time_zone, stripe_customer=None, now=now
    )
    set_owner(asked.connection, business_id, person.user_id)
    asked.note("business add", f"business:{business_id}", business_id=business_id, detail={"plan": "free"})
    answer = _read(asked, business_id)
    answer.status_code = 201
    answer.headers["Location"] = f"/v1/businesses/{business_id}"
    return answer


@router.get("/{business_id:id}", response_model=BusinessShown)
def show_business(asked: Reads) -> Response:
    """One business."""
    return _read(asked, asked.business_id)


@router.get("/{business_id:id}/billing", response_model=ShownBusiness)
def show_billing(asked: ReadsBilling) -> Response:
    """How it is billed, for Altiora's staff: its customer and former ones, what lives at Stripe, what differs."""
    return Json(read_business(asked.connection, asked.business_id, business_clock().now()))


@router.patch("/{business_id:id}", response_model=BusinessShown)
def change_business(body: ChangedBusiness, asked: Writes) -> Response:
    """Call it otherwise, move its time zone from its next period on, or say whom we write to.

    Its customer at Stripe keeps its name; a period that has begun keeps its bounds.
    """
    given = body.model_fields_set
    if body.name is not None:
        registration.rename_business(asked.connection, asked.business_id, body.name)
    if body.time_zone is not None:
        registration.move_time_zone(asked.connection, asked.business_id, body.time_zone)
    if "contact_email" in given:
        email = None if body.contact_email is None else check_email(body.contact_email)
        registration.set_contact(asked.connection, asked.business_id, email)
    asked.note("business change", f"business:{asked.business_id}", fields=sorted(given))
    return _read(asked, asked.business_id)


@router.delete("/{business_id:id}", response_model=BusinessShown)
def end_business(asked: Ends) -> Response:
    """End it: it gives up its numbers. While a subscription lives it can't be."""
    numbers = registration.end_business(asked.connection, asked.business_id, business_clock().now())
    subject = f"business:{asked.business_id}"
    asked.note("business end", subject, fields=["ended_at"], detail={"numbers": numbers})
    return _read(asked, asked.business_id)
