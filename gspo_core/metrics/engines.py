"""Mergeable statistics of the gap between the engine that sampled and the one that trains."""

from __future__ import annotations

import math

from gspo_core._lib.array import EXP_SQUARED_CAP, count_true, namespace
from gspo_core._lib.units import count_tokens
from gspo_core._lib.validation import check_layout, log_probs
from gspo_core.layouts.prepared import prepared
from gspo_core.mismatch.bounds import Reject
from gspo_core.mismatch.correction import Correction, sampler_weight
from gspo_core.mismatch.mass_gap import excess
from gspo_core.types import Array, Layout

from .ledger import Entries, Metrics, ledger
from .log_probs import compared
from .log_ratios import highest, log_ratio_entries


def sampler_metrics(
    correction: Correction, old_logp: Array, sampler_logp: Array, layout: Layout, *, allow_low_precision: bool = False
) -> Metrics:
    """Disagreement of trainer and sampler, and the effect of a correction; `summary` explains every number.

    Raw weights are those before truncation and rejection. The gap x = old_logp − sampler_logp is measured per token,
    whatever the correction: its mean over a sequence, its spread, k1 and k3.

    Args:
        correction, old_logp, sampler_logp, layout, allow_low_precision: as in `sampler_weight`. The layout is the one before
            anything was rejected.

    Returns: `Metrics` in which only this is counted; `merge` it with those of the batch. On a sharded layout as in
    `batch_metrics`, except that the largest weights of *tokens* are those of the rank; a maximum may be merged twice.

    Raises: as `sampler_weight`.

    >>> import numpy as np
    >>> from gspo_core import TIS, Padded, summary
    >>> old, sampler = np.log(np.array([[0.5, 0.75]])), np.log(np.array([[0.5, 0.25]]))
    >>> numbers = summary(sampler_metrics(TIS, old, sampler, Padded(np.array([[True, True]]))))
    >>> [round(numbers[f"sampler_{name}"], 9) for name in ("raw_mean", "raw_max", "weight_mean", "truncated", "rejected")]
    [2.0, 3.0, 1.5, 0.5, 0.0]
    """
    check_layout(layout)
    xp = namespace(old_logp=old_logp, sampler_logp=sampler_logp, layout=layout.valid)
    found = sampler_weight(correction, old_logp, sampler_logp, layout, allow_low_precision=allow_low_precision)
    old, sampler = log_probs(xp, layout, allow_low_precision, old_logp=old_logp, sampler_logp=sampler_logp)
    layout = prepared(layout, old)
    per_token, lengths = correction.level.per_token, layout.lengths()
    there = layout.valid if per_token else lengths > 0
    pair = compared("sampler", old, sampler, layout)
    weighed = there & (xp.abs(found.raw) < math.inf) & (xp.abs(found.weight) < math.inf)

    def total(x: Array) -> Array:
        x = xp.where(weighed, x, 0.0)
        return xp.sum(layout.sum(x) if per_token else x)

    def number(where: Array) -> Array:
        return xp.sum(count_tokens(layout, where, xp.int32)) if per_token else count_true(xp, where)

    # A filter has no weight that could be cut: it keeps or it rejects.
    truncated = found.kept & (found.weight != found.raw) & (not isinstance(correction.action, Reject))
    counts = {
        "sampler.sequences": count_true(xp, lengths > 0),
        "sampler.tokens": xp.sum(lengths),
        "sampler.units": number(there),
        "sampler.weighed": number(weighed),
        "sampler.truncated": number(truncated),
        "sampler.rejected": number(there & ~found.kept),
    }
    largest_weight = math.exp(EXP_SQUARED_CAP)
    capped = xp.where(found.weight > largest_weight, largest_weight, found.weight)
    gaps, held = xp.where(pair.whole, excess(pair.d, layout), 0.0), xp.astype(lengths, found.raw.dtype)
    sums = {
        "sampler.raw": total(found.raw),
        "sampler.weight": total(found.weight),
        "sampler.capped": total(capped),
        "sampler.capped_squares": total(capped * capped),
        "sampler.excess": xp.sum(gaps),
        "sampler.excess_tokens": xp.sum(gaps * held),
        "sampler.excess_squares": xp.sum(gaps * gaps),
    }
    largest = {"sampler.raw": highest(xp, found.raw, weighed), "sampler.weight": highest(xp, found.weight, weighed)}
    gap = log_ratio_entries("sampler", pair, layout)
    return ledger(xp, pair.entries | gap | Entries(counts, sums, {}, largest), found.raw)
