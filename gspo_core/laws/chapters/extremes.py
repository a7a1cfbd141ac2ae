"""Extremes: numbers that overflow, guards, and responses of many tokens (theory H1, H2, H5)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import same_value, same_weight
from gspo_core.laws.kit.law import Law, Violation, demand, law
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
    source="theory H1: exp overflows where the unit is clipped anyway, and 0 · ∞ is NaN (OpenRLHF#1293)",
    otherwise="overflows: NaN or infinity in the loss or in the gradient",
    cases=lambda setting: st.tuples(
        st.lists(st.tuples(st.sampled_from(HUGE), st.sampled_from(SIZES)), min_size=1, max_size=3),
        st.sampled_from([[1.0], [1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -1.0]]),
        st.sampled_from(DTYPES),
    ),
    anchors=lambda setting: [
        ([(x, a)], [1.0], dtype) for x in (1e6, 800.0, -1e6) for a in (1.0, -1.0, 0.0) for dtype in DTYPES
    ],
)
def finite(subject: Subject, setting: Setting, case: tuple[Rows, list[float], Any]) -> bool:
    """Log ratios up to ±10⁶, alike or mixed within a response, in both precisions; A of both signs and sizes, and 0."""
    rows, shape, dtype = case
    batch = Batch.of([[x * times for times in shape] for x, _ in rows], [a for _, a in rows])
    found = subject(batch, dtype=dtype)
    for what, number in (("the loss", found.value), ("the gradient", found.weight)):
        if not np.isfinite(number).all():
            raise Violation(f"{what} in {dtype.__name__}", batch, number, "a finite number")
    return True


@law(
    "no guard touches a ratio below e⁵⁰",
    source="design: a guard changes nothing inside |log s| < 50; zero gradient above e¹⁰ is verl's and SkyRL's",
    otherwise="large ratios are capped: bad responses that have become much likelier are not pushed down as they should be",
    needs={Claim.UNBOUNDED, Claim.LEVEL_RATIO, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.tuples(st.sampled_from([12.0, 25.0, 45.0, 49.5]), st.integers(1, 2), st.sampled_from(DTYPES)),
    anchors=lambda setting: [(12.0, 1, np.float64), (45.0, 1, np.float64)],
    effort=0.2,
)
def guard(subject: Subject, setting: Setting, case: tuple[float, int, Any]) -> bool:
    """A = −1, one response with log ratio x < 50: loss eˣ, gradient eˣ/|y|; in float32, too."""
    x, length, dtype = case
    batch = Batch.of([[x] * length], [-1.0])
    found = subject(batch, dtype=dtype)
    found = found._replace(eps=max(found.eps, float(np.finfo(dtype).eps) / 4))
    same_value(found, math.exp(x), setting, batch, "the loss")
    same_weight(found, np.full((1, length), math.exp(x) / length), setting, batch, "the gradient")
    return True


@law(
    "beyond the guard a bad response is still pushed down",
    source="design: exp goes on along its tangent at 50, so that no finite input has a flat spot on its way back",
    otherwise="the loss is flat for responses that have become far too likely: they have no way back",
    needs={Claim.UNBOUNDED, Claim.LEVEL_RATIO, Claim.SEQUENCE_MEAN, Claim.RISING, Claim.OWN_GRADIENT},
    cases=lambda setting: st.tuples(st.sampled_from([50.5, 60.0, 1e3, 1e6]), st.sampled_from(DTYPES)),
    anchors=lambda setting: [(60.0, np.float64), (1e6, np.float32)],
    effort=0.1,
)
def rising(subject: Subject, setting: Setting, case: tuple[float, Any]) -> bool:
    """A = −1 and log ratio x > 50: loss e⁵⁰ (1 + x − 50), gradient e⁵⁰."""
    x, dtype = case
    batch = Batch.of([[x]], [-1.0])
    found, top = subject(batch, dtype=dtype), math.exp(50.0)
    eps = 16.0 * float(np.finfo(dtype).eps)
    demand(found.weight, [[top]], eps * top, "the gradient", batch)
    demand(found.value, top * (x - 49.0), eps * top * (x - 49.0), "the loss", batch)
    return True


LONG, SCATTER = 2**15, 0.05


class _Long(Batch):
    """A batch that nobody wants to see."""

    def __str__(self) -> str:
        """What it is made of."""
        lengths = ", ".join(map(str, self.lengths))
        return f"responses of {lengths} tokens, whose log ratios scatter by {SCATTER}; A = {self.advantage.tolist()}"


def _long(seed: int, sign: float, summed: bool) -> Batch:
    """Responses of up to 32768 tokens; the mean of their log ratios is set, or where that is the unit, the sum."""
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
    "32768 tokens in float32 lose less than a hundredth of the paper's band",
    source="need 8; theory H5: a band of 3e-4 needs log s to 1e-6, also where it is the mean of 32k numbers",
    otherwise="log-probs are summed one after another, or before they are subtracted",
    needs={Claim.JUDGED, Claim.OWN_GRADIENT},
    cases=lambda setting: st.tuples(st.integers(0, 99), st.sampled_from([1.0, -1.0])),
    anchors=lambda setting: [(0, 1.0), (0, -1.0)],
    effort=0.02,
)
def long(subject: Subject, setting: Setting, case: tuple[int, float]) -> bool:
    """The loss in float32 against itself in float64: value and gradient to 1e-6.

    Where the log ratio is the sum of all tokens and not their mean, ten times that; and ρᵏ e^(λ(1−ρ)) magnifies an error of
    log ρ by |k − λρ|, at most 3 e² here.
    """
    summed = isinstance(setting.like.ratio, (Product, ProductToken))
    batch = _long(*case, summed)
    size = (1e-5 if summed else 1e-6) * (3 * math.exp(2) if isinstance(setting.like.surrogate, GammaWeight) else 1.0)
    wide, narrow = subject(batch), subject(batch, dtype=np.float32)
    demand(narrow.value, wide.value, size * max(1.0, abs(wide.value)), "the loss in float32, against float64,", batch)
    allowed = size * np.abs(wide.weight) + 1e-30
    demand(narrow.weight, wide.weight, allowed, "the gradient in float32, against float64,", batch)
    return bool(wide.weight.any())


EXTREMES: list[Law] = [finite, guard, rising, long]
