"""profile names, in words, the differences between a loss and the paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Clip, laws
from gspo_core.laws.cards.bounds import edges
from gspo_core.laws.mutants import gspo
from gspo_core.laws.mutants.clip import clipped_on_both_sides, mirrored_for_negative, not_clipped
from gspo_core.laws.mutants.credit import stop_gradient_too_many, token_advantages_collapse, wrong_sign
from gspo_core.laws.mutants.mutant import gain, log_s, mean
from gspo_core.laws.mutants.ratio import divided_twice, exp_of_the_sum, grpo_for_gspo, length_plus_one, width_for_length
from gspo_core.laws.mutants.reduction import denominator_counts_empty_rows, ratio_times_token_mask, token_sum

pytestmark = pytest.mark.slow

# (loss, topic, kind, words): the finding that must differ from the paper, and the only one.
FOREIGN = [
    (ratio_times_token_mask, "weighting", "tokens", "long responses weigh more"),
    (mirrored_for_negative, "clip", "mirrored", "MIRRORED for A < 0"),
    (exp_of_the_sum, "power", "sum", "exp of the SUM of its log ratios"),
    (token_advantages_collapse, "token advantages", "collapsed", "all tokens of a response get the same gradient"),
    (token_sum, "weighting", "sum", "not divided by the length"),
    (clipped_on_both_sides, "clip", "both", "responses that should recover have no gradient"),
    (not_clipped, "clip", "none", "nothing is clipped"),
    (grpo_for_gspo, "ratio", "token", "as in GRPO"),
    (wrong_sign, "sign", "reversed", "LESS likely"),
    (denominator_counts_empty_rows, "empty rows", "counted", "keeps 0.5 of its gradient"),
]


@pytest.mark.parametrize(("loss", "topic", "kind", "words"), FOREIGN, ids=[loss.__name__ for loss, *_ in FOREIGN])
def test_the_difference_is_named_and_it_is_the_only_one(loss: object, topic: str, kind: str, words: str) -> None:
    found = laws.profile(loss, examples=1)
    (difference,) = found.differs
    assert (difference.topic, difference.kind) == (topic, kind)
    assert words in difference.sentence
    assert words in str(found)


def test_the_paper_does_not_differ_from_itself() -> None:
    for loss in (gspo, GSPO, replace(GSPO, surrogate=Clip(0.05, 0.1)), GSPO_TOKEN):
        found = laws.profile(loss, examples=3)
        assert found.differs == ()
        assert found.report.ok, str(found.report)


@pytest.mark.parametrize("loss", [length_plus_one, divided_twice])
def test_the_clip_range_of_a_wrong_length_is_no_second_cause(loss: Any) -> None:
    """The range is that of the ratio that is clipped, which for one token may be a power of the token's own."""
    found = laws.profile(loss, examples=3)
    assert found.report.like == "GSPO with Clip(low=0.2, high=0.3)"
    (cause,) = found.report.causes
    assert "log ratios are divided by" in cause.sentence
    assert "clip range" not in cause.sentence


@pytest.mark.parametrize("clip", [Clip(3e-4, 4e-4), Clip(0.2, 0.27)], ids=str)
def test_the_band_is_measured(clip: Clip) -> None:
    assert laws.profile(replace(GRPO, surrogate=clip), examples=1).report.like == (
        f"GRPO with {clip}" if clip != GRPO.surrogate else "GRPO"
    )


def foreign(low: float, high: float, single: bool = False) -> Any:
    """GSPO in NumPy, without a gradient of its own; `single` computes it in float32."""

    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        if single:
            logp, old, a = (x.astype(np.float32) for x in (logp, old, a))
        found = mean(gain(log_s(logp, old, mask), a, low, high), mask)
        return np.float32(found) if single else found

    return loss


@given(st.floats(1e-4, 0.9), st.floats(1e-4, 5.0), st.booleans())
def test_a_clip_range_is_measured_to_the_last_digit(low: float, high: float, single: bool) -> None:
    """The reach of finite differences is 8e-6, and 0.03 in float32: bounds of 3e-4 read as 3.08e-4 by the gradient alone."""
    assume(not single or min(low, high) > 0.05)
    low, high = float(f"{low:.3g}"), float(f"{high:.3g}")
    found = edges(laws.subject_of(foreign(low, high, single), framework=laws.NUMPY)).widths
    assert found == pytest.approx((low, high), rel=1e-6 if single else 1e-12)


# (loss, what is measured, its kind)
UNSEEN = [
    (foreign(4e-4, 3e-4), "clip", "swapped"),
    (width_for_length, "power", "width"),
    (stop_gradient_too_many, "sign", "detached"),
]


@pytest.mark.parametrize(("loss", "topic", "kind"), UNSEEN, ids=["swapped", "width", "detached"])
def test_differences_that_once_read_as_the_paper(loss: Any, topic: str, kind: str) -> None:
    differs = laws.profile(loss, examples=1, framework=laws.NUMPY).differs
    assert [(f.topic, f.kind) for f in differs] == [(topic, kind)]


def test_a_float32_loss_reads_as_the_paper() -> None:
    for loss in (foreign(0.2, 0.3, single=True), torch_gspo):
        found = laws.profile(loss, examples=3)
        assert found.differs == (), str(found)
        assert found.report.ok, str(found)


def torch_gspo(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """GSPO with the paper's range, in float32 as trainers compute it."""
    length, d, a = mask.sum(-1), logp.float() - old_logp.float(), advantage.float()
    s = (torch.where(mask, d, 0.0).sum(-1) / length.clamp(min=1)).exp()
    gain = torch.minimum(s * a, s.clamp(1 - 3e-4, 1 + 4e-4) * a)
    return -torch.where(length > 0, gain, 0.0).sum() / (length > 0).sum().clamp(min=1)


def test_token_advantages_that_collapse_are_not_gspo_token() -> None:
    assert laws.profile(token_advantages_collapse, examples=1).report.like.startswith("GSPO with")


def test_a_mirrored_clip_is_shown_with_its_numbers() -> None:
    broken = {v.law.name: v for v in laws.profile(mirrored_for_negative, examples=20).report.broken}
    printed = str(broken["an unclipped unit has a gradient, however far its ratio is from 1"].violation)
    assert "loss returns" in printed
    assert "law requires" in printed
    assert "A = -1" in printed
