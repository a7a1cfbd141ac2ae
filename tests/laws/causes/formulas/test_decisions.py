"""Clip ranges that depend on the batch or on the length are told from each other, by a model that computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gspo_core.laws.causes.answers import agreeing
from gspo_core.laws.causes.formulas.decisions import decisions
from gspo_core.laws.causes.search import answers
from gspo_core.laws.kit.packing import OwnGradient
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.mutants.clip import clipped_token_by_token
from gspo_core.laws.mutants.mutant import HIGH, LIKE, LIKE_GRPO, LOW, exp, gspo, gspo_weight, log_s, mean, size
from gspo_core.laws.mutants.strangers import clipped_around_the_mean
from gspo_core.laws.subjects import subject_of


def said(loss: Callable[..., Any]) -> str:
    """The sentence of the first model that is the loss on all probes; empty if there is none."""
    subject = subject_of(loss)
    setting = Setting(LIKE, subject.claims(LIKE))
    found = agreeing(decisions(setting), setting, answers(subject, setting) or [])
    return "" if found is None else found.sentence


def by_length(factor: Callable[[Any], Any]) -> Callable[..., Any]:
    """GSPO with ε times a function of the length."""

    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        s, by = exp(log_s(logp, old, mask)), factor(size(mask).astype(np.float64))
        return mean(np.minimum(s * a, np.clip(s, 1 - LOW * by, 1 + HIGH * by) * a), mask)

    return loss


@pytest.mark.parametrize(
    ("words", "factor"),
    [
        ("divided by the square root of the length", lambda n: n**-0.5),
        ("multiplied by the square root of the length", lambda n: n**0.5),
        ("divided by the length", lambda n: 1 / n),
        ("multiplied by the length", lambda n: n),
        ("divided by 1 + the logarithm of the length", lambda n: 1 / (1 + np.log(n))),
    ],
)
def test_each_dependence_on_the_length_has_its_own_words(words: str, factor: Any) -> None:
    assert said(by_length(factor)).endswith(words)


def test_a_range_around_the_mean_is_shifted_or_scaled_and_its_gradient_may_flow() -> None:
    def scaled(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        s, own = exp(log_s(logp, old, mask)), mask.any(axis=1)
        m = s[own].mean() if own.any() else 1.0
        return mean(np.minimum(s * a, np.clip(s, m * (1 - LOW), m * (1 + HIGH)) * a), mask)

    def held(logp: Any, old: Any, a: Any, mask: Any) -> OwnGradient:
        s, own = exp(log_s(logp, old, mask)), mask.any(axis=1)
        m = s[own].mean() if own.any() else 1.0
        shut = ((a > 0) & (s > m + HIGH)) | ((a < 0) & (s < m - LOW))
        weight = np.where(mask, np.where(shut, 0.0, -a * s / size(mask))[:, None], 0.0) / max(1, own.sum())
        return OwnGradient(clipped_around_the_mean(logp, old, a, mask), weight)

    for loss in (clipped_around_the_mean, scaled, held):
        assert "around the mean ratio of the batch" in said(loss)


def test_a_decision_per_token_is_told_by_what_it_does_to_the_value() -> None:
    def dropped(logp: Any, old: Any, a: Any, mask: Any) -> OwnGradient:
        d, s = np.where(mask, logp - old, 0.0), exp(log_s(logp, old, mask))
        a_at = a[:, None]
        shut = ((a_at > 0) & (d > np.log1p(HIGH))) | ((a_at < 0) & (d < np.log1p(-LOW))) | ~mask
        gains = np.where(shut, 0.0, s[:, None] * a_at) / size(mask)[:, None]
        return OwnGradient(mean(gains.sum(axis=1), mask), -gains / max(1, mask.any(axis=1).sum()))

    assert said(clipped_token_by_token) == "the gradient is clipped token by token: tokens whose own ratio is outside have none"
    assert said(dropped) == "the clip decides token by token: tokens whose own ratio is outside have no loss"


def test_a_right_loss_is_none_of_them_and_token_ratios_have_none() -> None:
    assert said(lambda logp, old, a, mask: OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask))) == ""
    assert decisions(Setting(LIKE_GRPO)) == []
