"""Mergeable statistics of a batch: clipping, log s, divergences, lengths. Optional: `policy_loss` never computes them.

Nothing here reads a number on the host, so that it runs under jax.jit and without a wait on a GPU; `summary` reads them,
when somebody wants to look.
"""

from __future__ import annotations

from gspo_core._lib.array import EXP_SQUARED_CAP, count_true, detached, is_integer, is_real, namespace, segment_sum, shape_of
from gspo_core._lib.units import count_tokens, flat, has_turn_units, mean_over_tokens, turns_of
from gspo_core._lib.validation import check_layout, log_probs
from gspo_core.layouts.prepared import prepared
from gspo_core.objectives.loss import Objective, unit_advantage
from gspo_core.objectives.result import LinearLoss, Loss
from gspo_core.types import Array, Layout, Namespace, PerToken, Ratio

from .ledger import LENGTH_BINS, Entries, Metrics, ledger
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

    Args:
        objective: what `loss` was computed with.
        loss: the result of `policy_loss` for the arguments that follow, or that of `linear_policy_loss`: its policy loss is
            measured, without KL term and entropy bonus.
        logp: token array, the log-probs at which the loss was computed. Of a `linear_policy_loss` pass `loss.logp`, which it
            has with `return_logp=True`: log s is then measured for every sequence, those without an advantage included.
        old_logp, advantage, layout, allow_low_precision: the loss's own arguments. Masked slots are inert.

    Returns: `Metrics`. On a sharded layout they are of whole sequences, and equal on all ranks that share these: merge over
    data-parallel ranks only, as you would add up losses.

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
    xp = namespace(logp=logp, old_logp=old, advantage=values, weight=loss.logp_grad, mask=layout.valid)
    named = {"logp": logp} if old_logp is None else {"logp": logp, "old_logp": old_logp}
    selected = log_probs(xp, layout, allow_low_precision, **named)
    layout = prepared(layout, selected[0])
    d = xp.zeros_like(selected[0]) if old_logp is None else selected[0] - selected[1]
    units, ratio = unit_advantage(objective.ratio, advantage, layout, d), detached(loss.log_ratio)
    if shape_of(ratio) != shape_of(units):
        shapes = f"{list(shape_of(units))}, got one of {list(shape_of(ratio))}"
        raise ValueError(f"loss: expected one of this objective, with a log ratio of {shapes}")
    units, ratio = (_at_tokens(objective.ratio, x, layout) for x in (units, ratio))
    sign = _sign(xp, layout.sum(units))
    clipping, clipped = _clipping(xp, layout, units, ratio, detached(loss.logp_grad), mean_over_tokens(d, layout))
    entries = clipping | _batch(xp, objective, loss, layout, units) | _ratios(xp, d, layout)
    entries |= Entries({"table": length_table(xp, layout.lengths(), sign, clipped)})
    return ledger(xp, entries | log_ratio_entries("log_s", d, layout, sign), d)


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
    }
    return Entries(counts), clipped


def _batch(xp: Namespace, objective: Objective, loss: Loss, layout: Layout, advantage: Array) -> Entries:
    """Sizes, the loss and its gradient before division, and advantages."""
    lengths, total = layout.lengths(), detached(loss.denominator)
    there = lengths > 0
    some = count_true(xp, xp.reshape(count_true(xp, there) > 0, (1,)))
    held = xp.astype(lengths, advantage.dtype)
    counts = {"batches": some, "sequences": count_true(xp, there), "tokens": xp.sum(lengths), "units": objective.count(layout)}
    sums = {
        "loss": detached(loss.value) * total,
        "gradient": xp.sum(layout.sum(xp.abs(detached(loss.logp_grad)))) * total,
        "advantage": xp.sum(mean_over_tokens(advantage, layout)),
        "abs_advantage": xp.sum(mean_over_tokens(xp.abs(advantage), layout)),
        "length_squares": xp.sum(held * held),
    }
    extremes = {"length": lowest(xp, held, there)}, {"length": highest(xp, held, there)}
    return Entries(counts | ({"on_policy_batches": some} if loss.on_policy else {}), sums, *extremes)


def _ratios(xp: Namespace, d: Array, layout: Layout) -> Entries:
    """Σ s and Σ s², with log s cut at 20, whose square float32 still holds."""
    log_s = mean_over_tokens(d, layout)
    s = xp.exp(xp.where(log_s > EXP_SQUARED_CAP, EXP_SQUARED_CAP, log_s))
    s = xp.where(layout.lengths() > 0, s, 0.0)
    return Entries(sums={"s": xp.sum(s), "s_squares": xp.sum(s * s)})


def length_table(xp: Namespace, lengths: Array, sign: Array, clipped: Array) -> Array:
    """Sequences by length (powers of two), sign of the advantage, and whether clipped."""
    # Half a token more keeps the logarithm of a power of two away from the edge that rounding could push it over.
    octave = xp.floor(xp.log2(xp.astype(lengths, xp.float32) + 0.5))
    octave = xp.where(octave < 0, 0.0, xp.where(octave > LENGTH_BINS - 1, LENGTH_BINS - 1.0, octave))
    cell = (xp.astype(octave, xp.int32) * 3 + sign) * 2 + xp.astype(clipped, xp.int32)
    return segment_sum(xp, xp.astype(lengths > 0, xp.int32), cell, LENGTH_BINS * 6)


def group_metrics(advantage: Array, group_ids: Array) -> Metrics:
    """Number of groups, and of those without a signal: every advantage in them is exactly zero.

    Args:
        advantage: [N] real numbers, as `group_advantages` returns them.
        group_ids: [N] integers, equal for the responses to one prompt. A group must be in one call as a whole.

    Returns: `Metrics` in which only this is counted; `merge` it with those of the batch.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape, each naming the argument.

    >>> import numpy as np
    >>> from gspo_core import summary
    >>> numbers = summary(group_metrics(np.array([1.0, -1.0, 0.0, 0.0]), np.array([7, 7, 9, 9])))
    >>> numbers["groups"], numbers["constant_groups"]
    (2.0, 0.5)
    """
    xp = namespace(advantage=advantage, group_ids=group_ids)
    if not is_real(xp, advantage):
        raise TypeError(f"advantage: expected real floating-point numbers, got dtype {advantage.dtype}")
    if not is_integer(xp, group_ids):
        raise TypeError(f"group_ids: expected integers, got dtype {group_ids.dtype}")
    if len(shape_of(advantage)) != 1:
        raise ValueError(f"advantage: expected shape [N], got {list(shape_of(advantage))}")
    if shape_of(group_ids) != shape_of(advantage):
        raise ValueError(f"group_ids: expected shape {list(shape_of(advantage))}, got {list(shape_of(group_ids))}")
    label, size = xp.searchsorted(xp.sort(group_ids), group_ids), shape_of(advantage)[0]
    members = segment_sum(xp, xp.ones_like(label, dtype=xp.int32), label, size)
    live = segment_sum(xp, xp.astype(detached(advantage) != 0, xp.int32), label, size)
    counts = {"groups": count_true(xp, members > 0), "constant_groups": count_true(xp, (members > 0) & (live == 0))}
    return ledger(xp, Entries(counts), detached(advantage))
