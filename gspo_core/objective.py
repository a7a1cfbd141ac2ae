"""An objective is three choices; its loss is written once, here.

log ratio → (gate) → (gain, slope) → reduce → pull back
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ._array import at_least_float32, is_real, namespace, scalar, shape_of
from .types import Array, Gate, Gated, Layout, Loss, Namespace, PerToken, Ratio, Reduction, Surrogate


@dataclass(frozen=True)
class Objective:
    """J = Σ_units weight · gain(log ratio, advantage).  A value: hashable, comparable, static under jit.

    Swap one choice with `dataclasses.replace(GSPO, surrogate=Clip(0.02, 0.03))`. Raises TypeError if a sequence ratio is
    given a mean over tokens, which would weight sequences by their length.
    """

    ratio: Ratio
    """Which importance ratio a unit has: Token(), Sequence(), SequenceToken() ..."""
    surrogate: Surrogate
    """What is maximised for one unit: Clip(low, high), DualClip, GateOnly, SoftGate ..."""
    reduction: Reduction
    """How units are averaged: SequenceMean(), TokenMean() or FixedLength(length)."""
    gate: Gate | None = None
    """What the other three get to see: TokenClip(low, high), Band(width, length_power), OffPolicyMask(delta); None: all.

    `Loss.log_ratio` is then the ratio that is left, and `Loss.clipped` counts what the gate silences.
    """

    def __post_init__(self) -> None:
        for name in ("ratio", "surrogate", "reduction", "gate"):
            if isinstance(getattr(self, name), type):
                kind = getattr(self, name).__name__
                raise TypeError(f"{name}: expected a value, got the class {kind}; write {kind}(...)")
        if self.reduction.sums_tokens and not self.ratio.per_token:
            raise TypeError(
                f"reduction: {self.reduction} weighs tokens, but {self.ratio} has one ratio per sequence and no token axis. "
                "Use SequenceMean() (the paper's GSPO), or SequenceToken() as the ratio if long sequences shall weigh more"
            )

    def count(self, layout: Layout) -> Array:
        """[] this batch's own denominator: add it up over micro-batches and ranks, and pass the sum as `denominator`.

        >>> import numpy as np
        >>> from gspo_core import GSPO, Padded
        >>> int(GSPO.count(Padded(np.array([[True, True], [False, False]]))))
        1
        """
        return self.reduction.count(layout)


class UnitLoss(NamedTuple):
    """The loss as a function of the units' log ratios."""

    value: Array
    """[] the loss."""
    slope: Array
    """Units: ∂value/∂log ratio, 0 for empty sequences and masked slots."""
    clipped: Array
    """Units, boolean: advantage not zero, slope exactly zero."""


