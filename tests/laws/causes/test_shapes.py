"""What is measured of a loss that no formula explains has the right numbers, and is not said of a right loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gspo_core import GSPO
from gspo_core.laws.causes.search import answers
from gspo_core.laws.causes.shapes import shapes
from gspo_core.laws.kit.packing import OwnGradient
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.mutants.mutant import (
    HIGH,
    LIKE,
    LIKE_GRPO,
    LIKE_TOKEN,
    LOW,
    exp,
    gain,
    gspo,
    gspo_weight,
    log_s,
    mean,
    ratios,
    right,
    size,
)
from gspo_core.laws.subjects import subject_of


def said(loss: Any, like: Any = LIKE) -> list[str]:
    """All sentences about a loss."""
    subject = subject_of(loss)
    setting = Setting(like, subject.claims(like))
    return [found.sentence for found in shapes(subject, setting, answers(subject, setting) or [])]


@given(st.lists(st.floats(0.05, 1.0), min_size=4, max_size=4).filter(lambda w: np.ptp(w[:3]) > 0.01))
def test_the_parts_of_three_tokens_are_those_of_the_loss(weights: list[float]) -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        part = np.where(mask, np.resize(weights, mask.shape[1]), 0.0)
        x = (part * ratios(logp, old, mask)).sum(axis=1) / np.maximum(part.sum(axis=1), 1e-300)
        return mean(gain(x, a), mask)

    first, second, third = (w / sum(weights[:3]) for w in weights[:3])
    assert any(f"of three tokens they have {first:.4g}, {second:.4g} and {third:.4g}" in words for words in said(loss))


@given(st.floats(0.05, 3.0))
def test_the_length_that_is_divided_by_is_measured(more: float) -> None:
    (found,) = said(lambda logp, old, a, mask: mean(gain(ratios(logp, old, mask).sum(axis=1) / (size(mask) + more), a), mask))
    assert f"is divided by {1 + more:.4g}, {2 + more:.4g} and {3 + more:.4g}, not by the length" in found


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_range_that_depends_on_the_size_of_the_advantage_has_both_ends(sign: float) -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        s, by = exp(log_s(logp, old, mask)), np.where(a * sign > 1.5, 0.5, 1.0)
        return mean(np.minimum(s * a, np.clip(s, 1 - LOW * by, 1 + HIGH * by) * a), mask)

    (found,) = said(loss)
    ends = (1.3, 1.15) if sign > 0 else (0.8, 0.9)
    words = f"for A = {sign:g} the loss ends at the ratio {ends[0]}, for A = {2 * sign:g} it ends at the ratio {ends[1]}"
    assert words in found


def test_a_gradient_beside_a_right_value_is_shown_token_by_token() -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any) -> OwnGradient:
        factor = np.where(np.cumsum(mask, axis=1) % 2 == 1, 1.0, 0.25)
        return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask) * factor)

    assert "in a batch of 2 responses it is 1, 1, 0.25 and 1 times that of the formula" in said(loss)[0]


def test_a_gradient_that_others_change_is_not_shown_token_by_token() -> None:
    """Each row alone is right: where it stands, or what stands beside it, is what matters."""

    def loss(logp: Any, old: Any, a: Any, mask: Any) -> OwnGradient:
        weight = gspo_weight(logp, old, a, mask) * np.where(np.arange(len(a)) == 0, 1.0, 0.5)[:, None]
        return OwnGradient(gspo(logp, old, a, mask), weight)

    assert said(loss) == []


@pytest.mark.parametrize("like", [GSPO, LIKE, LIKE_TOKEN, LIKE_GRPO], ids=["paper", "wide", "token form", "token ratios"])
def test_nothing_is_said_of_our_own_losses(like: Any) -> None:
    assert said(like, like) == []


def test_nothing_is_said_of_a_right_loss_of_a_stranger() -> None:
    assert said(right) == []
    assert said(gspo) == []
