"""Extremes: log ratios that overflow, guards against it, and responses of many tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import same_value, same_weight
from gspo_core.laws.kit.law import Law, Severity, Violation, demand, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import Subject
from gspo_core.objectives.ratios import Product, ProductToken
from gspo_core.objectives.soft_surrogates import GammaWeight

HUGE = [1e6, -1e6, 1e3, -1e3, 800.0, 100.0, -100.0, 60.0, 89.0, -746.0, 1e5]
SIZES = [1.0, -1.0, 0.0, 1e3, -1e3, 1e-3]
DTYPES: list[Any] = [np.float64, np.float32]
Rows = list[tuple[float, float]]


@law(
    "finite log-probs give a finite loss and gradient",
    source="docs/theory.md, H1: exp overflows where the unit is clipped anyway, and 0 · ∞ is NaN: OpenRLHF#1293",
    otherwise="exp overflows: NaN or infinity in the loss or in the gradient",
    cases=lambda setting: st.tuples(
        st.lists(st.tuples(st.sampled_from(HUGE), st.sampled_from(SIZES)), min_size=1, max_size=3),
        st.sampled_from([[1.0], [1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -1.0]]),
        st.sampled_from(DTYPES),
    ),
    anchors=lambda setting: [
        ([(x, a)], [1.0], dtype) for x in (1e6, 800.0, -1e6) for a in (1.0, -1.0, 0.0) for dtype in DTYPES
    ],
    severity=Severity.FRAGILE,
)
def finite(subject: Subject, setting: Setting, case: tuple[Rows, list[float], Any]) -> bool:
    """Log ratios up to ±10⁶, equal or mixed within a response, in float64 and float32, for A of both signs and 0."""
    rows, shape, dtype = case
    batch = Batch.of([[x * times for times in shape] for x, _ in rows], [a for _, a in rows])
    found = subject(batch, dtype=dtype)
    for what, number in (("the loss", found.value), ("the gradient", found.weight)):
        if not np.isfinite(number).all():
            raise Violation(f"{what} in {dtype.__name__}", batch, number, "a finite number")
    return True


@law(
    "no overflow guard changes ratios below e⁵⁰",
    source="docs/theory.md, H1: an overflow guard is needed far beyond log s = 50 only; no gradient above e¹⁰: verl, SkyRL",
    otherwise="large ratios are capped: bad responses that became much likelier have too small a gradient",
    needs={Claim.UNBOUNDED, Claim.LEVEL_RATIO, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.tuples(st.sampled_from([12.0, 25.0, 45.0, 49.5]), st.integers(1, 2), st.sampled_from(DTYPES)),
    anchors=lambda setting: [(12.0, 1, np.float64), (45.0, 1, np.float64)],
    effort=0.2,
    severity=Severity.FRAGILE,
)
def guard(subject: Subject, setting: Setting, case: tuple[float, int, Any]) -> bool:
    """A = −1 and one response with log ratio x < 50: the loss is eˣ, the gradient eˣ/|y|, in float64 and float32."""
    x, length, dtype = case
    batch = Batch.of([[x] * length], [-1.0])
    found = subject(batch, dtype=dtype)
    found = found._replace(eps=max(found.eps, float(np.finfo(dtype).eps) / 4))
    same_value(found, math.exp(x), setting, batch, "the loss")
    same_weight(found, np.full((1, length), math.exp(x) / length), setting, batch, "the gradient")
    return True


@law(
    "beyond the overflow guard a bad response still has a gradient",
    source="docs/theory.md, H1; this package continues exp along its tangent beyond 50, so that the gradient never vanishes",
    otherwise="the loss is flat for bad responses that became far too likely: nothing makes them rarer again",
    needs={Claim.UNBOUNDED, Claim.LEVEL_RATIO, Claim.SEQUENCE_MEAN, Claim.RISING, Claim.OWN_GRADIENT},
    cases=lambda setting: st.tuples(st.sampled_from([50.5, 60.0, 1e3, 1e6]), st.sampled_from(DTYPES)),
    anchors=lambda setting: [(60.0, np.float64), (1e6, np.float32)],
    effort=0.1,
    severity=Severity.FRAGILE,
)
def rising(subject: Subject, setting: Setting, case: tuple[float, Any]) -> bool:
    """A = −1 and log ratio x > 50: the loss is e⁵⁰ (1 + x − 50), the gradient e⁵⁰."""
    x, dtype = case
    batch = Batch.of([[x]], [-1.0])
    found, top = subject(batch, dtype=dtype), math.exp(50.0)
    eps = 16.0 * float(np.finfo(dtype).eps)
    demand(found.weight, [[top]], eps * top, "the gradient", batch)
    demand(found.value, top * (x - 49.0), eps * top * (x - 49.0), "the loss", batch)
    return True


LONG, SCATTER = 2**15, 0.05


class _Long(Batch):
    """A batch that is too long to print."""

    def __str__(self) -> str:
        """A description of the batch."""
        lengths = ", ".join(map(str, self.lengths))
        return f"responses of {lengths} tokens, log ratios with standard deviation {SCATTER}; A = {self.advantage.tolist()}"


def _long(seed: int, sign: float, summed: bool) -> Batch:
    """Responses of up to 32768 tokens with a given mean log ratio, or a given sum if `summed`."""
    rng = np.random.default_rng(seed)
    lengths = np.array([LONG, LONG - 1, 1000, LONG // 2])[:, None]
    mask = np.arange(LONG) < lengths
    d = np.where(mask, SCATTER * rng.normal(size=mask.shape), 0.0)
    d = d - d.sum(axis=1, keepdims=True) / lengths
    d = d + (np.array([[0.0], [1.0], [-1.0], [2.0]]) / lengths if summed else np.array([[0.0], [1e-4], [-1e-4], [1e-3]]))
    old = -rng.exponential(size=mask.shape)
    logp, old = (x.astype(np.float32).astype(np.float64) for x in (old + d, old))
    return _Long(logp, old, sign * np.array([1.0, -1.0, 0.5, -0.5]), mask)


@law(
    "float32 stays accurate over 32768 tokens",
    source="docs/theory.md, H5: a clip range of 3e-4 needs log s to 1e-6, also as the mean of 32768 numbers",
    otherwise="log-probs are summed one after another, or before they are subtracted: rounding errors reach the clip range",
    needs={Claim.KNOWN_FORMULA, Claim.OWN_GRADIENT},
    cases=lambda setting: st.tuples(st.integers(0, 99), st.sampled_from([1.0, -1.0])),
    anchors=lambda setting: [(0, 1.0), (0, -1.0)],
    effort=0.02,
)
def long(subject: Subject, setting: Setting, case: tuple[int, float]) -> bool:
    """Value and gradient in float32 equal those in float64 to 1e-6, a hundredth of the paper's clip range.

    Ten times that if the log ratio is a sum over the tokens and not a mean; and ρᵏ e^(λ(1−ρ)) magnifies an error of log ρ
    by |k − λρ|, at most 3 e² here.
    """
    summed = isinstance(setting.like.ratio, (Product, ProductToken))
    batch = _long(*case, summed)
    size = (1e-5 if summed else 1e-6) * (3 * math.exp(2) if isinstance(setting.like.surrogate, GammaWeight) else 1.0)
    wide, narrow = subject(batch), subject(batch, dtype=np.float32)
    total = max(1.0, abs(wide.value), np.abs(wide.weight).sum())  # a sum of gains of either sign may be small
    demand(narrow.value, wide.value, size * total, "the loss in float32; required: the loss in float64", batch)
    allowed = size * np.abs(wide.weight) + 1e-30
    demand(narrow.weight, wide.weight, allowed, "the gradient in float32; required: the gradient in float64", batch)
    return bool(wide.weight.any())


EXTREMES: list[Law] = [finite, guard, rising, long]
