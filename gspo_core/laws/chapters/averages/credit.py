"""Credit assignment: sign, size and token of the gradient that an advantage causes."""

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
    batch = batch.with_padding(0.0)
    if not setting.is_clear(batch, subject.kink):
        return False
    found, a = subject(batch), np.sign(batch.token_advantage)
    noise = found.noise * (1.0 + batch.largest) * scale_of(setting, batch)
    wrong = np.where((a * found.weight > noise), found.weight, 0.0)
    demand(wrong, np.zeros(wrong.shape), 0.0, "the gradients of the wrong sign", batch)
    resting = (a != 0) & ~batch.d.any(axis=1, keepdims=True)
    heard = np.abs(batch.token_advantage) > 4.0 * noise * batch.mask.size  # a small advantage is lost in finite differences
    flat = resting & heard & (np.abs(found.weight) <= noise)
    demand(flat.astype(float), np.zeros(flat.shape), 0.0, "the tokens on policy with an advantage and no gradient", batch)
    return bool(a.any())


@law(
    "on policy the gradient is REINFORCE's",
    source="docs/theory.md, C1: −A_i/(N |y_i|), also where the loss itself is 0",
    otherwise="the derivative of the ratio at 1 is not 1, or responses or tokens are averaged in another way",
    needs={Claim.SEQUENCE_MEAN, Claim.LEVEL_RATIO},
    cases=lambda setting: batches(setting, kinds=["on policy"]),
    anchors=lambda setting: [Batch.of([[0.0], [0.0]], [1.0, -1.0])],
)
def reinforce(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """d = 0: ∂loss/∂logp_it = −A_i/(N |y_i|), for a clip range of any width."""
    batch = batch.with_padding(0.0)
    if not setting.is_clear(batch, subject.kink):
        return False
    n = max(1, int((batch.lengths > 0).sum()))
    weight = -batch.token_advantage / np.maximum(1, batch.lengths)[:, None] / n
    same_weight(subject(batch), weight, setting, batch, "the gradient")
    return bool(weight.any())


@law(
    "the gradient is the derivative of the value",
    source="docs/theory.md, A11: value and gradient belong to one estimator",
    otherwise="the gradient is not that of the value: a stop-gradient is missing or misplaced, or a closed form is wrong",
    needs={Claim.DERIVATIVE, Claim.OWN_GRADIENT},
    cases=lambda setting: batches(setting, rows=(1, 2), width=(1, 3)),
    anchors=lambda setting: [Batch.of([[0.0]], [1.0])],
)
def derivative(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """The gradient equals fourth-order central differences of the value, away from bounds."""
    batch = batch.with_padding(0.0)
    if not setting.is_clear(batch, 4 * subject.step) or batch.largest > 20.0:
        return False
    found = subject(batch)
    if found.eps > 1e-10:
        return False  # differences of float32 values are too noisy
    expected = np.zeros(batch.mask.shape)
    for index in zip(*np.nonzero(batch.mask), strict=True):
        moved = [_moved(batch, index, steps * subject.step) for steps in (1, -1, 2, -2)]
        up, down, up2, down2 = (subject(other).value for other in moved)
        expected[index] = (8 * (up - down) - (up2 - down2)) / (12 * subject.step)
    noise = 64.0 * found.eps / subject.step
    same_weight(
        found._replace(noise=noise), expected, setting, batch, "the gradient", "required: finite differences of the value"
    )
    return bool(expected.any())


def _moved(batch: Batch, index: tuple[int, ...], by: float) -> Batch:
    logp = batch.logp.copy()
    logp[index] += by
    return replace(batch, logp=logp)


@law(
    "twice the advantage, twice the loss",
    source="docs/theory.md, C6: L(cA) = c L(A) for c ≥ 0",
    otherwise="the loss is not proportional to the advantages: it normalises or clamps them, or adds another term",
    cases=lambda setting: st.tuples(batches(setting), st.sampled_from([2.0, 0.5, 0.0, 10.0, 1e3, 1e-3])),
    anchors=lambda setting: [(Batch.of([[0.0]], [sign]), factor) for factor in (2.0, 1e6, 1e-6) for sign in (1.0, -1.0)],
)
def homogeneous(subject: Subject, setting: Setting, case: tuple[Batch, float]) -> bool:
    """Advantages times c ≥ 0: value and gradient times c."""
    batch, factor = case[0].with_padding(0.0), case[1]
    expected, found = subject(batch), subject(replace(batch, advantage=factor * batch.advantage))
    note = f"advantages times {factor:g}; required: {factor:g} times the result without that factor"
    wide = found._replace(noise=found.noise * max(1.0, factor), eps=found.eps * max(1.0, factor))
    same_value(wide, factor * expected.value, setting, batch, "the loss", note)
    if setting.is_clear(batch, subject.kink):
        same_weight(wide, factor * expected.weight, setting, batch, "the gradient", note)
    return bool(batch.token_advantage.any())


@law(
    "a factor on one response's advantage is a factor on its part of the loss",
    source="docs/theory.md, C6: a gain is proportional to A, so a weight on A neither moves the clip range nor is clipped",
    otherwise="the loss compares the advantages of different responses, or clips a weight on an advantage",
    cases=lambda setting: st.tuples(any_batches(setting, rows=(2, 3)), st.integers(0, 4**3 - 1)),
    anchors=lambda setting: [(Batch.of([[0.0], [0.0]], [1.0, -1.0]), 0b1001)],
)
def weighted(subject: Subject, setting: Setting, case: tuple[Batch, int]) -> bool:
    """A_i times w_i ≥ 0: the value is Σ_i w_i L(A_i alone), the gradient of response i is w_i times the one without weights."""
    batch = case[0].with_padding(0.0)
    weights = np.array([WEIGHTS[k] for k in digits(case[1], len(WEIGHTS), len(batch.mask))])
    wide = weights[:, None] if batch.per_token else weights
    found, plain = subject(replace(batch, advantage=batch.advantage * wide)), subject(batch)
    alone = [subject(replace(batch, advantage=_of_row(batch, i))).value for i in range(len(batch.mask))]
    more = found._replace(noise=found.noise * max(WEIGHTS), eps=found.eps * max(WEIGHTS))
    note = f"advantages times {weights.tolist()}; required: the results of single responses, each times its weight"
    same_value(more, float(weights @ alone), setting, batch, "the loss", note)
    if setting.is_clear(batch, subject.kink):
        same_weight(more, weights[:, None] * plain.weight, setting, batch, "the gradient", note)
    return bool(batch.token_advantage.any())


def _of_row(batch: Batch, row: int) -> np.ndarray:
    mine = np.arange(len(batch.mask)) == row
    return np.where(mine[:, None] if batch.per_token else mine, batch.advantage, 0.0)


@law(
    "the gradient of every token has its own advantage",
    source="docs/theory.md, B5; GSPO eq. 17: −A_it s_i u_it/(N |y_i|)",
    otherwise="the advantages of one response are averaged, and all its tokens get the same gradient",
    needs={Claim.TOKEN_ADVANTAGES, Claim.KNOWN_FORMULA},
    cases=lambda setting: batches(setting, per_token=True),
    anchors=lambda setting: [Batch.of([[0.0, 0.0]], [[1.0, -1.0]])],
)
def own_advantage(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """With one advantage per token, value and gradient are those of the scalar oracle, token by token."""
    batch = batch.with_padding(0.0)
    if not setting.is_clear(batch, subject.kink) or batch.largest > 49.0:
        return False
    expected = setting.expected(batch)
    found = subject(batch)
    same_weight(found, expected.weight, setting, batch, "the gradient")
    same_value(found, expected.value, setting, batch, "the loss")
    return bool((batch.token_advantage != batch.token_advantage[:, :1])[batch.mask].any())


@law(
    "equal token advantages give the same loss as one advantage per response",
    source="docs/theory.md, B1; GSPO section 4.3",
    otherwise="the loss treats one advantage per response differently from the same number at each of its tokens",
    needs={Claim.TOKEN_ADVANTAGES, Claim.SEQUENCE_ADVANTAGES},
    cases=batches,
    anchors=lambda setting: [Batch.of([[0.0, 0.0]], [1.0])],
)
def spread_advantage(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Advantages [N], and [N, T] with equal numbers in each row, give the same value and gradient."""
    batch = batch.with_padding(0.0)
    wide = replace(batch, advantage=np.repeat(batch.advantage[:, None], batch.mask.shape[1], axis=1))
    expected, found = subject(batch), subject(wide)
    same_value(found, expected.value, setting, wide, "the loss", "required: the result with one advantage per response")
    if setting.is_clear(batch, subject.kink):
        same_weight(
            found, expected.weight, setting, wide, "the gradient", "required: the result with one advantage per response"
        )
    return bool(batch.token_advantage.any())


@law(
    "with advantage 0 the loss and its gradient are 0",
    source="docs/theory.md, F5: a constant group has no effect",
    otherwise="units without an advantage have a loss, a gradient, or NaN",
    cases=lambda setting: batches(setting, advantages=[0.0]),
    anchors=lambda setting: [Batch.of([[0.0]], [0.0])],
    effort=0.5,
)
def no_advantage(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """A = 0: value and gradient are exactly 0."""
    found = subject(batch.with_padding(0.0))
    demand(found.value, 0.0, rounding(found, batch) * 1e-10, "the loss", batch)
    # A KL term is 0 at the reference, and its finite differences are 0 to their own noise.
    allowed = found.noise if Claim.KL in setting.claims else 0.0
    demand(found.weight, np.zeros(batch.mask.shape), allowed, "the gradient", batch)
    return bool(batch.mask.any())


WEIGHTS = [1.0, 0.0, 4.0, 0.5]

CREDIT: list[Law] = [sign, reinforce, derivative, homogeneous, weighted, own_advantage, spread_advantage, no_advantage]
