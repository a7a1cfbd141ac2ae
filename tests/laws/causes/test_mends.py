"""A term that is left where all advantages are 0 is described by what moves it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gspo_core.laws.causes.mends import constant_term
from gspo_core.laws.kit.packing import OwnGradient
from gspo_core.laws.mutants.mutant import gspo, gspo_weight, mean, ratios, token_mean
from gspo_core.laws.subjects import subject_of


def per_token(logp: Any, old: Any, mask: Any, words: str) -> Any:
    """[N, T] a term that does what the words say."""
    p = np.where(mask, logp, 0.0)
    return {
        "keeps the policy at the old policy": 0.5 * ratios(logp, old, mask) ** 2,
        "pushes the policy away from the old policy": -0.5 * ratios(logp, old, mask) ** 2,
        "a constant": np.ones(mask.shape),
        "all sampled tokens rarer": p,
        "all sampled tokens likelier": -p,
        "some sampled tokens rarer and others likelier": p * np.exp(p),
    }[words]


WORDS = [
    "keeps the policy at the old policy",
    "pushes the policy away from the old policy",
    "a constant",
    "all sampled tokens rarer",
    "all sampled tokens likelier",
    "some sampled tokens rarer and others likelier",
]


@pytest.mark.parametrize("words", WORDS)
def test_each_term_has_its_own_words(words: str) -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        return gspo(logp, old, a, mask) - mean(0.1 * token_mean(per_token(logp, old, mask, words), mask), mask)

    assert words in constant_term(subject_of(loss))


def test_a_detached_term_and_one_of_longer_responses_are_told_from_a_constant() -> None:
    def detached(logp: Any, old: Any, a: Any, mask: Any) -> OwnGradient:
        return OwnGradient(gspo(logp, old, a, mask) + np.where(mask, logp, 0.0).sum(), gspo_weight(logp, old, a, mask))

    def longer(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        return gspo(logp, old, a - (mask.sum(axis=1) > 2), mask)

    assert constant_term(subject_of(detached)) == "a term of log π that is detached"
    assert constant_term(subject_of(longer)).startswith("a term for longer responses, which single tokens have not")
