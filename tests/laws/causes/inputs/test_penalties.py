"""Each thing that a KL term can do wrong has its own sentence, and an honest one has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gspo_core.laws.causes.inputs.penalties import penalty
from gspo_core.laws.kit.packing import OwnGradient
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.mutants.mutant import LIKE, WITH_KL, exp, gspo, gspo_weight, log_s, mean, ratios, size, token_mean
from gspo_core.laws.subjects import subject_of


def said(loss: Any) -> str:
    """The sentence about a loss; empty if there is none."""
    subject = subject_of(loss, names=WITH_KL)
    found = penalty(subject, Setting(LIKE, subject.claims(LIKE)))
    return "" if found is None else found.sentence


def k3(logp: Any, other: Any, mask: Any) -> Any:
    """[N, T] k3 of log π against other log-probs."""
    x = ratios(other, logp, mask)
    return np.expm1(x) - x


def times(words: str, logp: Any, old: Any, a: Any, mask: Any, ref: Any) -> Any:
    """[N] the KL term of each response, wrong in one way."""
    own = token_mean(k3(logp, ref, mask), mask)
    return {
        "measured against the old policy": token_mean(k3(logp, old, mask), mask),
        "multiplied by the advantage": own * a,
        "multiplied by the importance ratio": own * exp(log_s(logp, old, mask)),
        "depends on the old policy": own * (1.0 + np.abs(log_s(logp, old, mask))),
        "divided by the square root of its length": own * np.sqrt(size(mask)),
        "have the weights 0.5 and 0.01852": own / size(mask) ** 3,
    }[words]


WORDS = [
    "measured against the old policy",
    "multiplied by the advantage",
    "multiplied by the importance ratio",
    "depends on the old policy",
    "divided by the square root of its length",
    "have the weights 0.5 and 0.01852",
]


@pytest.mark.parametrize("words", WORDS)
def test_each_difference_has_its_own_words(words: str) -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any, ref_logp: Any) -> Any:
        return gspo(logp, old, a, mask) - mean(0.1 * times(words, logp, old, a, mask, ref_logp), mask)

    assert words in said(loss)


def with_gradient(slope: Callable[[Any], Any]) -> Any:
    """GSPO and k3 with another gradient, a function of the right one."""

    def loss(logp: Any, old: Any, a: Any, mask: Any, ref_logp: Any) -> OwnGradient:
        x = ratios(ref_logp, logp, mask)
        value = gspo(logp, old, a, mask) - mean(0.1 * token_mean(np.expm1(x) - x, mask), mask)
        pull = np.where(mask, 0.1 * -np.expm1(x), 0.0) / size(mask)[:, None] / max(1, mask.any(axis=1).sum())
        return OwnGradient(value, gspo_weight(logp, old, a, mask) + slope(pull))

    return loss


def test_a_gradient_of_the_wrong_sign_is_told_from_none_and_from_the_right_one() -> None:
    assert "the gradient of the KL term has the wrong sign" in said(with_gradient(np.negative))
    assert "the KL term is detached" in said(with_gradient(np.zeros_like))
    assert said(with_gradient(lambda pull: pull)) == ""
