"""An objective is three choices; its loss is written once, here.

log ratio → (gate) → (gain, slope) → reduce → pull back
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple

from gspo_core._lib.array import EXP_CAP, detached, is_real, namespace, shape_of
from gspo_core._lib.checks import check_choice
from gspo_core._lib.units import has_turn_units, is_per_turn, own_count, turn_lengths, turns_of, unit_weights
from gspo_core._lib.validation import check_layout, check_old_policy, divisor, unselected_log_probs
from gspo_core.layouts.prepared import prepared
from gspo_core.types import Array, Gate, Layout, LogProbGate, PerToken, Ratio, Reduction, Surrogate

from .gating import gated, passed, silenced, token_log_ratio
from .result import Loss


@dataclass(frozen=True)
class Objective:
    """J = Σ_units weight · gain(log ratio, advantage).  A value: hashable, comparable, static under jit.

    `with_clip` changes the clip range, `dataclasses.replace(GSPO, reduction=...)` any other choice. Raises TypeError for a
    choice of another kind, for a class in place of a value, and if a sequence ratio is given a mean over tokens, which would
    weight sequences by their length, or a mean over turns, of which it knows none.

    >>> from gspo_core import GSPO, Clip, Sequence, SequenceMean
    >>> Objective(Sequence(), Clip(3e-4, 4e-4), SequenceMean()) == GSPO
    True
    """

    ratio: Ratio
    """Which importance ratio a unit has: Token(), Sequence(), SequenceToken(), Turn() ..."""
    surrogate: Surrogate
    """Quantity maximised for one unit: Clip(low, high), DualClip, GateOnly, SoftGate ..."""
    reduction: Reduction
    """Average over units: SequenceMean(), TokenMean(), FixedLength(length) or TurnMean()."""
    gate: Gate | LogProbGate | None = None
    """TokenClip(low, high), Band(width, length_power), OffPolicyMask(delta), TotalVariation(low, high) ...: applied before the
    other three; None: no gate.

    `Loss.log_ratio` is then the ratio after the gate, and `Loss.clipped` counts the units and tokens that it closes.
    """

    def __post_init__(self) -> None:
        check_choice("ratio", self.ratio, ("log_ratio", "per_token"), "a ratio such as Sequence()")
        check_choice("surrogate", self.surrogate, ("__call__",), "a surrogate such as Clip(3e-4, 4e-4)")
        check_choice("reduction", self.reduction, ("weights", "sums_tokens"), "a reduction such as SequenceMean()")
        if self.gate is not None:
            check_choice("gate", self.gate, ("__call__",), "a gate such as TokenClip(0.4, 0.4), or None")
        _check_pair(self.ratio, self.reduction)

    def with_clip(self, low: float, high: float) -> Objective:
        """The same objective with the clip range [1 − low, 1 + high], for any surrogate that has one.

        The paper's 3e-4 and 4e-4 are for answers of thousands of tokens; `clip_range_for` finds the widths for others.
        TypeError if the surrogate has no clip range (SoftGate, Unclipped ...), ValueError for widths that it refuses.

        >>> from gspo_core import GSPO
        >>> GSPO.with_clip(0.03, 0.04).surrogate
        Clip(low=0.03, high=0.04)
        """
        surrogate: Any = self.surrogate
        names = {field.name for field in fields(surrogate)} if is_dataclass(surrogate) else set()
        if not {"low", "high"} <= names:
            raise TypeError(
                f"surrogate: expected one with a clip range, got {surrogate}. Replace it: "
                f"dataclasses.replace(objective, surrogate=Clip({low}, {high}))"
            )
        return replace(self, surrogate=replace(surrogate, low=low, high=high))

    def count(self, layout: Layout) -> Array:
        """[] this batch's own denominator: add it up over micro-batches and ranks, and pass the sum as `denominator`.

        >>> import numpy as np
        >>> from gspo_core import GSPO, Padded
        >>> int(GSPO.count(Padded(np.array([[True, True], [False, False]]))))
        1
        """
        check_layout(layout)
        return own_count(self.reduction, layout)


def _check_pair(ratio: Ratio, reduction: Reduction) -> None:
    """TypeError if the reduction has no weights for the ratio's units."""
    if ratio.per_token:
        return
    unit, means, token_form = "sequence", "SequenceMean() (the paper's GSPO)", "SequenceToken"
    if has_turn_units(ratio):
        unit, means, token_form = "turn", "SequenceMean() or TurnMean()", "TurnToken"
    if reduction.sums_tokens:
        raise TypeError(
            f"reduction: {reduction} weighs tokens, but {ratio} has one ratio per {unit} and no token axis. "
            f"Use {means}, or {token_form}() as the ratio if long {unit}s shall weigh more"
        )
    if unit == "turn" and not callable(getattr(reduction, "turn_weights", None)):
        raise TypeError(f"reduction: {reduction} has no turn_weights, which {ratio} needs. Use {means}")
    if unit == "sequence" and getattr(reduction, "shares_turns", False):
        raise TypeError(
            f"reduction: {reduction} weighs turns, but {ratio} has one ratio per sequence. Use {means}, or Turn() as the "
            "ratio for one per turn"
        )


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
            layout `PerToken(token array)`; or, for `Turn()`, one per turn, [N, K]. Any real dtype.
        layout: where the policy's tokens stand: `Padded(mask)`, `Packed(segment_ids, num_sequences)`,
            `sharded(layout, sum_over_shards)`, with turns `Turns(layout, ...)`. Masked slots of every input are inert.
        denominator: what to divide by, a positive number or a [] array. None means this batch's own count; for
            micro-batches and data parallelism pass the total of `objective.count(layout)`, then the parts sum exactly.
        on_policy: the samples come from the current policy: every ratio is exactly 1, clipping is inert.
        allow_low_precision: accept log-probs below float32 and upcast them. They have lost what GSPO measures: bfloat16
            cannot tell 1 + 4e-4 from 1.

    Returns: `Loss`, computed in float32, or float64 if a log-prob is. Its arrays are constants to every automatic
    differentiation (PyTorch finds no graph, jax.grad zeros): use `logp_grad`, or `gspo_torch` and `gspo_jax`.

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
    check_layout(layout)
    check_old_policy(old_logp, on_policy)
    adv = advantage.values if isinstance(advantage, PerToken) else advantage
    xp = namespace(logp=logp, old_logp=logp if old_logp is None else old_logp, advantage=adv, layout=layout.valid)
    named = {"logp": logp} if old_logp is None else {"logp": logp, "old_logp": old_logp}
    checked = unselected_log_probs(xp, layout, allow_low_precision, **named)
    layout = prepared(layout, checked[0])
    d = xp.zeros_like(checked[0]) if old_logp is None else token_log_ratio(checked[0], checked[1], layout)
    per_unit = unit_advantage(objective.ratio, advantage, layout, d)
    total = divisor(xp, objective.reduction, denominator, layout, d)
    seen = gated(objective.gate, objective.ratio, d, per_unit, layout, checked[0], checked[-1])
    log_ratio = objective.ratio.log_ratio(seen.d, layout)
    value, slope, clipped = unit_loss(objective, log_ratio, seen.advantage, layout, total)
    weight = objective.ratio.pull_back(slope, layout)
    if objective.gate is not None:
        weight = passed(seen, weight, layout)
        clipped = clipped | silenced(objective.ratio, per_unit, seen, layout)
    return Loss(value, weight, log_ratio, clipped, total, on_policy)


