"""The JSON API under /v1, as an ASGI application: ``make`` puts it together, the routes are below ``routes/``."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from anyio import Semaphore, to_thread
from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts
from pydantic import SecretStr
from sqlalchemy import Engine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp

from accounts.secret_keys import SecretKeys
from api.answers import CursorError
from api.browser import Cookies
from api.door import Door
from api.idempotency import ReplayError
from api.problems import Problem, add_handlers
from api.routes import (
    agents,
    api_keys,
    audit_entries,
    businesses,
    calls,
    drifts,
    health,
    invoices,
    knowledge,
    links,
    me,
    members,
    numbers,
    operations,
    plans,
    reference,
    runtime,
    scripts,
    sessions,
    statements,
    subscriptions,
    transcripts,
    usage,
    users,
    webhook_events,
)
from db.engine import make_engine
from pipeline.shared.settings import (
    DashboardSettings,
    DatabaseSettings,
    RuleSettings,
    SecretKeySettings,
    StripeModeSettings,
    TenantDatabaseSettings,
    load,
)
from pipeline.shared.version import VERSION

if TYPE_CHECKING:
    import re

#: Requests that are worked on at once, each with a connection, and the threads that do it.
AT_ONCE = 20
#: Seconds for which a connection that was used is taken to live; one that does not costs a request a 503.
_TRUSTED = 1.0


def routers() -> Sequence[APIRouter]:
    """Those under /v1, each with its whole address; what is asked most comes first, and is matched first."""
    return (
        links.router,
        sessions.router,
        me.router,
        businesses.router,
        members.router,
        agents.router,
        knowledge.router,
        scripts.router,
        numbers.router,
        numbers.staff_router,
        calls.router,
        calls.staff_router,
        transcripts.router,
        usage.router,
        statements.router,
        plans.router,
        subscriptions.router,
        invoices.router,
        runtime.router,
        api_keys.router,
        api_keys.service_router,
        users.router,
        operations.router,
        webhook_events.router,
        drifts.router,
        audit_entries.router,
        reference.router,
    )


def build(
    engine: Engine,
    tenants: Engine,
    keys: SecretKeys,
    dashboard_url: str,
    *,
    livemode: bool,
    bill_child_legs: bool = False,
) -> FastAPI:
    """The application without what is around it (``Door``).

    ``tenants``: connections with the login of tenants' requests, behind the database's wall; ``engine``: of all others.
    """
    app = FastAPI(
        title="Altiora",
        version=VERSION,
        description="Accounts, businesses and usage of Altiora. See docs/api.md.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.engine, app.state.tenants = engine, tenants
    app.state.keys, app.state.origin = keys, dashboard_url
    app.state.cookies, app.state.livemode = Cookies(dashboard_url), livemode
    app.state.bill_child_legs, app.state.at_once = bill_child_legs, Semaphore(AT_ONCE)
    for router in (health.router, *routers()):
        app.router.routes.extend(router.routes)
    add_handlers(app, _methods(app))

    async def no_cursor(_: Request, error: Exception) -> Response:
        invalid = [("cursor", str(error))]
        return Problem(422, "invalid", "see invalid_parameters", invalid=invalid).response()

    async def replayed(_: Request, error: Exception) -> Response:
        assert isinstance(error, ReplayError)
        return error.response

    app.add_exception_handler(CursorError, no_cursor)
    app.add_exception_handler(ReplayError, replayed)
    return app


def _methods(app: FastAPI) -> Callable[[str], dict[str, set[str]]]:
    """Which methods an address has, by the templates that fit: the framework names only those of the first route."""
    formats: dict[str, tuple[re.Pattern[str], set[str]]] = {}
    for route in iter_route_contexts(app.routes):
        assert route.path is not None
        pattern, template, _ = compile_path(route.path)
        _, methods = formats.setdefault(template, (pattern, set()))
        methods |= route.methods or set()
    return lambda path: {template: methods for template, (pattern, methods) in formats.items() if pattern.match(path)}


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = AT_ONCE
    yield
    app.state.engine.dispose()
    app.state.tenants.dispose()


def describable() -> FastAPI:
    """The application as it is described, without a database."""
    nowhere = make_engine("postgresql+psycopg://")
    return build(nowhere, nowhere, SecretKeys([SecretStr("described")]), "https://app.example.com", livemode=False)


def make() -> ASGIApp:
    """The application with the settings of this process. Raises SettingsError."""
    database, tenants, dashboard = load(DatabaseSettings), load(TenantDatabaseSettings), load(DashboardSettings)
    keys = SecretKeys(load(SecretKeySettings).secret_keys)
    engine, walled = (
        make_engine(url, pool_size=AT_ONCE, pooler=database.database_pooler, trusted_seconds=_TRUSTED)
        for url in (database.sqlalchemy_url, tenants.sqlalchemy_url or database.sqlalchemy_url)
    )
    mode, bill_child_legs = load(StripeModeSettings).livemode, load(RuleSettings).bill_child_legs
    return Door(build(engine, walled, keys, dashboard.dashboard_url, livemode=mode, bill_child_legs=bill_child_legs))
