"""How far apart log-probs of a mixture-of-experts model are when only the routing changes."""
