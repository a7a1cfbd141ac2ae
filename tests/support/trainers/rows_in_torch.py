"""Rows of responses in PyTorch, float64, as trainers pass them: padded, with advantages of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

LENGTHS = (6, 3, 1, 0, 5, 2)
CUTS = {"whole": ((0, 1, 2, 3, 4, 5),), "three": ((0, 1), (2, 3), (4, 5)), "uneven": ((0,), (3,), (1, 2, 4, 5))}
"""Micro-batches, one of them with nothing but an empty row."""


class Rows(NamedTuple):
    """Masked slots hold numbers that must not matter."""

    logp: Tensor
    old: Tensor
    sampler: Tensor
    advantages: Tensor
    """[N, T]"""
    mask: Tensor

    def part(self, rows: tuple[int, ...]) -> Rows:
        """Some of the rows."""
        return Rows(*(x[list(rows)] for x in self))


def rows(seed: int, lengths: tuple[int, ...] = LENGTHS, spread: float = 0.3, sampler: float = 0.3) -> Rows:
    """Random; the same advantage at all tokens of a response."""
    rng, width = np.random.default_rng(seed), max(lengths)
    mask = np.arange(width) < np.array(lengths)[:, None]
    old = np.where(mask, -rng.gamma(2.0, 0.5, mask.shape), -7.0)
    logp = np.where(mask, old + spread * rng.normal(size=mask.shape), -9.0)
    engine = np.where(mask, old + sampler * rng.normal(size=mask.shape), -3.0)
    advantages = np.broadcast_to(rng.normal(size=(len(lengths), 1)), mask.shape).copy()
    return Rows(*(torch.from_numpy(x) for x in (logp, old, engine, advantages, mask)))


def graded(loss: Callable[[Rows], Tensor], batch: Rows) -> tuple[float, Any]:
    """(value, gradient with respect to the log-probs)."""
    logp = batch.logp.clone().requires_grad_()
    value = loss(batch._replace(logp=logp))
    (gradient,) = torch.autograd.grad(value, logp)
    return float(value.detach()), gradient.numpy()


def in_parts(cut: str, batch: Rows) -> Iterator[Rows]:
    """The micro-batches of a cut."""
    return (batch.part(chosen) for chosen in CUTS[cut])


def summed(loss: Callable[[Rows], Tensor], cut: str, batch: Rows, ranks: int = 1) -> tuple[float, Any]:
    """Value and gradient of all micro-batches, as trainers take them that average gradients over ranks and add up the rest."""
    found = [graded(loss, part) for part in in_parts(cut, batch)]
    gradient = np.zeros(batch.mask.shape)
    for chosen, (_, part) in zip(CUTS[cut], found, strict=True):
        gradient[list(chosen)] = part / ranks
    return sum(value for value, _ in found) / ranks, gradient


def same(one: tuple[float, Any], other: tuple[float, Any], within: float = 1e-9) -> bool:
    """Whether two losses have the same value and gradient."""
    return abs(one[0] - other[0]) <= within and bool(np.abs(one[1] - other[1]).max() <= within)
