"""What trainers offer beside the presets, against formulas written token by token: value, weight and what is clipped."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gspo_core import GRPO, Objective, Padded, PerToken, SequenceMean, Token, TokenMean, laws, policy_loss
from gspo_core.kl import K2, SequenceK2, kl_penalty
from gspo_core.objectives import DAPO, LUSPO, BandWeight, FixedLength, TaperedWeight, TruncatedWeight, Unclipped

TRUNCATED = Objective(Token(), TruncatedWeight(1.0), TokenMean())
TOPR = Objective(Token(), TaperedWeight(1.0), TokenMean())
BAND = Objective(Token(), BandWeight(0.5, 5.0), TokenMean())
WEIGHTS: dict[Objective, Callable[[float, float], float]] = {
    TRUNCATED: lambda w, a: min(w, 1.0) * a,
    TOPR: lambda w, a: a if a > 0 else min(w, 1.0) * a,
    BAND: lambda w, a: w * a if 0.5 <= w <= 5.0 else 0.0,
}
BY_NAME = pytest.mark.parametrize("objective", WEIGHTS, ids=["truncated", "TOPR", "band"])

tokens = st.lists(st.tuples(st.floats(-3.0, 3.0), st.booleans()), min_size=3, max_size=3)
responses = st.lists(st.tuples(tokens, st.sampled_from([1.0, -1.0, 0.0, 2.5, -0.3])), min_size=1, max_size=3)
Drawn = list[tuple[list[tuple[float, bool]], float]]


def arrays(drawn: Drawn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """d and mask, [N, T], and advantages, [N]."""
    d = np.array([[x for x, _ in row] for row, _ in drawn])
    return d, np.array([[m for _, m in row] for row, _ in drawn]), np.array([a for _, a in drawn])


@BY_NAME
@given(responses)
def test_value_and_weight_are_the_formula_of_each_token(objective: Objective, drawn: Drawn) -> None:
    d, mask, advantage = arrays(drawn)
    loss = policy_loss(objective, d, np.zeros_like(d), advantage, Padded(mask))
    n = max(1, sum(m for row, _ in drawn for _, m in row))
    term = WEIGHTS[objective]
    weight = [[term(math.exp(x), a) / n if m else 0.0 for x, m in row] for row, a in drawn]
    np.testing.assert_allclose(loss.logp_grad, -np.array(weight), rtol=1e-12, atol=1e-300)
    assert math.isclose(float(loss.value), -math.fsum(map(math.fsum, weight)), rel_tol=1e-12, abs_tol=1e-14)
    pairs = zip(weight, drawn, strict=True)
    silent = [[m and a != 0 and w == 0 for w, (_, m) in zip(row, ys, strict=True)] for row, (ys, a) in pairs]
    assert loss.clipped.tolist() == silent


@pytest.mark.slow
@BY_NAME
def test_they_keep_the_laws(objective: Objective) -> None:
    report = laws.check(objective, like=objective, examples=5)
    assert not report.broken, str(report)
    assert not report.untested
    assert report.unchecked == ()


@given(responses, st.sampled_from([0.1, 1.0]))
def test_the_quadratic_pull_is_k2_to_the_old_policy(drawn: Drawn, tau: float) -> None:
    """∂/∂log π of −A log π + τ d²/2 is −(A − τ d)."""
    d, mask, advantage = arrays(drawn)
    layout, old = Padded(mask), np.zeros_like(d)
    policy = policy_loss(DAPO, d, None, advantage, layout, on_policy=True)
    pull = kl_penalty(K2(), d, old, layout, reduction=TokenMean())
    share = np.where(mask, 1.0, 0.0) / max(1, mask.sum())
    wanted = -(advantage[:, None] - tau * d) * share
    np.testing.assert_allclose(policy.logp_grad + tau * pull.logp_grad, wanted, rtol=1e-12, atol=1e-15)


@given(responses, st.sampled_from([1e-3, 0.5]))
def test_prime_rls_squared_log_ratio_is_twice_k2(drawn: Drawn, tau: float) -> None:
    """−w A + τ d², as its loss is written: the weight of the term is 2 τ d."""
    d, mask, advantage = arrays(drawn)
    layout, old, n = Padded(mask), np.zeros_like(d), max(1, mask.sum())
    policy = policy_loss(Objective(Token(), Unclipped(), TokenMean()), d, old, advantage, layout)
    pull = kl_penalty(K2(), d, old, layout, reduction=TokenMean())
    tokens = [(x, a) for row, a in drawn for x, m in row if m]
    value = math.fsum(-math.exp(x) * a + tau * x * x for x, a in tokens) / n
    weight = [[(-math.exp(x) * a + 2 * tau * x) / n if m else 0.0 for x, m in row] for row, a in drawn]
    assert math.isclose(float(policy.value + 2 * tau * pull.value), value, rel_tol=1e-12, abs_tol=1e-13)
    np.testing.assert_allclose(policy.logp_grad + 2 * tau * pull.logp_grad, weight, rtol=1e-11, atol=1e-14)


@given(responses, st.sampled_from([0.1, 1.0]))
def test_the_quadratic_pull_of_a_response_is_sequence_k2_to_the_old_policy(drawn: Drawn, tau: float) -> None:
    """Kimi k1.5: every token of a response has the weight A − τ Σd, in a mean over responses."""
    d, mask, advantage = arrays(drawn)
    layout, old = Padded(mask), np.zeros_like(d)
    policy = policy_loss(LUSPO, d, None, advantage, layout, on_policy=True)
    pull = kl_penalty(SequenceK2(), d, old, layout, reduction=SequenceMean())
    whole = [math.fsum(x for x, m in row if m) for row, _ in drawn]
    n = max(1, sum(any(m for _, m in row) for row, _ in drawn))
    rows = zip(drawn, whole, strict=True)
    weight = [[-(a - tau * total) / n if m else 0.0 for _, m in row] for (row, a), total in rows]
    np.testing.assert_allclose(policy.logp_grad + tau * pull.logp_grad, weight, rtol=1e-12, atol=1e-14)
    assert math.isclose(float(pull.value), math.fsum(x * x / 2 / n for x in whole), rel_tol=1e-12, abs_tol=1e-14)


@given(st.lists(st.tuples(tokens, st.sampled_from([1.0, -0.5, 2.0]), st.integers(0, 2)), min_size=1, max_size=5))
def test_prompt_mean_divides_by_the_tokens_of_the_prompt(drawn: list[tuple[list[tuple[float, bool]], float, int]]) -> None:
    """SkyRL: the mean over prompts that have a token of the mean over their tokens; and verl's token-sum."""
    d, mask, advantage = arrays([(row, a) for row, a, _ in drawn])
    prompts, old = np.array([p for _, _, p in drawn]), np.zeros_like(d)
    size = {p: sum(m for row, _, q in drawn if q == p for _, m in row) for _, _, p in drawn}
    count = sum(n > 0 for n in size.values())
    scaled = advantage / np.maximum(1, np.bincount(prompts, mask.sum(axis=1))[prompts])
    loss = policy_loss(DAPO, d, old, scaled, Padded(mask), denominator=max(1, count))
    total = policy_loss(DAPO, d, old, advantage, Padded(mask), denominator=1)
    wanted, sums = np.zeros(d.shape), np.zeros(d.shape)
    for i, (row, a, p) in enumerate(drawn):
        for t, (x, m) in enumerate(row):
            w = math.exp(x)
            live = m and not ((a > 0 and w > 1.28) or (a < 0 and w < 0.8))
            sums[i, t] = -w * a if live else 0.0
            wanted[i, t] = sums[i, t] / (max(1, count) * max(1, size[p]))
    np.testing.assert_allclose(loss.logp_grad, wanted, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(total.logp_grad, sums, rtol=1e-12, atol=1e-300)


SUMS = Objective(Token(), Unclipped(), FixedLength(1))


@pytest.mark.parametrize(("objective", "denominator"), [(DAPO, None), (GRPO, None), (SUMS, None), (DAPO, 1.0)])
@given(responses)
def test_a_weight_of_ones_own_is_an_advantage_on_policy(objective: Objective, denominator: float | None, drawn: Drawn) -> None:
    """docs/closed-form.md's table: the weight on a token is the number that was handed in, times its share."""
    numbers, mask, _ = arrays(drawn)
    sizes = [sum(m for _, m in row) for row, _ in drawn]
    n = sum(size > 0 for size in sizes)
    chosen, layout = PerToken(numbers), Padded(mask)
    loss = policy_loss(objective, numbers - 9.0, None, chosen, layout, denominator=denominator, on_policy=True)
    divisor = {DAPO: [sum(sizes)] * len(sizes), GRPO: [n * size for size in sizes], SUMS: [n] * len(sizes)}[objective]
    each = divisor if denominator is None else [1] * len(sizes)
    wanted = [[-x / k if m else 0.0 for x, m in row] for (row, _), k in zip(drawn, each, strict=True)]
    np.testing.assert_allclose(loss.logp_grad, wanted, rtol=1e-13, atol=0)


@given(responses)
def test_distillation_is_the_gap_to_the_teacher_as_an_advantage(drawn: Drawn) -> None:
    gap, mask, _ = arrays(drawn)
    logp = np.full(gap.shape, -2.0)
    teacher = logp + gap
    loss = policy_loss(DAPO, logp, None, PerToken(teacher - logp), Padded(mask), on_policy=True)
    np.testing.assert_allclose(loss.logp_grad, -np.where(mask, teacher - logp, 0.0) / max(1, mask.sum()), rtol=1e-12, atol=0)
