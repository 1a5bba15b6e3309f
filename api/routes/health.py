"""For whoever watches: is the process there, and can it reach the database?"""

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from api import metrics
from api.answers import Json
from api.asking import anybody, engine_of
from db.schema_version import SchemaError
from pipeline.shared.version import VERSION, commit

router = APIRouter(include_in_schema=False, dependencies=[anybody()])


@router.get("/health/live")
def live() -> Response:
    """The process answers."""
    return Json({"status": "ok", "version": VERSION, "commit": commit()})


@router.get("/health/ready")
def ready(request: Request) -> Response:
    """Requests can be served."""
    try:
        for engine in (engine_of(request), request.app.state.tenants):
            with engine.connect() as connection:
                connection.exec_driver_sql("select 1")
    except (SQLAlchemyError, SchemaError) as error:
        words = str(error) if isinstance(error, SchemaError) else "the database can't be asked"
        return Json({"status": "unavailable", "reasons": [words]}, 503)
    return Json({"status": "ok"})


@router.get("/metrics")
def metrics_() -> Response:
    """For Prometheus; keep it inside."""
    return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)
