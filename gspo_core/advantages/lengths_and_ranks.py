"""Normalisers that look at more than the group's mean and spread: at the responses' lengths, or at their order."""

from __future__ import annotations

from dataclasses import dataclass

from gspo_core._lib.array import arange_like, detached, is_integer, is_real, namespace, segment_sum, shape_of
from gspo_core.types import Array, Namespace

from .normalisers import GroupView


@dataclass(frozen=True, eq=False)
class LengthWeighted:
    """A_i = r_i − Σ_j |y_j| r_j / Σ_j |y_j|: the baseline of least variance if a response's gradient grows with its length.

    `lengths` is an [N] array of integers or real numbers, in tokens, in the order of the rewards; TypeError for another kind.
    0 for a constant group and for a group of one; verl leaves the reward itself where a group has one response.
    Source: OPO, arXiv 2505.23585, as in verl.

    >>> import numpy as np
    >>> from gspo_core import group_advantages
    >>> group_advantages([3.0, 1.0], [0, 0], LengthWeighted(np.array([1, 3]))).tolist()
    [1.5, -0.5]
    """

    lengths: Array
    """[N] |y_i| in tokens."""

    def __post_init__(self) -> None:
        xp = namespace(lengths=self.lengths)
        if not (is_integer(xp, self.lengths) or is_real(xp, self.lengths)):
            raise TypeError(f"lengths: expected integers or real numbers, got dtype {self.lengths.dtype}")

    def __call__(self, xp: Namespace, group: GroupView) -> Array:
        """[N] deviations from the length-weighted mean; ValueError if there is not one length for each reward."""
        lengths, wanted = self.lengths, list(shape_of(group.reward))
        namespace(rewards=group.reward, lengths=lengths)
        if list(shape_of(lengths)) != wanted:
            raise ValueError(f"lengths: expected shape {wanted} as rewards, got {list(shape_of(lengths))}")
        weight = xp.where(group.valid, xp.astype(detached(lengths), group.reward.dtype), 0.0)

        def over_group(x: Array) -> Array:
            return xp.take(segment_sum(xp, x, group.label, wanted[0]), group.label, axis=0)

        total = over_group(weight)
        # Of the deviations: equal rewards then give exact zeros.
        return group.deviation - over_group(weight * group.deviation) / xp.where(total > 0, total, 1.0)


@dataclass(frozen=True)
class BestOfGroup:
    """A_i = max_j r_j − max_{j ≠ i} r_j: what response i adds to the best of the group.

    So r_max − r_second for the best response, and 0 for all others and where two are the best. 0 for a group of one.
    Source: policy optimisation for pass@k, arXiv 2503.19595, with k = G; verl's "grpo_passk" also divides by the group's
    standard deviation unless norm_adv_by_std_in_grpo is off.

    >>> from gspo_core import group_advantages
    >>> group_advantages([3.0, 1.0, 2.5, 0.0, 0.0], [0, 0, 0, 1, 1], BestOfGroup()).tolist()
    [0.5, 0.0, 0.0, 0.0, 0.0]
    """

    def __call__(self, xp: Namespace, group: GroupView) -> Array:
        """[N] r_max − r_second where a response is the group's best; NaN in a group with a reward that is NaN."""
        least = xp.argsort(group.reward, stable=True)
        least = xp.take(least, xp.argsort(xp.astype(xp.take(group.valid, least, axis=0), xp.int8), stable=True), axis=0)
        order = xp.take(least, xp.argsort(xp.take(group.label, least, axis=0), stable=True), axis=0)
        last = xp.searchsorted(xp.take(group.label, order, axis=0), group.label, side="right") - 1
        ascending = xp.take(group.reward, order, axis=0)
        before = xp.where(last > 0, last - 1, 0)
        gap = xp.take(ascending, last, axis=0) - xp.take(ascending, before, axis=0)
        mine = xp.take(order, last, axis=0) == arange_like(xp, shape_of(order)[0], order)
        advantage = xp.where(mine & (group.size > 1), gap, 0.0)
        return xp.where(xp.isnan(group.sum_of_squares), group.sum_of_squares, advantage)
