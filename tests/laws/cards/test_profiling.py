"""profile names, in words, the differences between a loss and the paper."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Clip, laws
from gspo_core.laws.mutants import gspo
from gspo_core.laws.mutants.clip import clipped_on_both_sides, mirrored_for_negative, not_clipped
from gspo_core.laws.mutants.credit import token_advantages_collapse, wrong_sign
from gspo_core.laws.mutants.ratio import exp_of_the_sum, grpo_for_gspo
from gspo_core.laws.mutants.reduction import denominator_counts_empty_rows, ratio_times_token_mask, token_sum

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


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "topic", "kind", "words"), FOREIGN, ids=[loss.__name__ for loss, *_ in FOREIGN])
def test_the_difference_is_named_and_it_is_the_only_one(loss: object, topic: str, kind: str, words: str) -> None:
    found = laws.profile(loss, examples=3)
    (difference,) = found.differs
    assert (difference.topic, difference.kind) == (topic, kind)
    assert words in difference.sentence
    assert words in str(found)


@pytest.mark.slow
def test_the_paper_does_not_differ_from_itself() -> None:
    for loss in (gspo, GSPO, replace(GSPO, surrogate=Clip(0.05, 0.1)), GSPO_TOKEN):
        found = laws.profile(loss, examples=3)
        assert found.differs == ()
        assert found.report.ok, str(found.report)


@pytest.mark.parametrize("clip", [Clip(3e-4, 4e-4), Clip(0.2, 0.27)], ids=str)
def test_the_band_is_measured(clip: Clip) -> None:
    assert laws.profile(replace(GRPO, surrogate=clip), examples=1).report.like == (
        f"GRPO with {clip}" if clip != GRPO.surrogate else "GRPO"
    )


@pytest.mark.slow
def test_a_mirrored_clip_is_shown_with_its_numbers() -> None:
    broken = {v.law.name: v for v in laws.profile(mirrored_for_negative, examples=20).report.broken}
    printed = str(broken["an unclipped unit has a gradient, however far its ratio is from 1"].violation)
    assert "loss returns" in printed
    assert "law requires" in printed
    assert "A = -1" in printed
