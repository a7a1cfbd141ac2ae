"""Metrics as plain numbers with names."""

from __future__ import annotations

import math

from .book import Book
from .ledger import Metrics
from .sketch import BINS, CENTRES, STEPS, moments, of_size, quantile

_QUANTILES = {"q01": 0.01, "q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95, "q99": 0.99}
_SIZES = ("q50", "q95")
_GROUPS = {"constant_groups": "constant_groups", "single_groups": "single_groups", "group_size": "grouped"}
_FLAT = 1e-4
"""Variance of log-probs per token up to which they do not vary, but for rounding; nats²."""


def summary(metrics: Metrics) -> dict[str, float]:
    """Every number of `metrics` by name, as Python floats.

    Args:
        metrics: of one batch, or merged.

    Returns: the numbers below. What was not measured, or of what there was none, is left out.

    Raises: TypeError if they are no `Metrics`, ValueError if their vectors have other shapes.

    Sizes: batches, sequences, tokens (empty sequences count nothing), length_mean, length_std, length_min, length_max;
        on_policy: share of batches without old log-probs; empty_sequences: number of those without a token.
        Responses of `left_out_metrics` count among the sequences and tokens, but not as batches. updates: Σ own count /
        denominator: the number of optimizer steps, if micro-batches and ranks were divided by the count of a whole step.
    Loss: loss = Σ value · denominator / Σ the objective's own count: of the merged batches as if they were one. With weights of
        sequences (`Weighted`) the count is a sum of weights; all other numbers but gradient and updates count a response once.
        gradient = Σ |∂loss/∂logp|, likewise. gradient_share: max_i G_i / Σ_i G_i with G_i = D Σ_t |∂loss/∂logp_it| of a
        response and D its batch's denominator; left out if there is no gradient, or one that is not finite.
        loss_trained = Σ value, as it was divided: the loss of an optimizer step, if these are its micro-batches. Left out if
        every batch was divided by its own count.
    Advantages: advantage_mean, advantage_abs_mean, advantage_abs_max, over sequences; zero_advantage: share of sequences where
        it is 0 at every token; not_finite_advantages: number of sequences with one that is NaN or infinite, of which
        advantage_abs_max knows nothing; groups: their number; constant_groups, single_groups: shares of those of two responses
        or more with nothing but zeros, and of those of one response that is 0; group_size: mean number of responses.
    Log-probs, of both policies: not_finite, positive: number of tokens with one that is NaN, infinite or beyond ±1e8 (which
        stands for an infinity), and of the others with one above 0; positive_max: the largest one, 0 if none is above.
        continued: number of tokens with an advantage whose log ratio (or that of their unit) is beyond 50, from where e^x is
        continued linearly.
    Clipping, as shares of all sequences: clip_active (some advantage, no gradient at all), and of these clip_low (log s < 0)
        and clip_high (log s > 0). As shares of all tokens: clip_active_tokens, clip_low_tokens, clip_high_tokens, by the
        token's own log ratio, or that of its sequence. TRL logs the first for a sequence ratio, verl the second.
    log s, in nats: log_s_mean, log_s_std (population), log_s_min, log_s_max; log_s_q01 … log_s_q99, abs_log_s_q50,
        abs_log_s_q95 (within 4.5 % of the order statistic, for sizes between 1e-9 and 64); log_s_rms. These and all that
        follows are over the responses that were run and have finite log-probs only.
    ess: effective sample size (Σ s)² / (N Σ s²), in (0, 1]; log s beyond 20 counts as 20. Left out if every s is 0.
    token_std: standard deviation of d = log π − log π_old over all tokens, nats.
    design_effect: the estimate of `gspo_core.clip_range.estimate_drift`, from the merged batches: 1 for independent tokens, up
        to |y| if a sequence's tokens move together. Left out for fewer than two sequences or no variance (a `Drift` has 1).
    unlikeness: variance of d within responses, over twice the larger of the two policies' variances of log-probs within
        responses. 0 for equal policies, at most ½ if d is noise that does not depend on old_logp, near 1 if the two arrays
        have nothing to do with each other. Left out if neither varies by more than 0.01 nats.
    Divergence, estimates of KL(π_old ‖ π) from samples of π_old, nats: kl_k1_per_token = mean of −d, of either sign;
        kl_k3_per_token = mean of e^d − 1 − d ≥ 0; kl_k1_per_sequence, kl_k3_per_sequence: the same, summed over each sequence.
    Sampler (where `sampler_metrics` were merged in), with x = old_logp − sampler_logp: sampler_sequences, sampler_tokens
        (before anything was rejected); sampler_not_finite, sampler_positive, sampler_positive_max, sampler_unlikeness as
        above; sampler_raw_mean, sampler_raw_max, sampler_weight_mean, sampler_weight_max, over tokens or sequences, whichever
        have weights, and of these over those that are finite; sampler_truncated, sampler_rejected: shares of all of them;
        sampler_ess: effective sample size (Σ w)² / (n Σ w²) of the n finite weights, of which none
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
    {'groups': 1.0, 'constant_groups': 0.0, 'single_groups': 0.0, 'group_size': 2.0}
    """
    book = Book.of(metrics)
    return _groups(book) | _batch(book) | _log_ratios(book, "log_s") | _sampler(book) | _policies(book)


def _groups(book: Book) -> dict[str, float]:
    groups = book.number("groups")
    shares = {name: book.number(key) / (groups or 1.0) for name, key in _GROUPS.items()}
    return {"groups": groups, **shares} if groups else {}


def _batch(book: Book) -> dict[str, float]:
    sequences, tokens = book.number("sequences"), book.number("tokens")
    empty = {"empty_sequences": book.number("empty")}
    if not sequences:
        return empty if empty["empty_sequences"] else {}
    mean, batches = tokens / sequences, book.number("batches")
    found = empty | ({"on_policy": book.number("on_policy_batches") / batches} if batches else {})
    found |= {
        "batches": batches,
        "updates": _updates(book),
        "sequences": sequences,
        "tokens": tokens,
        "length_mean": mean,
        "length_std": math.sqrt(max(0.0, book.total("length_squares") / sequences - mean * mean)),
        "length_min": float(book.minima["length"][0]),
        "length_max": float(book.maxima["length"][0]),
        "loss": book.total("loss") / book.units("units"),
        "gradient": book.total("gradient") / book.units("units"),
        "advantage_mean": book.total("advantage") / sequences,
        "advantage_abs_mean": book.total("abs_advantage") / sequences,
        "zero_advantage": book.number("zero_advantage") / sequences,
    }
    if batches:
        found |= _log_probs(book, "log_s", "") | {
            "advantage_abs_max": book.largest("advantage"),
            "not_finite_advantages": book.number("not_finite_advantages"),
            "continued": book.number("continued"),
        }
    if 0 < book.total("gradient") < math.inf:
        found["gradient_share"] = min(1.0, book.largest("gradient") / book.total("gradient"))
    if book.number("denominators"):
        found["loss_trained"] = book.total("trained")
    for name in ("clip_active", "clip_low", "clip_high"):
        found[name] = book.number(name) / sequences
        found[f"{name}_tokens"] = book.number(f"{name}_tokens") / tokens
    if book.total("s_squares") > 0:
        found["ess"] = min(1.0, book.total("s") ** 2 / (float(book.counts["log_s.bins"].sum()) * book.total("s_squares")))
    return found


def _updates(book: Book) -> float:
    """Σ count/denominator. What was never run has a part in the denominators, and none in the sum."""
    run = book.units("batch_units")
    return book.total("updates") * book.units("units") / run if run else 0.0


def _log_probs(book: Book, name: str, prefix: str) -> dict[str, float]:
    """What is no number, and what is no log-prob."""
    return {
        f"{prefix}not_finite": book.number(f"{name}.not_finite"),
        f"{prefix}positive": book.number(f"{name}.positive"),
        f"{prefix}positive_max": max(0.0, book.largest(f"{name}.positive")),
    }


def _unlikeness(book: Book, name: str, prefix: str, tokens: float) -> dict[str, float]:
    """Σ (d − d̄)² over twice the larger Σ of the two policies, deviations being those from a sequence's mean."""
    d, old, both = (book.total(f"{name}.{part}") for part in ("within", "other_within", "together"))
    larger = max(old, old + 2.0 * both + d)
    return {f"{prefix}unlikeness": d / (2.0 * larger)} if larger > _FLAT * tokens else {}


def _log_ratios(book: Book, name: str) -> dict[str, float]:
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
    return found | _unlikeness(book, name, prefix, tokens)


def _sampler(book: Book) -> dict[str, float]:
    units = book.number("sampler.units")
    if not units:
        return {}
    found = {"sampler_sequences": book.number("sampler.sequences"), "sampler_tokens": book.number("sampler.tokens")}
    weighed = book.number("sampler.weighed")
    if weighed:
        found |= {f"sampler_{name}_mean": book.total(f"sampler.{name}") / weighed for name in ("raw", "weight")}
        found |= {f"sampler_{name}_max": book.largest(f"sampler.{name}") for name in ("raw", "weight")}
    found |= {f"sampler_{name}": book.number(f"sampler.{name}") / units for name in ("truncated", "rejected")}
    if book.total("sampler.capped_squares") > 0:
        found["sampler_ess"] = min(1.0, book.total("sampler.capped") ** 2 / (weighed * book.total("sampler.capped_squares")))
    return found | _log_probs(book, "sampler", "sampler_") | _log_ratios(book, "sampler") | _mass_gap(book)


def _policies(book: Book) -> dict[str, float]:
    entropies, tokens = book.number("entropy.tokens"), book.number("reference.tokens")
    found = {"entropy_per_token": book.total("entropy") / entropies} if entropies else {}
    if tokens:
        found |= {f"reference_kl_{k}_per_token": book.total(f"reference.{k}") / tokens for k in ("k1", "k3")}
        found["reference_kl_capped"] = book.number("reference.capped") / tokens
    return found


def _mass_gap(book: Book) -> dict[str, float]:
    """The mean of π_old/π_sampler − 1, and its standard error; see `gspo_core.mismatch.mass_gap`."""
    sequences, tokens = (float(book.counts[f"sampler.{name}"].sum()) for name in ("bins", "bin_tokens"))
    if not sequences:
        return {}
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
