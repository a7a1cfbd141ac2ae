"""A layout whose sequences have weights of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gspo_core._lib.array import at_least_float32, detached, is_integer, is_real, namespace, shape_of, values_at_hand
from gspo_core._lib.validation import check_layout
from gspo_core.types import Array, EachTurn, Layout

from .restricted import Narrowed, Restricted


@dataclass(frozen=True, eq=False)
class Weighted(Narrowed):
    """The layout with a weight for every sequence: a response of weight w counts as w copies of it would.

    With weights w_i every loss, KL term and entropy bonus becomes Σ_i w_i L_i / D, where L_i is the contribution of sequence i
    before the division, and the default denominator is D = Σ_i w_i D_i, with D_i what the sequence counts for in the
    objective's reduction: 1 under `SequenceMean()`, |y_i| under `TokenMean()`. `objective.count`, `Plan.step` and the metrics
    of the loss know the weights. Weights of 1 change nothing, equal weights only the denominator that parts are added up to.

    A sequence of weight 0 has no tokens: it becomes an empty one, whatever its log-probs. Metrics count every other response
    once: shares, means and quantiles are over the responses that were sampled; the loss, its gradient, and `updates` are
    weighted.

    `weights` is [N], real or integer, of numbers of at least 0; on a sharded layout the same on every rank of a sequence. They
    are constants to every automatic differentiation. If the layout inside has weights, too, both are multiplied.

    Raises TypeError if `layout` is none or the weights are no numbers, ValueError if they have another shape, or one is
    negative or not finite. Weights that are traced or on another device are not read: there such a sequence makes the loss NaN.

    >>> import numpy as np
    >>> from gspo_core import GSPO, Padded, policy_loss
    >>> layout = Weighted(Padded(np.array([[True, True], [True, False]])), np.array([3.0, 1.0]))
    >>> old = np.zeros(layout.shape)
    >>> float(GSPO.count(layout)), policy_loss(GSPO, old, old, np.array([1.0, -1.0]), layout).logp_grad.tolist()
    (4.0, [[-0.375, -0.375], [0.25, 0.0]])
    """

    layout: Layout
    """Where the policy's tokens stand."""
    weights: Array
    """[N] weight of each sequence; float32 or float64."""

    def __post_init__(self) -> None:
        check_layout(self.layout)
        xp = namespace(weights=self.weights, layout=self.layout.valid)
        if not (is_real(xp, self.weights) or is_integer(xp, self.weights)):
            raise TypeError(f"weights: expected real numbers, got dtype {self.weights.dtype}")
        if shape_of(self.weights) != (self.num_sequences,):
            raise ValueError(f"weights: expected shape [{self.num_sequences}], got {list(shape_of(self.weights))}")
        weights = at_least_float32(xp, detached(self.weights))
        known = values_at_hand(xp, weights)
        fine = (weights >= 0) & (weights < math.inf)
        if known is None:  # refused where they are: the loss is NaN
            weights = xp.where(fine, weights, math.nan)
        elif not ((known >= 0) & (known < math.inf)).all():
            wrong = known[~((known >= 0) & (known < math.inf))][0]
            raise ValueError(f"weights: expected finite numbers of at least 0, got {wrong}")
        object.__setattr__(self, "weights", weights)

    def is_kept(self) -> Array:
        """Token array, boolean: tokens of sequences whose weight is not 0."""
        return self.layout.spread(self.weights) != 0

    @property
    def row_weights(self) -> Array:
        """[N] weight of each sequence, times those of the layout inside."""
        inside = self.layout.row_weights
        return self.weights if inside is None else self.weights * inside

    @property
    def turns(self) -> EachTurn | None:
        """The turns of sequences whose weight is not 0, if the layout has turns."""
        turns = self.layout.turns
        return None if turns is None else EachTurn(Restricted(turns.each, self.is_kept()), turns.count)
