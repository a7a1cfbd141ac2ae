"""Qwen3 in flax nnx, compact: reads a folder that transformers saved, and computes what transformers computes.

google-tunix has a Qwen3 in nnx; it needs an environment of its own (1.6 GB, safetensors below 0.8), so this one is ours.
Shapes: N sequences, S tokens read, L slots that can be attended to (S, or the cache's), H hidden, V vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.flax import load_file

from integration.options.errors import UserError

Array = Any
Cache = tuple[tuple[Array, Array], ...]
"""Keys and values [N, L, kv heads, head width] of every layer."""


class Shape(NamedTuple):
    """The fields of a config.json that change the function."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    rope_theta: float

    @staticmethod
    def read(config: dict[str, Any]) -> Shape:
        """UserError if the config is of another architecture, or asks for something that is not here."""
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        plain = {
            "model_type": (config.get("model_type"), "qwen3"),
            "hidden_act": (config.get("hidden_act", "silu"), "silu"),
            "attention_bias": (config.get("attention_bias", False), False),
            "use_sliding_window": (config.get("use_sliding_window", False), False),
            "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),  # `type` is the old spelling
            "partial_rotary_factor": (rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)), 1.0),
            "layer_types": (sorted(set(config.get("layer_types") or ["full_attention"])), ["full_attention"]),
        }
        for name, (found, expected) in plain.items():
            if found != expected:
                raise UserError(f"--model: the JAX script has a plain Qwen3 only: expected {name} {expected}, got {found}")
        values = {**config, "rope_theta": rope.get("rope_theta", config.get("rope_theta"))}
        return Shape(**{name: values[name] for name in Shape._fields})


