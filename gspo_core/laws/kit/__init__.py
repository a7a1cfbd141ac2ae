"""The machinery of the kit: batches, claims, laws, the loss under test, and running a law on it."""
