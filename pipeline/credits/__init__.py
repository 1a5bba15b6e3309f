"""Giving back what was charged too much: a credit note on the invoice, or the customer's balance, once."""
