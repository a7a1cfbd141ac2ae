"""Extremes: log ratios that overflow, and guards against it."""

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
    needs={Claim.KNOWN_FORMULA, Claim.UNBOUNDED},
    cases=lambda setting: st.tuples(st.sampled_from([12.0, 25.0, 45.0, 49.5]), st.integers(1, 2), st.sampled_from(DTYPES)),
    anchors=lambda setting: [(12.0, 1, np.float64), (22.0, 1, np.float64), (45.0, 1, np.float64)],
    effort=0.2,
    severity=Severity.FRAGILE,
)
def guard(subject: Subject, setting: Setting, case: tuple[float, int, Any]) -> bool:
    """A = −1 and one response with log ratio x < 50 on every token: loss and gradient of the formula, in both precisions."""
    x, length, dtype = case
    if isinstance(setting.like.ratio, (Product, ProductToken)):
        length = 1
    batch = Batch.of([[x] * length], [-1.0])
    wanted, found = setting.expected(batch), subject(batch, dtype=dtype)
    found = found._replace(eps=max(found.eps, float(np.finfo(dtype).eps) / 4))
    same_value(found, wanted.value, setting, batch, "the loss")
    if subject.own_gradient or dtype == np.float64:  # differences in float32 drown in the rounding of log-probs around 45
        same_weight(found, wanted.weight, setting, batch, "the gradient")
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


EXTREMES: list[Law] = [finite, guard, rising]
