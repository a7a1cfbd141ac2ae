"""A rollout that was stopped between two of its optimizer steps. on_torch/unfinished.py keeps it in the checkpoint.

All of its arrays are NumPy's, so that it goes on on any mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the trainer, which holds such a rollout, is known to them
    from integration.on_jax.training import MiniBatch, Old
    from integration.shared.measure import Rollup

Array = Any


@dataclass
class Unfinished:
    """Everything that the rest of a rollout's optimizer steps needs, and its line of metrics."""

    judged: dict[str, Any]
    drawn: dict[str, Any]
    """Parts of the line of metrics that are known before the updates."""
    lengths: Array
    """[N] tokens of the responses."""
    advantages: Array
    """[N]"""
    batches: list[MiniBatch]
    olds: list[list[Old]]
    rollup: Rollup
    seconds_sampling: float
    seconds_updating: float = 0.0
    done: int = 0
    """Optimizer steps taken."""