def unit_loss(objective: Objective, log_ratio: Array, advantage: Array, layout: Layout, denominator: Array) -> UnitLoss:
    """−Σ units weight · gain and its slope: everything of a loss that comes after the log ratio.

    All arrays are per unit and 0 where there is no unit (`policy_loss` sees to that).
    """
    xp = layout.xp
    # Without an advantage no ratio matters, not even an infinite one: 0 · ∞ would be NaN. A ratio that is NaN still says so.
    matters = advantage != 0
    gain, slope = objective.surrogate(xp, xp.where(matters | ~(xp.abs(log_ratio) > EXP_CAP), log_ratio, 0.0), advantage)
    weights = unit_weights(objective.reduction, objective.ratio, layout, denominator)
    clipped = matters & (slope == 0)
    # 0 − x and not −x: a zero stays +0.
    losses = 0.0 - weights * gain
    # Per sequence first: then the value is whole on every rank of a sharded layout.
    if objective.ratio.per_token:
        losses = layout.sum(losses)
    elif has_turn_units(objective.ratio):
        losses = xp.sum(losses, axis=1)
    return UnitLoss(xp.sum(losses), 0.0 - weights * slope, clipped)


def unit_advantage(ratio: Ratio, advantage: Array | PerToken, layout: Layout, like: Array) -> Array:
    """Units: the advantages as data in the dtype of `like`, at every unit, 0 where there is no unit."""
    xp = layout.xp
    values = advantage.values if isinstance(advantage, PerToken) else advantage
    if not (is_real(xp, values) or xp.isdtype(values.dtype, "integral")):
        raise TypeError(f"advantage: expected real numbers, got dtype {values.dtype}")
    values = xp.astype(detached(values), like.dtype)
    if has_turn_units(ratio):
        return _turn_advantage(ratio, advantage, values, layout)
    if not _is_per_token(ratio, advantage, layout):
        return layout.spread(values) if ratio.per_token else xp.where(layout.non_empty(), values, 0.0)
    return layout.select(values)


def _turn_advantage(ratio: Ratio, advantage: Array | PerToken, values: Array, layout: Layout) -> Array:
    """[N, K] from [N, K], or from [N] for every turn of a sequence."""
    turns = turns_of(layout, ratio)
    shape, num = shape_of(values), layout.num_sequences
    if isinstance(advantage, PerToken) or shape not in ((num,), (num, turns.count)):
        raise ValueError(
            f"advantage: {ratio} has one ratio per turn and needs [{num}, {turns.count}] advantages (one per turn) or [{num}] "
            f"(one per sequence), got {'PerToken ' * isinstance(advantage, PerToken)}{list(shape)}. Use TurnToken() for "
            "per-token advantages"
        )
    return layout.xp.where(turn_lengths(turns) > 0, values if len(shape) == 2 else values[:, None], 0.0)


def _is_per_token(ratio: Ratio, advantage: Array | PerToken, layout: Layout) -> bool:
    """Check the advantage's shape against its declared kind. One axis is never guessed to mean tokens."""
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
            + (". One per turn becomes one per token with turn_advantages" if is_per_turn(ratio) else "")
        )
    per_token = said or list(shape) != per_sequence
    if per_token and not ratio.per_token:
        raise ValueError(
            f"advantage: {ratio} has one ratio per sequence and needs {per_sequence} advantages, got one per token "
            f"{list(shape)}. Use SequenceToken() (GSPO_TOKEN) for per-token advantages"
        )
    return per_token
