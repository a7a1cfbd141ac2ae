"""The two parts of a log ratio when another engine sampled: staleness, which the clip range is for, and engine noise."""

from __future__ import annotations

import math
from typing import NamedTuple

from gspo_core._lib.array import count_true, is_integer, is_real, namespace, shape_of
from gspo_core._lib.units import mean_over_tokens
from gspo_core._lib.validation import check_layout, log_probs
from gspo_core.clip_range.drift import Drift, drift_of
from gspo_core.objectives.clipped_surrogates import Clip
from gspo_core.types import Array, Layout, Namespace

from .mass_gap import excess, is_bias


class MismatchPart(NamedTuple):
    """One factor of the ratio π/π_sampler. All are arrays on the device, without a number taken to the host.

    >>> import numpy as np
    >>> from gspo_core import Clip, Padded
    >>> old = np.full((2, 4), -1.0)
    >>> report = mismatch_report(old + 0.01, old, old, np.ones(2), Padded(old < 0), Clip(3e-4, 4e-4))
    >>> report.staleness.log_s.round(6).tolist(), report.noise.log_s.tolist()
    ([0.01, 0.01], [0.0, 0.0])
    """

    drift: Drift
    """Of its token log ratios d: `mean` is the bias per token (−k1), `kappa` their KL (k3), and the design effect; nats."""
    token_std: Array
    """[] standard deviation of d over tokens; nats."""
    log_s: Array
    """[N] mean of d over each response, 0 for an empty one; nats."""
    log_s_mean: Array
    """[] mean of log s over responses."""
    log_s_std: Array
    """[] standard deviation of log s over responses."""


class MismatchReport(NamedTuple):
    """log π/π_sampler = log π/π_old (staleness) + log π_old/π_sampler (noise), per token and per response.

    >>> import numpy as np
    >>> from gspo_core import Clip, Padded
    >>> old = np.full((2, 4), -1.0)
    >>> report = mismatch_report(old, old, old - 0.01, np.ones(2), Padded(old < 0), Clip(3e-4, 4e-4))
    >>> float(report.clipped_by_old), float(report.clipped_by_sampler), round(float(report.noise_floor), 6)
    (0.0, 1.0, 0.01)
    """

    staleness: MismatchPart
    """d = logp − old_logp."""
    noise: MismatchPart
    """d = old_logp − sampler_logp."""
    total: MismatchPart
    """d = logp − sampler_logp."""
    token_noise_share: Array
    """[] noise variance over noise variance + staleness variance of d; 0 if nothing varies."""
    log_s_noise_share: Array
    """[] the same of log s: lower, where staleness moves the tokens of a response together and noise does not."""
    token_correlation: Array
    """[] of staleness and noise over tokens; 0 if one of them does not vary."""
    log_s_correlation: Array
    """[] the same over responses."""
    noise_floor: Array
    """[] root mean square of the noise's log s: what log s would be with nothing learned; nats."""
    noise_floor_share: Array
    """[] noise floor over the nearer bound of the clip range: from about 1 on the gate sees little but noise."""
    clipped_by_old: Array
    """[] share of responses that are clipped with s from old_logp."""
    clipped_by_sampler: Array
    """[] share of responses that would be clipped with s from sampler_logp."""
    gate_disagreement: Array
    """[] share of responses for which the two decisions differ."""
    mass_gap: Array
    """[] mean of π_old/π_sampler − 1 over tokens: 0 in expectation if sampler_logp is what was sampled from; ratios beyond
    e^20 count as that."""
    mass_gap_error: Array
    """[] its standard error, responses taken as independent of each other and tokens not; 0 for fewer than two responses."""
    biased: Array
    """[] boolean: the gap is more than chance (4 standard errors, two responses) and more than 1e-5. Trainer and engine do not
    compute the same distribution: compare temperature, top-p, top-k, and the logits behind the engine's log-probs."""


