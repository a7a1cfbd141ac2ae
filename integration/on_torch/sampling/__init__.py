"""How responses are drawn and read: caches, tapes, an engine that differs, and the checks before a run."""
