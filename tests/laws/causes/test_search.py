"""The first sentence about a wrong loss is the difference that it has, whatever the clip range and the constant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gspo_core import GRPO, GSPO, laws
from gspo_core.laws.chapters.catalogue import named
from gspo_core.laws.mutants import credit, ratio
from gspo_core.laws.mutants.mutant import HIGH, LIKE, LIKE_GRPO, LIKE_TOKEN, LOW, gspo, right
from gspo_core.objectives import DR_GRPO, FixedLength

pytestmark = pytest.mark.slow

FORMULA = [
    named("the value is the paper's"),
    named("the gradient is the paper's"),
    named("an empty row contributes nothing"),
    named("a clipped unit has no gradient"),
]


def first(loss: Any, like: Any = LIKE, checked: list[laws.Law] = FORMULA, **options: Any) -> str:
    """The first sentence about a loss."""
    report = laws.check(loss, like, laws=checked, examples=12, **options)
    assert report.causes, str(report)
    assert str(report).startswith(f"Cause: {report.causes[0].sentence}.\n"), str(report)
    return report.causes[0].sentence


def collapsing(logp: Tensor, old: Tensor, a: Tensor, mask: Tensor) -> Tensor:
    """One ratio per response times token advantages: autograd gives every token their mean."""
    length = mask.sum(-1).clamp(min=1)
    s = (torch.where(mask, logp - old, 0.0).sum(-1) / length).clamp(max=50.0).exp()[:, None]
    a = torch.where(mask, a if a.ndim == 2 else a[:, None], 0.0)
    gain = torch.minimum(s * a, s.clamp(1 - LOW, 1 + HIGH) * a).sum(-1) / length
    return -gain.sum() / mask.any(-1).sum().clamp(min=1)


def test_token_advantages_that_collapse_have_a_sentence() -> None:
    assert "token advantages collapse" in first(
        collapsing, LIKE_TOKEN, [named("the gradient of every token has its own advantage")], framework=laws.TORCH
    )


def numpy_loss(low: float, high: float, rows: bool, factor: float) -> Any:
    """GSPO in NumPy, times a factor, divided by all rows or by the ones with a token."""

    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        length = mask.sum(axis=1)
        log_s = np.where(mask, logp - old, 0.0).sum(axis=1) / np.maximum(length, 1)
        s = np.exp(np.minimum(log_s, 50.0))
        gain = np.where(length > 0, np.minimum(s * a, np.clip(s, 1 - low, 1 + high) * a), 0.0)
        return -factor * gain.sum() / (len(mask) if rows else max(1, (length > 0).sum()))

    return loss


@settings(max_examples=8, suppress_health_check=[HealthCheck.nested_given])
@given(st.floats(1e-3, 0.5), st.floats(1e-3, 0.5), st.booleans(), st.sampled_from([1.0, -1.0, 0.5, 3.7, -0.2]))
def test_one_or_two_differences_are_named_at_any_clip_range(low: float, high: float, rows: bool, factor: float) -> None:
    assume(rows or factor != 1.0)
    said = first(numpy_loss(low, high, rows, factor), GSPO.with_clip(low, high), framework=laws.NUMPY)
    named_constant = {1.0: "", -1.0: "the sign is flipped", 0.5: "half of", 3.7: "3.7 times", -0.2: "-0.2 times"}[factor]
    assert ("rows without a token are counted" in said) == rows
    assert named_constant in said
    assert ("; and " in said) == (rows and factor != 1.0)


@settings(max_examples=6, suppress_health_check=[HealthCheck.nested_given])
@given(st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_another_clip_range_is_measured(low: float, high: float) -> None:
    assume(abs(low - LOW) > 1e-3 and abs(high - HIGH) > 1e-3)
    assume(abs(low - HIGH) > 1e-3 or abs(high - LOW) > 1e-3)
    said = first(numpy_loss(low, high, False, 1.0), framework=laws.NUMPY)
    assert f"the clip range is 1 − {low:.6g} to 1 + {high:.6g}" in said


@pytest.mark.parametrize("loss", [gspo, right], ids=["differences", "own gradient"])
def test_a_right_loss_has_no_cause(loss: Any) -> None:
    report = laws.check(loss, LIKE, laws=FORMULA, examples=12)
    assert report.causes == ()
    assert report.ok


def torch_loss(length_eps: float, count_eps: float) -> Any:
    """GSPO in PyTorch with epsilons in its denominators, as verl writes it."""

    def loss(logp: Tensor, old: Tensor, a: Tensor, mask: Tensor) -> Tensor:
        length = mask.double().sum(-1)
        filled = (length > 0).double()
        log_s = torch.where(mask, logp - old, 0.0).sum(-1) / (length + length_eps * filled + (length == 0))
        s = log_s.clamp(max=50.0).exp()
        gain = torch.where(filled > 0, torch.minimum(s * a, s.clamp(1 - LOW, 1 + HIGH) * a), 0.0)
        return -gain.sum() / (filled.sum().clamp(min=1) + count_eps)

    return loss


@pytest.mark.parametrize("eps", [(1e-8, 0.0), (0.0, 1e-8), (1e-6, 1e-6), (3e-8, 0.0)], ids=str)
def test_an_epsilon_is_said_once_and_is_harmless(eps: tuple[float, float]) -> None:
    report = laws.check(torch_loss(*eps), LIKE, laws=FORMULA, examples=30, framework=laws.TORCH)
    assert [cause.severity for cause in report.causes] == [laws.Severity.HARMLESS]
    assert "epsilon" in report.causes[0].sentence
    assert report.ok
    assert str(report).startswith("Harmless: off by an epsilon")


def test_a_larger_epsilon_is_wrong() -> None:
    report = laws.check(torch_loss(1e-4, 0.0), LIKE, laws=FORMULA, examples=30, framework=laws.TORCH)
    assert not report.ok
    assert report.causes[0].sentence == "off by an epsilon: 0.0001 is added to the length in the ratio"


def test_what_no_difference_explains_shows_its_most_special_law_first() -> None:
    own = named("a token's gradient depends on its own ratio alone")
    report = laws.check(credit.other_tokens_in_the_ratio, LIKE_GRPO, laws=[*FORMULA, own], examples=5)
    cause = next(cause for cause in report.causes if cause.severity is laws.Severity.WRONG)
    assert cause.sentence == f"not so: {own.name}"
    assert "A known mistake that breaks this law" in cause.fix


def test_a_formula_that_overflows_breaks_the_law_about_long_responses() -> None:
    long = named("a response of thousands of tokens has the loss of the formula")
    report = laws.check(ratio.exp_of_the_sum, LIKE, laws=[*FORMULA, long], examples=5)
    assert {v.law for v in report.causes[0].follow} >= {long}


def test_an_overflow_of_the_formula_itself_is_not_a_consequence() -> None:
    """TRL's loss: rows without a token are counted, and exp has no guard; the two have nothing to do with each other."""

    def trl(logp: Tensor, old: Tensor, a: Tensor, mask: Tensor) -> Tensor:
        s = (torch.where(mask, logp - old, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)).exp()
        return -torch.where(mask.any(-1), torch.minimum(s * a, s.clamp(1 - LOW, 1 + HIGH) * a), 0.0).mean()

    extreme = named("finite log-probs give a finite loss and gradient")
    report = laws.check(trl, LIKE, laws=[*FORMULA, extreme], examples=12, framework=laws.TORCH)
    severities = {v.law: cause.severity for cause in report.causes for v in cause.follow}
    assert report.causes[0].sentence == "rows without a token are counted"
    assert severities[extreme] is laws.Severity.FRAGILE


