"""Invoices: drafts whose usage still moves, their finalisation after the grace period, and how else they end."""

import copy
import functools
from collections.abc import Sequence

from sandbox.stripe.account.balances import Balances
from sandbox.stripe.account.charges import Charge, Usage
from sandbox.stripe.account.events import Events
from sandbox.stripe.account.lifecycle import Lifecycle
from sandbox.stripe.account.lines import Sources
from sandbox.stripe.account.payments import Payments
from sandbox.stripe.account.reductions import reduce_lines, total_of
from sandbox.stripe.account.state import Object, State, instant
from sandbox.stripe.api.errors import StripeError
from sandbox.stripe.api.shapes import new_invoice


class Invoices:
    """The invoices of the account."""

    def __init__(
        self, state: State, events: Events, lifecycle: Lifecycle, payments: Payments, balances: Balances
    ) -> None:
        self._state = state
        self._events = events
        self._lifecycle = lifecycle
        self._payments = payments
        self._balances = balances
        self._sources: dict[str, Sources] = {}

    def draft(
        self,
        subscription: Object,
        charges: Sequence[Charge],
        *,
        reason: str,
        period: tuple[int, int],
        grace_seconds: int | None,
    ) -> Object:
        """A draft of these charges, which finalises by itself after the grace; None: nothing finalises it."""
        invoice = new_invoice(subscription, reason=reason, period=period, now=self._state.now)
        self._state.invoices[invoice["id"]] = invoice
        self._sources[invoice["id"]] = Sources(list(charges))
        subscription["latest_invoice"] = invoice["id"]
        if grace_seconds is not None:
            self._finalise_after(invoice, grace_seconds)
        self._events.emit("invoice.created", self.view(invoice))
        return invoice

    def charge(
        self, subscription: Object, charges: Sequence[Charge], *, reason: str, period: tuple[int, int]
    ) -> Object:
        """An invoice of these charges that finalises, and is collected, at once."""
        invoice = self.draft(subscription, charges, reason=reason, period=period, grace_seconds=None)
        self.finalise(invoice)
        return invoice

    def grace(self, subscription: Object) -> int | None:
        """How long the drafts of this subscription wait; None: they stay drafts until somebody lets them advance."""
        kept = (subscription["pause_collection"] or {}).get("behavior") == "keep_as_draft"
        return None if kept or subscription["status"] == "unpaid" else self._state.rules.grace_seconds

    def view(self, invoice: Object) -> Object:
        """The invoice with its lines and totals of this moment: a draft shows the usage so far."""
        if invoice["status"] == "draft":
            lines = self._sources[invoice["id"]].lines(invoice, per_tier=self._state.rules.line_per_tier)
            reduce_lines(self._state, invoice, lines)
            total = total_of(lines)
            invoice["lines"]["data"] = lines
            invoice.update(subtotal=sum(line["amount"] for line in lines), total=total)
            invoice.update(amount_due=max(total, 0), amount_remaining=max(total, 0))
        return invoice

    def _finalise_after(self, invoice: Object, grace_seconds: int) -> None:
        due = self._state.now + grace_seconds
        invoice.update(auto_advance=True, automatically_finalizes_at=due)
        finalise = functools.partial(self._finalise_in_time, invoice["id"], due)
        self._state.timeline.at(instant(due), finalise, stop=True)

    async def _finalise_in_time(self, invoice_id: str, due: int) -> None:
        invoice = self._state.invoices[invoice_id]
        if invoice["status"] != "draft" or invoice["automatically_finalizes_at"] != due:
            return
        if self._collection(invoice) == "keep_as_draft":
            self._change(invoice, auto_advance=False, automatically_finalizes_at=None)
        else:
            self.finalise(invoice)
        await self._events.flush()

    def _collection(self, invoice: Object) -> str | None:
        subscription = self._state.subscriptions[invoice["parent"]["subscription_details"]["subscription"]]
        behavior: str | None = (subscription["pause_collection"] or {}).get("behavior")
        return behavior

    def _change(self, invoice: Object, **fields: object) -> None:
        before = copy.deepcopy(invoice)
        invoice.update(fields)
        self._events.emit_change("invoice.updated", before, self.view(invoice))

    def finalise(self, invoice: Object, *, collects: bool = True) -> None:
        """Freeze the usage as it is known now, then collect: what arrives later is on no invoice.

        Without ``collects`` it stays open until somebody pays it.
        """
        if invoice["status"] != "draft":
            raise StripeError(
                400, "This invoice is already finalized, you can't re-finalize a non-draft invoice.", executed=True
            )
        behavior = self._collection(invoice)
        now = self._state.now
        self.view(invoice)
        for usage in self._usages(invoice):
            usage.freeze()
        invoice.update(status="open", number=f"ALT-{len(self._sources):06d}", effective_at=now)
        invoice.update(automatically_finalizes_at=None, auto_advance=collects)
        self._balances.apply(invoice)
        self._use_up(invoice)
        invoice["status_transitions"]["finalized_at"] = now
        self._events.emit("invoice.finalized", invoice)
        if behavior == "void":
            self._end(invoice, "void", "voided_at", "invoice.voided")
        elif behavior == "mark_uncollectible":
            self._end(invoice, "uncollectible", "marked_uncollectible_at", "invoice.marked_uncollectible")
        elif collects or not invoice["amount_due"]:
            self._payments.collect(invoice)

    def _use_up(self, invoice: Object) -> None:
        """End the discounts that are for one invoice."""
        subscription = self._state.subscriptions[invoice["parent"]["subscription_details"]["subscription"]]
        discounts = self._state.discounts
        once = [
            each
            for each in invoice["discounts"]
            if self._state.coupons[discounts[each]["source"]["coupon"]]["duration"] == "once"
        ]
        if set(once) & set(subscription["discounts"]):
            before = copy.deepcopy(subscription)
            subscription["discounts"] = [each for each in subscription["discounts"] if each not in once]
            self._events.emit_change("customer.subscription.updated", before, subscription)

    def _end(self, invoice: Object, status: str, transition: str, kind: str) -> None:
        invoice.update(status=status, auto_advance=False, next_payment_attempt=None)
        invoice["status_transitions"][transition] = self._state.now
        self._events.emit(kind, invoice)

    def update(self, invoice: Object, auto_advance: bool | None, metadata: dict[str, str]) -> None:
        """Set what may be set: a draft that advances finalises one grace from now, an open one is tried then."""
        if auto_advance is not None and invoice["status"] not in {"draft", "open"}:
            raise StripeError(
                400, "Finalized invoices can't be updated in this way", code="invoice_not_editable", executed=True
            )
        before = copy.deepcopy(invoice)
        invoice["metadata"] = metadata
        if auto_advance is False:
            invoice.update(auto_advance=False, automatically_finalizes_at=None, next_payment_attempt=None)
        elif auto_advance and not invoice["auto_advance"]:
            grace = self._state.rules.grace_seconds
            if invoice["status"] == "draft":
                self._finalise_after(invoice, grace)
            else:
                self._payments.plan_attempt(invoice, self._state.now + grace)
        self._events.emit_change("invoice.updated", before, self.view(invoice))

    def pay(self, invoice: Object, *, out_of_band: bool) -> None:
        """Pay it now, as the API's call does: a draft is finalised first, and a declined card is an error."""
        if invoice["status"] == "draft":
            self.finalise(invoice, collects=False)
            if invoice["status"] == "paid":
                return
        if invoice["status"] == "paid":
            raise StripeError(400, "Invoice is already paid", executed=True)
        if invoice["status"] == "void":
            raise StripeError(400, "You can't pay an invoice that is void.", executed=True)
        if out_of_band:
            self._payments.paid(invoice)
        elif not self._payments.collect(invoice, by_hand=True):
            raise StripeError(402, "Your card was declined.", kind="card_error", code="card_declined", executed=True)

    def void(self, invoice: Object) -> None:
        """Say that it should not have been. The first invoice of a subscription that waits for it ends that as well."""
        self._must_be(invoice, "open", "uncollectible")
        self._end(invoice, "void", "voided_at", "invoice.voided")
        subscription = self._state.subscriptions[invoice["parent"]["subscription_details"]["subscription"]]
        if invoice["billing_reason"] == "subscription_create" and subscription["status"] == "incomplete":
            self._lifecycle.expire(subscription)

    def mark_uncollectible(self, invoice: Object) -> None:
        self._must_be(invoice, "open")
        invoice["status_details"] = {"uncollectible": {"reason": "user_forgiven"}}
        self._end(invoice, "uncollectible", "marked_uncollectible_at", "invoice.marked_uncollectible")

    def _must_be(self, invoice: Object, *statuses: str) -> None:
        if invoice["status"] not in statuses:
            raise StripeError(400, "You can only pass in open invoices. This invoice isn't open.", executed=True)

    def _usages(self, invoice: Object) -> list[Usage]:
        return [charge for charge in self._sources[invoice["id"]].charges if isinstance(charge, Usage)]

    def metered(self, invoice: Object) -> list[Object]:
        """What this invoice bills of the meters: the quantity as it stands, and the period that it is for."""
        return [usage.shown() for usage in self._usages(invoice)]
