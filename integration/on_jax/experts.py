"""The mixture of experts of a Qwen3-MoE. Every expert runs on every token, which is E / K times the work and small code."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from integration.on_jax.shape import ACTIVATIONS, Shape

Array = Any


class Experts(nnx.Module):
    """E feed-forward blocks in three stacks of weights [E, inputs, outputs]."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        assert shape.experts is not None
        count, width, hidden = shape.experts.number, shape.experts.width, shape.hidden_size
        self.activation = shape.hidden_act
        self.gate_proj = nnx.Param(jax.random.normal(rngs.params(), (count, hidden, width)))
        self.up_proj = nnx.Param(jax.random.normal(rngs.params(), (count, hidden, width)))
        self.down_proj = nnx.Param(jax.random.normal(rngs.params(), (count, width, hidden)))

    def __call__(self, x: Array, gates: Array) -> Array:
        """[N, S, H] the sum over experts of their outputs times gates [N, S, E]."""
        inner = ACTIVATIONS[self.activation](jnp.einsum("nsh,ehw->nsew", x, self.gate_proj[...]))
        inner = inner * jnp.einsum("nsh,ehw->nsew", x, self.up_proj[...]) * gates[..., None]
        return jnp.einsum("nsew,ewh->nsh", inner, self.down_proj[...])


class Mixture(nnx.Module):
    """A router and its experts; named as in transformers."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        assert shape.experts is not None
        self.top_k, self.normalise = shape.experts.top_k, shape.experts.normalise
        self.gate = nnx.Linear(shape.hidden_size, shape.experts.number, use_bias=False, rngs=rngs)
        self.experts = Experts(shape, rngs)

    def __call__(self, x: Array) -> Array:
        """[N, S, H]."""
        scores = jax.nn.softmax(self.gate(x).astype(jnp.float32), axis=-1)
        values, chosen = jax.lax.top_k(scores, self.top_k)
        if self.normalise:
            values = values / values.sum(-1, keepdims=True)
        gates = (values[..., None] * jax.nn.one_hot(chosen, scores.shape[-1])).sum(-2)
        return self.experts(x, gates.astype(x.dtype))
