"""Invoices: drafts whose usage still moves, their finalisation after the grace period, and payment."""

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal

from sandbox.stripe_events import Events
from sandbox.stripe_meters import Meters, total
from sandbox.stripe_prices import Share, shares
from sandbox.stripe_shapes import new_invoice
from sandbox.stripe_state import Object, State, new_id, number

RETRY_SECONDS = 3 * 24 * 3600


@dataclass
class Flat:
    """A fixed charge for ``[start, end)``, in advance; negative cents are a credit for time that was paid for."""

    item: str
    price: Object
    quantity: int
    cents: int
    start: int
    end: int
    proration: bool = False

    @property
    def metered(self) -> bool:
        return False

    def parts(self) -> list[Share]:
        return [Share(1, Decimal(self.quantity), Decimal(self.cents) / self.quantity)]


@dataclass
class Usage:
    """What a metered item used in ``[start, end)``, in arrears. Moves until ``freeze``, which is for ever."""

    item: str
    price: Object
    tiers: list[Object] | None
    customer: str
    start: int
    end: int
    meters: Meters
    formula: str
    proration: bool = False
    frozen: Decimal | None = None

    @property
    def metered(self) -> bool:
        return True

    @property
    def quantity(self) -> Decimal:
        """Never below 0: negative corrections can empty a period, not more."""
        if self.frozen is not None:
            return self.frozen
        events = self.meters.used(self.price["recurring"]["meter"], self.customer, self.start, self.end)
        return max(total(events, self.formula), Decimal(0))

    def freeze(self) -> None:
        self.frozen = self.quantity

    def parts(self) -> list[Share]:
        return shares(self.quantity, self.price, self.tiers)


@dataclass
class _Book:
    """What an invoice's lines are made from."""

    sources: list[Flat | Usage]
    line_ids: dict[tuple[int, int], str] = field(default_factory=dict)


