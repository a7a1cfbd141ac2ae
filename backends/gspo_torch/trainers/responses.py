"""What adapters share: advantages of responses out of those of tokens, and a clip range out of a trainer's options."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gspo_core import Objective, PerToken
from gspo_core.types import Layout


def check_objective(objective: Any) -> None:
    """Refuses everything but an objective, such as the name of a preset.

    Args:
        objective: what a trainer was given.

    Returns: nothing.

    Raises: TypeError.

    >>> check_objective("GSPO")
    Traceback (most recent call last):
        ...
    TypeError: objective: expected an Objective such as gspo_core.GSPO, got 'GSPO'
    """
    if not isinstance(objective, Objective):
        raise TypeError(f"objective: expected an Objective such as gspo_core.GSPO, got {objective!r}")


def whole_step(count: float | Tensor | None, ranks: float | Tensor = 1) -> float | Tensor | None:
    """What to divide by: a trainer's count of a step over all of its ranks, for gradients that are averaged over them.

    Args:
        count: of responses or tokens; None if the trainer did not count.
        ranks: how many there are.

    Returns: a number, or None for the batch's own count. A step without a token has the loss 0, and no 0/0.

    >>> whole_step(6, 2), whole_step(0, 2), whole_step(None)
    (3.0, None, None)
    """
    return None if count is None or count == 0 else count / ranks


def advantage_for(objective: Objective, tokens: Tensor, layout: Layout) -> Tensor | PerToken:
    """Advantages as an objective takes them, from one per token.

    Args:
        objective: with a ratio of responses, or of tokens.
        tokens: token array; masked slots are not read.
        layout: of the batch.

    Returns: PerToken, or [N].

    Raises: ValueError for another shape, and if the objective has one ratio per response and the tokens of one have different
    advantages.

    >>> from gspo_core import GSPO, Padded
    >>> advantage_for(GSPO, torch.tensor([[1.0, 1.0, 7.0], [5.0, 5.0, 5.0]]), Padded(torch.tensor([[1, 1, 0], [0, 0, 0]]) > 0))
    tensor([1., 0.])
    """
    if tuple(tokens.shape) != tuple(layout.shape):
        raise ValueError(f"advantages: expected one for each token, {list(layout.shape)}, got {list(tokens.shape)}")
    if objective.ratio.per_token:
        return PerToken(tokens)
    numbers = torch.arange(layout.num_sequences, device=tokens.device, dtype=torch.float64)
    own = layout.spread(numbers)[layout.valid].long()
    empty = tokens.new_zeros(layout.num_sequences)
    high, low = (empty.scatter_reduce(0, own, tokens[layout.valid], way, include_self=False) for way in ("amax", "amin"))
    if bool((high > low).any()):
        raise ValueError(
            f"advantages: expected one number per response, since {objective.ratio} has one ratio per response, got tokens "
            "that differ; take an objective with token advantages such as GSPO_TOKEN"
        )
    return high


def with_range(objective: Objective, low: float, high: float, names: str, default: float = 0.2) -> Objective:
    """The objective with a trainer's clip range, if it has one.

    Args:
        objective: any.
        low, high: the trainer's options.
        names: what the trainer calls them.
        default: of both.

    Returns: an objective.

    Raises: ValueError for a range that the objective has no use for.

    >>> from gspo_core import GSPO
    >>> with_range(GSPO, 0.03, 0.04, "eps").surrogate
    Clip(low=0.03, high=0.04)
    """
    if hasattr(objective.surrogate, "low") and hasattr(objective.surrogate, "high"):
        return objective.with_clip(low, high)
    if (low, high) != (default, default):
        raise ValueError(
            f"{names}: expected the default {default}, since {objective.surrogate} has no range, got {low}, {high}"
        )
    return objective
