"""The API served by uvicorn: one process with threads for its routes, behind the proxy that speaks TLS."""

import signal
from typing import Any

import uvicorn

from api import app
from pipeline.shared import logs
from pipeline.shared.settings import ApiSettings, load

#: Seconds that a stopping API has to answer what it has received.
STOP_TIMEOUT = 10
#: Connections; one more is answered 503 at once.
CONNECTIONS = 500


def run(host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. Raises SettingsError before anything is started."""
    logs.configure()
    made = app.make()
    for each in (signal.SIGTERM, signal.SIGINT):  # uvicorn ends in order, and then raises what ended it once more
        signal.signal(each, lambda *_: None)
    uvicorn.Server(config(made, load(ApiSettings).trusted_proxies, host=host, port=port)).run()


def config(application: Any, trusted_proxies: tuple[str, ...], *, host: str, port: int) -> uvicorn.Config:
    """How the API is served. Of ``trusted_proxies`` alone X-Forwarded-For is believed."""
    return uvicorn.Config(
        application,
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
        server_header=False,
        date_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=STOP_TIMEOUT,
    )
