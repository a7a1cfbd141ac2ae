"""Llama, Mistral, Qwen2, Qwen3 and Qwen3-MoE in flax nnx: one decoder that computes what transformers computes.

No other implementation fits: google-tunix 0.1.7 has Llama, Qwen2 and Qwen3 in nnx, without scaled rotary positions, sliding
windows or a reader of config.json, and needs safetensors below 0.8; EasyDeL 0.3 pins flax 0.12.3 and transformers 5.5.
Shapes: N sequences, S tokens read, L slots that can be attended to (S, or the cache's), H hidden, V vocabulary, D of a head.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from integration.on_jax.experts import Mixture
from integration.on_jax.shape import ACTIVATIONS, Shape

Array = Any
Cache = tuple[tuple[Array, Array], ...]
"""Keys and values [N, L, kv heads, D] of every layer."""


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions, and perhaps normalised queries and keys."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        heads, groups, width = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        self.width, self.scale, self.normalises = width, shape.rotary_scale, shape.qk_norm
        self.q_proj = linear(shape.hidden_size, heads * width, shape.qkv_bias, rngs)
        self.k_proj = linear(shape.hidden_size, groups * width, shape.qkv_bias, rngs)
        self.v_proj = linear(shape.hidden_size, groups * width, shape.qkv_bias, rngs)
        self.o_proj = linear(heads * width, shape.hidden_size, shape.out_bias, rngs)
        if shape.qk_norm:
            self.q_norm = nnx.RMSNorm(width, epsilon=shape.rms_norm_eps, rngs=rngs)
            self.k_norm = nnx.RMSNorm(width, epsilon=shape.rms_norm_eps, rngs=rngs)

    def __call__(self, x: Array, angles: Array, mask: Array, past: Any, start: Array) -> tuple[Array, Any]:
        """([N, S, H], keys and values): with a `past`, this call's are written into it from slot `start` on."""
        q, k, v = (p(x).reshape(*x.shape[:2], -1, self.width) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.normalises:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, angles, self.scale), rotate(k, angles, self.scale)
        if past is not None:
            k, v = (jax.lax.dynamic_update_slice_in_dim(old, new, start, 1) for old, new in zip(past, (k, v), strict=True))
        out = attend(q, k, v, mask)
        return self.o_proj(out.reshape(*x.shape[:2], -1)), (k, v)


class MLP(nnx.Module):
    """SwiGLU, or the same with another activation."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        self.activation = shape.hidden_act
        self.gate_proj = linear(shape.hidden_size, shape.intermediate_size, shape.mlp_bias, rngs)
        self.up_proj = linear(shape.hidden_size, shape.intermediate_size, shape.mlp_bias, rngs)
        self.down_proj = linear(shape.intermediate_size, shape.hidden_size, shape.mlp_bias, rngs)

    def __call__(self, x: Array) -> Array:
        """[N, S, H]."""
        return self.down_proj(ACTIVATIONS[self.activation](self.gate_proj(x)) * self.up_proj(x))


class Layer(nnx.Module):
    """Attention and MLP or mixture, each behind its norm and beside its residual."""

    def __init__(self, shape: Shape, index: int, rngs: nnx.Rngs) -> None:
        self.window = shape.windows[index]
        self.input_layernorm = nnx.RMSNorm(shape.hidden_size, epsilon=shape.rms_norm_eps, rngs=rngs)
        self.self_attn = Attention(shape, rngs)
        self.post_attention_layernorm = nnx.RMSNorm(shape.hidden_size, epsilon=shape.rms_norm_eps, rngs=rngs)
        self.mlp: Any = Mixture(shape, rngs) if shape.experts and shape.sparse[index] else MLP(shape, rngs)

    def __call__(self, x: Array, angles: Array, mask: Array, past: Any, start: Array) -> tuple[Array, Any]:
        """([N, S, H], this layer's keys and values)."""
        attended, past = self.self_attn(self.input_layernorm(x), angles, mask, past, start)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), past


class Body(nnx.Module):
    """Everything but the LM head; named as in transformers."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        self.embed_tokens = nnx.Embed(shape.vocab_size, shape.hidden_size, rngs=rngs)
        self.layers = nnx.List([Layer(shape, index, rngs) for index in range(shape.num_hidden_layers)])
        self.norm = nnx.RMSNorm(shape.hidden_size, epsilon=shape.rms_norm_eps, rngs=rngs)


class Decoder(nnx.Module):
    """A causal language model; `load_decoder` makes one."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        self.shape = shape
        self.model = Body(shape, rngs)
        if not shape.tie_word_embeddings:
            self.head = linear(shape.hidden_size, shape.vocab_size, False, rngs)

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
        slots, place = jnp.arange(attention.shape[1])[None], (start + jnp.arange(ids.shape[1]))[:, None]
        causal = attention[:, None, None, :] & (slots <= place)[None, None]
        positions = jnp.maximum(jnp.cumsum(attention, axis=1) - 1, 0)  # counted from the first token
        positions = jax.lax.dynamic_slice_in_dim(positions, start, ids.shape[1], 1)
        frequencies = jnp.asarray(self.shape.frequencies, dtype=jnp.float32)[None, None, None]
        angles = positions[:, :, None, None].astype(jnp.float32) * frequencies
        x, written = jnp.take(self.model.embed_tokens.embedding[...], ids, axis=0), []  # in the weights' own dtype
        for layer, past in zip(self.model.layers, cache, strict=True):
            mask = causal if layer.window is None else causal & (place - slots < layer.window)[None, None]
            x, grown = layer(x, angles, mask, past, start)
            written.append(grown)
        return self.model.norm(x), tuple(written)


def attend(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """[N, S, heads, D] of queries and of keys and values [N, L, kv heads, D]; mask [N, 1, S, L]."""
    if q.dtype != jnp.float64:
        return jax.nn.dot_product_attention(q, k, v, mask=mask)
    # That function takes every softmax in float32, and with it the exact comparisons that float64 is here for.
    q = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1])
    z = jnp.einsum("nsgrd,nlgd->ngrsl", q, k) * q.shape[-1] ** -0.5
    p = jax.nn.softmax(jnp.where(mask[:, :, None], z, jnp.finfo(jnp.float32).min), axis=-1)
    return jnp.einsum("ngrsl,nlgd->nsgrd", p, v).reshape(*q.shape[:2], -1, q.shape[-1])


def rotate(x: Array, angles: Array, scale: float = 1.0) -> Array:
    """[N, S, heads, D]: entries i and i + D/2 turned by the angles [N, S, 1, D/2], and scaled."""
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = (scale * jnp.cos(angles)).astype(x.dtype), (scale * jnp.sin(angles)).astype(x.dtype)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def linear(inputs: int, outputs: int, bias: bool, rngs: nnx.Rngs) -> nnx.Linear:
    """x W + b."""
    return nnx.Linear(inputs, outputs, use_bias=bias, rngs=rngs)
