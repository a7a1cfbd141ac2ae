"""Each situation that people ask about gives exactly the right findings, and a healthy run gives none."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
from support.inputs.metric_cases import on_layout
from support.libraries import Library
from support.situations import SITUATIONS, Situation
from support.situations.builders import FITTING, N, T, batch, centred, ragged, ratios, sampler

from gspo_core import GSPO, TIS, Padded, diagnose, merge, policy_loss, summary
from gspo_core.metrics import FindingKind, Thresholds, sampler_metrics


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.name)
def test_each_situation_gives_exactly_the_right_findings(situation: Situation) -> None:
    """And what is said about the gradient is true: `gradient` is Σ |∂loss/∂logp|, and missing where there is no token."""
    metrics = situation.metrics()
    found, numbers = diagnose(metrics, situation.objective), summary(metrics)
    assert tuple(finding.kind for finding in found) == situation.found
    for finding in found:
        assert "{" not in finding.sentence
        assert finding.values
        for name, value in finding.values.items():
            assert name not in numbers or numbers[name] == value or math.isnan(value) or finding.kind in _EITHER_PAIR
        if finding.gradient_is_zero is not None:
            assert (numbers.get("gradient", 0.0) == 0.0) is finding.gradient_is_zero
    if found:
        assert found[0].gradient_is_zero is situation.gradient_is_zero
        assert situation.says in found[0].sentence
    assert not situation.never_says or all(situation.never_says not in finding.sentence for finding in found)


_EITHER_PAIR = (FindingKind.POSITIVE_LOG_PROBS, FindingKind.TOKENS_SHIFTED, FindingKind.ROWS_MIXED)
"""Their values are those of one pair of policies, without the prefix of the sampler's numbers."""


def test_every_kind_occurs_and_there_are_many_situations() -> None:
    assert {kind for situation in SITUATIONS for kind in situation.found} == set(FindingKind)
    assert len({situation.name for situation in SITUATIONS}) == len(SITUATIONS) >= 60


def test_on_policy_the_loss_is_minus_the_mean_advantage_and_the_gradient_that_of_reinforce() -> None:
    """What the sentence claims: −mean(A), and −A_i/(N |y_i|) on every token."""
    advantage, layout = centred() + 0.5, Padded(ragged())
    loss = policy_loss(GSPO, np.zeros((N, T)), np.zeros((N, T)), advantage, layout)
    assert float(loss.value) == pytest.approx(-advantage.mean(), abs=1e-12)
    expected = np.where(layout.mask, -advantage[:, None] / (N * layout.mask.sum(axis=1, keepdims=True)), 0.0)
    assert np.abs(loss.logp_grad - expected).max() < 1e-12


def test_thresholds_decide() -> None:
    fits = batch(ratios(FITTING), centred())
    assert diagnose(fits, GSPO) == ()
    assert [f.kind for f in diagnose(fits, GSPO, thresholds=Thresholds(wide=100.0))] == [FindingKind.CLIP_RANGE_WIDE]
    few = diagnose(sampler(np.full((N, T), math.log(0.9))), GSPO, thresholds=Thresholds(responses=N + 1))
    assert [f.kind for f in few] == [FindingKind.TOO_FEW_RESPONSES]
    first = batch(ratios(0), centred())
    assert [f.kind for f in diagnose(first, GSPO, thresholds=Thresholds(window=1))] == [FindingKind.RATIO_IS_ONE]


def test_merged_metrics_of_any_library_are_understood(library: Library) -> None:
    zero, advantage = (library.array(x.astype(np.float32)) for x in (np.zeros((2, 3)), np.array([1.0, -1.0])))
    layout = Padded(library.array(np.ones((2, 3), dtype=bool)))
    both = merge(on_layout(GSPO, zero, zero, advantage, layout), sampler_metrics(TIS, zero, zero, layout))
    assert [finding.kind for finding in diagnose(both, GSPO)] == [FindingKind.ON_POLICY_CENTRED]


def test_what_is_no_objective_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^objective"):
        diagnose(batch(ratios(0), centred()), "GSPO")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(TypeError, match=r"^metrics"):
        diagnose({})  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("field", [field.name for field in fields(Thresholds)])
def test_thresholds_are_numbers_in_their_range(field: str) -> None:
    for wrong in (-1, math.nan):
        with pytest.raises(ValueError, match=f"^{field}: expected"):
            Thresholds(**{field: wrong})
    for wrong in (None, "1", True, 1j):
        with pytest.raises((TypeError, ValueError), match=f"^{field}: expected"):
            Thresholds(**{field: wrong})  # type: ignore[arg-type]  # wrong on purpose
    assert getattr(Thresholds(**{field: np.asarray(1)}), field) == 1
