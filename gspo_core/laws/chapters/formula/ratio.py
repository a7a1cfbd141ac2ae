"""Ratios: how the log ratios of the tokens enter the ratio of a response."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import same_value, same_weight
from gspo_core.laws.kit.law import Law, Severity, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import batches
from gspo_core.laws.kit.subject import Subject


@law(
    "only the sum of a response's log ratios matters",
    source="docs/theory.md, D2; GSPO eq. 7",
    otherwise="the ratio depends on single tokens, not on their sum alone",
    needs={Claim.MEAN_RATIO},
    cases=lambda setting: st.tuples(batches(setting, width=(2, 4)), st.sampled_from([0.5, 2.0, 1e-3, 8.0])),
    anchors=lambda setting: [(Batch.of([[0.0, 0.0]], [a]), size) for size in (0.5, 8.0) for a in (-1.0, 1.0)],
)
def zero_sum(subject: Subject, setting: Setting, case: tuple[Batch, float]) -> bool:
    """Adding ξ with Σ_t ξ_t = 0 to the log ratios of a response leaves value and gradient unchanged."""
    batch, size = case
    return _shifted(subject, setting, batch, size)


@law(
    "an overflow guard acts on the mean log ratio, not on single tokens",
    source="docs/theory.md, D2 and H1; log ratios of tokens clamped at ±20 before the mean: verl#2775, Tunix",
    otherwise="log ratios of single tokens are clamped before they enter the mean: a token that moved far counts less",
    needs={Claim.MEAN_RATIO},
    cases=lambda setting: st.tuples(batches(setting, width=(2, 4)), st.sampled_from([30.0, 100.0, 200.0])),
    anchors=lambda setting: [(Batch.of([[1.0, 0.0]], [-1.0]), 100.0)],
    severity=Severity.FRAGILE,
)
def outlier(subject: Subject, setting: Setting, case: tuple[Batch, float]) -> bool:
    """Adding ξ with Σ_t ξ_t = 0 and |ξ_t| up to 200 leaves value and gradient unchanged."""
    batch, size = case
    return _shifted(subject, setting, batch.with_d(batch.d), size)


def _shifted(subject: Subject, setting: Setting, batch: Batch, size: float) -> bool:
    batch = batch.with_padding(0.0)
    xi = np.zeros(batch.mask.shape)
    for i, row in enumerate(batch.mask):
        where = np.flatnonzero(row)
        if len(where) > 1:
            xi[i, where[0]], xi[i, where[-1]] = size, -size
    moved = batch.with_d(batch.d + xi)
    moved = Batch(moved.logp, moved.old_logp, batch.advantage, batch.mask)
    if not xi.any() or not setting.is_clear(batch, max(subject.kink, 1e-9 * size)):
        return False
    expected, found = subject(batch), subject(moved)
    note = f"{size:g} was added to the first log ratio and subtracted from the last one; required: the result before that"
    wide = found._replace(eps=found.eps * (1.0 + size))
    same_value(wide, expected.value, setting, batch, "the loss", note)
    noisy = wide._replace(noise=wide.noise * (1.0 + size))
    same_weight(noisy, expected.weight, setting, batch, "the gradient", note)
    return True


@law(
    "a response of equal tokens has the ratio of one of them",
    source="docs/theory.md, C4; GSPO eq. 7; exp of the sum: NeMo-RL#2269; division without a sum: Trinity-RFT#154",
    otherwise="the ratio grows or shrinks with the length: it is not the geometric mean",
    needs={Claim.LEVEL_RATIO, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.tuples(
        batches(setting, rows=(1, 1), width=(1, 1), holes=False, advantages=[1.0, -1.0]), st.integers(2, 3)
    ),
    anchors=lambda setting: [(Batch.of([[math.log(2)]], [-1.0]), 2), (Batch.of([[-math.log(2)]], [1.0]), 2)],
)
def equal_tokens(subject: Subject, setting: Setting, case: tuple[Batch, int]) -> bool:
    """|y| tokens with log ratio c have the loss of one such token, and share its gradient."""
    one, times = case
    many = one.columns([0] * times)
    if not setting.is_clear(one, subject.kink):
        return False
    expected, found = subject(one), subject(many)
    note = f"required: the result with one token instead of {times}"
    same_value(found, expected.value, setting, many, "the loss", note)
    mass = found._replace(weight=found.weight.sum(axis=1, keepdims=True))
    same_weight(mass, expected.weight, setting, many, "the gradient's sum over tokens", note)
    return bool(one.d.any())


@law(
    "tokens with log ratio 0 count in the length",
    source="docs/theory.md, D5: a token with d = 0 multiplies log s by L/(L + 1)",
    otherwise="tokens whose log ratio is 0 are treated as padding",
    needs={Claim.MEAN_RATIO, Claim.UNBOUNDED, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.tuples(st.sampled_from([0.5, 1.0, 0.25]), st.integers(1, 2), st.integers(1, 3)),
    anchors=lambda setting: [(2 * math.log(2), 1, 1)],
)
def dilution(subject: Subject, setting: Setting, case: tuple[float, int, int]) -> bool:
    """A = −1, L tokens with d = c > 0 and k tokens with d = 0, which is never clipped: the loss is exp(c L/(L + k))."""
    c, length, extra = case
    batch = Batch.of([[c] * length + [0.0] * extra], [-1.0])
    same_value(subject(batch), math.exp(c * length / (length + extra)), setting, batch, "the loss")
    return True


@law(
    "a token's gradient depends on its own ratio alone",
    source="GRPO eq. 3: one ratio per token",
    otherwise="the gradient of a token depends on the ratios of other tokens",
    needs={Claim.TOKEN_RATIO},
    cases=lambda setting: st.tuples(batches(setting, rows=(1, 2), width=(2, 3), holes=False), st.sampled_from([0.5, -0.3])),
    anchors=lambda setting: [(Batch.of([[0.0, 0.0]], [1.0]), 0.5)],
)
def own_ratio(subject: Subject, setting: Setting, case: tuple[Batch, float]) -> bool:
    """Changing the log ratio of the last token of every response leaves the gradient of all other tokens unchanged."""
    batch, size = case
    moved = batch.with_d(batch.d + size * (np.arange(batch.mask.shape[1]) == batch.mask.shape[1] - 1))
    if not (setting.is_clear(batch, subject.kink) and setting.is_clear(moved, subject.kink)):
        return False
    expected, found = subject(batch), subject(moved)
    others = found._replace(
        weight=np.where(np.arange(batch.mask.shape[1]) < batch.mask.shape[1] - 1, found.weight, expected.weight)
    )
    note = f"{size:g} was added to the last token's log ratio; required: the result before that, but for that token"
    same_weight(others, expected.weight, setting, moved, "the gradient", note)
    return bool(expected.weight.any())


RATIO: list[Law] = [zero_sum, outlier, equal_tokens, dilution, own_ratio]
