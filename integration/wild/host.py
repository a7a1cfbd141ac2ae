"""A trainer of others: which of its functions is called, with which settings, and what each claims to compute."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gspo_core import GSPO, Objective

Loss = Callable[..., Any]
"""(logp, old_logp, advantage, mask) ↦ the host's loss, in its own array library; a mask of booleans [N, T]."""


@dataclass(frozen=True)
class Option:
    """One way to configure a host."""

    settings: str
    """What a user writes."""
    source: str
    """Where the host documents the settings."""
    loss: Callable[[], Loss]
    """Imports the host."""
    like: Objective = GSPO
    """What the loss is compared with."""


@dataclass(frozen=True)
class Host:
    """A trainer, or a library of losses."""

    name: str
    distribution: str
    """Name on the package index."""
    called: str
    """What of the host is executed, and what stands in for its model."""
    options: tuple[Option, ...]
    """The last one follows the advice, where settings can."""
    advice: str
    """How to get the paper's loss."""

    @property
    def version(self) -> str | None:
        """The installed one; None if it is not installed."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None


def without_empty_rows(loss: Loss) -> Loss:
    """The PyTorch loss on the rows that have a token."""

    def filtered(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
        rows = mask.any(1)
        if not rows.any():
            return logp.new_zeros(())
        return loss(logp[rows], old_logp[rows], advantage[rows], mask[rows])

    return filtered
