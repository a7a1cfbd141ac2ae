"""Heads, hidden states and tokens of the sizes at which the tiles of the Triton kernels begin and end."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from gspo_torch.lm_head.head import Head
from torch import Tensor

SHAPES = ((1, 8, 1), (5, 16, 37), (16, 8, 32), (17, 24, 33), (20, 40, 131))
"""Rows, H, V: tiles are 16 × 32 × 16 here, so there is less than one, exactly one, and a little more of each."""


def head_of(rows: int, width: int, vocabulary: int, dtype: torch.dtype, **options: Any) -> tuple[Head, Tensor, Tensor]:
    """(head, hidden states, tokens), logits of order 4."""
    generator = torch.Generator().manual_seed(rows + vocabulary)
    states = torch.randn(rows, width, generator=generator).to(dtype)
    weight = (torch.randn(vocabulary, width, generator=generator) * 4 / width**0.5).to(dtype)
    bias = torch.randn(vocabulary, generator=generator).to(dtype) if options.pop("bias", False) else None
    return Head(weight, bias, **options), states, torch.randint(0, vocabulary, (rows,), generator=generator)


def variants() -> list[tuple[tuple[int, int, int], dict[str, Any]]]:
    """Shapes, each with four of the eight combinations of bias, soft cap and temperature: every pair of options occurs."""
    axes = product(enumerate(SHAPES), (False, True), (None, 3.0), (1.0, 0.6))
    chosen = [x for x in axes if (x[0][0] + x[1] + (x[2] is None) + (x[3] == 1.0)) % 2 == 0]
    return [(shape, {"bias": bias, "soft_cap": cap, "temperature": t}) for (_, shape), bias, cap, t in chosen]


def logits64(head: Head, states: Tensor) -> Tensor:
    """[n, V] in float64."""
    z = states.double() @ head.weight.double().T + (0.0 if head.bias is None else head.bias.double())
    return (z if head.soft_cap is None else head.soft_cap * torch.tanh(z / head.soft_cap)) / head.temperature
