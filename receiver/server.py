"""The receiver served by granian: one process, one event loop; more of them behind a proxy share the database."""

import gc

from granian.constants import HTTPModes, Interfaces
from granian.server import Server

from pipeline.shared import logs
from receiver import app

#: Seconds that a stopping receiver has to answer what it has received; then it is killed.
STOP_TIMEOUT = 8


def run(host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. Raises SettingsError before anything is started."""
    app.make()
    server = Server(
        "receiver.server:make",
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        factory=True,
        http=HTTPModes.http1,
        websockets=False,
        workers_kill_timeout=STOP_TIMEOUT,
        # No handlers of its own: its records go where ours go.
        log_dictconfig={"handlers": {}, "formatters": {}, "loggers": {}},
    )
    logs.configure()
    server.serve()


def make() -> app.App:
    """The application in the server's worker process."""
    logs.configure()
    made = app.make()
    # As in the worker (tasks/app.py): looking for cycles among what requests leave took 9 % of their time.
    gc.freeze()
    gc.set_threshold(50_000)
    return made
