"""A task whose answers are megabytes that its verifier takes."""

from __future__ import annotations

from typing import Any


def questions() -> list[tuple[str, str]]:
    """One."""
    return [("How much?", "1")]


def score(answer: str, _entry: dict[str, Any]) -> float:
    """Right if there is so much."""
    return float(len(bytearray(int(answer) * 2**20)) > 0)
