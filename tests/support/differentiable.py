"""Random torch batches for the transform tests, one per preset, away from kinks and with live and clipped units."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import gspo_torch
import pytest
import torch
from support.oracles import paper_in_torch
from torch import Tensor

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Objective, Padded

LOW, HIGH = 0.2, 0.27
OBJECTIVES = {
    name: preset.with_clip(LOW, HIGH) for name, preset in {"GSPO": GSPO, "GSPO_TOKEN": GSPO_TOKEN, "GRPO": GRPO}.items()
}
by_preset = pytest.mark.parametrize("name", OBJECTIVES)


class Inputs(NamedTuple):
    """Float64 tensors; masked slots hold zeros so that the formula in `paper_in_torch` is finite."""

    logp: Tensor
    old: Tensor
    advantage: Tensor
    mask: Tensor


def inputs(seed: int = 0, num: int = 6, width: int = 5, per_token: bool = False) -> Inputs:
    """Ragged with a hole and an empty row."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    mask = torch.rand((num, width), generator=generator) < 0.8
    mask[0, :] = True
    mask[1, 1] = False
    mask[num - 1] = False
    drift = 0.5 * normal(num, 1)
    old = torch.where(mask, -normal(num, width).abs() - 0.1, 0.0)
    logp = torch.where(mask, old + drift + 0.3 * normal(num, width), 0.0)
    return Inputs(logp, old, normal(num, width) if per_token else normal(num), mask)


def loss_fn(name: str, batch: Inputs, **options: object) -> Callable[[Tensor], Tensor]:
    """logp ↦ value through gspo_torch."""
    objective: Objective = OBJECTIVES[name]

    def value(logp: Tensor) -> Tensor:
        return gspo_torch.policy_loss(objective, logp, batch.old, batch.advantage, Padded(batch.mask), **options).value

    return value


def formula_fn(name: str, batch: Inputs) -> Callable[[Tensor], Tensor]:
    """logp ↦ value through the paper's formula and autograd."""

    def value(logp: Tensor) -> Tensor:
        return paper_in_torch.FORMULAS[name](logp, batch.old, batch.advantage, batch.mask, LOW, HIGH)

    return value


def assert_close(actual: Tensor, expected: Tensor, what: str = "") -> None:
    """Float64, 1e-12 of the largest entry: tens of terms, each good to a few units of 2e-16."""
    assert actual.shape == expected.shape, what
    assert torch.isfinite(actual).all(), what
    error, scale = (actual - expected).abs().max(), expected.abs().max()
    assert error <= 1e-12 * max(scale.item(), 1e-300), f"{what}: error {error} at scale {scale}"
