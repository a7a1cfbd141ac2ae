"""Turns of a dialogue: from one number per turn to one advantage per token."""

from __future__ import annotations

import math

from gspo_core._lib.array import at_least_float32, detached, is_integer, is_real, namespace, shape_of
from gspo_core._lib.validation import check_layout
from gspo_core.types import Array, Layout, Namespace


def reward_to_go(turn_rewards: Array) -> Array:
    """R_im = Σ_{m' ≥ m} r_im', [N, M]: what a turn still led to.

    A turn is responsible for all rewards from itself on, since it decides which turns follow, and whether any do. R_im
    minus a baseline that does not look at response i (the mean of the other responses' totals, say) gives an unbiased
    policy gradient. The mean over the responses that got as far as turn m, the response itself among them, does not.

    Args:
        turn_rewards: [N, M] real numbers, reward of turn m of response i; 0 for turns that response i does not have.

    Returns: [N, M] in float32, or float64 if the rewards are.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape.

    Source: the policy gradient theorem; R. Williams, 1992 (REINFORCE).

    >>> import numpy as np
    >>> reward_to_go(np.array([[0.0, 1.0, 2.0]])).tolist()
    [[3.0, 3.0, 2.0]]
    """
    xp = namespace(turn_rewards=turn_rewards)
    rewards = _per_turn(xp, "turn_rewards", turn_rewards)
    return xp.flip(xp.cumulative_sum(xp.flip(rewards, axis=1), axis=1), axis=1)


def turn_advantages(turn_values: Array, turn_ids: Array, layout: Layout) -> Array:
    """A_it = value of the turn that token t of response i belongs to: the advantages of a token objective.

    For GSPO_TOKEN, GRPO and other objectives with one advantage per token; wrap it as `PerToken(...)` in a packed layout.

    Args:
        turn_values: [N, M] real numbers, the advantage of turn m of response i. Turns without a token are not read.
        turn_ids: token array of integers: 0 .. M − 1, the turn of each token. A token of the policy with any other number
            gets NaN, which shows; a token of no turn (tool output) belongs outside the layout.
        layout: where the policy's tokens stand. Masked slots are inert, and 0 in the result.

    Returns: token array in float32, or float64 if the values are.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape, each naming the argument.

    Source: GSPO, arXiv 2507.18071, section 4.3: A_it, the advantage of a token.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> layout = Padded(np.array([[True, True, False, True]]))
    >>> turn_advantages(np.array([[0.5, -1.0]]), np.array([[0, 0, 0, 1]]), layout).tolist()
    [[0.5, 0.5, 0.0, -1.0]]
    """
    check_layout(layout)
    xp = namespace(turn_values=turn_values, turn_ids=turn_ids, layout=layout.valid)
    values = _per_turn(xp, "turn_values", turn_values)
    if shape_of(values)[0] != layout.num_sequences:
        raise ValueError(
            f"turn_values: expected one row for each of the layout's {layout.num_sequences} sequences, got "
            f"{list(shape_of(values))}"
        )
    if not is_integer(xp, turn_ids):
        raise TypeError(f"turn_ids: expected integers, got dtype {turn_ids.dtype}")
    if shape_of(turn_ids) != layout.shape:
        raise ValueError(f"turn_ids: expected the layout's shape {list(layout.shape)}, got {list(shape_of(turn_ids))}")
    out = xp.full_like(turn_ids, math.nan, dtype=values.dtype)
    for m in range(shape_of(values)[1]):
        out = xp.where(turn_ids == m, layout.spread(values[:, m]), out)
    return layout.select(out)


def _per_turn(xp: Namespace, name: str, x: Array) -> Array:
    if not (is_real(xp, x) or is_integer(xp, x)):
        raise TypeError(f"{name}: expected real numbers, got dtype {x.dtype}")
    if len(shape_of(x)) != 2:
        raise ValueError(f"{name}: expected shape [N, M], one number per turn, got {list(shape_of(x))}")
    return at_least_float32(xp, detached(x))
