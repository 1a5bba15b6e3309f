"""What is given back at Stripe."""
