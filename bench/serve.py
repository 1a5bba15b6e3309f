"""Serves an ASGI application as the receiver is served: ``python -m bench.serve MODULE:FACTORY PORT``."""

import sys

from uvicorn.importer import import_from_string

from receiver import server


def main() -> None:
    factory, port = sys.argv[1:]
    server.Server(server.config(import_from_string(factory)(), host="127.0.0.1", port=int(port))).run()


if __name__ == "__main__":
    main()
