"""Numerics: overflow, rounding, and what a compiler makes of it (theory H)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from .batch import Batch
from .claim import Claim
from .compare import same_value, same_weight
from .law import Law, Violation, demand, law
from .setting import Setting
from .strategies import batches
from .subject import Subject

HUGE = [1e6, -1e6, 1e3, -1e3, 800.0, 100.0, -100.0, 60.0]


@law(
    "finite log-probs give a finite loss and gradient",
    source="theory H1: exp overflows where the unit is clipped anyway, and 0 · ∞ is NaN (OpenRLHF#1293)",
    otherwise="overflows: NaN or infinity in the loss or in the gradient",
    cases=lambda setting: st.lists(st.tuples(st.sampled_from(HUGE), st.sampled_from([1.0, -1.0, 0.0])), min_size=1, max_size=3),
    anchors=lambda setting: [[(x, a)] for x in (1e6, 800.0, -1e6) for a in (1.0, -1.0, 0.0)],
    effort=0.5,
)
def finite(subject: Subject, setting: Setting, case: list[tuple[float, float]]) -> bool:
    """Log ratios up to ±10⁶, A of both signs and 0."""
    batch = Batch.of([[x] for x, _ in case], [a for _, a in case])
    found = subject(batch)
    for what, number in (("the loss", found.value), ("the gradient", found.weight)):
        if not np.isfinite(number).all():
            raise Violation(what, batch, number, "a finite number")
    return True


@law(
    "every batch has a loss, however small",
    source="need 3: one response, one token, none",
    otherwise="small batches raise an error, or lose an axis",
    cases=lambda setting: batches(setting, rows=(1, 2), width=(1, 2)),
    anchors=lambda setting: [Batch.of([[0.0]], [1.0]), Batch.of([[0.0, 0.0]], [1.0])],
    effort=0.3,
)
def small(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """A finite scalar, and a gradient of the batch's shape."""
    found = subject(batch.poisoned(0.0))
    if not np.isfinite(found.value):
        raise Violation("the loss", batch, found.value, "a finite number")
    demand(found.weight.shape, batch.mask.shape, 0.0, "the shape of the gradient", batch)
    return True


@law(
    "no guard touches a ratio below e⁵⁰",
    source="design: a guard changes nothing inside |log s| < 50; zero gradient above e¹⁰ is verl's and SkyRL's",
    otherwise="large ratios are capped: bad responses that have become much likelier are not pushed down as they should be",
    needs={Claim.UNBOUNDED, Claim.LEVEL_RATIO, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.tuples(st.sampled_from([12.0, 25.0, 45.0]), st.integers(1, 2)),
    anchors=lambda setting: [(12.0, 1), (45.0, 1)],
    effort=0.2,
)
def guard(subject: Subject, setting: Setting, case: tuple[float, int]) -> bool:
    """A = −1, one response with log ratio x < 50: loss eˣ, gradient eˣ/|y|."""
    x, length = case
    batch = Batch.of([[x] * length], [-1.0])
    found = subject(batch)
    same_value(found, math.exp(x), setting, batch, "the loss")
    same_weight(found, np.full((1, length), math.exp(x) / length), setting, batch, "the gradient")
    return True


@law(
    "float32 inputs lose no more than float32 must",
    source="theory H2, H5: sums in at least float32; bfloat16 and float16 cannot represent a band of 3e-4",
    otherwise="accumulates in less than float32",
    needs={Claim.JUDGED},
    cases=lambda setting: batches(setting, width=(1, 4)),
    anchors=lambda setting: [Batch.of([[0.3, 0.1, 0.2]], [-1.0])],
)
def float32(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """The value on float32 inputs, against the scalar loops on the same numbers."""
    batch = batch.poisoned(0.0).rounded(np.float32)
    if batch.largest > 20.0 or not setting.is_clear(batch, max(subject.kink, 1e-5)):
        return False
    found = subject(batch, dtype=np.float32)._replace(eps=float(np.finfo(np.float32).eps) / 4)
    same_value(found, setting.verdict(batch).value, setting, batch, "the loss in float32")
    return bool(batch.token_advantage.any())


@law(
    "compiled, it is the same function",
    source="design section 5: nothing may depend on the arrays a function was traced with",
    otherwise="tracing freezes something that depends on the data",
    needs={Claim.COMPILES},
    cases=lambda setting: st.tuples(
        *[batches(setting, rows=(2, 2), width=(3, 3), kinds=["level", "spread"]) for _ in range(2)]
    ),
    anchors=lambda setting: [
        (Batch.of([[0.0] * 3] * 2, [1.0, -1.0]), Batch.of([[0.1] * 3] * 2, [-1.0, 2.0], [[1, 0, 0], [1, 1, 1]]))
    ],
    effort=0.03,
)
def compiled(subject: Subject, setting: Setting, case: tuple[Batch, Batch]) -> bool:
    """Compiled with the first batch, it gives on the second what it gives eagerly."""
    first, second = (replace(batch.poisoned(0.0), denominator=None) for batch in case)
    once = subject.framework.counterpart(subject.call)
    assert once is not None
    subject(first, other=once)
    found, expected = subject(second, other=once), subject(second)
    note = "compiled with another batch of that shape before, against eagerly:"
    same_value(found, expected.value, setting, second, "the compiled or eager loss", note)
    if setting.is_clear(second, 1e-9):
        same_weight(found, expected.weight, setting, second, "its gradient", note)
    return True


NUMERICS: list[Law] = [small, finite, guard, float32, compiled]
