"""Mergeable statistics of a batch: clipping, log s, divergences, lengths. Optional: `policy_loss` never computes them.

Nothing here reads a number on the host, so that it runs under jax.jit and without a wait on a GPU; `summary` reads them,
when somebody wants to look.
"""

from __future__ import annotations

import math

from gspo_core._lib.array import EXP_CAP, EXP_SQUARED_CAP, count_true, detached, namespace, segment_sum, shape_of
from gspo_core._lib.units import at_least_one, count_tokens, flat, has_turn_units, mean_over_tokens, own_count, turns_of
from gspo_core._lib.validation import check_layout, log_probs
from gspo_core.layouts.prepared import prepared
from gspo_core.objectives.loss import Objective, unit_advantage
from gspo_core.objectives.result import LinearLoss, Loss
from gspo_core.types import Array, Layout, Namespace, PerToken, Ratio

from .ledger import LENGTH_BINS, Entries, Metrics, ledger
from .log_probs import Compared, compared
from .log_ratios import highest, log_ratio_entries, lowest


def batch_metrics(
    objective: Objective,
    loss: Loss,
    logp: Array,
    old_logp: Array | None,
    advantage: Array | PerToken,
    layout: Layout,
    *,
    allow_low_precision: bool = False,
) -> Metrics:
    """Statistics of one batch under an objective; `summary` names and explains every number.

    A token or a sequence is *clipped* if its advantage is not zero, yet its gradient is exactly zero: read off
    `loss.logp_grad`, whatever the objective. log s_i is the sequence's mean log ratio, also where ratios are per token.
    A response with a NaN or infinite log-prob has no log s: it is counted, and has no part in the numbers of log s.

    Args:
        objective: what `loss` was computed with.
        loss: the result of `policy_loss` for the arguments that follow, or that of `linear_policy_loss`: its policy loss is
            measured, without KL term and entropy bonus.
        logp: token array, the log-probs at which the loss was computed. Of a `linear_policy_loss` pass `loss.logp`, which it
            has with `return_logp=True`: log s is then measured for every sequence, those without an advantage included.
        old_logp, advantage, layout, allow_low_precision: the loss's own arguments. Masked slots are inert.

    Returns: `Metrics`. On a sharded layout they are of whole sequences, and equal on all ranks that share these (of the
    largest log-prob: that of the rank's own tokens): merge over data-parallel ranks only, as you would add up losses.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape, each naming the argument.

    >>> import numpy as np
    >>> from gspo_core import GSPO, Padded, policy_loss, summary
    >>> old, layout = np.full((2, 2), -1.0), Padded(np.array([[True, True], [True, False]]))
    >>> batch = (old + np.array([[1e-3], [1e-4]]), old, np.array([1.0, -1.0]), layout)
    >>> numbers = summary(batch_metrics(GSPO, policy_loss(GSPO, *batch), *batch))
    >>> numbers["clip_high"], numbers["clip_low"], round(numbers["clip_active_tokens"], 3)
    (0.5, 0.0, 0.667)
    """
    if not isinstance(objective, Objective):
        raise TypeError(f"objective: expected an Objective such as GSPO, got {type(objective).__name__}")
    check_layout(layout)
    _check_loss(loss, logp, old_logp, layout)
    if isinstance(loss, LinearLoss) and loss.policy is not None:
        loss = loss.policy
    values = advantage.values if isinstance(advantage, PerToken) else advantage
    old = logp if old_logp is None else old_logp
    xp = namespace(logp=logp, old_logp=old, advantage=values, loss=loss.logp_grad, layout=layout.valid)
    named = {"logp": logp} if old_logp is None else {"logp": logp, "old_logp": old_logp}
    selected = log_probs(xp, layout, allow_low_precision, **named)
    layout = prepared(layout, selected[0])
    pair = compared("log_s", selected[0], selected[-1], layout)
    units, ratio = unit_advantage(objective.ratio, advantage, layout, pair.d), detached(loss.log_ratio)
    if shape_of(ratio) != shape_of(units):
        shapes = f"{list(shape_of(units))}, got one of {list(shape_of(ratio))}"
        raise ValueError(f"loss: expected one of this objective, with a log ratio of {shapes}")
    units, ratio = (_at_tokens(objective.ratio, x, layout) for x in (units, ratio))
    sign = _sign(xp, layout.sum(units))
    clipping, clipped = _clipping(xp, layout, units, ratio, detached(loss.logp_grad), pair.mean)
    entries = pair.entries | clipping | _batch(xp, objective, loss, layout, units) | _ratios(xp, pair)
    entries |= Entries({"table": length_table(xp, layout.lengths(), sign, clipped)})
    return ledger(xp, entries | log_ratio_entries("log_s", pair, layout, sign), pair.d)


def _at_tokens(ratio: Ratio, units: Array, layout: Layout) -> Array:
    """Token array: each unit's number at its tokens, 0 in masked slots."""
    if has_turn_units(ratio):
        return turns_of(layout, ratio).each.spread(flat(units, layout))
    return units if ratio.per_token else layout.spread(units)


