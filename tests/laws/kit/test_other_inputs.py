"""Honest losses with a KL term or a sampler correction keep every law; none is checked against a term that it has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gspo_core import SequenceMean, TokenKL, laws
from gspo_core.kl import K2, K3, KLEstimator, SequenceKL, kl_penalty
from gspo_core.laws.kit.packing import OwnGradient
from gspo_core.laws.mutants.mutant import LIKE, exp, gspo, log_s, mean, ratios, right, token_mean
from gspo_core.layouts import Padded

pytestmark = pytest.mark.slow
Array = Any


def with_k3(logp: Array, old: Array, a: Array, mask: Array, ref_logp: Array) -> Any:
    """GSPO + 0.04 k3 as trainers write it."""
    x = ratios(ref_logp, logp, mask)
    return gspo(logp, old, a, mask) - mean(0.04 * token_mean(np.expm1(x) - x, mask), mask)


def with_ours(estimator: KLEstimator) -> Any:
    """GSPO + 0.3 of a KL penalty of this library, with its closed-form gradient."""

    def loss(logp: Array, old: Array, a: Array, mask: Array, ref_logp: Array) -> OwnGradient:
        given = {"old_logp": logp} if estimator.off_policy else {}
        with np.errstate(all="ignore"):
            kl = kl_penalty(estimator, logp, ref_logp, Padded(mask), reduction=SequenceMean(), **given)
        policy = right(logp, old, a, mask)
        return OwnGradient(policy.value + 0.3 * kl.value, policy.logp_grad + 0.3 * kl.logp_grad)

    return loss


def corrected(weight: Any) -> Any:
    """GSPO with a weight per response, a function of the mean of log π_old − log π_sampler."""

    def loss(logp: Array, old: Array, a: Array, mask: Array, sampler_logp: Array) -> Any:
        return gspo(logp, old, a * weight(log_s(old, sampler_logp, mask)), mask)

    return loss


KL = {"k3": with_k3, "K2": with_ours(K2()), "K3": with_ours(K3()), "TokenKL": with_ours(TokenKL())}
KL["SequenceKL"] = with_ours(SequenceKL())
WEIGHTS = {
    "ratio": exp,
    "truncated": lambda x: np.minimum(exp(x), 2.0),
    "masked": lambda x: np.where((exp(x) >= 0.5) & (exp(x) <= 5.0), exp(x), 0.0),
    "rejected": lambda x: np.where(np.abs(x) <= 1e-3, 1.0, 0.0),
}


@pytest.mark.parametrize("name", KL)
def test_an_honest_kl_term_breaks_no_law(name: str) -> None:
    report = laws.check(KL[name], LIKE, names=laws.Names(ref_logp="ref_logp"), examples=8)
    assert not report.broken, str(report)
    assert {"the KL term pulls the policy to the reference", "the value is the paper's"} <= {v.law.name for v in report.kept}


@pytest.mark.parametrize("name", WEIGHTS)
def test_an_honest_correction_breaks_no_law(name: str) -> None:
    report = laws.check(corrected(WEIGHTS[name]), LIKE, names=laws.Names(sampler_logp="sampler_logp"), examples=8)
    assert not report.broken, str(report)
    assert "the correction follows the sampler" in {v.law.name for v in report.kept}
