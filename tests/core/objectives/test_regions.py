"""Trust regions as gates: DPPO and IPO token by token, in every layout, and what `Loss.clipped` and the metrics say of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.cases import Batch, core_loss
from support.inputs.arrangements import ARRANGEMENTS, Arrangement
from support.inputs.probabilities import likely
from support.libraries import NUMPY, Library

from gspo_core import GSPO, Objective, Padded, PerToken, SequenceToken, Token, TokenMean, batch_metrics, policy_loss, summary
from gspo_core.kl import K2, kl_penalty
from gspo_core.objectives import DPPO, IPO, BinaryKL, Region, TotalVariation, TruncatedWeight, Unclipped
from gspo_core.selection import inside_region, kept_advantages

Term = Callable[[float, float], float]
"""(w, A) ↦ the weight of a token that is inside."""


def total_variation(p: float, q: float) -> float:
    """Half the sum of the differences of two distributions over two outcomes."""
    return (abs(p - q) + abs((1 - p) - (1 - q))) / 2


def divergence(p: float, q: float) -> float:
    """KL of (p, 1 − p) from (q, 1 − q), as the sum that it is."""
    terms = [(a, b) for a, b in ((p, q), (1 - p, 1 - q)) if a > 0]
    return math.inf if any(b == 0 for _, b in terms) else math.fsum(a * math.log(a / b) for a, b in terms)


RECIPES: dict[str, tuple[Objective, Callable[[float, float], float], float, bool, Term]] = {
    "verl dppo_tv": (DPPO, total_variation, 0.15, False, lambda w, a: min(w, 20.0) * a),
    "verl dppo_kl": (replace(DPPO, gate=BinaryKL(0.05, 0.05)), divergence, 0.05, False, lambda w, a: min(w, 20.0) * a),
    "SkyRL dppo": (
        Objective(Token(), Unclipped(), TokenMean(), TotalVariation(0.2, 0.2)),
        total_variation,
        0.2,
        False,
        lambda w, a: w * a,
    ),
    "prime-rl ipo": (IPO, total_variation, 0.1, True, lambda w, a: w * a),
}
by_name = pytest.mark.parametrize("name", RECIPES)


def inside_by_hand(name: str, batch: Batch, advantage: np.ndarray) -> np.ndarray:
    """[N, T] whether a token learns; skips batches with a token on an edge."""
    _, distance, bound, either_side, _ = RECIPES[name]
    inside = np.zeros(batch.mask.shape, dtype=bool)
    for i, t in np.argwhere(batch.mask):
        q, p = (math.exp(min(x[i, t], 0.0)) for x in (batch.logp, batch.old_logp))
        far = distance(p, q)
        assume(abs(far - bound) > 1e-9)
        outwards = advantage[i, t] * (q - p) > 0
        inside[i, t] = far <= bound or not (either_side or outwards)
    return inside


@by_name
@given(
    batch=likely(),
    arrangement=st.sampled_from(ARRANGEMENTS),
    per_token=st.booleans(),
    tau=st.sampled_from([0.0, 1e-3]),
)
def test_dppo_and_ipo_token_by_token(name: str, batch: Batch, arrangement: Arrangement, per_token: bool, tau: float) -> None:
    """Value, weight and what is clipped, all tokens in the denominator; prime-rl's τ d² as 2τ K2 beside it."""
    objective, *_, term = RECIPES[name]
    advantage = batch.advantages(per_token)
    at_tokens = np.broadcast_to(advantage if per_token else advantage[:, None], batch.mask.shape)
    inside, n = inside_by_hand(name, batch, at_tokens), max(1, int(batch.mask.sum()))
    weight, pull, values, pulls = np.zeros(batch.mask.shape), np.zeros(batch.mask.shape), [], []
    for i, t in np.argwhere(batch.mask):
        d = batch.logp[i, t] - batch.old_logp[i, t]
        gain = term(math.exp(d), at_tokens[i, t]) if inside[i, t] else 0.0
        weight[i, t], pull[i, t] = -gain / n, 2 * tau * d / n
        values.append(-gain / n)
        pulls.append(tau * d * d / n)
    loss = core_loss(NUMPY, objective, batch, advantage, arrangement=arrangement)
    size = math.fsum(map(abs, values)) + float(np.abs(weight).sum())
    np.testing.assert_allclose(loss.logp_grad, weight, rtol=1e-11, atol=1e-13 * (1 + size))
    assert math.isclose(float(loss.value), math.fsum(values), rel_tol=1e-11, abs_tol=1e-12 * (1 + size))
    live = batch.mask & (np.where(batch.mask, at_tokens, 0.0) != 0)
    assert np.array_equal(loss.clipped & inside, np.zeros_like(inside))
    assert np.array_equal(loss.clipped, live & ~inside)
    beside = kl_penalty(K2(), batch.logp, batch.old_logp, Padded(batch.mask), reduction=TokenMean())
    np.testing.assert_allclose(2 * tau * beside.logp_grad, pull, rtol=1e-12, atol=1e-300)
    assert math.isclose(2 * tau * float(beside.value), math.fsum(pulls), rel_tol=1e-12, abs_tol=1e-300)


