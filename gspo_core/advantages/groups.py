"""Group-relative advantages: a response is judged against the other responses to its prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gspo_core._lib.array import at_least_float32, detached, is_integer, is_real, namespace, segment_sum, shape_of
from gspo_core._lib.checks import as_number, check_choice
from gspo_core.types import Array, Namespace

from .normalisers import BatchStd, GroupView, Normaliser, ZScore

_POPULATION = ZScore()
_BATCH = BatchStd()


def group_advantages(rewards: Any, group_ids: Any, normaliser: Normaliser = _POPULATION, *, valid: Any = None) -> Array:
    """Advantages [N] of rewards [N] within groups: A_i = (r_i − mean_g) / std_g by default.

    Args:
        rewards: [N] real numbers; an array, or a list (then the result is a float64 NumPy array).
        group_ids: [N] integers, equal for the responses to one prompt. Any integers, in any order; groups may be ragged.
        normaliser: ZScore() by default, or BatchStd(), Centred(), LeaveOneOut(), MaxRL(), BestOfGroup() or
            LengthWeighted(lengths).
        valid: [N] booleans, False where a reward is not to be used, whatever it is: the others of its group are judged
            as if it were absent, and its own advantage is 0. `valid=xp.isfinite(rewards)` isolates a verifier that
            failed. None means all: then a reward that is no number shows as NaN in its group.

    Returns: [N] in float32, or float64 if the rewards are. A constant group and a group of one are exactly 0.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape, each naming the argument.

    Source: GSPO, arXiv 2507.18071, eq. 6.

    >>> group_advantages([1.0, 0.0, 0.7, 0.7], [5, 5, 9, 9]).tolist()
    [1.0, -1.0, 0.0, 0.0]
    >>> group_advantages([1.0, 0.0, float("nan")], [5, 5, 5], valid=[True, True, False]).tolist()
    [1.0, -1.0, 0.0]
    """
    check_choice("normaliser", normaliser, ("__call__",), "a normaliser such as ZScore()")
    xp, rewards, group_ids, valid = checked_groups(rewards, group_ids, valid)
    return xp.where(valid, normaliser(xp, _group_view(xp, rewards, group_ids, valid)), 0.0)


def decoupled_advantages(
    rewards: Any,
    group_ids: Any,
    weights: Sequence[float] | None = None,
    *,
    normaliser: Normaliser = _POPULATION,
    batch_scale: BatchStd | None = _BATCH,
    valid: Any = None,
) -> Array:
    """Advantages [N] of K rewards per response, each normalised by itself: A_i = Σ_k w_k A_ik / std of the batch.

    A_ik is the advantage of reward k within the group. Adding up the rewards first would give (0, 2) and (1, 1) the same
    advantage, and let the reward of the widest spread decide alone.

    Args:
        rewards: [K, N], or a sequence of K arrays or lists [N].
        group_ids: [N] integers, equal for the responses to one prompt.
        weights: K finite numbers w_k; None means all 1.
        normaliser: what makes A_ik of reward k; ZScore() by default.
        batch_scale: what the sum is divided by, so that its size does not grow with K: the standard deviation of the
            batch's sums, BatchStd() by default (their mean is 0, since every A_ik is centred in its group). None leaves
            the sum as it is.
        valid: [N] booleans, False for a response none of whose rewards is to be used; see `group_advantages`.

    Returns: [N] in float32, or float64 if a reward is. A response of a group where every reward is constant is exactly 0.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape or weight, each naming the argument.

    Source: GDPO, arXiv 2601.05242.

    >>> right, short = [1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]
    >>> decoupled_advantages([right, short], [0, 0, 0, 0], [1.0, 0.5], batch_scale=None).tolist()
    [0.5, -1.5, 1.5, -0.5]
    """
    parts = _components(rewards)
    if batch_scale is not None:
        check_choice("batch_scale", batch_scale, ("scaled",), "BatchStd() or None")
    factors = [1.0] * len(parts) if weights is None else _numbers(weights)
    if len(factors) != len(parts):
        raise ValueError(f"weights: expected {len(parts)} numbers, one for each of the rewards, got {len(factors)}")
    if not all(math.isfinite(w) for w in factors):
        raise ValueError(f"weights: expected finite numbers, got {factors}")
    total = factors[0] * group_advantages(parts[0], group_ids, normaliser, valid=valid)
    for factor, part in zip(factors[1:], parts[1:], strict=True):
        total = total + factor * group_advantages(part, group_ids, normaliser, valid=valid)
    if batch_scale is None:
        return total
    xp, _, _, valid = checked_groups(parts[0], group_ids, valid)
    return batch_scale.scaled(xp, total, total, valid)


def _components(rewards: Any) -> list[Any]:
    """The K rewards, one by one."""
    if isinstance(rewards, (list, tuple)):
        parts = list(rewards)
    else:
        namespace(rewards=rewards)
        if len(shape_of(rewards)) != 2:
            raise ValueError(f"rewards: expected shape [K, N] or a sequence of [N], got {list(shape_of(rewards))}")
        parts = [rewards[k, :] for k in range(shape_of(rewards)[0])]
    if not parts:
        raise ValueError("rewards: expected at least one reward per response, got none")
    return parts


def checked_groups(rewards: Any, group_ids: Any, valid: Any) -> tuple[Namespace, Array, Array, Array]:
    """(xp, rewards in at least float32, group ids, valid), or the error that names the argument."""
    rewards, group_ids = _from_list("rewards", rewards, np.float64), _from_list("group_ids", group_ids, np.int64)
    if valid is not None:
        valid = _from_list("valid", valid, np.bool_)
        xp = namespace(rewards=rewards, group_ids=group_ids, valid=valid)
    else:
        xp = namespace(rewards=rewards, group_ids=group_ids)
    if not (is_real(xp, rewards) or is_integer(xp, rewards)):
        raise TypeError(f"rewards: expected real numbers, got dtype {rewards.dtype}")
    if not is_integer(xp, group_ids):
        raise TypeError(f"group_ids: expected integers, got dtype {group_ids.dtype}")
    if len(shape_of(rewards)) != 1:
        raise ValueError(f"rewards: expected shape [N], got {list(shape_of(rewards))}")
    if shape_of(group_ids) != shape_of(rewards):
        raise ValueError(f"group_ids: expected shape {list(shape_of(rewards))} as rewards, got {list(shape_of(group_ids))}")
    if valid is None:
        return xp, at_least_float32(xp, detached(rewards)), group_ids, xp.ones_like(group_ids, dtype=xp.bool)
    if not xp.isdtype(valid.dtype, "bool"):
        raise TypeError(f"valid: expected a boolean array such as isfinite(rewards), got dtype {valid.dtype}")
    if shape_of(valid) != shape_of(rewards):
        raise ValueError(f"valid: expected shape {list(shape_of(rewards))} as rewards, got {list(shape_of(valid))}")
    return xp, at_least_float32(xp, detached(rewards)), group_ids, valid


def _numbers(weights: Any) -> list[float]:
    if isinstance(weights, str) or not hasattr(weights, "__iter__") or getattr(weights, "shape", None) == ():
        raise TypeError(f"weights: expected a sequence of numbers, got {weights!r}")
    return [float(as_number("weights", w)) for w in weights]


def _from_list(name: str, x: Any, dtype: Any) -> Any:
    """An array as it is, a list as a NumPy array of `dtype` if that loses nothing."""
    if not isinstance(x, (list, tuple)):
        return x
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name}: expected a list of numbers, got one that is ragged") from error
    if array.size and not np.can_cast(array.dtype, dtype, "same_kind"):
        raise TypeError(f"{name}: expected a list of {np.dtype(dtype).name}, got {array.dtype.name} in it")
    return array.astype(dtype)


def _group_view(xp: Namespace, rewards: Array, group_ids: Array, valid: Array) -> GroupView:
    """Deviations are taken from the group's first valid member before any mean, so that equal rewards give exact zeros."""
    rewards = xp.where(valid, rewards, 0.0)
    valid_first = xp.argsort(xp.astype(~valid, xp.int8), stable=True)
    order = xp.take(valid_first, xp.argsort(xp.take(group_ids, valid_first, axis=0), stable=True), axis=0)
    label = xp.searchsorted(xp.take(group_ids, order, axis=0), group_ids)
    first = xp.take(xp.take(rewards, order, axis=0), label, axis=0)
    shifted = xp.where(valid, rewards - first, 0.0)

    def over_group(x: Array) -> Array:
        return xp.take(segment_sum(xp, x, label, shape_of(x)[0]), label, axis=0)

    size = over_group(xp.astype(valid, rewards.dtype))
    moved = over_group(shifted) / xp.where(size > 0, size, 1.0)
    deviation = xp.where(valid, shifted - moved, 0.0)
    return GroupView(rewards, valid, first + moved, deviation, over_group(deviation * deviation), size, label)