def _check_loss(loss: Loss, logp: Array, old_logp: Array | None, layout: Layout) -> None:
    if not isinstance(loss, Loss):
        raise TypeError(f"loss: expected the result of policy_loss or linear_policy_loss, got {type(loss).__name__}")
    if logp is None and isinstance(loss, LinearLoss) and loss.logp is None:
        raise TypeError("logp: expected an array, got None; pass return_logp=True to linear_policy_loss to have loss.logp")
    if shape_of(loss.logp_grad) != layout.shape:
        raise ValueError(
            f"loss: expected a weight of the layout's shape {list(layout.shape)}, got {list(shape_of(loss.logp_grad))}"
        )
    if (old_logp is None) != loss.on_policy:
        raise ValueError(f"old_logp: expected what the loss was computed with (there on_policy={loss.on_policy})")


def _sign(xp: Namespace, x: Array) -> Array:
    """[N] 0 where x is negative, 1 where it is 0, 2 where it is positive."""
    return 1 + xp.astype(x > 0, xp.int32) - xp.astype(x < 0, xp.int32)


def _clipping(
    xp: Namespace, layout: Layout, advantage: Array, ratio: Array, weight: Array, log_s: Array
) -> tuple[Entries, Array]:
    """Counts of what has an advantage and no gradient, at tokens and at sequences; and [N] which sequences that are."""

    def tokens(where: Array) -> Array:
        return count_tokens(layout, where, xp.int32)

    live = layout.valid & (advantage != 0)
    silent = live & (layout.select(weight) == 0)
    num_live, num_silent = tokens(live), tokens(silent)
    clipped = (num_live > 0) & (num_silent == num_live)
    counts = {
        "zero_advantage": count_true(xp, (layout.lengths() > 0) & (num_live == 0)),
        "clip_active": count_true(xp, clipped),
        "clip_low": count_true(xp, clipped & (log_s < 0)),
        "clip_high": count_true(xp, clipped & (log_s > 0)),
        "clip_active_tokens": xp.sum(num_silent),
        "clip_low_tokens": xp.sum(tokens(silent & (ratio < 0))),
        "clip_high_tokens": xp.sum(tokens(silent & (ratio > 0))),
        "continued": xp.sum(tokens(live & (ratio > EXP_CAP))),
    }
    return Entries(counts), clipped


def _batch(xp: Namespace, objective: Objective, loss: Loss, layout: Layout, advantage: Array) -> Entries:
    """Sizes, the loss and its gradient before division, and advantages."""
    lengths, total = layout.lengths(), detached(loss.denominator)
    own = own_count(objective.reduction, layout, total)
    there, held = lengths > 0, xp.astype(lengths, advantage.dtype)
    some = xp.reshape(count_true(xp, there) > 0, (1,))
    size = mean_over_tokens(xp.abs(advantage), layout)
    gradient = layout.sum(xp.abs(detached(loss.logp_grad)))
    counts = {
        "batches": count_true(xp, some),
        "empty": count_true(xp, ~there),
        "denominators": count_true(xp, some & (total != at_least_one(xp, own, total))),
        "sequences": count_true(xp, there),
        "tokens": xp.sum(lengths),
        "not_finite_advantages": count_true(xp, ~(size < math.inf)),
    }
    counts |= {"on_policy_batches": counts["batches"]} if loss.on_policy else {}
    sums = {
        "loss": detached(loss.value) * total,
        "gradient": xp.sum(gradient) * total,
        "trained": detached(loss.value),
        "updates": xp.astype(own, total.dtype) / total,
        "advantage": xp.sum(mean_over_tokens(advantage, layout)),
        "abs_advantage": xp.sum(size),
        "length_squares": xp.sum(held * held),
    }
    maxima = {
        "length": highest(xp, held, there),
        "gradient": highest(xp, gradient * total, there & (gradient * total < math.inf)),
        "advantage": highest(xp, size, there & (size < math.inf)),
    }
    found = Entries(counts, sums, {"length": lowest(xp, held, there)}, maxima)
    return found | unit_entries(layout, own, "units") | unit_entries(layout, own, "batch_units")


def unit_entries(layout: Layout, own: Array, name: str) -> Entries:
    """A batch's own denominator: a count, or a sum if its sequences have weights."""
    return Entries({name: own}) if layout.row_weights is None else Entries(sums={f"weighted_{name}": own})


def _ratios(xp: Namespace, pair: Compared) -> Entries:
    """Σ s and Σ s² of whole sequences, with log s cut at 20, whose square float32 still holds."""
    s = xp.exp(xp.where(pair.mean > EXP_SQUARED_CAP, EXP_SQUARED_CAP, pair.mean))
    s = xp.where(pair.whole, s, 0.0)
    return Entries(sums={"s": xp.sum(s), "s_squares": xp.sum(s * s)})


def length_table(xp: Namespace, lengths: Array, sign: Array, clipped: Array) -> Array:
    """Sequences by length (powers of two), sign of the advantage, and whether clipped."""
    # Half a token more keeps the logarithm of a power of two away from the edge that rounding could push it over.
    octave = xp.floor(xp.log2(xp.astype(lengths, xp.float32) + 0.5))
    octave = xp.where(octave < 0, 0.0, xp.where(octave > LENGTH_BINS - 1, LENGTH_BINS - 1.0, octave))
    cell = (xp.astype(octave, xp.int32) * 3 + sign) * 2 + xp.astype(clipped, xp.int32)
    return segment_sum(xp, xp.astype(lengths > 0, xp.int32), cell, LENGTH_BINS * 6)
