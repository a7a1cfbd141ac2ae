"""What a pass over the vocabulary is asked for, what it finds for each token, and the weights of its gradient."""

from __future__ import annotations

from typing import NamedTuple

from .head import Array


class Weights(NamedTuple):
    """The gradient of a token's logits is c (1[v = token] − p_v) − e p_v (z_v − mean)."""

    c: Array
    """[T] ∂value/∂logp."""
    lse: Array
    """[T] log Σ_v exp z_v over the whole vocabulary."""
    e: Array | None
    """[T] ∂value/∂entropy; None: 0."""
    mean: Array | None
    """[T] Σ_v p_v z_v = lse − entropy; None if e is."""

    @property
    def live(self) -> Array:
        """[T] boolean: the token has a gradient."""
        return self.c != 0 if self.e is None else (self.c != 0) | (self.e != 0)


class Wanted(NamedTuple):
    """What is computed beside the log-probs; static under jit."""

    entropy: bool = False
    moving: bool = False
    """Whether the entropies are differentiable."""
    squares: bool = False
    """Σ_v π_v²."""


class Found(NamedTuple):
    """Per token, [T]."""

    logp: Array
    entropy: Array | None
    squares: Array | None
    """Σ_v π_v², a constant."""


class Kept(NamedTuple):
    """Per token, [T]: what backward needs."""

    lse: Array
    mean: Array | None
    """Σ_v p_v z_v = lse − entropy."""
