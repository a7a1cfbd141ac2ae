"""A number that a loss has, and the formula has not, is read off the loss of single tokens, whatever it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.explained import explained

from gspo_core import GSPO, laws
from gspo_core.laws.causes.formulas.thresholds import edge, thresholds
from gspo_core.laws.causes.search import answers
from gspo_core.laws.causes.suspect import Suspect
from gspo_core.laws.chapters.catalogue import named
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.mutants.mutant import HIGH, LIKE, LIKE_GRPO, LOW, gain, gspo, log_s, mean, ratios, token_mean
from gspo_core.laws.subjects import subject_of

Loss = Callable[..., Any]


def found(loss: Loss, like: Any = LIKE) -> list[str]:
    """What is said about a loss by the suspects alone."""
    subject = subject_of(loss)
    return [suspect.sentence for suspect in thresholds(subject, Setting(like, subject.claims(like)))]


def number(pattern: str, said: list[str]) -> float:
    """The number in all sentences of a kind."""
    (match,) = {m.group(1) for m in (re.search(pattern, sentence) for sentence in said) if m}
    return float(match)


@given(st.floats(-6, 5))
def test_an_edge_is_found_to_six_digits(power: float) -> None:
    at = 10.0**power
    assert edge(1e-7, 1e6, lambda x: x >= at) == pytest.approx(at, rel=1e-5)


@given(st.floats(0.3, 900.0), st.floats(0.3, 900.0))
def test_advantages_that_are_cut_have_both_bounds(low: float, high: float) -> None:
    said = found(lambda logp, old, a, mask: gspo(logp, old, np.clip(a, -low, high), mask))
    assert number(r"cut to \[−([\d.e+-]+),", said) == pytest.approx(low, rel=1e-5)
    assert number(r", ([\d.e+-]+)\]", said) == pytest.approx(high, rel=1e-5)


@given(st.floats(1e-5, 5.0))
def test_weak_advantages_that_count_as_zero_have_their_size(least: float) -> None:
    said = found(lambda logp, old, a, mask: gspo(logp, old, np.where(np.abs(a) < least, 0.0, a), mask))
    assert number(r"smaller than ([\d.e+-]+) in size", said) == pytest.approx(least, rel=1e-5)


@given(st.floats(0.05, 3.5), st.booleans())
def test_far_tokens_that_are_masked_have_their_ratio(far: float, above: bool) -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        d = ratios(logp, old, mask)
        return gspo(logp, old, a, mask & ((d <= far) if above else (d >= -far)))

    pattern = r"above ([\d.e+-]+)" if above else r"below ([\d.e+-]+)"
    assert number(pattern, found(loss)) == pytest.approx(np.exp(far if above else -far), rel=1e-5)


@given(st.floats(0.01, 2.0), st.sampled_from([1.0, -1.0]))
def test_a_kl_in_the_advantage_has_its_factor_and_sign(size: float, sign: float) -> None:
    said = found(lambda logp, old, a, mask: gspo(logp, old, a - sign * size * log_s(logp, old, mask), mask))
    assert number(r"lowered by ([\d.]+)" if sign > 0 else r"raised by ([\d.]+)", said[:1]) == pytest.approx(size, rel=1e-4)


@pytest.mark.parametrize("like", [LIKE, GSPO, LIKE_GRPO], ids=["wide", "paper", "tokens"])
def test_nothing_is_said_of_a_right_loss(like: Any) -> None:
    def right(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        if like is LIKE_GRPO:
            return mean(token_mean(gain(ratios(logp, old, mask), a[:, None]), mask), mask)
        bounds = (LOW, HIGH) if like is LIKE else (3e-4, 4e-4)
        return mean(gain(log_s(logp, old, mask), a, *bounds), mask)

    assert found(right, like) == []


def test_a_detached_kl_is_told_from_one_with_a_gradient() -> None:
    """The model with the gradient of a loss is the one that the search takes: the other one has another gradient."""

    def live(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        return gspo(logp, old, a - 0.2 * log_s(logp, old, mask), mask)

    subject = subject_of(live)
    setting = Setting(LIKE, subject.claims(LIKE))
    held, flowing = (s for s in thresholds(subject, setting) if "log(π/π_old)" in s.sentence)
    probe = next(seen for seen in answers(subject, setting) or [] if seen.batch.mask.size > 3)

    def off(suspect: Suspect) -> float:
        return float(np.abs(suspect.evaluate(setting, probe.batch).weight - probe.found.weight).max())

    assert off(flowing) < 1e-6
    assert off(held) > 1e-3


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("advantages smaller than 0.7 in size count as 0", lambda a: np.where(np.abs(a) < 0.7, 0.0, a)),
        ("advantages are cut to [−1.25, 1.25]", lambda a: np.clip(a, -1.25, 1.25)),
        ("advantages above 1.5 are cut", lambda a: np.minimum(a, 1.5)),
        ("advantages below −1.5 are cut", lambda a: np.maximum(a, -1.5)),
    ],
)
def test_the_models_of_changed_advantages_are_the_losses(words: str, change: Callable[[Any], Any]) -> None:
    """So that the laws that break because of them follow from them."""
    assert explained(lambda logp, old, a, mask: gspo(logp, old, change(a), mask), LIKE) == words


@pytest.mark.slow
@pytest.mark.parametrize("counted", ["length", "rows", "neither"])
def test_the_models_of_masked_tokens_explain_the_law_about_sums(counted: str) -> None:
    """Masked tokens leave the length, or not; responses without any left count, or not."""

    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        d = ratios(logp, old, mask)
        near = mask & (np.abs(d) <= 0.4)
        if counted == "length":
            return mean(gain(np.where(near, d, 0.0).sum(axis=1) / np.maximum(mask.sum(axis=1), 1), a), mask)
        return gspo(logp, old, a, near, max(1, mask.any(axis=1).sum()) if counted == "rows" else None)

    (cause,) = laws.check(loss, LIKE, laws=[named("only the sum of a response's log ratios matters")]).causes
    assert cause.sentence.startswith("tokens whose ratio is above 1.49182 or below 0.67032 are masked")
    assert ("still counted in the length" in cause.sentence) == (counted == "length")
