"""The share of every token in a loss."""

from __future__ import annotations

from gspo_core._lib.array import detached
from gspo_core._lib.units import row_weighted
from gspo_core.types import Array, Layout, Reduction


def token_shares(reduction: Reduction, layout: Layout, denominator: Array) -> Array:
    """What each token weighs in a mean over a batch, such as that of an entropy bonus.

    Args:
        reduction: the objective's.
        layout: where the policy's tokens stand; a `Weighted` one multiplies the shares of a sequence by its weight.
        denominator: [] the loss's.

    Returns: token array, `reduction.weights` times the weight of the sequence; 0 in masked slots.

    Raises: nothing that `policy_loss` would not have raised for the same layout.

    >>> import numpy as np
    >>> from gspo_core import Padded, SequenceMean
    >>> token_shares(SequenceMean(), Padded(np.array([[True, True], [True, False]])), np.asarray(2.0)).tolist()
    [[0.25, 0.25], [0.5, 0.0]]
    """
    return row_weighted(reduction.weights(layout, True, detached(denominator)), layout, per_token=True)
