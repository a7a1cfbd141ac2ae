"""What a loss does with its arrays is said of the array that it does it to, and nothing is said of a right loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gspo_core import GSPO, GSPO_TOKEN, laws
from gspo_core.laws.causes.handling import handling
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.packing import OwnGradient
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.mutants.mutant import LIKE, LIKE_TOKEN, column, gain, gspo, gspo_weight, log_s, mean, right, token_mean
from gspo_core.laws.subjects import subject_of
from gspo_core.objectives import DAPO


def said(loss: Any, like: Any = LIKE, *claims: Claim) -> str:
    """The sentence about a loss; empty if there is none."""
    subject = subject_of(loss)
    found = handling(subject, Setting(like, subject.claims(like) | set(claims)))
    return "" if found is None else found.sentence


@pytest.mark.parametrize("place", [0, 1, 2, 3], ids=["logp", "old_logp", "advantage", "mask"])
def test_the_array_that_is_overwritten_is_named(place: int) -> None:
    def loss(*given: Any) -> Any:
        found = gspo(*given)
        given[place][...] = ~given[place] if place == 3 else given[place] + 1.0
        return found

    name = ("logp", "old_logp", "advantage", "mask")[place]
    assert said(loss) == f"the loss overwrites its argument {name}: the next call sees other numbers"


@pytest.mark.parametrize("read", ["logp", "old_logp"])
def test_the_array_whose_padding_is_read_is_named(read: str) -> None:
    def loss(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
        leak = {"logp": logp, "old_logp": old_logp}[read].mean(axis=1)
        return gspo(logp, old_logp, advantage * (1.0 + 0.1 * leak), mask)

    assert said(loss) == f"numbers in the padding of {read} enter the loss"


def test_padding_of_token_advantages_is_read_only_by_a_loss_that_takes_them() -> None:
    def averaged(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        return gspo(logp, old, column(a).mean(axis=1), mask)

    def masked(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        return mean(token_mean(gain(log_s(logp, old, mask)[:, None], np.where(mask, column(a), 0.0)), mask), mask)

    assert said(averaged, LIKE_TOKEN, Claim.TOKEN_ADVANTAGES) == "numbers in the padding of token advantages enter the loss"
    assert said(masked, LIKE_TOKEN, Claim.TOKEN_ADVANTAGES) == ""


@pytest.mark.parametrize("factor", [0.0, 0.25, 0.5, 2.0])
@pytest.mark.parametrize("sides", [1, -1, 0], ids=["upper", "lower", "both"])
def test_the_gradient_on_a_bound_is_measured(factor: float, sides: int) -> None:
    low, high = Setting(LIKE).log_bounds

    def loss(logp: Any, old: Any, a: Any, mask: Any) -> OwnGradient:
        x = log_s(logp, old, mask)
        on = ((x == high) & (sides >= 0)) | ((x == low) & (sides <= 0))
        return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask) * np.where(on, factor, 1.0)[:, None])

    amount = f"{factor:.4g} times that of a unit inside" if factor else "0"
    assert f"exactly on a bound of the clip the gradient is {amount}:" in said(loss, LIKE, Claim.EDGES)


def test_a_gradient_that_is_a_multiple_of_the_derivative_has_its_factor() -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any) -> OwnGradient:
        return OwnGradient(gspo(logp, old, a, mask), 0.9 * gspo_weight(logp, old, a, mask))

    assert said(loss) == "the gradient is 0.9 times the derivative of the value"


@pytest.mark.parametrize("like", [GSPO, LIKE, GSPO_TOKEN, DAPO], ids=str)
def test_nothing_is_said_of_our_own_losses(like: Any) -> None:
    assert said(like, like, Claim.EDGES) == ""


def test_nothing_is_said_of_a_right_loss_of_a_stranger() -> None:
    assert said(right, LIKE, Claim.EDGES) == ""
    assert said(gspo, LIKE, Claim.EDGES) == ""


@pytest.mark.slow
def test_a_second_mistake_is_not_hidden_by_an_overwritten_array() -> None:
    """What is overwritten explains the law about inputs alone."""

    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        found = 2.0 * gspo(logp, old, a, mask)
        old[...] = logp
        return found

    chosen = [law for law in laws.LAWS if law.chapter in {"paper", "other_inputs"}]
    causes = laws.check(loss, LIKE, examples=5, laws=chosen).causes
    assert [cause.sentence.split(":")[0] for cause in causes] == [
        "the loss is 2 times what the formula gives",
        "the loss overwrites its argument old_logp",
    ]