class Attention(nnx.Module):
    """Grouped-query attention with normalised queries and keys, and rotary positions."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        heads, groups, width = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        self.width = width
        self.q_proj = _linear(shape.hidden_size, heads * width, rngs)
        self.k_proj = _linear(shape.hidden_size, groups * width, rngs)
        self.v_proj = _linear(shape.hidden_size, groups * width, rngs)
        self.o_proj = _linear(heads * width, shape.hidden_size, rngs)
        self.q_norm = nnx.RMSNorm(width, epsilon=shape.rms_norm_eps, rngs=rngs)
        self.k_norm = nnx.RMSNorm(width, epsilon=shape.rms_norm_eps, rngs=rngs)

    def __call__(self, x: Array, angles: Array, mask: Array, past: Any, start: Array) -> tuple[Array, Any]:
        """([N, S, H], keys and values): with a `past`, this call's are written into it from slot `start` on."""
        q, k, v = (p(x).reshape(*x.shape[:2], -1, self.width) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(self.q_norm(q), angles), rotate(self.k_norm(k), angles)
        if past is not None:
            k, v = (jax.lax.dynamic_update_slice_in_dim(old, new, start, 1) for old, new in zip(past, (k, v), strict=True))
        out = jax.nn.dot_product_attention(q, k, v, mask=mask)
        return self.o_proj(out.reshape(*x.shape[:2], -1)), (k, v)


class MLP(nnx.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        self.gate_proj = _linear(shape.hidden_size, shape.intermediate_size, rngs)
        self.up_proj = _linear(shape.hidden_size, shape.intermediate_size, rngs)
        self.down_proj = _linear(shape.intermediate_size, shape.hidden_size, rngs)

    def __call__(self, x: Array) -> Array:
        """[N, S, H]."""
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nnx.Module):
    """Attention and MLP, each behind its norm and beside its residual."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        self.input_layernorm = nnx.RMSNorm(shape.hidden_size, epsilon=shape.rms_norm_eps, rngs=rngs)
        self.self_attn = Attention(shape, rngs)
        self.post_attention_layernorm = nnx.RMSNorm(shape.hidden_size, epsilon=shape.rms_norm_eps, rngs=rngs)
        self.mlp = MLP(shape, rngs)

    def __call__(self, x: Array, angles: Array, mask: Array, past: Any, start: Array) -> tuple[Array, Any]:
        """([N, S, H], this layer's keys and values)."""
        attended, past = self.self_attn(self.input_layernorm(x), angles, mask, past, start)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), past


class Body(nnx.Module):
    """Everything but the LM head; named as in transformers."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        self.embed_tokens = nnx.Embed(shape.vocab_size, shape.hidden_size, rngs=rngs)
        self.layers = nnx.List([Layer(shape, rngs) for _ in range(shape.num_hidden_layers)])
        self.norm = nnx.RMSNorm(shape.hidden_size, epsilon=shape.rms_norm_eps, rngs=rngs)


class Qwen3(nnx.Module):
    """A causal language model; `load_qwen3` makes one."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        self.shape = shape
        self.model = Body(shape, rngs)
        if not shape.tie_word_embeddings:
            self.head = _linear(shape.hidden_size, shape.vocab_size, rngs)

    @property
    def lm_head(self) -> Array:
        """[V, H] the output embedding."""
        return self.model.embed_tokens.embedding[...] if self.shape.tie_word_embeddings else self.head.kernel[...].T

    def __call__(self, ids: Array, attention: Array) -> Array:
        """[N, S, H] last hidden states of ids [N, S]; attention [N, S] is True on tokens, padding may stand on either side."""
        return self._read(ids, attention, (None,) * len(self.model.layers), jnp.asarray(0))[0]

    def decode(self, ids: Array, attention: Array, cache: Cache, start: Array) -> tuple[Array, Cache]:
        """The same for tokens in slots start … start + S of a cache; attention [N, L] is True on all tokens up to there."""
        return self._read(ids, attention, cache, start)

    def empty_cache(self, sequences: int, slots: int) -> Cache:
        """A cache of L slots."""
        zeros = jnp.zeros((sequences, slots, self.shape.num_key_value_heads, self.shape.head_dim), dtype=self.lm_head.dtype)
        return ((zeros, zeros),) * self.shape.num_hidden_layers

    def _read(self, ids: Array, attention: Array, cache: tuple[Any, ...], start: Array) -> tuple[Array, Cache]:
        place = start + jnp.arange(ids.shape[1])
        mask = attention[:, None, None, :] & (jnp.arange(attention.shape[1])[None] <= place[:, None])[None, None]
        positions = jnp.maximum(jnp.cumsum(attention, axis=1) - 1, 0)  # counted from the first token
        positions = jax.lax.dynamic_slice_in_dim(positions, start, ids.shape[1], 1)
        half = self.shape.head_dim // 2
        frequency = 1.0 / self.shape.rope_theta ** (jnp.arange(half, dtype=jnp.float32)[None, None, None] / half)
        angles = positions[:, :, None, None].astype(jnp.float32) * frequency
        x, written = self.model.embed_tokens(ids), []
        for layer, past in zip(self.model.layers, cache, strict=True):
            x, grown = layer(x, angles, mask, past, start)
            written.append(grown)
        return self.model.norm(x), tuple(written)


def rotate(x: Array, angles: Array) -> Array:
    """[N, S, heads, D]: entries i and i + D/2 turned by the angles [N, S, 1, D/2]."""
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs)


def load_qwen3(folder: str | Path) -> Qwen3:
    """The model of a transformers checkpoint folder, in float32. UserError if it is none, or of another architecture."""
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found: dict[str, Array] = {}
        for file in sorted(folder.glob("*.safetensors")):
            found |= load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"--model: {folder} does not hold a transformers checkpoint: {error}") from error
    model = nnx.eval_shape(lambda: Qwen3(Shape.read(config), nnx.Rngs(0)))
    params = nnx.state(model, nnx.Param)
    for path, slot in nnx.to_flat_state(params):
        name = _name(path)
        weight = found.get(name)
        if weight is None or weight.shape != (slot.shape[::-1] if path[-1] == "kernel" else slot.shape):
            raise UserError(f"--model: the weights of {folder} are of another model: {name} missing or misshapen")
        slot.set_value((weight.T if path[-1] == "kernel" else weight).astype(jnp.float32))
    nnx.update(model, params)
    return model


def named_weights(params: nnx.State[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Weights, or their gradients, with transformers' names and orientation."""
    flat = nnx.to_flat_state(params)
    return {_name(path): np.asarray(x[...].T if path[-1] == "kernel" else x[...]) for path, x in flat}


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(["lm_head" if part == "head" else str(part) for part in path[:-1]] + ["weight"])
