"""A weight per token on one ratio per response is told from other corrections, with its cap, and can be declared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gspo_core import laws
from gspo_core.laws.causes.inputs.corrections import correction
from gspo_core.laws.kit.packing import OwnGradient
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.mutants.mutant import (
    LIKE,
    WITH_SAMPLER,
    exp,
    gain,
    gspo,
    gspo_weight,
    log_s,
    mean,
    ratios,
    token_mean,
)
from gspo_core.laws.subjects import subject_of


def of_tokens(cap: float) -> Any:
    """GSPO with min(π_old/π_sampler, cap) at each token."""

    def loss(logp: Any, old: Any, a: Any, mask: Any, sampler_logp: Any) -> Any:
        weight = np.minimum(exp(ratios(old, sampler_logp, mask)), cap)
        return mean(token_mean(gain(log_s(logp, old, mask), a)[:, None] * weight, mask), mask)

    return loss


def weighted(words: str, x: Any, a: Any) -> Any:
    """[N] a weight of responses that is wrong in one way; x is the mean of log π_old − log π_sampler."""
    return {
        "the weight is 1.5, not 1, where the sampler is the old policy": 1.5 * exp(x),
        "the weight is the square of π_old/π_sampler": exp(2 * x),
        "the weight falls where the old policy exceeds the sampler": exp(np.minimum(x, 0.0) - 0.5 * np.maximum(x, 0.0)),
        "the weight grows where the sampler exceeds the old policy": 1.0 + np.maximum(-x, 0.0) * 0.3,
        "the correction acts on bad responses only": np.where(a < 0, exp(x), 1.0),
        "the correction acts on good responses only": np.where(a > 0, exp(x), 1.0),
        "the weight grows with the distance of the sampler, in either direction": exp(np.abs(x)),
        "the correction is turned over": exp(-x),
        "": np.minimum(exp(x), 2.0),
    }[words]


WORDS = [
    "the weight is 1.5, not 1, where the sampler is the old policy",
    "the weight is the square of π_old/π_sampler",
    "the weight falls where the old policy exceeds the sampler",
    "the weight grows where the sampler exceeds the old policy",
    "the correction acts on bad responses only",
    "the correction acts on good responses only",
    "the weight grows with the distance of the sampler, in either direction",
    "the correction is turned over",
    "",
]


def said(loss: Any) -> str:
    """The sentence about a loss; empty if there is none."""
    subject = subject_of(loss, names=WITH_SAMPLER)
    found = correction(subject, Setting(LIKE, subject.claims(LIKE)))
    return "" if found is None else found.sentence


@pytest.mark.parametrize("words", WORDS)
def test_each_weight_has_its_own_words(words: str) -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any, sampler_logp: Any) -> Any:
        return gspo(logp, old, a * weighted(words, log_s(old, sampler_logp, mask), a), mask)

    assert words in said(loss)
    assert bool(said(loss)) == bool(words)


@pytest.mark.parametrize("pick", ["largest", "smallest"])
def test_the_token_that_gives_a_response_its_weight_is_named(pick: str) -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any, sampler_logp: Any) -> Any:
        d, far = ratios(old, sampler_logp, mask), -np.inf if pick == "largest" else np.inf
        x = np.where(mask, d, far).max(axis=1) if pick == "largest" else np.where(mask, d, far).min(axis=1)
        return gspo(logp, old, a * exp(np.where(mask.any(axis=1), x, 0.0)), mask)

    assert f"a response's correction is the {pick} of its token ratios" in said(loss)


def test_a_gradient_through_the_weight_is_told_from_a_weight_of_the_current_policy() -> None:
    def flowing(logp: Any, old: Any, a: Any, mask: Any, sampler_logp: Any) -> OwnGradient:
        weight = exp(log_s(old, sampler_logp, mask))
        return OwnGradient(gspo(logp, old, a * weight, mask), 2.0 * gspo_weight(logp, old, a * weight, mask))

    assert said(flowing) == "a gradient flows through the correction: its weight is not held constant"


CHOSEN = [law for law in laws.LAWS if law.chapter == "sampler"]


@pytest.mark.parametrize("cap", [1.5, 2.0, 5.0, float("inf")])
def test_the_mean_of_token_weights_has_its_cap_in_the_first_sentence(cap: float) -> None:
    (cause,) = laws.check(of_tokens(cap), LIKE, names=WITH_SAMPLER, laws=CHOSEN, examples=5).causes
    held = f", each held at {cap:g} at most" if np.isfinite(cap) else ""
    assert f"the arithmetic mean of its token ratios{held}, not their product" in cause.sentence
    assert "without={Claim.WHOLE_WEIGHT}" in cause.fix


def test_it_is_judged_by_all_other_laws_where_that_is_declared() -> None:
    """Declared, it keeps the laws about the sampler; a weight that is turned over still breaks them."""
    without = {laws.Claim.WHOLE_WEIGHT}
    report = laws.check(of_tokens(2.0), LIKE, names=WITH_SAMPLER, without=without, laws=CHOSEN, examples=10)
    assert report.ok, str(report)
    assert len(report.kept) == len(CHOSEN) - 1

    def turned(logp: Any, old: Any, a: Any, mask: Any, sampler_logp: Any) -> Any:
        return of_tokens(2.0)(logp, sampler_logp, a, mask, old)

    assert not laws.check(turned, LIKE, names=WITH_SAMPLER, without=without, laws=CHOSEN, examples=10).ok