def test_every_broken_law_belongs_to_one_cause() -> None:
    report = laws.check(ratio.row_pooled, GRPO.with_clip(LOW, HIGH), examples=5)
    follow = [v.law.name for cause in report.causes for v in cause.follow]
    assert sorted(follow) == sorted(v.law.name for v in report.broken)
    assert all(report.mark(v) != "holds" for v in report.broken)
    assert report.table().count("loss returns") == len(report.broken)


def divided_by_the_count(inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss that is 0/0 where no slot holds a token, as verl's and OpenRLHF's are."""

    def loss(logp: Tensor, old: Tensor, a: Tensor, mask: Tensor) -> Tensor:
        return inner(logp, old, a, mask) * (mask.sum() / mask.sum())

    return loss


NOTHING = named("a batch without tokens has loss 0")


def test_a_loss_that_is_nan_without_a_token_is_fragile_and_not_another_loss() -> None:
    report = laws.check(divided_by_the_count(torch_loss(0.0, 0.0)), LIKE, laws=[*FORMULA, NOTHING], framework=laws.TORCH)
    assert report.ok, str(report)
    assert "a batch without a token" in report.causes[0].sentence
    assert {v.law for v in report.causes[0].follow} >= {NOTHING}
    assert report.mark(next(v for v in report.broken if v.law is NOTHING)) == "fragile"


def test_nan_without_a_token_hides_no_other_cause_and_is_no_counterexample_of_it() -> None:
    """The worst cause comes first, and is shown on a batch that has tokens."""

    def token_mean(logp: Tensor, old: Tensor, a: Tensor, mask: Tensor) -> Tensor:
        s = (torch.where(mask, logp - old, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)).clamp(max=50.0).exp()
        gain = torch.minimum(s * a, s.clamp(1 - LOW, 1 + HIGH) * a)
        return -(gain[:, None] * mask).sum() / mask.sum()

    report = laws.check(token_mean, LIKE, laws=[*FORMULA, NOTHING], examples=30, framework=laws.TORCH)
    assert "every token has the same weight" in report.causes[0].sentence
    assert all(v.violation is not None and v.violation.batch.mask.any() for v in report.causes[0].follow)
    assert [cause.severity for cause in report.causes] == [laws.Severity.WRONG, laws.Severity.FRAGILE]
    harmless = laws.check(divided_by_the_count(torch_loss(1e-8, 0.0)), LIKE, laws=[*FORMULA, NOTHING], framework=laws.TORCH)
    assert [cause.severity for cause in harmless.causes] == [laws.Severity.FRAGILE, laws.Severity.HARMLESS]


def test_a_loss_that_raises_without_a_token_is_fragile_too() -> None:
    """0/0 in Python: a mean over a list of responses, none of which has a token."""

    def listed(logp: np.ndarray, old: np.ndarray, a: np.ndarray, mask: np.ndarray) -> float:
        gains = []
        for lp, old_lp, adv, row in zip(logp, old, a, mask, strict=True):
            if row.any():
                s = np.exp(min(np.mean(lp[row] - old_lp[row]), 50.0))
                gains.append(min(s * adv, np.clip(s, 1 - LOW, 1 + HIGH) * adv))
        return -sum(gains) / len(gains)

    report = laws.check(listed, LIKE, laws=[*FORMULA, NOTHING], examples=12, framework=laws.NUMPY)
    assert report.ok, str(report)
    assert report.causes[0].sentence == "on a batch without a token the loss raises ZeroDivisionError: division by zero"


@pytest.mark.parametrize("mean", [False, True], ids=["responses", "tokens"])
def test_nan_beside_a_row_without_a_token_is_one_cause_and_hides_no_other(mean: bool) -> None:
    """A length that is not clamped: 0/0 in one row is NaN in the sum over rows."""

    def unclamped(logp: Tensor, old: Tensor, a: Tensor, mask: Tensor) -> Tensor:
        s = (torch.where(mask, logp - old, 0.0).sum(-1) / mask.sum(-1)).clamp(max=50.0).exp()
        gain = torch.minimum(s * a, s.clamp(1 - LOW, 1 + HIGH) * a)
        return -(gain[:, None] * mask).sum() / mask.sum() if mean else -gain.mean()

    report = laws.check(unclamped, LIKE, laws=[*FORMULA, NOTHING], examples=30, framework=laws.TORCH)
    words = ["beside a row without a token the loss or its gradient is not finite", "every token has the same weight"]
    assert [any(cause.sentence.startswith(w) for cause in report.causes) for w in words] == [True, mean]
    assert len(report.causes) == 1 + mean, str(report)
    assert not report.ok


def test_a_finite_loss_of_nothing_is_another_loss() -> None:
    def one(logp: Tensor, old: Tensor, a: Tensor, mask: Tensor) -> Tensor:
        return torch_loss(0.0, 0.0)(logp, old, a, mask) + (~mask.any()).double()

    assert not laws.check(one, LIKE, laws=[NOTHING], framework=laws.TORCH).ok


@pytest.mark.parametrize(("guard", "ok"), [(5.0, False), (20.0, True)])
def test_a_guard_on_single_tokens_is_fragile_if_it_is_far_out(guard: float, ok: bool) -> None:
    def guarded(logp: Tensor, old: Tensor, a: Tensor, mask: Tensor) -> Tensor:
        near = torch.where(mask, logp - old, 0.0).clamp(-guard, guard)
        return torch_loss(0.0, 0.0)(near, torch.zeros_like(near), a, mask)

    asked = [named(name) for name in ("only the sum of a response's log ratios matters", ratio.OUTLIER)]
    assert laws.check(guarded, LIKE, laws=[*FORMULA, *asked], examples=30, framework=laws.TORCH).ok is ok


def test_a_constant_in_float32_hides_no_other_difference() -> None:
    """Bounds that were rounded to float32, as torchrl's are, beside rows without a token that count."""

    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        ratio_of = np.exp(np.clip(np.where(mask, logp - old, 0.0), None, 50.0))
        low, high = (float(np.float32(bound)) for bound in (0.8, 1.2))
        gain = np.where(mask, np.minimum(ratio_of * a[:, None], np.clip(ratio_of, low, high) * a[:, None]), 0.0)
        return -(gain.sum(axis=1) / np.maximum(mask.sum(axis=1), 1)).mean()

    assert first(loss, GRPO.with_clip(0.2, 0.2)) == "rows without a token are counted"


def test_rows_without_a_token_count_beside_a_fixed_length_too() -> None:
    """TRL's dr_grpo and luspo."""

    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        ratio_of = np.exp(np.clip(np.where(mask, logp - old, 0.0), None, 50.0))
        gain = np.minimum(ratio_of * a[:, None], np.clip(ratio_of, 0.8, 1.2) * a[:, None])
        return -np.where(mask, gain, 0.0).sum() / (len(a) * 256)

    like = replace(DR_GRPO, reduction=FixedLength(256))
    assert first(loss, like) == "rows without a token are counted"
