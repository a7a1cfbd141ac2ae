"""Group-relative advantages: a response is judged against the other responses to its prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from ._array import at_least_float32, is_integer, is_real, namespace, segment_sum, shape_of
from .types import Array, Namespace


class GroupView(NamedTuple):
    """What a response knows of its group; all [N], gathered to the members."""

    deviation: Array
    """r_i − mean of the group; exactly 0 if all rewards of the group are equal."""
    sum_of_squares: Array
    """Σ_j deviation_j² over the group."""
    size: Array
    """G, the number of members."""


class Normaliser(Protocol):
    """How a deviation from the group's mean becomes an advantage."""

    def __call__(self, xp: Namespace, group: GroupView) -> Array:
        """[N] advantages."""


@dataclass(frozen=True)
class ZScore:
    """A_i = (r_i − mean) / (std + eps), std² = Σ (r − mean)² / (G − ddof); 0 for a constant group.

    The paper says only "std"; numpy's population value (ddof 0, eps 0) is the default here. TRL and verl use ddof 1 and
    eps 1e-4 or 1e-6. Source: GSPO, arXiv 2507.18071, eq. 6.
    """

    ddof: int = 0
    """0: population, 1: sample standard deviation."""
    eps: float = 0.0
    """Added to the standard deviation; the unit of the reward."""

    def __post_init__(self) -> None:
        if self.ddof not in (0, 1):
            raise ValueError(f"ddof: expected 0 or 1, got {self.ddof}")
        if not 0.0 <= self.eps < math.inf:
            raise ValueError(f"eps: expected a finite number of at least 0, got {self.eps}")

    def __call__(self, xp: Namespace, group: GroupView) -> Array:
        """[N] z-scores."""
        constant = group.sum_of_squares == 0  # asked this way, a NaN reward shows as NaN instead of passing for "no signal"
        freedom = xp.where(group.size > self.ddof, group.size - self.ddof, 1.0)
        std = xp.sqrt(xp.where(constant, 1.0, group.sum_of_squares) / freedom)
        return xp.where(constant, 0.0, group.deviation / (std + self.eps))


@dataclass(frozen=True)
class Centred:
    """A_i = r_i − mean. Source: Dr.GRPO, arXiv 2503.20783."""

    def __call__(self, xp: Namespace, group: GroupView) -> Array:
        """[N] deviations."""
        return group.deviation


@dataclass(frozen=True)
class LeaveOneOut:
    """A_i = r_i − mean of the others = G/(G − 1) · (r_i − mean); 0 for a singleton. Source: RLOO, arXiv 2402.14740."""

    def __call__(self, xp: Namespace, group: GroupView) -> Array:
        """[N] deviations from the mean of the others."""
        others = xp.where(group.size > 1, group.size - 1.0, 1.0)
        return group.deviation * (group.size / others)


def group_advantages(rewards: Any, group_ids: Any, normaliser: Normaliser = ZScore()) -> Array:
    """Advantages [N] of rewards [N] within groups: A_i = (r_i − mean_g) / std_g by default.

    Args:
        rewards: [N] real numbers; an array, or a list (then the result is a float64 NumPy array).
        group_ids: [N] integers, equal for the responses to one prompt. Any integers, in any order; groups may be ragged.
        normaliser: ZScore(), Centred() or LeaveOneOut().

    Returns: [N] in float32, or float64 if the rewards are. A constant group and a group of one are exactly 0.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape, each naming the argument.

    Source: GSPO, arXiv 2507.18071, eq. 6.

    >>> group_advantages([1.0, 0.0, 0.7, 0.7], [5, 5, 9, 9]).tolist()
    [1.0, -1.0, 0.0, 0.0]
    """
    rewards, group_ids = _from_list(rewards, np.float64), _from_list(group_ids, np.int64)
    xp = namespace(rewards=rewards, group_ids=group_ids)
    if not (is_real(xp, rewards) or is_integer(xp, rewards)):
        raise TypeError(f"rewards: expected real numbers, got dtype {rewards.dtype}")
    if not is_integer(xp, group_ids):
        raise TypeError(f"group_ids: expected integers, got dtype {group_ids.dtype}")
    if len(shape_of(rewards)) != 1:
        raise ValueError(f"rewards: expected shape [N], got {list(shape_of(rewards))}")
    if shape_of(group_ids) != shape_of(rewards):
        raise ValueError(f"group_ids: expected shape {list(shape_of(rewards))} as rewards, got {list(shape_of(group_ids))}")
    return normaliser(xp, _group_view(xp, at_least_float32(xp, rewards), group_ids))


def _from_list(x: Any, dtype: Any) -> Any:
    return np.asarray(x, dtype=dtype) if isinstance(x, (list, tuple)) else x


def _group_view(xp: Namespace, rewards: Array, group_ids: Array) -> GroupView:
    """Deviations are taken from the group's first member before any mean, so that equal rewards give exact zeros."""
    order = xp.argsort(group_ids, stable=True)
    label = xp.searchsorted(xp.take(group_ids, order, axis=0), group_ids)
    shifted = rewards - xp.take(xp.take(rewards, order, axis=0), label, axis=0)

    def over_group(x: Array) -> Array:
        return xp.take(segment_sum(xp, x, label, shape_of(x)[0]), label, axis=0)

    size = over_group(xp.ones_like(shifted))
    deviation = shifted - over_group(shifted) / size
    return GroupView(deviation, over_group(deviation * deviation), size)