class Invoices:
    """The invoices of the account."""

    def __init__(self, state: State, events: Events, meters: Meters) -> None:
        self._state = state
        self._events = events
        self._meters = meters
        self._books: dict[str, _Book] = {}

    def usage(self, item: Object, customer: str, start: int, end: int, *, proration: bool = False) -> Usage:
        """What the metered ``item`` used in ``[start, end)``, counted at the price that it has now."""
        price = item["price"]
        formula = self._state.meters[price["recurring"]["meter"]]["default_aggregation"]["formula"]
        tiers = self._state.tiers.get(price["id"])
        return Usage(item["id"], price, tiers, customer, start, end, self._meters, formula, proration)

    def draft(
        self,
        subscription: Object,
        sources: Sequence[Flat | Usage],
        *,
        reason: str,
        period: tuple[int, int],
        grace_seconds: int | None,
    ) -> Object:
        """A draft of these charges, which finalises by itself after the grace; None: nothing finalises it."""
        invoice = new_invoice(
            subscription, reason=reason, period=period, grace_seconds=grace_seconds, now=self._state.now
        )
        self._state.invoices[invoice["id"]] = invoice
        self._books[invoice["id"]] = _Book(list(sources))
        subscription["latest_invoice"] = invoice["id"]
        self._events.emit("invoice.created", self.view(invoice))
        if grace_seconds is not None:
            due = self._state.timeline.now + timedelta(seconds=grace_seconds)
            self._state.timeline.at(due, functools.partial(self._finalise_in_time, invoice["id"]), stop=True)
        return invoice

    def view(self, invoice: Object) -> Object:
        """The invoice with its lines and totals of this moment: a draft shows the usage so far."""
        if invoice["status"] == "draft":
            book = self._books[invoice["id"]]
            lines = [
                self._line(invoice, book, place, source, share)
                for place, source in enumerate(book.sources)
                for share in self._parts(source)
            ]
            due = sum(line["amount"] for line in lines)
            invoice["lines"]["data"] = lines
            invoice.update(subtotal=due, total=due, amount_due=max(due, 0), amount_remaining=max(due, 0))
        return invoice

    def _parts(self, source: Flat | Usage) -> list[Share]:
        parts = source.parts()
        if self._state.rules.line_per_tier or len(parts) == 1:
            return parts
        quantity = sum((part.quantity for part in parts), Decimal(0))
        return [Share(1, quantity, sum((Decimal(part.cents) for part in parts), Decimal(0)) / quantity)]

    def _line(self, invoice: Object, book: _Book, place: int, source: Flat | Usage, share: Share) -> Object:
        price = source.price
        details = {
            "invoice_item": None,
            "proration": source.proration,
            "proration_details": {"credited_items": None},
            "subscription": invoice["parent"]["subscription_details"]["subscription"],
            "subscription_item": source.item,
        }
        return {
            "id": book.line_ids.setdefault((place, share.tier), new_id("il")),
            "object": "line_item",
            "amount": share.cents,
            "currency": invoice["currency"],
            "description": f"{share.quantity} x {price['nickname'] or price['id']} (tier {share.tier})"
            if source.metered
            else price["nickname"],
            "discount_amounts": [],
            "discountable": True,
            "discounts": [],
            "invoice": invoice["id"],
            "livemode": False,
            "metadata": {},
            "parent": {
                "invoice_item_details": None,
                "subscription_item_details": details,
                "type": "subscription_item_details",
            },
            "period": {"end": source.end, "start": source.start},
            "pretax_credit_amounts": [],
            "pricing": {
                "price_details": {"price": price["id"], "product": price["product"]},
                "type": "price_details",
                "unit_amount_decimal": f"{share.unit.normalize():f}",
            },
            "quantity": int(share.quantity),
            "quantity_decimal": str(share.quantity),
            "subtotal": share.cents,
            "taxes": [],
        }

    async def _finalise_in_time(self, invoice_id: str) -> None:
        self.finalise(self._state.invoices[invoice_id])
        await self._events.flush()

    def finalise(self, invoice: Object) -> None:
        """Freeze the usage as it is known now, then collect: what arrives later is on no invoice."""
        if invoice["status"] != "draft":
            return
        subscription = self._state.subscriptions[invoice["parent"]["subscription_details"]["subscription"]]
        behavior = (subscription["pause_collection"] or {}).get("behavior")
        if behavior == "keep_as_draft":
            invoice.update(auto_advance=False, automatically_finalizes_at=None)
            self._events.emit("invoice.updated", self.view(invoice))
            return
        now = self._state.now
        self.view(invoice)
        for usage in self._usages(invoice):
            usage.freeze()
        invoice.update(status="open", number=f"ALT-{len(self._books):06d}", effective_at=now)
        invoice.update(automatically_finalizes_at=None)
        invoice["status_transitions"]["finalized_at"] = now
        self._events.emit("invoice.finalized", invoice)
        if behavior == "void":
            self._end(invoice, "void", "voided_at", "invoice.voided")
        elif behavior == "mark_uncollectible":
            self._end(invoice, "uncollectible", "marked_uncollectible_at", "invoice.marked_uncollectible")
        else:
            self.collect(invoice)

    def _end(self, invoice: Object, status: str, transition: str, kind: str) -> None:
        invoice.update(status=status, auto_advance=False)
        invoice["status_transitions"][transition] = self._state.now
        self._events.emit(kind, invoice)

    def collect(self, invoice: Object) -> None:
        """Try to get the money: paid, or open with its subscription past due."""
        now = self._state.now
        subscription = self._state.subscriptions[invoice["parent"]["subscription_details"]["subscription"]]
        if invoice["amount_due"] > 0:
            invoice.update(attempted=True, attempt_count=invoice["attempt_count"] + 1)
            if invoice["customer"] in self._state.payment_fails:
                self._state.payment_fails.discard(invoice["customer"])
                invoice.update(next_payment_attempt=now + RETRY_SECONDS)
                self._events.emit("invoice.payment_failed", invoice)
                first = invoice["billing_reason"] == "subscription_create"
                self._become(subscription, "incomplete" if first else "past_due")
                return
        invoice.update(status="paid", amount_paid=invoice["amount_due"], amount_remaining=0, auto_advance=False)
        invoice.update(next_payment_attempt=None)
        invoice["status_transitions"]["paid_at"] = now
        self._events.emit("invoice.paid", invoice)
        self._events.emit("invoice.payment_succeeded", invoice)
        self._become(subscription, "active")

    def _become(self, subscription: Object, status: str) -> None:
        if subscription["status"] != "canceled":
            before = copy.deepcopy(subscription)
            subscription["status"] = status
            self._events.emit_change("customer.subscription.updated", before, subscription)

    def _usages(self, invoice: Object) -> list[Usage]:
        return [source for source in self._books[invoice["id"]].sources if isinstance(source, Usage)]

    def metered(self, invoice: Object) -> list[Object]:
        """What this invoice bills of the meters: the quantity as it stands, and the period that it is for."""
        return [
            {
                "subscription_item": usage.item,
                "price": usage.price["id"],
                "customer": usage.customer,
                "period_start": usage.start,
                "period_end": usage.end,
                "quantity": number(usage.quantity),
                "final": usage.frozen is not None,
                "arrived": number(
                    total(
                        self._meters.used(usage.price["recurring"]["meter"], usage.customer, usage.start, usage.end),
                        usage.formula,
                    )
                ),
            }
            for usage in self._usages(invoice)
        ]


def unused(price: Object, quantity: int, now: int, period: tuple[int, int]) -> int:
    """The cents of a fixed price that fall on the rest of its period."""
    rest = Decimal(period[1] - now) / Decimal(period[1] - period[0])
    return int((Decimal(price["unit_amount_decimal"]) * quantity * rest).quantize(Decimal(1)))
