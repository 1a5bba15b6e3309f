"""Differences that were found, for Altiora's staff: what is proposed, and what was decided."""

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from api.answers import USUAL_LIMIT, Cursor, Json, Limit, page
from api.asking import Asked, needs
from api.inputs import Id, Input, Reason, Since, Slug, Until
from api.outputs import Page
from api.problems import Problem, missing
from api.routers import router_of
from api.routes.operations import OfBusiness
from pipeline.closing import drift_decisions
from pipeline.reading.drifts import KeptDrift, list_drifts, read_drift
from pipeline.shared.clock import business_clock

router = router_of("operations", "/drifts")

Reads = Annotated[Asked, needs("operations:read")]
Acts = Annotated[Asked, needs("operations:write")]


class Resolution(Input):
    """What was found out and done."""

    note: Reason


@router.get("", response_model=Page[KeptDrift])
def list_all(
    asked: Reads,
    resolved: Annotated[bool | None, Query(description="Only those that are, or are not.")] = None,
    kind: Annotated[Slug | None, Query(description="Only those of this kind, as late-minutes.")] = None,
    whose: OfBusiness = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = USUAL_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """Differences, the newest first, with what is proposed."""
    return page(
        lambda before, rows: list_drifts(
            asked.connection,
            resolved=resolved,
            kind=kind,
            business_id=whose,
            since=since,
            until=until,
            before=before,
            limit=rows,
        ),
        lambda drift: drift.id,
        lambda drift: drift,
        limit=limit,
        cursor=cursor,
        filters=["drifts", resolved, kind, whose, since, until],
    )


@router.get("/{drift_id:id}", response_model=KeptDrift)
def show(drift_id: Id, asked: Reads) -> Response:
    """One difference, with its evidence."""
    return Json(_one(asked, drift_id))


@router.post("/{drift_id:id}/resolutions", response_model=KeptDrift)
def resolve(drift_id: Id, body: Resolution, asked: Acts) -> Response:
    """Resolve a difference with a note. One that a check finds again is opened again.

    What minutes or money wait for is decided by the command that its repair names.
    """
    drift = _one(asked, drift_id)
    if drift.kind in drift_decisions.MONEY_WAITS:
        raise Problem(
            409, "conflict", f"minutes or money wait for this, and a note alone decides nothing: {drift.repair}"
        )
    asked.see_others(drift.business_id)
    drift_decisions.decide(asked.connection, drift, business_clock().now(), body.note)
    detail = {"kind": drift.kind, "subject": drift.subject}
    asked.note("drifts resolve", f"drift:{drift_id}", business_id=drift.business_id, reason=body.note, detail=detail)
    return Json(_one(asked, drift_id))


def _one(asked: Asked, drift_id: int) -> KeptDrift:
    drift = read_drift(asked.connection, drift_id)
    if drift is None:
        raise missing("this difference")
    return drift
