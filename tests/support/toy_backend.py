"""A third backend, for a framework of thirty lines: reverse-mode differentiation of NumPy arrays (docs/new-backend.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import gspo_core
from gspo_core import Loss, Objective, PerToken
from gspo_core.layouts import Layout


class Var:
    """An array that remembers how it was computed: its inputs, each with the pull-back of a gradient to it."""

    def __init__(self, data: Any, inputs: tuple[tuple[Var, Callable[[Any], Any]], ...] = ()) -> None:
        self.data, self.inputs = np.asarray(data), inputs
        self.grad = np.zeros_like(self.data)

    def __matmul__(self, other: Var) -> Var:
        a, b = self, other
        return Var(a.data @ b.data, ((a, lambda g: g @ b.data.T), (b, lambda g: a.data.T @ g)))

    def log_softmax(self) -> Var:
        """Along the last axis."""
        shifted = self.data - self.data.max(-1, keepdims=True)
        logp = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        return Var(logp, ((self, lambda g: g - np.exp(logp) * g.sum(-1, keepdims=True)),))

    def take(self, index: np.ndarray) -> Var:
        """One entry of the last axis for every position."""
        chosen = np.eye(self.data.shape[-1])[index]
        return Var((self.data * chosen).sum(-1), ((self, lambda g: g[..., None] * chosen),))

    def backward(self, gradient: Any = 1.0) -> None:
        """Adds d(self)/dx · gradient to the grad of every x that self was computed from (a chain, so no sorting)."""
        self.grad = self.grad + gradient
        for source, pull_back in self.inputs:
            source.backward(pull_back(gradient))


def policy_loss(objective: Objective, logp: Var, old_logp: Any, advantage: Any, layout: Layout, **options: Any) -> Loss:
    """`gspo_core.policy_loss`, with a `value` that can be differentiated with respect to `logp`."""
    constants = [_data(x) for x in (old_logp, advantage)]
    loss = gspo_core.policy_loss(objective, logp.data, *constants, layout, **options)
    return loss._replace(value=Var(loss.value, ((logp, lambda g: g * loss.logp_grad),)))


def _data(x: Any) -> Any:
    if isinstance(x, PerToken):
        return PerToken(_data(x.values))
    return x.data if isinstance(x, Var) else x
