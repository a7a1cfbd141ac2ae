"""No false accusation: a compiler's limits break no law, two NaN are not judged, and two numbers are never shown as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from gspo_core import laws
from gspo_core.laws.chapters.catalogue import named
from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.law import Violation, apart, demand, number
from gspo_core.laws.mutants.mutant import LIKE

COMPILED = named("the compiled loss equals the eager loss")
UNTOUCHED = named("the loss leaves its inputs as they are")
BATCH = Batch.of([[0.0]], [1.0])


def gspo(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """Eq. 5 with LIKE's clip range."""
    length = mask.sum(-1)
    log_s = torch.where(mask, logp - old_logp, 0.0).sum(-1) / length.clamp(min=1)
    s = log_s.clamp(max=50.0).exp()
    gain = torch.minimum(s * advantage, s.clamp(0.8, 1.3) * advantage)
    return -torch.where(length > 0, gain, 0.0).sum() / (length > 0).sum().clamp(min=1)


def loss_with(early_return: bool) -> Any:
    """The same loss as another function object, with or without Python control flow on its data."""

    def loss(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        if early_return and not mask.any():
            return (logp * 0.0).sum()
        return gspo(logp, old_logp, advantage, mask)

    return loss


@pytest.mark.slow
def test_a_loss_that_the_compiler_refuses_is_untested_and_not_broken() -> None:
    report = laws.check(loss_with(early_return=True), LIKE, laws=[COMPILED], framework=laws.TORCH)
    assert report.ok
    assert [v.status for v in report.untested] == [laws.Status.REFUSED]
    assert f"Not tested: {COMPILED.name}: " in str(report)
    assert len(report.untested[0].refusal) < 300


@pytest.mark.parametrize("name", ["old_logp", "logp"])
def test_a_torch_loss_that_writes_into_an_argument_is_found(name: str) -> None:
    def writes(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        loss = gspo(logp, old_logp, advantage, mask)
        (logp if name == "logp" else old_logp).detach().add_(1.0)
        return loss

    report = laws.check(writes, LIKE, laws=[UNTOUCHED], framework=laws.TORCH, examples=5)
    assert [v.law for v in report.broken] == [UNTOUCHED]
    assert f"the argument {name} after the call" in str(report)
    assert laws.check(gspo, LIKE, laws=[UNTOUCHED], framework=laws.TORCH, examples=5).kept


@given(st.floats(-1e6, 1e6), st.floats(1e-15, 1e-3))
def test_two_numbers_that_differ_are_printed_differently(x: float, relative: float) -> None:
    other = x * (1.0 + relative)
    assume(other != x)
    pair = apart(x, other)
    assert pair[0] != pair[1]
    lines = str(Violation("the loss", BATCH, x, other, allowed=1e-20)).splitlines()
    assert f"  loss returns  {pair[0]}" in lines
    assert f"  law requires  {pair[1]}" in lines
    assert ("rounding explains 1e-20" in lines[-1]) == (number(x) == number(other))


def test_digits_are_as_few_as_they_can_be() -> None:
    assert apart(0.5, 0.75) == ("0.5", "0.75")
    assert apart(np.array([1.0, 2.0]), np.array([1.0, 2.0 + 1e-8])) == ("[1., 2.]", "[1.        , 2.00000001]")


def test_two_nan_are_not_judged_and_one_is() -> None:
    demand(np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), 0.0, "the loss", BATCH)
    for pair in ((np.nan, 1.0), (1.0, np.nan), (np.inf, np.inf)):
        with pytest.raises(Violation):
            demand(*pair, 1e9, "the loss", BATCH)


PLAIN = {
    "exp": lambda x: x.exp(),
    "clamped at 20": lambda x: x.clamp(-20, 20).exp(),
    "clamped at 10": lambda x: x.clamp(max=10).exp(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_a_loss_that_is_right_but_for_extremes_is_fragile_and_not_wrong(name: str) -> None:
    """As trainers write it: exp without a guard, or with one below e⁵⁰."""

    def plain(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        length = mask.sum(-1)
        log_s = torch.where(mask, logp - old_logp, 0.0).sum(-1) / length.clamp(min=1)
        s = PLAIN[name](log_s)
        gain = torch.minimum(s * advantage, s.clamp(0.8, 1.3) * advantage)
        return -torch.where(length > 0, gain, 0.0).sum() / (length > 0).sum().clamp(min=1)

    report = laws.check(plain, LIKE, framework=laws.TORCH, examples=8)
    assert report.ok, str(report)
    assert [v.law.severity for v in report.fragile] == [laws.Severity.FRAGILE] * len(report.fragile)
    assert report.fragile, "neither a guard nor a law about it"
    assert "fail at extremes only" in str(report)
    assert "BROKEN" not in str(report)


def test_severities_are_ordered() -> None:
    order = [laws.Severity.FRAGILE, laws.Severity.WRONG]
    assert [[a >= b for b in order] for a in order] == [[True, False], [True, True]]
