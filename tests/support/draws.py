"""How many examples a property draws where one example is expensive."""

from __future__ import annotations

from hypothesis import settings


def at_most(examples: int) -> settings:
    """`examples`, or fewer where the profile draws fewer (`make test-quick`)."""
    return settings(max_examples=min(examples, settings.default.max_examples))
