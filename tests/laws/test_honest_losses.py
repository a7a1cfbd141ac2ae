"""Correct losses as strangers write them, in three libraries: none is called wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import pytest
import torch
from support.honest import in_jax, in_numpy, in_torch
from torch import Tensor

from gspo_core import Objective, laws
from gspo_core.objectives import CISPO

FRAMEWORKS: list[tuple[Any, list[tuple[Any, Objective]]]] = [
    (laws.NUMPY, in_numpy.LOSSES),
    (laws.TORCH, in_torch.LOSSES),
    (laws.JAX, in_jax.LOSSES),
]
ALL = [
    pytest.param(loss, like, framework, id=f"{framework.name}-{getattr(loss, '__name__', type(loss).__name__)}-{number}")
    for framework, losses in FRAMEWORKS
    for number, (loss, like) in enumerate(losses)
]


CHAPTERS = {"paper", "masks", "other_inputs"}
"""What a JAX loss is asked: the other laws take many shapes, each of which is compiled."""


@pytest.fixture(autouse=True)
def _jax_as_it_comes() -> Iterator[None]:
    """Strangers write for JAX's default type promotion, which the test suite makes strict elsewhere."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "like", "framework"), ALL)
def test_a_correct_loss_is_not_called_wrong(loss: Any, like: Objective, framework: Any) -> None:
    chosen = [law for law in laws.LAWS if framework is not laws.JAX or law.chapter in CHAPTERS]
    report = laws.check(loss, like, framework=framework, examples=1, laws=chosen)
    assert report.ok, str(report)
    assert len(report.kept) > len(chosen) // 4


def test_there_are_sixty_of_them() -> None:
    assert len(ALL) >= 60


def test_a_printed_value_excuses_no_other_gradient() -> None:
    """sg[min(w, 3)] A log π is not sg[min(w, 5)] A log π, although neither value is judged."""

    def printed(cap: float) -> Any:
        def loss(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
            weight = torch.where(mask, logp - old_logp, 0.0).exp().clamp(max=cap).detach()
            return -(weight * advantage[:, None] * torch.where(mask, logp, 0.0)).sum() / mask.sum().clamp(min=1)

        return loss

    gradient = [law for law in laws.LAWS if law.name == "the gradient is the paper's"]
    reports = {cap: laws.check(printed(cap), CISPO, framework=laws.TORCH, laws=gradient, examples=5) for cap in (5.0, 3.0)}
    assert [reports[cap].ok for cap in (5.0, 3.0)] == [True, False]
