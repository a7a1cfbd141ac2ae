"""The tokens that a loss needs."""

from __future__ import annotations

from gspo_core.objectives import Objective
from gspo_core.types import Array, Layout, PerToken


def active_tokens(objective: Objective, advantage: Array | PerToken, layout: Layout) -> Array:
    """Token array, boolean: the tokens of sequences that have an advantage other than 0; the loss needs no others.

    Args:
        objective, advantage, layout: as for `policy_loss`, and checked there.

    Returns: the mask. Where advantages are per token and the layout is sharded, N numbers are exchanged for it, so that every
    rank of a sequence decides alike.

    Raises: nothing that `policy_loss` would not have raised for the same arguments.

    >>> import numpy as np
    >>> from gspo_core import GSPO, Padded
    >>> active_tokens(GSPO, np.array([1.0, 0.0]), Padded(np.array([[True, False], [True, True]]))).tolist()
    [[True, False], [False, False]]
    """
    xp = layout.xp
    values = advantage.values if isinstance(advantage, PerToken) else advantage
    if isinstance(advantage, PerToken) or (values.ndim > 1 and objective.ratio.per_token):
        moved = layout.sum(layout.select(xp.astype(values != 0, xp.float32))) > 0
    else:
        moved = values != 0 if values.ndim == 1 else xp.any(values != 0, axis=1)
    return layout.valid & (layout.spread(xp.astype(moved, xp.float32)) > 0)
