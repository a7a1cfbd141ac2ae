"""Over all seven responses of a small policy: whose gradient each KL term has on average, exactly.

Three tokens, of which one ends the response, at most two per response; expectations are sums over all responses, the
exact divergences are differentiated without any sampling or scores.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.budgets import assert_within
from support.libraries import Library
from support.oracles import kl as exact

from gspo_core import Padded, SequenceMean, TokenKL, TokenMean, kl_penalty
from gspo_core.kl import K1, K2, K3, KAbs, KLEstimator, SequenceK2, SequenceKL

RNG = np.random.default_rng(3)
POLICY, REFERENCE, OLD = (RNG.normal(size=(3, 3)) for _ in range(3))
BUDGET = 1e-10
"""The differences of the oracle; everything here is of size 1."""


def padded(logits: np.ndarray) -> np.ndarray:
    """[7, 2] token log-probs, NaN after the end."""
    rows = [exact.log_probs(logits, y) for y in exact.RESPONSES]
    return np.array([row + [np.nan] * (2 - len(row)) for row in rows])


def expected(library: Library, estimator: KLEstimator, sampler: np.ndarray) -> tuple[float, np.ndarray]:
    """(E value, E Σ_t weight · score) over responses of the sampler, one loss per response."""
    value, gradient = 0.0, np.zeros((3, 3))
    arrays = [padded(logits) for logits in (POLICY, REFERENCE, sampler)]
    for i, y in enumerate(exact.RESPONSES):
        logp, ref, old = (library.array(a[i : i + 1]) for a in arrays)
        out = kl_penalty(
            estimator,
            logp,
            ref,
            Padded(library.array(~np.isnan(arrays[0][i : i + 1]))),
            reduction=TokenMean() if estimator.per_token else SequenceMean(),
            old_logp=old if estimator.off_policy else None,
            denominator=1.0,
        )
        chance, weight = exact.chance(sampler, y), library.numpy(out.logp_grad)[0, : len(y)]
        value += chance * float(library.numpy(out.value))
        gradient += chance * np.tensordot(weight, exact.scores(POLICY, y), axes=1)
    return value, gradient


@pytest.mark.parametrize("sampler", [POLICY, OLD], ids=["on policy", "off policy"])
def test_sequence_kl_is_the_divergence_of_responses_and_its_gradient(library: Library, sampler: np.ndarray) -> None:
    """∇KL(π‖π_ref), also for samples of an old policy far away."""
    value, gradient = expected(library, SequenceKL(), sampler)
    assert_within(value, exact.divergence(POLICY, REFERENCE), BUDGET)
    assert_within(gradient, exact.gradient(lambda z: exact.divergence(z, REFERENCE), POLICY), BUDGET)


@pytest.mark.parametrize("sampler", [POLICY, OLD], ids=["on policy", "off policy"])
def test_token_kl_is_the_divergence_of_the_next_token_and_its_gradient(library: Library, sampler: np.ndarray) -> None:
    """At the prefixes that were sampled, which its gradient holds fixed."""
    value, gradient = expected(library, TokenKL(), sampler)
    assert_within(value, exact.next_token_divergence(POLICY, REFERENCE, sampler), BUDGET)
    truth = exact.gradient(lambda z: exact.next_token_divergence(z, REFERENCE, sampler), POLICY)
    assert_within(gradient, truth, BUDGET)


def test_for_a_single_token_both_are_the_true_gradient(library: Library) -> None:
    """The first row of logits is the only one if every response ends at once: there is no prefix to speak of."""
    first = exact.gradient(lambda z: exact.next_token_divergence(z, REFERENCE, np.array([[-50.0, -50, 50]] * 3)), POLICY)[0]
    _, gradient = expected(library, TokenKL(), OLD)
    assert_within(gradient[0], first, BUDGET)


def test_on_policy_k2_has_the_gradient_of_the_divergence_and_k3_that_of_the_other(library: Library) -> None:
    """Of the next token; and k1 has none, although its value is unbiased."""
    forward, backward = (
        exact.gradient(lambda z, r=reverse: exact.next_token_divergence(z, REFERENCE, POLICY, reverse=r), POLICY)
        for reverse in (True, False)
    )
    values, gradients = zip(*(expected(library, k, POLICY) for k in (K1(), K2(), K3())), strict=True)
    assert_within(gradients[0], np.zeros((3, 3)), BUDGET)
    assert_within(gradients[1], forward, BUDGET)
    assert_within(gradients[2], backward, BUDGET)
    truth = exact.next_token_divergence(POLICY, REFERENCE, POLICY)
    assert_within([values[0], values[2]], [truth, truth], BUDGET)
    assert_within(truth, exact.divergence(POLICY, REFERENCE), BUDGET)


def test_on_policy_the_quadratic_pull_of_whole_responses_has_the_gradient_of_their_divergence(library: Library) -> None:
    truth = exact.gradient(lambda z: exact.divergence(z, REFERENCE), POLICY)
    assert_within(expected(library, SequenceK2(), POLICY)[1], truth, BUDGET)
    assert np.abs(expected(library, SequenceK2(), OLD)[1] - truth).max() > 1e-2


def test_on_policy_the_size_of_the_log_ratio_has_the_gradient_of_the_distance_of_probabilities(library: Library) -> None:
    """Σ_v π sign(log π/π_ref) ∇log π = ∇ Σ_v |π − π_ref|."""
    truth = exact.gradient(lambda z: exact.next_token_distance(z, REFERENCE, POLICY), POLICY, 2.0**-15)
    assert_within(expected(library, KAbs(), POLICY)[1], truth, BUDGET)
    assert np.abs(truth).max() > 1e-2


def test_the_three_gradients_differ_so_that_the_proofs_mean_something() -> None:
    whole = exact.gradient(lambda z: exact.divergence(z, REFERENCE), POLICY)
    next_token, other = (
        exact.gradient(lambda z, r=reverse: exact.next_token_divergence(z, REFERENCE, POLICY, reverse=r), POLICY)
        for reverse in (True, False)
    )
    for a, b in ((whole, next_token), (next_token, other), (whole, other)):
        assert np.abs(a - b).max() > 1e-2


def test_off_policy_without_the_ratio_is_biased(library: Library) -> None:
    """k2 on samples of an old policy: the reason why `old_logp` is asked for."""
    truth = exact.gradient(lambda z: exact.next_token_divergence(z, REFERENCE, OLD), POLICY)
    assert np.abs(expected(library, K2(), OLD)[1] - truth).max() > 1e-2


def test_a_sequence_ratio_in_the_place_of_the_tokens_is_biased() -> None:
    """The mistake in the wild: KL times s_i, the objective's geometric mean, instead of the token's own ratio."""
    truth = exact.gradient(lambda z: exact.next_token_divergence(z, REFERENCE, OLD), POLICY)
    wrong = np.zeros((3, 3))
    for y in exact.RESPONSES:
        logp, ref, old = (np.array(exact.log_probs(z, y)) for z in (POLICY, REFERENCE, OLD))
        s = np.exp(np.mean(logp - old))
        wrong += exact.chance(OLD, y) * np.tensordot(-s * (ref - logp), exact.scores(POLICY, y), axes=1)
    assert np.abs(wrong - truth).max() > 1e-2
