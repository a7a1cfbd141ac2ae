"""Numerics: small batches, float32 inputs, and compiled losses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import same_value, same_weight
from gspo_core.laws.kit.law import Law, Violation, demand, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import batches
from gspo_core.laws.kit.subject import Subject


@law(
    "every batch has a finite loss, however small",
    source="docs/theory.md, G4: one response, one token, or none",
    otherwise="small batches raise an error, or lose an axis by squeezing",
    cases=lambda setting: batches(setting, rows=(1, 2), width=(1, 2)),
    anchors=lambda setting: [Batch.of([[0.0]], [1.0]), Batch.of([[0.0, 0.0]], [1.0])],
    effort=0.3,
)
def small(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """A finite scalar, and a gradient of shape [N, T]."""
    found = subject(batch.with_padding(0.0))
    if not np.isfinite(found.value):
        raise Violation("the loss", batch, found.value, "a finite number")
    demand(found.weight.shape, batch.mask.shape, 0.0, "the shape of the gradient", batch)
    return True


@law(
    "with float32 inputs the loss is accurate to float32",
    source="docs/theory.md, H2 and H5: sums in at least float32; bfloat16 and float16 cannot resolve a clip range of 3e-4",
    otherwise="sums or ratios are computed in less than float32",
    needs={Claim.KNOWN_FORMULA},
    cases=lambda setting: batches(setting, width=(1, 4)),
    anchors=lambda setting: [Batch.of([[0.3, 0.1, 0.2]], [-1.0])],
)
def float32(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """The value on float32 inputs equals that of the scalar oracle on the same numbers."""
    batch = batch.with_padding(0.0).rounded(np.float32)
    if batch.largest > 20.0 or not setting.is_clear(batch, max(subject.kink, 1e-5)):
        return False
    found = subject(batch, dtype=np.float32)._replace(eps=float(np.finfo(np.float32).eps) / 4)
    same_value(found, setting.expected(batch).value, setting, batch, "the loss in float32")
    return bool(batch.token_advantage.any())


@law(
    "the compiled loss equals the eager loss",
    source="torch.compile and jax.jit: a traced function must not depend on the arrays that it was traced with",
    otherwise="a result that depends on the data became a constant during tracing",
    needs={Claim.COMPILES},
    cases=lambda setting: st.tuples(
        *[batches(setting, rows=(2, 2), width=(3, 3), kinds=["level", "spread"]) for _ in range(2)]
    ),
    anchors=lambda setting: [
        (Batch.of([[0.0] * 3] * 2, [1.0, -1.0]), Batch.of([[0.1] * 3] * 2, [-1.0, 2.0], [[1, 0, 0], [1, 1, 1]]))
    ],
    effort=0.005,  # tracing takes a second: the anchor, and a random case from 100 examples on
)
def compiled(subject: Subject, setting: Setting, case: tuple[Batch, Batch]) -> bool:
    """A loss compiled with a first batch gives on a second one, and again on the first, the value and gradient of the eager
    loss."""
    first, second = (replace(batch.with_padding(0.0), denominator=None) for batch in case)
    once = subject.framework.counterpart(subject.call)
    assert once is not None
    subject(first, other=once)
    note = "compiled with another batch of the same shape; required: the eager result (or the reverse)"
    for batch in (second, first):
        found, expected = subject(batch, other=once), subject(batch)
        same_value(found, expected.value, setting, batch, "the loss", note)
        if setting.is_clear(batch, 1e-9):
            same_weight(found, expected.weight, setting, batch, "the gradient", note)
    return True


NUMERICS: list[Law] = [small, float32, compiled]
