"""Credit: which way, how much, and to whom the advantage goes (theory A, B, C1, C6)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import rounding, same_value, same_weight, scale_of
from gspo_core.laws.kit.law import Law, demand, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import any_batches, batches, digits
from gspo_core.laws.kit.subject import Subject


@law(
    "a good response is made likelier, a bad one less likely",
    source="the policy gradient: −∂loss/∂logp has the sign of A",
    otherwise="the sign is wrong",
    cases=lambda setting: batches(setting, kinds=["on policy", "level", "spread"]),
    anchors=lambda setting: [Batch.of([[0.0]], [1.0]), Batch.of([[0.0]], [-1.0])],
)
def sign(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """A · ∂loss/∂logp ≤ 0 on every token, and < 0 on policy."""
    batch = batch.poisoned(0.0)
    if not setting.is_clear(batch, subject.kink):
        return False
    found, a = subject(batch), np.sign(batch.token_advantage)
    noise = found.noise * (1.0 + batch.largest) * scale_of(setting, batch)
    wrong = np.where((a * found.weight > noise), found.weight, 0.0)
    demand(wrong, np.zeros(wrong.shape), 0.0, "gradients of the wrong sign", batch)
    resting = (a != 0) & ~batch.d.any(axis=1, keepdims=True)
    flat = resting & (np.abs(found.weight) <= noise)
    demand(flat.astype(float), np.zeros(flat.shape), 0.0, "tokens on policy that have an advantage and no gradient", batch)
    return bool(a.any())


@law(
    "on policy the gradient is REINFORCE's",
    source="theory C1: −A_i/(N |y_i|); loss 0 with a gradient is correct there",
    otherwise="the ratio's derivative at 1 is not 1, or the mean is another one",
    needs={Claim.SEQUENCE_MEAN, Claim.LEVEL_RATIO},
    cases=lambda setting: batches(setting, kinds=["on policy"]),
    anchors=lambda setting: [Batch.of([[0.0], [0.0]], [1.0, -1.0])],
)
def reinforce(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """d = 0: ∂loss/∂logp_it = −A_i/(N |y_i|), for a band of any width above 0."""
    batch = batch.poisoned(0.0)
    if not setting.is_clear(batch, subject.kink):
        return False
    n = max(1, int((batch.lengths > 0).sum()))
    weight = -batch.token_advantage / np.maximum(1, batch.lengths)[:, None] / n
    same_weight(subject(batch), weight, setting, batch, "the gradient")
    return bool(weight.any())


@law(
    "the gradient is the derivative of the value",
    source="theory A; A11: value and weight are one estimator",
    otherwise="value and gradient belong to different losses: a stop-gradient too many or too few, or a wrong closed form",
    needs={Claim.DERIVATIVE, Claim.OWN_GRADIENT},
    cases=lambda setting: batches(setting, rows=(1, 2), width=(1, 3)),
    anchors=lambda setting: [Batch.of([[0.0]], [1.0])],
)
def derivative(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Fourth-order central differences of the value, away from bounds."""
    batch = batch.poisoned(0.0)
    if not setting.is_clear(batch, 4 * subject.step) or batch.largest > 20.0:
        return False
    found = subject(batch)
    if found.eps > 1e-10:
        return False  # differences of float32 values say little
    expected = np.zeros(batch.mask.shape)
    for index in zip(*np.nonzero(batch.mask), strict=True):
        moved = [_moved(batch, index, steps * subject.step) for steps in (1, -1, 2, -2)]
        up, down, up2, down2 = (subject(other).value for other in moved)
        expected[index] = (8 * (up - down) - (up2 - down2)) / (12 * subject.step)
    noise = 64.0 * found.eps / subject.step
    same_weight(found._replace(noise=noise), expected, setting, batch, "the gradient", "differences of the value are:")
    return bool(expected.any())


def _moved(batch: Batch, index: tuple[int, ...], by: float) -> Batch:
    logp = batch.logp.copy()
    logp[index] += by
    return replace(batch, logp=logp)


@law(
    "twice the advantage, twice the loss",
    source="theory C6: L(cA) = c L(A) for c ≥ 0",
    otherwise="the loss is not proportional to the advantages: they are normalised or cut off inside, or something is added",
    cases=lambda setting: st.tuples(batches(setting), st.sampled_from([2.0, 0.5, 0.0, 10.0])),
    anchors=lambda setting: [(Batch.of([[0.0]], [1.0]), 2.0)],
)
def homogeneous(subject: Subject, setting: Setting, case: tuple[Batch, float]) -> bool:
    """Value and gradient, for c ≥ 0."""
    batch, factor = case[0].poisoned(0.0), case[1]
    expected, found = subject(batch), subject(replace(batch, advantage=factor * batch.advantage))
    note = f"advantages times {factor:g}; {factor:g} times what the loss says without:"
    wide = found._replace(noise=found.noise * max(1.0, factor), eps=found.eps * max(1.0, factor))
    same_value(wide, factor * expected.value, setting, batch, "the loss", note)
    if setting.is_clear(batch, subject.kink):
        same_weight(wide, factor * expected.weight, setting, batch, "the gradient", note)
    return bool(batch.token_advantage.any())


