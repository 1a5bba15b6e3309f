"""What a business has at Stripe, what we changed there, and when it could take calls no longer."""

from typing import Annotated

from starlette.responses import Response

from api.answers import USUAL_LIMIT, Cursor, Json, Limit, page
from api.asking import AskedOfBusiness, in_business
from api.outputs import Page
from api.routers import router_of
from pipeline.reading.subscriptions import (
    LatestChange,
    MirroredSubscription,
    Transition,
    list_changes,
    list_subscriptions,
    list_transitions,
)

router = router_of("subscriptions", "/businesses/{business_id:id}")

Reads = Annotated[AskedOfBusiness, in_business("billing:read")]
ReadsService = Annotated[AskedOfBusiness, in_business("usage:read")]


@router.get("/subscriptions", response_model=Page[MirroredSubscription])
def list_all(asked: Reads) -> Response:
    """Its subscriptions as Stripe last told of them, the latest first."""
    return Json({"data": list_subscriptions(asked.connection, asked.business_id), "next_cursor": None})


@router.get("/subscription-changes", response_model=Page[LatestChange])
def list_wanted(asked: Reads, limit: Limit = USUAL_LIMIT, cursor: Cursor = None) -> Response:
    """What was to be changed at Stripe, and what became of it; the newest first."""
    return page(
        lambda before, rows: list_changes(asked.connection, asked.business_id, before=before, limit=rows),
        lambda change: change.id,
        lambda change: change,
        limit=limit,
        cursor=cursor,
        filters=["subscription-changes", asked.business_id],
    )


@router.get("/service-transitions", response_model=Page[Transition])
def list_service(asked: ReadsService, limit: Limit = USUAL_LIMIT, cursor: Cursor = None) -> Response:
    """When it could take calls no longer, or again, and why; the newest first."""
    return page(
        lambda before, rows: list_transitions(asked.connection, asked.business_id, before=before, limit=rows),
        lambda transition: transition.id,
        lambda transition: transition,
        limit=limit,
        cursor=cursor,
        filters=["service-transitions", asked.business_id],
    )