def policy_loss(
    objective: Objective,
    logp: Array,
    old_logp: Array | None,
    advantage: Array | PerToken,
    layout: Layout,
    *,
    denominator: float | Array | None = None,
    on_policy: bool = False,
    allow_low_precision: bool = False,
) -> Loss:
    """The loss of an objective, and its gradient with respect to `logp` in closed form.

    GSPO: value = −(1/G) Σ_i min(s_i A_i, clip(s_i, 1−ε, 1+ε) A_i), logp_grad_it = −A_i s_i u_i / (G |y_i|), with
    s_i = exp((1/|y_i|) Σ_t (logp_it − old_logp_it)) and u_i = 1 where the sequence is not clipped.

    Args:
        objective: GSPO, GSPO_TOKEN, GRPO, or your own `Objective`.
        logp: token array, log π(y_t) of the sampled tokens under the current policy, at the sampling temperature; nats.
        old_logp: token array, the same under the policy that is being improved upon. None needs `on_policy=True`.
        advantage: [N], one per sequence; or one per token (not for a `Sequence()` ratio): [N, T] when padded, and in any
            layout `PerToken(token array)`. Any real dtype.
        layout: where the policy's tokens stand: `Padded(mask)`, `Packed(segment_ids, num_sequences)`, or
            `sharded(layout, sum_over_shards)`. Masked slots of every input are inert.
        denominator: what to divide by, a positive number or a [] array. None means this batch's own count; for
            micro-batches and data parallelism pass the total of `objective.count(layout)`, then the parts sum exactly.
        on_policy: the samples come from the current policy: every ratio is exactly 1, clipping is inert.
        allow_low_precision: accept log-probs below float32 and upcast them. They have lost what GSPO measures: bfloat16
            cannot tell 1 + 4e-4 from 1.

    Returns: `Loss`, computed in float32, or float64 if a log-prob is.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape, each naming the argument.

    Sources: GSPO, arXiv 2507.18071, eq. 5-17; GRPO, arXiv 2402.03300; C. Zheng et al.

    >>> import numpy as np
    >>> from gspo_core import GSPO, Padded, policy_loss
    >>> old = np.log(np.array([[0.5, 0.5], [0.5, 0.25]]))
    >>> loss = policy_loss(GSPO, old, old, np.array([1.0, -1.0]), Padded(np.array([[True, True], [True, False]])))
    >>> float(loss.value), loss.logp_grad.tolist()
    (0.0, [[-0.25, -0.25], [0.5, 0.0]])
    """
    if not isinstance(objective, Objective):
        raise TypeError(f"objective: expected an Objective such as GSPO, got {type(objective).__name__}")
    if not callable(getattr(layout, "spread", None)):
        raise TypeError(f"layout: expected a layout such as Padded(mask), got {type(layout).__name__}")
    adv = advantage.values if isinstance(advantage, PerToken) else advantage
    xp = namespace(logp=logp, old_logp=logp if old_logp is None else old_logp, advantage=adv, mask=layout.valid)
    logp, old_logp = _log_probs(xp, logp, old_logp, layout, on_policy, allow_low_precision)
    d = token_log_ratio(logp, old_logp, layout)
    per_unit = unit_advantage(objective.ratio, advantage, layout, d)
    divisor = _denominator(xp, objective, denominator, layout, d)
    seen = gated(objective, d, per_unit, layout)
    log_ratio = objective.ratio.log_ratio(seen.d, layout)
    value, slope, clipped = unit_loss(objective, log_ratio, seen.advantage, layout, divisor)
    weight = objective.ratio.pull_back(slope, layout)
    if objective.gate is not None:
        weight = xp.where(seen.open, weight, 0.0)
        clipped = clipped | _silenced(objective.ratio, per_unit, seen, layout)
    return Loss(value, weight, log_ratio, clipped, divisor, on_policy)


def gated(objective: Objective, d: Array, advantage: Array, layout: Layout) -> Gated:
    """What the objective's gate lets through; everything if it has none. `advantage` is per unit."""
    if objective.gate is None:
        return Gated(d, advantage, layout.valid)
    return objective.gate(d, advantage, layout, objective.ratio.per_token)


def _silenced(ratio: Ratio, advantage: Array, seen: Gated, layout: Layout) -> Array:
    """Units, boolean: advantage not zero, but the gate took it away or closed all of the unit's tokens."""
    xp = layout.xp
    shut = ~seen.open if ratio.per_token else layout.sum(xp.astype(seen.open, seen.d.dtype)) == 0
    return (advantage != 0) & ((seen.advantage == 0) | shut)


def token_log_ratio(logp: Array, old_logp: Array | None, layout: Layout) -> Array:
    """Token array d = logp − old_logp, selected before subtracting; all 0 if there is no old policy."""
    if old_logp is None:
        return layout.xp.zeros_like(logp)
    return layout.select(logp) - layout.select(old_logp)


def unit_loss(objective: Objective, log_ratio: Array, advantage: Array, layout: Layout, denominator: Array) -> UnitLoss:
    """−Σ units weight · gain and its slope: everything of a loss that comes after the log ratio.

    All arrays are per unit and 0 where there is no unit (`policy_loss` sees to that).
    """
    xp = layout.xp
    gain, slope = objective.surrogate(xp, log_ratio, advantage)
    weights = objective.reduction.weights(layout, objective.ratio.per_token, denominator)
    clipped = (advantage != 0) & (slope == 0)
    # 0 − x and not −x: a zero stays +0.
    losses = 0.0 - weights * gain
    # Per sequence first: then the value is whole on every rank of a sharded layout.
    value = xp.sum(layout.sum(losses) if objective.ratio.per_token else losses)
    return UnitLoss(value, 0.0 - weights * slope, clipped)


