"""The mask of a trust region in probabilities by itself: to divide by the tokens that are left, or to join it with other masks.

As the gate of an objective a region needs no call: `Objective(Token(), TruncatedWeight(20.0), TokenMean(), TotalVariation())`.
"""

from __future__ import annotations

from gspo_core._lib.array import namespace
from gspo_core._lib.checks import check_choice
from gspo_core._lib.validation import check_layout, log_probs
from gspo_core.objectives import PerToken, Token
from gspo_core.objectives.loss import unit_advantage
from gspo_core.objectives.regions import Region
from gspo_core.types import Array, Layout


def inside_region(
    region: Region,
    logp: Array,
    old_logp: Array,
    advantage: Array | PerToken,
    layout: Layout,
    *,
    allow_low_precision: bool = False,
) -> Array:
    """Token array, boolean: the tokens that learn under a trust region, which it leaves open as the gate of an objective.

    A token above the region is out if its advantage is positive, one below it if the advantage is negative: as with a clip, the
    way back stays open. With the region's `either_side` (IPO) a token outside is out whatever its advantage.

    Args:
        region: `TotalVariation(low, high)` or `BinaryKL(low, high)`.
        logp: token array, log π of the sampled tokens; nats.
        old_logp: token array, the same under the policy that the region is around; DPPO and IPO take the sampler's.
        advantage: [N], or one per token, as for `policy_loss`.
        layout: where the policy's tokens stand. Masked slots are inert, and False in the result.
        allow_low_precision: accept log-probs below float32 and upcast them.

    Returns: the mask, for `kept_advantages` or `Restricted`. A token whose probability or advantage is NaN is inside: the loss
    shows it.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape, each naming the argument.

    Source: DPPO, arXiv 2602.04879; IPO is prime-rl's name.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> from gspo_core.objectives import TotalVariation
    >>> old, layout = np.log(np.array([[0.5, 0.5, 0.5]])), Padded(np.array([[True, True, True]]))
    >>> new = np.log(np.array([[0.6, 0.9, 0.1]]))
    >>> inside_region(TotalVariation(), new, old, np.array([1.0]), layout).tolist()
    [[True, False, True]]
    >>> inside_region(TotalVariation(either_side=True), new, old, np.array([1.0]), layout).tolist()
    [[True, False, False]]
    """
    check_choice("region", region, ("left", "out"), "a region such as TotalVariation(0.2, 0.2)")
    check_layout(layout)
    values = advantage.values if isinstance(advantage, PerToken) else advantage
    xp = namespace(logp=logp, old_logp=old_logp, advantage=values, layout=layout.valid)
    logp, old_logp = log_probs(xp, layout, allow_low_precision, logp=logp, old_logp=old_logp)
    units = unit_advantage(Token(), advantage, layout, logp)
    return layout.valid & ~region.out(xp, logp, old_logp, units)