@law(
    "a weight on one response's advantage is a weight on its part of the loss",
    source="theory C6: gains are A times something; so a sampler's correction neither moves the band nor is clipped",
    otherwise="advantages of a batch are put in proportion to each other, or a weight on one of them is clipped",
    cases=lambda setting: st.tuples(any_batches(setting, rows=(2, 3)), st.integers(0, 4**3 - 1)),
    anchors=lambda setting: [(Batch.of([[0.0], [0.0]], [1.0, -1.0]), 0b1001)],
)
def weighted(subject: Subject, setting: Setting, case: tuple[Batch, int]) -> bool:
    """Advantages times w_i ≥ 0: value Σ_i w_i L(A of i alone), gradient w_i times each response's own; token by token, too."""
    batch = case[0].poisoned(0.0)
    weights = np.array([WEIGHTS[k] for k in digits(case[1], len(WEIGHTS), len(batch.mask))])
    wide = weights[:, None] if batch.per_token else weights
    found, plain = subject(replace(batch, advantage=batch.advantage * wide)), subject(batch)
    alone = [subject(replace(batch, advantage=_of_row(batch, i))).value for i in range(len(batch.mask))]
    more = found._replace(noise=found.noise * max(WEIGHTS), eps=found.eps * max(WEIGHTS))
    note = f"advantages times {weights.tolist()}; the responses' own, each times its weight:"
    same_value(more, float(weights @ alone), setting, batch, "the loss", note)
    if setting.is_clear(batch, subject.kink):
        same_weight(more, weights[:, None] * plain.weight, setting, batch, "the gradient", note)
    return bool(batch.token_advantage.any())


def _of_row(batch: Batch, row: int) -> np.ndarray:
    mine = np.arange(len(batch.mask)) == row
    return np.where(mine[:, None] if batch.per_token else mine, batch.advantage, 0.0)


@law(
    "every token is credited with its own advantage",
    source="theory B5; GSPO eq. 17: −A_it s_i u_it/(N |y_i|)",
    otherwise="advantages of one response are averaged, and its tokens share the gradient alike",
    needs={Claim.TOKEN_ADVANTAGES, Claim.JUDGED},
    cases=lambda setting: batches(setting, per_token=True),
    anchors=lambda setting: [Batch.of([[0.0, 0.0]], [[1.0, -1.0]])],
)
def own_advantage(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """One advantage per token: the gradient of the objective, token by token."""
    batch = batch.poisoned(0.0)
    if not setting.is_clear(batch, subject.kink) or batch.largest > 49.0:
        return False
    verdict = setting.verdict(batch)
    found = subject(batch)
    same_weight(found, verdict.weight, setting, batch, "the gradient")
    same_value(found, verdict.value, setting, batch, "the loss")
    return bool((batch.token_advantage != batch.token_advantage[:, :1])[batch.mask].any())


@law(
    "equal token advantages are the response's advantage",
    source="theory B1; GSPO section 4.3",
    otherwise="one advantage per response is another loss than the same number at each of its tokens",
    needs={Claim.TOKEN_ADVANTAGES, Claim.SEQUENCE_ADVANTAGES},
    cases=batches,
    anchors=lambda setting: [Batch.of([[0.0, 0.0]], [1.0])],
)
def spread_advantage(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """[N] and [N, T] of equal rows give the same value and gradient."""
    batch = batch.poisoned(0.0)
    wide = replace(batch, advantage=np.repeat(batch.advantage[:, None], batch.mask.shape[1], axis=1))
    expected, found = subject(batch), subject(wide)
    same_value(found, expected.value, setting, wide, "the loss", "with one advantage per response:")
    if setting.is_clear(batch, subject.kink):
        same_weight(found, expected.weight, setting, wide, "the gradient", "with one advantage per response:")
    return bool(batch.token_advantage.any())


@law(
    "with advantage 0 there is no loss",
    source="theory H1: 0 · ∞ is the classic; F5: a constant group teaches nothing",
    otherwise="units without an advantage have a loss, or a gradient, or NaN",
    cases=lambda setting: batches(setting, advantages=[0.0]),
    anchors=lambda setting: [Batch.of([[1e3]], [0.0]), Batch.of([[0.0]], [0.0])],
    effort=0.5,
)
def no_advantage(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """A = 0: value and gradient are exactly 0."""
    found = subject(batch.poisoned(0.0))
    demand(found.value, 0.0, rounding(found, batch) * 1e-10, "the loss", batch)
    demand(found.weight, np.zeros(batch.mask.shape), 0.0, "the gradient", batch)
    return bool(batch.mask.any())


WEIGHTS = [1.0, 0.0, 4.0, 0.5]

CREDIT: list[Law] = [sign, reinforce, derivative, homogeneous, weighted, own_advantage, spread_advantage, no_advantage]