def _log_probs(
    xp: Namespace, logp: Array, old_logp: Array | None, layout: Layout, on_policy: bool, allow_low_precision: bool
) -> tuple[Array, Array | None]:
    if (old_logp is None) != on_policy:
        raise ValueError(
            "old_logp: pass the old policy's log-probs, or old_logp=None together with on_policy=True "
            f"(got old_logp={'None' if old_logp is None else 'an array'}, on_policy={on_policy})"
        )
    checked = [_log_prob(xp, "logp", logp, layout, allow_low_precision)]
    if old_logp is not None:
        checked.append(_log_prob(xp, "old_logp", old_logp, layout, allow_low_precision))
    wide = any(x.dtype == xp.float64 for x in checked)
    checked = [xp.astype(x, xp.float64) if wide else x for x in checked]
    return checked[0], checked[1] if old_logp is not None else None


def _log_prob(xp: Namespace, name: str, x: Array, layout: Layout, allow_low_precision: bool) -> Array:
    if shape_of(x) != layout.shape:
        raise ValueError(f"{name}: expected the layout's shape {list(layout.shape)}, got {list(shape_of(x))}")
    if not is_real(xp, x):
        raise TypeError(f"{name}: expected real floating-point log-probs, got dtype {x.dtype}")
    if x.dtype not in (xp.float32, xp.float64) and not allow_low_precision:
        raise TypeError(
            f"{name}: expected float32 or float64, got {x.dtype}, which cannot resolve a clip range of 3e-4. Compute "
            "log-probs in float32, or pass allow_low_precision=True if you accept the rounding"
        )
    return at_least_float32(xp, x)


def unit_advantage(ratio: Ratio, advantage: Array | PerToken, layout: Layout, like: Array) -> Array:
    """Units: the advantages in the dtype of `like`, at every unit, 0 where there is no unit."""
    xp = layout.xp
    values = advantage.values if isinstance(advantage, PerToken) else advantage
    if not (is_real(xp, values) or xp.isdtype(values.dtype, "integral")):
        raise TypeError(f"advantage: expected real numbers, got dtype {values.dtype}")
    values = xp.astype(values, like.dtype)
    if not _is_per_token(ratio, advantage, layout):
        return layout.spread(values) if ratio.per_token else xp.where(layout.lengths() > 0, values, 0.0)
    return layout.select(values)


def _is_per_token(ratio: Ratio, advantage: Array | PerToken, layout: Layout) -> bool:
    """What the advantage says it is, and what its shape must then be. One axis is never guessed to mean tokens."""
    said = isinstance(advantage, PerToken)
    shape = shape_of(advantage.values if isinstance(advantage, PerToken) else advantage)
    per_sequence = [layout.num_sequences]
    packed = len(layout.shape) == 1
    if said and shape != layout.shape:
        raise ValueError(f"advantage: PerToken expected the layout's shape {list(layout.shape)}, got {list(shape)}")
    if not said and list(shape) != per_sequence and (packed or shape != layout.shape):
        tokens = "PerToken(values)" if packed else f"{list(layout.shape)}"
        raise ValueError(
            f"advantage: expected {per_sequence} (one per sequence) or {tokens} (one per token), got {list(shape)}"
        )
    per_token = said or list(shape) != per_sequence
    if per_token and not ratio.per_token:
        raise ValueError(
            f"advantage: {ratio} has one ratio per sequence and needs {per_sequence} advantages, got one per token "
            f"{list(shape)}. Use SequenceToken() (GSPO_TOKEN) for per-token advantages"
        )
    return per_token


def _denominator(xp: Namespace, objective: Objective, denominator: float | Array | None, layout: Layout, like: Array) -> Array:
    if denominator is None:
        count = xp.astype(objective.count(layout), like.dtype)
        return xp.where(count > 0, count, 1.0)
    if isinstance(denominator, (int, float)):
        if not 0 < denominator < math.inf:
            raise ValueError(f"denominator: expected a positive finite number, got {denominator}")
        return scalar(xp, float(denominator), like)
    namespace(denominator=denominator, logp=like)
    if shape_of(denominator) != ():
        raise ValueError(f"denominator: expected a number or a [] array, got shape {list(shape_of(denominator))}")
    return xp.astype(denominator, like.dtype)
