"""Bytes that a GPU sends in an optimizer step, by scheme: those of the loss are constants or a few per sequence or token."""

from __future__ import annotations

from typing import NamedTuple

from .plans import Spread, Work, ceil, passes, rows_at_once
from .shapes import Shape

METRICS = 8 * 3616 + 4 * 8121
"""Payload of `gspo_torch.merge_over`: 3,604 counts and 12 flags of 8 bytes; 8,109 sums and 12 extremes in float32."""
DENOMINATOR = 8
"""Payload: one number for all sequences of the step."""
PER_SEQUENCE = 8 + 4
"""Payload over ranks that share sequences: a length, once per layout, and the sum of log ratios in float32, once per loss."""
PER_TOKEN = 3 * 4
"""Payload over ranks that share the vocabulary: a maximum and two sums, float32. Backward adds 4 H: the states' gradient."""


class Traffic(NamedTuple):
    """Bytes sent by one GPU in an optimizer step.

    >>> Traffic(gradients=10, weights=5, attention=0, loss=2, metrics=1).total
    18
    """

    gradients: int
    """Added up over the ranks, or in fsdp over their shares."""
    weights: int
    """fsdp gathers each layer for the forward and again for the backward pass, embedding and head once, in float32."""
    attention: int
    """Keys and values, and their gradients, between ranks that share sequences."""
    loss: int
    """Of the exact objective: denominators, sums per sequence, and for a vocabulary in parts sums per token."""
    metrics: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def traffic(shape: Shape, work: Work, spread: Spread) -> Traffic:
    """Of one GPU, with rings: an all-reduce of S bytes over n ranks sends 2 S (n − 1)/n, a gather or a scatter S (n − 1)/n.

    Args:
        shape: the model.
        work: what is trained.
        spread: over which ranks.

    Returns: `Traffic`, in bytes. Not counted: what comes once per rollout (old log-probs, the weights for sampling), metrics of
    sequences in parts, checkpoints.

    Raises: nothing of its own: `Shape`, `Work` and `Spread` refuse what is wrong.

    >>> from gspo_scale import PRESETS, Spread, Work
    >>> traffic(PRESETS["qwen3-0.6b"], Work(), Spread(8)).loss  # 8 bytes over 8 ranks, there and back
    14
    >>> traffic(PRESETS["qwen3-0.6b"], Work(), Spread())
    Traffic(gradients=0, weights=0, attention=0, loss=0, metrics=0)
    """
    total, item = shape.parameters, work.item
    count, rows = passes(work, spread), rows_at_once(work, spread)
    sequences, replicas = count * rows, spread.data * spread.context
    tokens = sequences * ceil(work.length, spread.context)
    responses = sequences * ceil(work.response, spread.context)
    outside = (1 if shape.tied else 2) * shape.head + shape.hidden  # stays whole between forward and backward
    again = 3 if work.checkpointing else 2  # forward, gradients, and the forward pass of recomputing
    return Traffic(
        gradients=ring(4 * total, replicas, 2) if spread.parallel == "ddp" else count * ring(4 * total, replicas),
        weights=0 if spread.parallel == "ddp" else count * ring(4 * (2 * total - outside), replicas),
        attention=shape.layers * again * 2 * item * shape.keys * tokens * (spread.context - 1),
        loss=ring(DENOMINATOR, spread.data, 2)
        + ring(PER_SEQUENCE * sequences, spread.context, 2)
        + ring((PER_TOKEN + 4 * shape.hidden) * responses, spread.vocabulary, 2),
        metrics=ring(METRICS, spread.data, 2),
    )


def ring(size: int, ranks: int, rounds: int = 1) -> int:
    """Bytes that each of the ranks sends: `rounds` 1 for a gather or a scatter, 2 for an all-reduce.

    >>> ring(100, 4, 2), ring(100, 4), ring(100, 1)
    (150, 75, 0)
    """
    return rounds * size * (ranks - 1) // ranks