def mismatch_report(
    logp: Array,
    old_logp: Array,
    sampler_logp: Array,
    advantage: Array,
    layout: Layout,
    clip: Clip,
    *,
    allow_low_precision: bool = False,
) -> MismatchReport:
    """Splits the log ratio to the sampler into staleness and engine noise, and says what the noise does to the gate.

    Args:
        logp: token array, log-probs of the sampled tokens under the current policy, by the trainer; nats.
        old_logp: token array, under the policy before the update, by the trainer.
        sampler_logp: token array, as the sampling engine reported them, at the same temperature.
        advantage: [N], one per sequence.
        layout: where the policy's tokens stand. Masked slots of every input, and empty rows, are inert.
        clip: the clip range of the objective.
        allow_low_precision: accept log-probs below float32 and upcast them.

    Returns: `MismatchReport`. Shares of responses are over those that are not empty.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape, each naming the argument.

    Source: the split is MiniRL's, arXiv 2512.01374, eq. 5, at the level of sequences; the question whether the sampler's
    log-probs can stand in for the old ones is that of GSPO, arXiv 2507.18071, section 5.4.

    >>> import numpy as np
    >>> from gspo_core import Clip, Padded
    >>> old = np.full((4, 50), -1.0)
    >>> top_p = old - np.log(0.9)  # the engine renormalised what top-p had left, the trainer did not
    >>> report = mismatch_report(old, old, top_p, np.ones(4), Padded(old < 0), Clip(3e-4, 4e-4))
    >>> bool(report.biased), round(float(report.mass_gap), 6), round(float(report.noise_floor_share))
    (True, -0.1, 351)
    """
    check_layout(layout)
    xp = namespace(logp=logp, old_logp=old_logp, sampler_logp=sampler_logp, advantage=advantage, layout=layout.valid)
    _check(xp, advantage, layout, clip)
    now, old, sampler = log_probs(xp, layout, allow_low_precision, logp=logp, old_logp=old_logp, sampler_logp=sampler_logp)
    there = layout.lengths() > 0
    staleness, noise, total = (_part(xp, d, layout, there) for d in (now - old, old - sampler, now - sampler))
    by_old, by_sampler = (_clipped(x.log_s, advantage, clip) & there for x in (staleness, total))
    floor = xp.sqrt(_mean(xp, noise.log_s * noise.log_s, there))
    gap, error = _mass_gap(xp, old - sampler, layout, there)
    return MismatchReport(
        staleness,
        noise,
        total,
        _share(xp, noise.token_std, staleness.token_std),
        _share(xp, noise.log_s_std, staleness.log_s_std),
        _token_correlation(xp, now - old, old - sampler, staleness.drift, noise.drift, layout),
        _correlation(xp, staleness, noise, there),
        floor,
        floor / min(-math.log1p(-clip.low), math.log1p(clip.high)),
        _mean(xp, xp.astype(by_old, floor.dtype), there),
        _mean(xp, xp.astype(by_sampler, floor.dtype), there),
        _mean(xp, xp.astype(by_old != by_sampler, floor.dtype), there),
        gap,
        error,
        is_bias(gap, error) & (count_true(xp, there) > 1),
    )


def _check(xp: Namespace, advantage: Array, layout: Layout, clip: Clip) -> None:
    if not isinstance(clip, Clip):
        raise TypeError(f"clip: expected a Clip(low, high), got {type(clip).__name__}")
    if clip.low == 0 or clip.high == 0:
        raise ValueError(f"clip: expected widths above 0, of which noise can have a share, got {clip}")
    if not (is_real(xp, advantage) or is_integer(xp, advantage)):
        raise TypeError(f"advantage: expected real numbers, got dtype {advantage.dtype}")
    if shape_of(advantage) != (layout.num_sequences,):
        raise ValueError(
            f"advantage: expected shape [{layout.num_sequences}], one per sequence, got {list(shape_of(advantage))}"
        )


def _part(xp: Namespace, d: Array, layout: Layout, there: Array) -> MismatchPart:
    drift, log_s = drift_of(d, layout), mean_over_tokens(d, layout)
    mean = _mean(xp, log_s, there)
    centred = log_s - mean
    return MismatchPart(drift, xp.sqrt(drift.variance), log_s, mean, xp.sqrt(_mean(xp, centred * centred, there)))


def _mean(xp: Namespace, x: Array, there: Array) -> Array:
    """[] over the sequences that are there; 0 if none is."""
    count = xp.astype(count_true(xp, there), x.dtype)
    return xp.sum(xp.where(there, x, 0.0)) / xp.where(count > 0, count, 1.0)


def _clipped(log_s: Array, advantage: Array, clip: Clip) -> Array:
    above = (advantage > 0) & (log_s > math.log1p(clip.high))
    below = (advantage < 0) & (log_s < math.log1p(-clip.low))
    return above | below


def _share(xp: Namespace, noise_std: Array, staleness_std: Array) -> Array:
    both = noise_std * noise_std + staleness_std * staleness_std
    return xp.where(both > 0, noise_std * noise_std / xp.where(both > 0, both, 1.0), 0.0)


def _ratio_of(xp: Namespace, covariance: Array, std_x: Array, std_y: Array) -> Array:
    scale = std_x * std_y
    return xp.where(scale > 0, covariance / xp.where(scale > 0, scale, 1.0), 0.0)


def _token_correlation(xp: Namespace, x: Array, y: Array, drift_x: Drift, drift_y: Drift, layout: Layout) -> Array:
    products = layout.sum(layout.select((x - drift_x.mean) * (y - drift_y.mean)))
    freedom = xp.sum(xp.astype(layout.lengths(), x.dtype)) - 1.0
    covariance = xp.sum(products) / xp.where(freedom > 0, freedom, 1.0)
    return _ratio_of(xp, covariance, xp.sqrt(drift_x.variance), xp.sqrt(drift_y.variance))


def _correlation(xp: Namespace, x: MismatchPart, y: MismatchPart, there: Array) -> Array:
    covariance = _mean(xp, (x.log_s - x.log_s_mean) * (y.log_s - y.log_s_mean), there)
    return _ratio_of(xp, covariance, x.log_s_std, y.log_s_std)


def _mass_gap(xp: Namespace, d: Array, layout: Layout, there: Array) -> tuple[Array, Array]:
    """([] the mass gap, its standard error as a ratio of sums over responses)."""
    sums, lengths = excess(d, layout), xp.astype(layout.lengths(), d.dtype)
    total = xp.sum(lengths)
    tokens = xp.where(total > 0, total, 1.0)
    gap = xp.sum(sums) / tokens
    off = sums - lengths * gap
    count = xp.astype(count_true(xp, there), d.dtype)
    correction = xp.where(count > 1, count / xp.where(count > 1, count - 1.0, 1.0), 0.0)
    return gap, xp.sqrt(xp.sum(off * off) * correction) / tokens
