"""A request's transaction: whatever becomes of the request, it ends, and so does its turn."""

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from api.app import AT_ONCE
from api.asking import Transaction
from tests.worlds.api import _application
from tests.worlds.breaking import breaks
from tests.worlds.cast import Cast


@breaks("api/asking.py", "with CancelScope(shield=True):", "with contextlib.nullcontext():")
def test_who_is_cancelled_leaves_neither_a_transaction_nor_a_turn():
    seen = []

    @contextlib.contextmanager
    def ask(_):
        seen.append("begun")
        try:
            yield "asked"
        finally:
            seen.append("ended")

    async def main():
        request: Any = SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(at_once=anyio.Semaphore(1))))
        transaction: Any = Transaction(ask)
        with anyio.move_on_after(0.1):
            async with transaction.asked(request):
                await anyio.sleep(5)
        assert request.app.state.at_once.value == 1
        assert seen == ["begun", "ended"]

    anyio.run(main)


@pytest.mark.parametrize("times", [60])
def test_whatever_is_asked_no_turn_and_no_connection_is_lost(api, people, times):
    cast = Cast(api, people)
    here = f"/businesses/{cast.place(1)['business_id']}"
    owner, port = cast.clients["owner"], int(api.url.rsplit(":", 1)[1])

    def odd(number: int) -> None:
        owner.post(f"{here}/numbers", json={"nonsense": number})
        owner.post(f"{here}/numbers", content=b"{")
        owner.get(f"{here}/calls", params={"cursor": "AAAA"})
        owner.get("/businesses/999999/calls")
        cast.clients["nobody"].get(f"{here}/calls")
        cast.clients["operator"].get("/webhook-events/99999")
        key = {"Idempotency-Key": f"k{number % 3}"}
        owner.post(f"{here}/numbers", json={"number": "+14155550999"}, headers=key)
        with socket.create_connection(("127.0.0.1", port)) as raw:  # who asks, and is gone
            token = owner.headers["authorization"]
            raw.sendall(f"GET /v1{here}/calls.csv HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n".encode())

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(odd, range(times)))
    state = _application().state
    for _ in range(100):
        if state.at_once.value == AT_ONCE and not state.engine.pool.checkedout() + state.tenants.pool.checkedout():
            return
        anyio.run(anyio.sleep, 0.05)
    pytest.fail("a turn or a connection is lost")
