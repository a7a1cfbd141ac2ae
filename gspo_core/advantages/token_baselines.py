"""Optimal token baselines: a baseline for every place of a token, weighted by how much each response has moved the gradient."""

from __future__ import annotations

from gspo_core._lib.array import at_least_float32, detached, is_real, namespace, segment_sum, shape_of
from gspo_core._lib.checks import check_flag
from gspo_core._lib.running import sums_up_to_here, whole_sequences
from gspo_core._lib.validation import check_layout, log_probs
from gspo_core.types import Array, Layout, Namespace, PerToken

from .groups import checked_groups


def optimal_token_advantages(
    rewards: Array,
    group_ids: Array,
    logp: Array,
    sum_pi_squared: Array,
    layout: Layout,
    *,
    keep_alone: bool = True,
) -> PerToken:
    """A_it = R_i − B_t with B_t = Σ_j R_j W_jt / Σ_j W_jt over the responses j of the group that have a t-th token.

    W_jt = Σ_{k ≤ t} (1 − 2 π(y_jk) + Σ_v π_v²), the squared length of the gradients of log π(y_jk) with respect to the logits,
    added up to the t-th token: the baseline that minimises the variance if the squared gradient grows like W. t counts a
    response's own tokens, whatever stands between them.

    Args:
        rewards: [N] real numbers, R_i.
        group_ids: [N] integers, equal for the responses to one prompt.
        logp: token array, log π of the sampled tokens under the policy at the rollout; nats.
        sum_pi_squared: token array, Σ_v π_v² over the vocabulary at each token: `token_scores(..., sum_pi_squared=True)` of a
            backend, in the pass that computes logp.
        layout: where the policy's tokens stand, whole responses. Masked slots are inert.
        keep_alone: the advantage of a token at whose place no other response of the group has one (the end of the longest): its
            reward, as if the baseline were 0, or 0.

    Returns: `PerToken`, in float32, or float64 if an input is. Where all rewards are equal it is exactly 0, but for tokens that
    are alone.

    Raises: TypeError for a wrong kind or dtype, and for a layout whose responses are spread over ranks; ValueError for a wrong
    shape, each naming the argument.

    Source: optimal token baselines, arXiv 2602.07078, as in verl ("optimal_token_baseline", for dialogues
    "tir_optimal_token_baseline"), which adds 1e-8 to the denominator.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> half = np.log(np.full((2, 2), 0.5))  # a coin: 1 − 2 · ½ + ½ = ½ for every token
    >>> layout = Padded(np.array([[True, True], [True, False]]))
    >>> optimal_token_advantages(np.array([1.0, 0.0]), np.array([7, 7]), half, np.full((2, 2), 0.5), layout).values.tolist()
    [[0.5, 1.0], [-0.5, 0.0]]
    """
    check_layout(layout)
    whole_sequences(layout)
    check_flag("keep_alone", keep_alone)
    _, reward, ids, _ = checked_groups(rewards, group_ids, None)
    xp = namespace(rewards=reward, group_ids=ids, logp=logp, sum_pi_squared=sum_pi_squared, layout=layout.valid)
    if shape_of(reward)[0] != layout.num_sequences:
        raise ValueError(
            f"rewards: expected [{layout.num_sequences}], one per sequence of the layout, got {list(shape_of(reward))}"
        )
    energy = _energy(xp, logp, sum_pi_squared, layout)
    if reward.dtype == xp.float64:
        energy = xp.astype(energy, xp.float64)
    weight = sums_up_to_here(xp, energy, layout)
    ones = xp.astype(layout.valid, energy.dtype)
    same = _Places(xp, layout, ids, sums_up_to_here(xp, ones, layout))
    value = layout.spread(xp.astype(reward, energy.dtype))
    # Measured from the first reward of the place, so that equal rewards give exact zeros.
    moved = xp.where(layout.valid, value - same.first(value), 0.0)
    total = same.sum(weight)
    advantage = moved - xp.where(total > 0, same.sum(moved * weight) / xp.where(total > 0, total, 1.0), 0.0)
    if keep_alone:
        advantage = xp.where(same.sum(ones) == 1, value, advantage)
    return PerToken(layout.select(advantage))


def _energy(xp: Namespace, logp: Array, sum_pi_squared: Array, layout: Layout) -> Array:
    """Token array: 1 − 2π + Σπ², at least 0 (rounding aside it is at least (1 − π)²), or the error that names the argument."""
    if not is_real(xp, sum_pi_squared):
        raise TypeError(f"sum_pi_squared: expected real floating-point numbers, got dtype {sum_pi_squared.dtype}")
    if shape_of(sum_pi_squared) != layout.shape:
        raise ValueError(
            f"sum_pi_squared: expected the layout's shape {list(layout.shape)}, got {list(shape_of(sum_pi_squared))}"
        )
    (logp,) = log_probs(xp, layout, False, logp=logp)
    squares = layout.select(at_least_float32(xp, detached(sum_pi_squared)))
    if xp.float64 in (logp.dtype, squares.dtype):
        logp, squares = xp.astype(logp, xp.float64), xp.astype(squares, xp.float64)
    energy = layout.select(1.0 - 2.0 * xp.exp(logp) + squares)
    return xp.where(energy < 0, 0.0, energy)


class _Places:
    """The tokens that are the t-th of their response, for each group and t."""

    def __init__(self, xp: Namespace, layout: Layout, group_ids: Array, place: Array) -> None:
        order = xp.argsort(group_ids, stable=True)
        label = xp.searchsorted(xp.take(group_ids, order, axis=0), group_ids)
        group = xp.where(layout.valid, layout.spread(xp.astype(label, place.dtype)), -1.0)
        group, at = xp.reshape(group, (-1,)), xp.reshape(place, (-1,))
        order = xp.argsort(at, stable=True)
        order = xp.take(order, xp.argsort(xp.take(group, order, axis=0), stable=True), axis=0)
        inverse = xp.argsort(order, stable=True)
        group, at = xp.take(group, order, axis=0), xp.take(at, order, axis=0)
        new = xp.concat([xp.ones_like(group[:1], dtype=xp.bool), (group[1:] != group[:-1]) | (at[1:] != at[:-1])])
        self._xp, self._shape = xp, layout.shape
        self._label = xp.take(xp.cumulative_sum(xp.astype(new, xp.int32)) - 1, inverse, axis=0)
        self._first = xp.reshape(xp.take(new, inverse, axis=0), layout.shape)

    def sum(self, x: Array) -> Array:
        """Token array: the sum of the token array x over the tokens at the same place."""
        xp, flat = self._xp, self._xp.reshape(x, (-1,))
        found = xp.take(segment_sum(xp, flat, self._label, shape_of(flat)[0]), self._label, axis=0)
        return xp.reshape(found, self._shape)

    def first(self, x: Array) -> Array:
        """Token array: x of one token of the same place."""
        return self.sum(self._xp.where(self._first, x, 0.0))
