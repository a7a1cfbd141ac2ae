"""With empty_rows=False a loss is never given a row without a token, and everything else is judged as usual."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gspo_core import GSPO, laws
from gspo_core.laws.causes.formulas.reductions import reductions
from gspo_core.laws.causes.suspect import model_of
from gspo_core.laws.chapters.catalogue import named
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.mutants.mutant import LIKE

ABOUT_EMPTY_ROWS = [named("an empty row contributes nothing"), named("a batch without tokens has loss 0")]
OTHERS = [
    named("the value is the paper's"),
    named("the gradient is the paper's"),
    named("every response has the same weight, whatever its length"),
    named("the loss leaves its inputs as they are"),
]


def numpy_mean(logp: np.ndarray, old: np.ndarray, a: np.ndarray, mask: np.ndarray, more: int = 0) -> Any:
    """The mean over all rows, as TRL's .mean(): right if every row holds a token. `more` is added to each length."""
    log_s = np.where(mask, logp - old, 0.0).sum(axis=1) / np.maximum(mask.sum(axis=1) + more, 1)
    s = np.exp(np.minimum(log_s, 50.0))
    return -np.minimum(s * a, np.clip(s, 0.8, 1.3) * a).mean()


def torch_mean(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """The same in PyTorch."""
    log_s = torch.where(mask, logp - old_logp, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
    s = log_s.clamp(max=50.0).exp()
    return -torch.minimum(s * advantage, s.clamp(0.8, 1.3) * advantage).mean()


def one_too_long(logp: Any, old: Any, a: Any, mask: Any) -> Any:
    """A mutant: the length counts one token too many."""
    return numpy_mean(logp, old, a, mask, more=1)


def over_slots(logp: Any, old: Any, a: Any, mask: Any) -> Any:
    """A mutant: the mean over all slots, padding included."""
    s = np.exp(np.minimum(np.where(mask, logp - old, 0.0).sum(axis=1) / np.maximum(mask.sum(axis=1), 1), 50.0))
    gain = np.minimum(s * a, np.clip(s, 0.8, 1.3) * a)
    return -np.where(mask, gain[:, None], 0.0).mean()


@pytest.mark.parametrize("loss", [numpy_mean, pytest.param(torch_mean, marks=pytest.mark.slow)], ids=["numpy", "torch"])
def test_a_mean_over_all_rows_is_right_only_if_empty_rows_are_never_given(loss: Any) -> None:
    checked = [*ABOUT_EMPTY_ROWS, *OTHERS]
    wrong = laws.check(loss, LIKE, laws=checked, examples=25)
    right = laws.check(loss, LIKE, laws=checked, examples=25, empty_rows=False)
    assert {v.law for v in wrong.broken} > set(ABOUT_EMPTY_ROWS[:1])
    assert not right.broken, str(right)
    assert [v.law for v in right.kept] == OTHERS
    assert {v.law: (v.status, v.refusal) for v in right.untested} == dict.fromkeys(
        ABOUT_EMPTY_ROWS, (laws.Status.NEVER_GIVEN, "rows without a token are left out of every call")
    )
    assert "Not tested: an empty row contributes nothing: rows without a token are left out of every call" in str(right)


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (one_too_long, "log ratios are divided by |y| + 1"),
        (
            over_slots,
            "a response's sum over tokens is divided by the padded width, not by its length: short responses weigh less",
        ),
    ],
    ids=["length", "slots"],
)
def test_a_wrong_loss_stays_wrong_and_its_cause_is_named(loss: Any, sentence: str) -> None:
    report = laws.check(loss, LIKE, laws=OTHERS, examples=25, empty_rows=False)
    assert not report.ok
    assert report.causes[0].sentence == sentence


@given(laws.batches(Setting(LIKE), rows=(1, 4)), st.sampled_from([laws.NUMPY, laws.TORCH]))
def test_the_rows_with_a_token_are_given_and_only_they_have_a_gradient(batch: laws.Batch, framework: laws.Framework) -> None:
    """For any loss: here a sum, whose value and gradient are known."""
    seen: list[Any] = []

    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:  # noqa: ARG001 (the signature is what is called)
        seen.append(np.array(mask.tolist()))
        return (logp * a[:, None]).sum() + len(mask)

    subject = laws.subject_of(loss, framework=framework, empty_rows=False)
    seen.clear()
    found, value, kept = (
        subject(batch),
        subject.value(batch).value,
        [row for row in range(len(batch.mask)) if any(batch.mask[row])],
    )
    subject.leaks(batch)
    subject.changed(batch)
    assert bool(seen) == bool(kept)
    assert all(np.array_equal(mask, batch.mask[kept]) for mask in seen)
    total = sum(float(x) * float(batch.advantage[i]) for i in kept for x in batch.logp[i]) + len(kept)
    assert found.value == pytest.approx(total, abs=1e-12)
    assert value == found.value
    for row in range(len(batch.mask)):
        there = batch.mask[row] if framework is laws.NUMPY else np.ones_like(batch.mask[row])
        required = there * batch.advantage[row] if row in kept else np.zeros(len(there))
        assert found.weight[row] == pytest.approx(required, abs=1e-6)


def test_a_wrong_formula_that_it_is_compared_with_is_given_the_same_rows() -> None:
    batch = laws.Batch.of([[0.1], [0.0]], [1.0, 1.0], [[1], [0]])
    (counted,) = [s for s in reductions(LIKE) if s.sentence == "a row without a token counts as a response with ratio 1"]
    values = [
        model_of(counted, laws.subject_of(numpy_mean, empty_rows=given), Setting(LIKE))(batch).value for given in (True, False)
    ]
    assert values == pytest.approx([-(np.exp(0.1) + 1.0) / 2, -np.exp(0.1)])


def test_conformance_skips_the_laws_about_empty_rows() -> None:
    @laws.conformance(numpy_mean, LIKE, examples=2, empty_rows=False)
    def test_it(law: laws.Law) -> None: ...

    test_it(OTHERS[0])
    for law in ABOUT_EMPTY_ROWS:
        with pytest.raises(pytest.skip.Exception, match=r"never given such a batch\. rows without a token"):
            test_it(law)


def test_a_profile_says_what_it_did_not_measure() -> None:
    subject = laws.subject_of(numpy_mean, empty_rows=False)
    (found,) = [f for f in laws.profile(subject, LIKE, examples=0).findings if f.topic == "empty rows"]
    assert (found.kind, found.agrees) == ("never given", True)


def test_an_objective_leaves_empty_rows_out_itself() -> None:
    with pytest.raises(ValueError, match=r"empty_rows: expected True for an Objective, .* got False"):
        laws.check(GSPO, empty_rows=False)
