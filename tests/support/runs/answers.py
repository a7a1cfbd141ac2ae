"""What every sampled response must be, in either framework."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def assert_stops(rows: Iterable[tuple[Any, Any]], stops: set[int], longest: int) -> None:
    """Each row (tokens [T], mask [T]) is one piece, and has a stop token at its end only or `longest` tokens.

    Some rows end and some are cut off, else this would be a check of nothing.
    """
    ended = []
    for tokens, mask in rows:
        own = tokens[mask].tolist()
        assert mask.tolist() == sorted(mask.tolist(), reverse=True), "no holes"
        assert not stops & set(own[:-1])
        assert own[-1] in stops or len(own) == longest
        ended.append(own[-1] in stops)
    assert len(set(ended)) == 2
