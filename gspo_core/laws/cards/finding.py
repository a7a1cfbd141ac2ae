"""One measured property of a loss."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProfileFinding:
    """One measured property of a loss."""

    topic: str
    """The property."""
    sentence: str
    """The result in words, with numbers."""
    kind: str
    """The result as one word, for programs."""
    agrees: bool
    """Whether it is the same for GSPO as in the paper (eq. 5)."""