@by_name
@given(batch=likely())
def test_metrics_count_the_tokens_that_the_gate_takes_away_as_clipped(name: str, batch: Batch) -> None:
    objective, clean, layout = RECIPES[name][0], batch.clean(), Padded(batch.mask)
    pair = (clean.logp, clean.old_logp)
    at_tokens = np.broadcast_to(clean.advantage[:, None], batch.mask.shape)
    out = batch.mask & (at_tokens != 0) & ~inside_by_hand(name, batch, at_tokens)
    loss = policy_loss(objective, *pair, clean.advantage, layout)
    numbers = summary(batch_metrics(objective, loss, *pair, clean.advantage, layout))
    share, rising = 1 / max(1, int(batch.mask.sum())), clean.logp > clean.old_logp
    assert math.isclose(numbers.get("clip_active_tokens", 0.0), out.sum() * share, abs_tol=1e-12)
    assert math.isclose(numbers.get("clip_high_tokens", 0.0), (out & rising).sum() * share, abs_tol=1e-12)
    assert math.isclose(numbers.get("clip_low_tokens", 0.0), (out & ~rising).sum() * share, abs_tol=1e-12)


@by_name
@given(batch=likely())
def test_a_gate_of_token_ratios_is_the_mask_on_the_advantages(name: str, batch: Batch) -> None:
    """Bit for bit, but for what is reported as clipped."""
    objective, layout = RECIPES[name][0], Padded(batch.mask)
    region: Any = objective.gate
    pair, clean = (batch.logp, batch.old_logp), batch.clean()
    kept = inside_region(region, *pair, clean.advantage, layout)
    masked = policy_loss(replace(objective, gate=None), *pair, kept_advantages(clean.advantage, kept, layout), layout)
    loss = policy_loss(objective, *pair, clean.advantage, layout)
    assert np.array_equal(loss.value, masked.value)
    assert np.array_equal(loss.logp_grad, masked.logp_grad)


@by_name
@given(batches=st.lists(likely(), min_size=8, max_size=8))
def test_the_random_batches_have_tokens_outside_and_inside_each_region(name: str, batches: list[Batch]) -> None:
    """Otherwise the claims above would say little."""
    objective, tokens, out = RECIPES[name][0], 0, 0
    for batch in batches:
        out += int(core_loss(NUMPY, objective, batch).clipped.sum())
        tokens += int((batch.mask & (batch.clean().advantage != 0)[:, None]).sum())
    assume(tokens > 30)
    assert 0.05 * tokens < out < 0.95 * tokens


OLD = np.log(np.array([[0.5, 0.5, 0.5, 0.5]]))
NEW = np.log(np.array([[0.55, 0.9, 0.1, 0.5]]))


