"""Serves an ASGI application as the receiver is served: ``python -m bench.serve MODULE:FACTORY PORT``."""

import sys

from granian.constants import HTTPModes, Interfaces
from granian.server import Server


def main() -> None:
    factory, port = sys.argv[1:]
    Server(
        factory,
        address="127.0.0.1",
        port=int(port),
        interface=Interfaces.ASGI,
        factory=True,
        http=HTTPModes.http1,
        websockets=False,
    ).serve()


if __name__ == "__main__":
    main()
