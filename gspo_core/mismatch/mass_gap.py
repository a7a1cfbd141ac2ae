"""The mass gap of a sampling engine: how far the mean of π_old/π_sampler over its tokens is from 1, and when that is a bias.

Over tokens that were sampled from π_sampler, e^d with d = log π_old − log π_sampler has the mean 1 for *any* two distributions
over the same tokens: noise of the engine averages out. A mean that is off by more than chance says that sampler_logp is not
what was sampled from (another temperature, top-p, top-k, or log-probs of other logits).

`mismatch_report`, `sampler_metrics` and `diagnose` share these definitions:

    excess of a response    E_i = Σ_t (e^d_it − 1), d beyond 20 counts as 20
    mass gap                g = Σ_i E_i / Σ_i |y_i|
    its standard error      √[N/(N−1) · Σ_i (E_i − g |y_i|)²] / Σ_i |y_i|, responses independent of each other, tokens not
    bias                    |g| > SURE standard errors and |g| > NEGLIGIBLE
"""

from __future__ import annotations

from typing import Any

from gspo_core._lib.array import EXP_SQUARED_CAP
from gspo_core.types import Array, Layout

SURE = 4.0
"""Standard errors by which a mean must be off to be called a bias: by chance once in 16,000 batches."""
NEGLIGIBLE = 1e-5
"""A mass gap per token that is too small to matter: 10 % of the weight of a 10,000-token response."""


def excess(d: Array, layout: Layout) -> Array:
    """[N] Σ_t (e^d − 1) over each response, from the token array d = old_logp − sampler_logp (0 in masked slots)."""
    return layout.sum(layout.xp.expm1(layout.xp.where(d > EXP_SQUARED_CAP, EXP_SQUARED_CAP, d)))


def is_bias(gap: Any, error: Any, sure: float = SURE, negligible: float = NEGLIGIBLE) -> Any:
    """Whether a mass gap is more than chance, and more than negligible; numbers, or [] arrays of one library."""
    return (abs(gap) > sure * error) & (abs(gap) > negligible)
