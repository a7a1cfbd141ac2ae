"""Metrics as plain numbers with names: the only place that waits for the device."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gspo_core._lib.checks import as_number

from .ledger import COUNTS, LENGTH_BINS, MAXIMA, MINIMA, SUMS, Metrics, read
from .sketch import BINS, CENTRES, STEPS, moments, of_size, quantile, share_above

_QUANTILES = {"q01": 0.01, "q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95, "q99": 0.99}
_SIZES = ("q50", "q95")


def summary(metrics: Metrics) -> dict[str, float]:
    """Every number of `metrics` by name, as Python floats.

    Args:
        metrics: of one batch, or merged.

    Returns: the numbers below. What was not measured, or of what there was none, is left out.

    Raises: TypeError if they are no `Metrics`, ValueError if their vectors have other shapes.

    Sizes: batches, sequences, tokens (empty sequences count nothing), length_mean, length_std, length_min, length_max;
        on_policy: share of batches without old log-probs.
        Responses of `left_out_metrics` count among the sequences and tokens, but not as batches.
    Loss: loss = Σ value · denominator / Σ the objective's own count: of the merged batches as if they were one.
        gradient = Σ |∂loss/∂logp|, likewise.
    Advantages: advantage_mean, advantage_abs_mean, over sequences; zero_advantage: share of sequences where it is 0 at every
        token; groups, constant_groups: number, and share of those with nothing but zeros.
    Clipping, as shares of all sequences: clip_active (some advantage, no gradient at all), and of these clip_low (log s < 0)
        and clip_high (log s > 0). As shares of all tokens: clip_active_tokens, clip_low_tokens, clip_high_tokens, by the
        token's own log ratio, or that of its sequence. TRL logs the first for a sequence ratio, verl the second.
    log s, in nats: log_s_mean, log_s_std (population), log_s_min, log_s_max; log_s_q01 … log_s_q99, abs_log_s_q50,
        abs_log_s_q95 (within 4.5 % of the order statistic, for sizes between 1e-9 and 64); log_s_rms. These and all that
        follows are over the responses that were run.
    ess: effective sample size (Σ s)² / (N Σ s²), in (0, 1]; log s beyond 20 counts as 20. Left out if every s is 0.
    token_std: standard deviation of d = log π − log π_old over all tokens, nats.
    design_effect: the estimate of `gspo_core.clip_range.estimate_drift`, from the merged batches: 1 for independent tokens, up
        to |y| if a sequence's tokens move together. Left out for fewer than two sequences or no variance (a `Drift` has 1).
    Divergence, estimates of KL(π_old ‖ π) from samples of π_old, nats: kl_k1_per_token = mean of −d, of either sign;
        kl_k3_per_token = mean of e^d − 1 − d ≥ 0; kl_k1_per_sequence, kl_k3_per_sequence: the same, summed over each sequence.
    Sampler (where `sampler_metrics` were merged in), with x = old_logp − sampler_logp: sampler_sequences, sampler_tokens
        (before anything was rejected); sampler_raw_mean, sampler_raw_max,
        sampler_weight_mean, sampler_weight_max, over tokens or sequences, whichever have weights; sampler_truncated,
        sampler_rejected: shares of these; sampler_ess: effective sample size (Σ w)² / (n Σ w²) of the n weights, of which none
        counts as more than e²⁰, in (0, 1], left out if every weight is 0; sampler_log_s_mean, …_std, …_rms, …_min, …_max,
        …_q01 … : of the mean of x over a sequence, as log_s; sampler_token_std, sampler_design_effect,
        sampler_kl_k1_per_token … of KL(sampler ‖ π_old); sampler_mass_gap: mean of e^x − 1 over tokens, 0 on average if
        sampler_logp is what was sampled from (x beyond 20 counts as 20); sampler_mass_gap_error: its standard error, left out
        for fewer than two sequences.
    Policy: entropy_per_token (where `entropy_metrics` were merged in); reference_kl_k1_per_token, reference_kl_k3_per_token and
        reference_kl_capped, the share of tokens beyond the cap (where `reference_metrics` were).

    >>> import numpy as np
    >>> from gspo_core import group_metrics
    >>> summary(group_metrics(np.array([1.0, -1.0]), np.array([3, 3])))
    {'groups': 1.0, 'constant_groups': 0.0}
    """
    book = _Book.of(metrics)
    return _groups(book) | _batch(book) | _log_ratios(book, "log_s") | _sampler(book) | _policies(book)


class ClipCell(NamedTuple):
    """A row of `clip_counts`.

    >>> ClipCell(shortest=4, longest=7, sign=-1, sequences=10, clipped=2).clipped
    2
    """

    shortest: int
    """Tokens."""
    longest: int | None
    """Tokens; None for no bound."""
    sign: int
    """Of the advantage: −1, 0, 1 (of its mean over the sequence)."""
    sequences: int
    clipped: int
    """Of these sequences."""


def clip_counts(metrics: Metrics) -> tuple[ClipCell, ...]:
    """Sequences by length (powers of two) and sign of the advantage, and how many are clipped.

    Args:
        metrics: of one batch, or merged.

    Returns: the rows that hold a sequence, by length and then by sign.

    Raises: as `summary`.

    >>> import numpy as np
    >>> from gspo_core import GSPO, Padded, batch_metrics, policy_loss
    >>> old, layout = np.full((1, 3), -1.0), Padded(np.array([[True, True, True]]))
    >>> batch = (old + 1e-3, old, np.array([1.0]), layout)
    >>> clip_counts(batch_metrics(GSPO, policy_loss(GSPO, *batch), *batch))
    (ClipCell(shortest=2, longest=3, sign=1, sequences=1, clipped=1),)
    """
    table = _Book.of(metrics).counts["table"].reshape(LENGTH_BINS, 3, 2)
    rows = []
    for octave in range(LENGTH_BINS):
        longest = 2 ** (octave + 1) - 1 if octave < LENGTH_BINS - 1 else None
        for sign in range(3):
            live, clipped = (int(x) for x in table[octave, sign])
            if live + clipped:
                rows.append(ClipCell(2**octave, longest, sign - 1, live + clipped, clipped))
    return tuple(rows)


def clip_share(metrics: Metrics, low: float, high: float) -> float:
    """The share of sequences that Clip(low, high) on the sequence ratio would have clipped, from the histogram of log s.

    Sequences with A > 0 and log s > log(1 + high), or A < 0 and log s < log(1 − low); 0 if there are none. A bin that a
    bound cuts counts in proportion: bounds are resolved to 9 %.

    Args:
        metrics: of one batch, or merged.
        low: width below 1, in [0, 1).
        high: width above 1, at least 0.

    Returns: a share of all sequences that are not empty.

    Raises: TypeError for a width that is no number, ValueError for one out of range; else as `summary`.

    >>> import numpy as np
    >>> from gspo_core import GSPO, Padded, batch_metrics, policy_loss
    >>> old, layout = np.full((2, 3), -1.0), Padded(np.full((2, 3), True))
    >>> batch = (old + np.array([[1e-3], [-1e-3]]), old, np.array([1.0, 1.0]), layout)
    >>> clip_share(batch_metrics(GSPO, policy_loss(GSPO, *batch), *batch), 0.0, 5e-4)
    0.5
    """
    low, high = as_number("low", low), as_number("high", high)
    if not 0.0 <= low < 1.0 or not 0.0 <= high < math.inf:
        raise ValueError(f"low, high: expected a width in [0, 1) and one of at least 0, got {low} and {high}")
    negative, _, positive = _Book.of(metrics).counts["log_s.bins"].reshape(3, BINS)
    sequences = int(_Book.of(metrics).counts["sequences"][0])
    clipped = share_above(positive, math.log1p(high)) + share_above(negative[::-1], -math.log1p(-low))
    return clipped / sequences if sequences else 0.0


class _Book(NamedTuple):
    """The four vectors on the host, by name."""

    counts: dict[str, np.ndarray]
    sums: dict[str, np.ndarray]
    minima: dict[str, np.ndarray]
    maxima: dict[str, np.ndarray]

    @staticmethod
    def of(metrics: Metrics) -> _Book:
        if not isinstance(metrics, Metrics):
            raise TypeError(f"metrics: expected Metrics, got {type(metrics).__name__}")
        columns = (COUNTS, SUMS, MINIMA, MAXIMA)
        return _Book(*(read(vector, widths) for vector, widths in zip(metrics, columns, strict=True)))

    def number(self, name: str) -> float:
        return float(self.counts[name][0])

    def total(self, name: str) -> float:
        return float(self.sums[name][0])


def _groups(book: _Book) -> dict[str, float]:
    groups = book.number("groups")
    return {"groups": groups, "constant_groups": book.number("constant_groups") / groups} if groups else {}


def _batch(book: _Book) -> dict[str, float]:
    sequences, tokens = book.number("sequences"), book.number("tokens")
    if not sequences:
        return {}
    mean, batches = tokens / sequences, book.number("batches")
    found = {"on_policy": book.number("on_policy_batches") / batches} if batches else {}
    found |= {
        "batches": batches,
        "sequences": sequences,
        "tokens": tokens,
        "length_mean": mean,
        "length_std": math.sqrt(max(0.0, book.total("length_squares") / sequences - mean * mean)),
        "length_min": float(book.minima["length"][0]),
        "length_max": float(book.maxima["length"][0]),
        "loss": book.total("loss") / book.number("units"),
        "gradient": book.total("gradient") / book.number("units"),
        "advantage_mean": book.total("advantage") / sequences,
        "advantage_abs_mean": book.total("abs_advantage") / sequences,
        "zero_advantage": book.number("zero_advantage") / sequences,
    }
    for name in ("clip_active", "clip_low", "clip_high"):
        found[name] = book.number(name) / sequences
        found[f"{name}_tokens"] = book.number(f"{name}_tokens") / tokens
    if book.total("s_squares") > 0:
        found["ess"] = min(1.0, book.total("s") ** 2 / (float(book.counts["log_s.bins"].sum()) * book.total("s_squares")))
    return found


def _log_ratios(book: _Book, name: str) -> dict[str, float]:
    """Mean, spread, quantiles and divergences of one kind of log ratio."""
    counts = book.counts[f"{name}.bins"].reshape(-1, BINS).sum(axis=0)
    by_sequence = moments(counts, book.sums[f"{name}.moments"])
    by_token = moments(book.counts[f"{name}.bin_tokens"], book.sums[f"{name}.token_moments"])
    by_square = moments(book.sums[f"{name}.bin_squares"], book.sums[f"{name}.square_moments"])
    n, tokens = by_sequence.weight, by_token.weight
    if not n:
        return {}
    prefix = "" if name == "log_s" else f"{name}_"
    key = f"{prefix}log_s"
    total = book.total(f"{name}.within") + by_token.squares
    found = {
        f"{key}_mean": by_sequence.mean,
        f"{key}_std": math.sqrt(by_sequence.squares / n),
        f"{key}_rms": math.sqrt(by_sequence.squares / n + by_sequence.mean**2),
        f"{key}_min": float(book.minima[name][0]),
        f"{key}_max": float(book.maxima[name][0]),
        f"{prefix}token_std": math.sqrt(total / tokens),
    }
    smallest, largest = found[f"{key}_min"], found[f"{key}_max"]
    found |= {f"{key}_{label}": min(max(quantile(counts, q), smallest), largest) for label, q in _QUANTILES.items()}
    sizes, furthest = of_size(counts), max(-smallest, largest)
    found |= {f"abs_{key}_{label}": min(quantile(sizes, _QUANTILES[label], CENTRES[STEPS:]), furthest) for label in _SIZES}
    if n > 1 and total > 0:
        together = by_square.squares + by_square.weight * (by_square.mean - by_token.mean) ** 2
        found[f"{prefix}design_effect"] = together / (tokens - by_square.weight / tokens) / (total / (tokens - 1))
    for estimate in ("k1", "k3"):
        found[f"{prefix}kl_{estimate}_per_token"] = book.total(f"{name}.{estimate}") / tokens
        found[f"{prefix}kl_{estimate}_per_sequence"] = book.total(f"{name}.{estimate}") / n
    return found


def _sampler(book: _Book) -> dict[str, float]:
    units = book.number("sampler.units")
    if not units:
        return {}
    found = {"sampler_sequences": book.number("sampler.sequences"), "sampler_tokens": book.number("sampler.tokens")}
    found |= {f"sampler_{name}_mean": book.total(f"sampler.{name}") / units for name in ("raw", "weight")}
    found |= {f"sampler_{name}_max": float(book.maxima[f"sampler.{name}"][0]) for name in ("raw", "weight")}
    found |= {f"sampler_{name}": book.number(f"sampler.{name}") / units for name in ("truncated", "rejected")}
    if book.total("sampler.capped_squares") > 0:
        found["sampler_ess"] = min(1.0, book.total("sampler.capped") ** 2 / (units * book.total("sampler.capped_squares")))
    return found | _log_ratios(book, "sampler") | _mass_gap(book)


def _policies(book: _Book) -> dict[str, float]:
    entropies, tokens = book.number("entropy.tokens"), book.number("reference.tokens")
    found = {"entropy_per_token": book.total("entropy") / entropies} if entropies else {}
    if tokens:
        found |= {f"reference_kl_{k}_per_token": book.total(f"reference.{k}") / tokens for k in ("k1", "k3")}
        found["reference_kl_capped"] = book.number("reference.capped") / tokens
    return found


def _mass_gap(book: _Book) -> dict[str, float]:
    """The mean of π_old/π_sampler − 1, and its standard error; see `gspo_core.mismatch.mass_gap`."""
    sequences, tokens = book.number("sampler.sequences"), book.number("sampler.tokens")
    gap = book.total("sampler.excess") / tokens
    if sequences < 2:
        return {"sampler_mass_gap": gap}
    squares = book.sums["sampler.bin_squares"].astype(float).sum()
    # Σ (E − g |y|)². What cancels is far below g²: it cannot make a gap out of chance.
    off = book.total("sampler.excess_squares") - 2 * gap * book.total("sampler.excess_tokens") + gap * gap * squares
    return {
        "sampler_mass_gap": gap,
        "sampler_mass_gap_error": math.sqrt(max(0.0, off) * sequences / (sequences - 1)) / tokens,
    }
