"""Every preset and KL estimator of the core has a word on the command line, and the word stands for it."""

from __future__ import annotations

import sys
from dataclasses import is_dataclass, replace

import pytest

from gspo_core import Clip, kl, mismatch
from gspo_core.kl import K3, Capped
from gspo_core.objectives import PRESETS, FixedLength, TotalVariation
from integration.options.choices import CLIP_RANGES, CORRECTIONS, KL_ESTIMATORS, OBJECTIVES
from integration.options.command_line import read_options
from integration.options.config import Config
from integration.options.errors import UserError


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_chosen_by_its_name_in_small_letters(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the preset's own clip range, but for those whose range is for answers of thousands of tokens."""
    word = name.lower().replace("_", "-")
    monkeypatch.setattr(sys, "argv", ["train_torch", "--objective", word])
    found = read_options(None).build_objective()
    if word in CLIP_RANGES:
        low, high = CLIP_RANGES[word]
        assert found == PRESETS[name].with_clip(low, high) != PRESETS[name]
    elif word == "dr-grpo":  # whose constant is the budget of the run, not of its paper
        assert found == replace(PRESETS[name], reduction=FixedLength(Config().max_new_tokens))
    else:
        assert found == PRESETS[name]


def test_one_width_of_a_preset_can_be_given() -> None:
    assert Config(objective="dapo", clip_high=0.5).build_objective() == replace(PRESETS["DAPO"], surrogate=Clip(0.2, 0.5))
    assert Config(objective="gspo", clip_low=0.5).build_objective().surrogate == Clip(0.5, 0.04)


def test_the_widths_of_a_trust_region_are_those_of_its_gate() -> None:
    wide = TotalVariation(0.1, 0.3, either_side=True)
    assert Config(objective="ipo", clip_high=0.3).build_objective() == replace(PRESETS["IPO"], gate=wide)
    with pytest.raises(UserError, match=r"--clip-low: expected a difference of probabilities in \(0, 1\], got 0.0"):
        Config(objective="dppo", clip_low=0.0)


def test_every_estimator_of_the_core_has_a_word() -> None:
    things = [getattr(kl, name) for name in kl.__all__]
    estimators = {x for x in things if is_dataclass(x) and hasattr(x, "off_policy") and x is not Capped}
    assert len(estimators) >= 7
    assert {type(x) for x in KL_ESTIMATORS.values() if x is not None} == estimators


def test_every_weight_and_every_measure_of_disagreement_has_a_word() -> None:
    """And no correction drops a response, since those without an advantage are never run."""
    things = [getattr(mismatch, name) for name in mismatch.__all__]
    levels = {x for x in things if is_dataclass(x) and hasattr(x, "log_weight")}
    assert len(levels) >= 6
    corrections = [x for x in CORRECTIONS.values() if x is not None]
    assert {type(x.level) for x in corrections} == levels
    assert not any(x.action.drop for x in corrections)


def test_a_cap_is_put_around_the_estimator() -> None:
    assert Config(kl="k3", kl_coefficient=0.1, kl_cap=2.0).kl_estimator == Capped(K3(), 2.0)
    assert Config(kl="k3", kl_coefficient=0.1).kl_estimator == K3()


def test_the_words_are_those_of_the_table() -> None:
    assert len(OBJECTIVES) == len(PRESETS)
    assert {"gspo", "gspo-token", "deepseek-v3-2", "dr-grpo"} <= set(OBJECTIVES)