def test_a_token_outside_counts_with_a_log_ratio_of_0_in_a_sequence_ratio(library: Library) -> None:
    """A > 0: 0.9 is out, and 0.1 may come back; the mean is over four tokens."""
    objective = replace(GSPO, surrogate=Unclipped(), gate=TotalVariation(0.2, 0.2))
    arrays = [library.array(x) for x in (NEW, OLD, np.ones(1))]
    loss = policy_loss(objective, *arrays, Padded(library.array(np.ones((1, 4), dtype=bool))))
    s = (1.1 * 1.0 * 0.2 * 1.0) ** 0.25
    np.testing.assert_allclose(library.numpy(loss.log_ratio), [math.log(s)], rtol=1e-12)
    np.testing.assert_allclose(library.numpy(loss.logp_grad), [[-s / 4, 0.0, -s / 4, -s / 4]], rtol=1e-12)
    assert library.numpy(loss.clipped).tolist() == [False]
    one = Padded(library.array(np.ones((1, 1), dtype=bool)))
    all_out = policy_loss(objective, *(library.array(x) for x in (NEW[:, 1:2], OLD[:, 1:2], np.ones(1))), one)
    assert library.numpy(all_out.clipped).tolist() == [True]


def test_a_token_form_of_a_sequence_ratio_keeps_the_ratio_of_all_tokens(library: Library) -> None:
    objective = Objective(SequenceToken(), Unclipped(), TokenMean(), TotalVariation(0.2, 0.2))
    arrays = [library.array(x) for x in (NEW, OLD, np.ones(1))]
    loss = policy_loss(objective, *arrays, Padded(library.array(np.ones((1, 4), dtype=bool))))
    s = (1.1 * 1.8 * 0.2 * 1.0) ** 0.25
    np.testing.assert_allclose(library.numpy(loss.logp_grad), [[-s / 4, 0.0, -s / 4, -s / 4]], rtol=1e-12)
    assert library.numpy(loss.clipped).tolist() == [[False, True, False, False]]


def test_on_policy_nothing_is_outside() -> None:
    layout = Padded(np.ones((1, 4), dtype=bool))
    for objective in (DPPO, IPO):
        loss = policy_loss(objective, NEW, None, np.ones(1), layout, on_policy=True)
        assert loss.logp_grad.tolist() == [[-0.25] * 4]
        assert not loss.clipped.any()


def test_what_is_not_a_number_is_shown() -> None:
    loss = policy_loss(DPPO, np.array([[np.nan, -0.1]]), np.array([[-1.0, -0.1]]), np.ones(1), Padded(np.ones((1, 2)) > 0))
    assert np.isnan(loss.value)
    assert np.isnan(loss.logp_grad[0, 0])


@dataclass(frozen=True)
class Odds(Region):
    """A region of one's own, in ten lines: the odds of a token may change by a factor of `times`."""

    times: float

    def left(self, xp: Any, logp: Any, old_logp: Any) -> tuple[Any, Any]:
        """Compared as p (1 − q) and q (1 − p), which are finite."""
        q, p = xp.exp(logp), xp.exp(old_logp)
        return q * (1 - p) > self.times * p * (1 - q), p * (1 - q) > self.times * q * (1 - p)


def test_a_region_of_ones_own_is_a_gate_and_a_mask(library: Library) -> None:
    objective = Objective(Token(), TruncatedWeight(20.0), TokenMean(), Odds(3.0))
    arrays = [library.array(x) for x in (NEW, OLD, np.ones(1))]
    layout = Padded(library.array(np.ones((1, 4), dtype=bool)))
    assert library.numpy(policy_loss(objective, *arrays, layout).clipped).tolist() == [[False, True, False, False]]
    assert library.numpy(inside_region(Odds(3.0), *arrays, layout)).tolist() == [[True, False, True, True]]
    back = policy_loss(objective, *arrays[:2], PerToken(library.array(-np.ones((1, 4)))), layout)
    assert library.numpy(back.clipped).tolist() == [[False, False, True, False]]
