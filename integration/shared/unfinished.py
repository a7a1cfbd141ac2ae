"""A rollout that was stopped between two of its optimizer steps. on_torch/unfinished.py keeps it in the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from integration.shared.measure import Rollup

Batch = TypeVar("Batch")
"""What one optimizer step is given."""
Past = TypeVar("Past")
"""What is known of a micro-batch from before the updates."""


@dataclass
class Unfinished(Generic[Batch, Past]):
    """Everything that the rest of a rollout's optimizer steps needs, and its line of metrics.

    Arrays are PyTorch's in one script; in the other they are NumPy's, so that it goes on on any mesh.
    """

    judged: dict[str, Any]
    drawn: dict[str, Any]
    """Parts of the line of metrics that are known before the updates."""
    lengths: Any
    """[N] tokens of the responses."""
    advantages: Any
    """[N]"""
    batches: list[Batch]
    olds: list[list[Past]]
    rollup: Rollup
    seconds_sampling: float
    seconds_updating: float = 0.0
    done: int = 0
    """Optimizer steps taken."""
