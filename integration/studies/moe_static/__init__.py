"""Difference of a mixture-of-experts model's log-probs when only the routing changes."""
