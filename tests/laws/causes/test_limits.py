"""Where a loss stops being right is found to the row, the token and six digits, and nothing is said of a right loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.draws import at_most

from gspo_core import GSPO, laws
from gspo_core.laws.causes import limits as module
from gspo_core.laws.causes.limits import limits
from gspo_core.laws.causes.search import answers
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.mutants.mutant import LIKE, gain, gspo, log_s, mean, ratios, size
from gspo_core.laws.subjects import subject_of
from gspo_core.objectives import DAPO, FSPO, GMPO, LUSPO


def said(loss: Any, like: Any = LIKE) -> str:
    """The sentence about a loss; empty if there is none."""
    subject = subject_of(loss)
    setting = Setting(like, subject.claims(like))
    found = limits(subject, setting, answers(subject, setting) or [])
    return "" if found is None else found.sentence


@pytest.mark.slow
@at_most(5)
@given(st.integers(4, 60), st.integers(0, 3))
def test_the_number_of_responses_is_exact_and_so_are_their_weights(most: int, dropped: int) -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        kept = np.arange(len(a)) >= (0 if len(a) <= most else dropped)
        if dropped == 0 and len(a) > most:
            return mean(gain(log_s(logp, old, mask), a), mask) * 2.0
        return gspo(logp[kept], old[kept], a[kept], mask[kept])

    found = said(loss)
    if dropped:
        weight = (most + 1) / (most + 1 - dropped)
        assert f"up to {most} responses have the right loss together, and {most + 1} have not: " in found
        assert f"{weight:.4g} times" in found
        assert f"{dropped} {'weighs' if dropped == 1 else 'weigh'} 0 times" in found
    else:
        assert f"and {most + 1} have not: {most + 1} weigh 2 times what they should" in found


@at_most(6)
@given(st.integers(3, 3000), st.sampled_from(["cut", "zero", "count"]))
def test_the_number_of_tokens_is_exact_and_so_is_what_happens_to_them(most: int, what: str) -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        n = mask.sum(axis=1)
        if what == "cut":
            return gspo(logp, old, a, mask & (np.cumsum(mask, axis=1) <= most))
        gains = gain(ratios(logp, old, mask).sum(axis=1) / np.minimum(size(mask), most if what == "count" else 10**6), a)
        return mean(np.where((n > most) & (what == "zero"), 0.0, gains), mask)

    words = {
        "cut": f"of a response of {most + 1} tokens the last one has no effect on the loss",
        "zero": f"a response of {most + 1} tokens or more has loss 0",
        "count": f"the length of a response of {most + 1} tokens is counted as {most:.5g}",
    }
    assert said(loss) == words[what]


@at_most(6)
@given(st.floats(1e-6, 0.04))
def test_small_log_ratios_that_count_as_zero_have_their_size(least: float) -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        d = ratios(logp, old, mask)
        return gspo(np.where(np.abs(d) < least, 0.0, d), np.zeros_like(d), a, mask)

    found = said(loss)
    assert found.startswith("log ratios smaller than ")
    assert float(found.split()[4]) == pytest.approx(least, rel=1e-5)


@given(st.floats(2.0, 60.0))
def test_log_probs_with_a_floor_have_the_floor(floor: float) -> None:
    found = said(lambda logp, old, a, mask: gspo(np.maximum(logp, -floor), np.maximum(old, -floor), a, mask))
    assert found.startswith("tokens with log π below −")
    assert float(found.split("−")[1].split()[0]) == pytest.approx(floor, rel=1e-3)


def test_what_is_done_to_the_advantages_from_some_number_on_is_named() -> None:
    def centred(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        return gspo(logp, old, a - a.mean() if len(a) >= 6 else a, mask)

    assert said(centred) == "from 6 responses on, the mean of the advantages is subtracted inside the loss"


@pytest.mark.parametrize("like", [GSPO, LIKE, DAPO, GMPO, FSPO, LUSPO], ids=str)
def test_our_own_losses_have_no_limit(like: Any) -> None:
    assert said(like, like) == ""


def test_a_loss_that_is_wrong_on_three_has_no_limit_of_size() -> None:
    """A loss that is wrong from the start has no number from which on it is wrong."""
    assert said(lambda logp, old, a, mask: 0.5 * gspo(logp, old, a, mask)) == ""
    assert module._first_wrong((4, 8), 3, lambda n: n < 3) == 0
    assert module._first_wrong((4, 8, 16), 3, lambda n: n < 11) == 11


def test_a_loss_in_float32_has_no_limit() -> None:
    """Its rounding is no limit: neither steps of a ratio near 1, nor sums of thousands of numbers."""

    def single(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        logp, old, a = (x.astype(np.float32) for x in (logp, old, a))
        d = np.where(mask, logp - old, np.float32(0))
        s = np.exp(np.minimum(d.sum(axis=1) / size(mask).astype(np.float32), np.float32(50)))
        gains = np.minimum(s * a, np.clip(s, np.float32(0.8), np.float32(1.3)) * a)
        return -np.where(mask.any(axis=1), gains, np.float32(0)).sum() / np.float32(max(1, mask.any(axis=1).sum()))

    assert said(single) == ""
    assert laws.check(single, LIKE, examples=3).ok
