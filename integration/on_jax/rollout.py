"""Sampled responses for JAX training. Arrays stay on the host, in NumPy, between compiled calls.

Shapes come in buckets, so that little is compiled: rows and columns are filled up to the next power of two, from 8 on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from integration.on_jax.learner import Learner
from integration.on_jax.mesh import Placement
from integration.options.errors import TrainingFailure
from integration.tasks.prompts import Prompter, left_pad
from integration.tasks.task import Example

Array = Any
LEAST = 8
EVALUATION = 2**32 - 1
"""The step whose random keys are the evaluations'."""


def bucket(count: int, parts: int = 1) -> int:
    """The size to fill up to, which so many devices can share equally.

    >>> [bucket(n) for n in (1, 8, 9, 32, 33)], bucket(1, parts=3)
    ([8, 8, 16, 32, 64], 9)
    """
    size = max(LEAST, 1 << (count - 1).bit_length())
    return -(-size // parts) * parts


def random_keys(seed: int, step: int) -> Iterator[Array]:
    """A rollout's random keys: a pure function of seed and step, so that a checkpoint need not hold any."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    while True:
        key, use = jax.random.split(key)
        yield use


@dataclass(frozen=True)
class Responses:
    """N sampled responses, in the order of their prompts. P prompt columns (left-padded), T response columns."""

    prompt_ids: Array
    """[N, P] token ids."""
    prompt_mask: Array
    """[N, P] boolean, True on prompt tokens."""
    tokens: Array
    """[N, T] token ids."""
    mask: Array
    """[N, T] boolean, True on the response's own tokens, its ending token included."""
    logp: Array | None = None
    """[N, T] the sampler's own log-probs at its temperature, where it wrote them down; arbitrary in masked slots."""

    def rows(self, index: Array, parts: int = 1) -> Responses:
        """The chosen rows, without columns that are padding in all of them, filled up to a bucket that `parts` devices share.

        What is new is masked.
        """
        prompt_mask, mask = self.prompt_mask[index], self.mask[index]
        width, length = (bucket(max(1, int(m.any(0).sum()))) for m in (prompt_mask, mask))
        size = bucket(len(index), parts)
        prompt_ids, prompt_mask = (resized(x[index], (size, -width)) for x in (self.prompt_ids, self.prompt_mask))
        tokens, mask = (resized(x[index], (size, length)) for x in (self.tokens, self.mask))
        logp = None if self.logp is None else resized(self.logp[index], (size, length))
        return Responses(prompt_ids, prompt_mask, tokens, mask, logp)


def resized(x: Array, shape: tuple[int, ...]) -> Array:
    """Cut or filled up with zeros to that shape; a negative size keeps the end of its axis, not the beginning.

    >>> resized(np.array([[1, 2, 3]]), (2, -2)).tolist(), resized(np.array([1]), (-3,)).tolist()
    ([[2, 3], [0, 0]], [0, 0, 1])
    """
    x = x[tuple(slice(None, n) if n > 0 else slice(n, None) for n in shape)]
    missing = [abs(n) - have for n, have in zip(shape, x.shape, strict=True)]
    return np.pad(x, [(0, m) if n > 0 else (m, 0) for n, m in zip(shape, missing, strict=True)])


@dataclass(frozen=True)
class Sampler:
    """Draws responses at a temperature, with a cache of keys and values. A prompt is read once for all its responses."""

    learner: Learner
    prompter: Prompter
    max_new_tokens: int
    temperature: float

    def draw(self, examples: list[Example], count: int, keys: Iterator[Array] | None) -> Responses:
        """`count` responses to each example, [len(examples) · count] in all; greedy if there are no keys."""
        pad_id = self.prompter.tokenizer.pad_token_id
        ids, there = left_pad([self.prompter.encode(e) for e in examples], pad_id)
        place = self.learner.place
        size, width = bucket(len(ids), place.data), bucket(ids.shape[1])
        ids, there = resized(ids, (size, -width)).astype(np.int32), resized(there, (size, -width)) > 0
        key = None if keys is None else next(keys)
        stops = np.array(self.prompter.stop_ids())
        drawn = generate(
            self.learner.graph, place, (count, self.max_new_tokens), self.learner.params, *place.rows((ids, there)), stops,
            self.temperature, key,
        )  # fmt: skip
        tokens, mask, logp, finite = (np.asarray(x)[: len(examples) * count] for x in drawn)
        if not finite.all():
            raise TrainingFailure("the model's logits are not finite any more")
        ids, there = (np.repeat(x[: len(examples)], count, axis=0) for x in (ids, there))
        return Responses(ids, there, np.where(mask, tokens, pad_id), mask, logp)

    def texts(self, responses: Responses) -> list[str]:
        """Text of the responses."""
        return self.prompter.decode(responses.tokens, responses.mask)

    def ended(self, responses: Responses) -> float:
        """The share of responses that ended by themselves."""
        last = np.take_along_axis(responses.tokens, responses.mask.sum(-1, keepdims=True) - 1, axis=1)
        return float(np.isin(last, self.prompter.stop_ids()).mean())

    def chooser(self, seed: int) -> Iterator[Array]:
        """Random keys for `draw`, other ones than any rollout's."""
        return random_keys(seed, EVALUATION)


@partial(jax.jit, static_argnums=(0, 1, 2))
def generate(
    graph: Any,
    place: Placement,
    sizes: tuple[int, int],
    params: Any,
    prompt_ids: Array,
    prompt_mask: Array,
    stops: Array,
    temperature: Array,
    key: Array | None,
) -> tuple[Array, Array, Array, Array]:
    """(tokens, mask, log-probs [N, T], [N] whether all logits were finite) for `sizes` = (responses to each prompt, T)."""
    count, width = sizes
    model, start = nnx.merge(graph, params), prompt_ids.shape[1]
    seen = jnp.pad(prompt_mask, ((0, 0), (0, width)))
    cache = place.cache(model.empty_cache(len(prompt_ids), start + width))
    hidden, cache = model.decode(prompt_ids, seen, cache, jnp.asarray(0))
    hidden, cache, seen = jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), (hidden[:, -1], cache, seen))
    hidden, cache, seen = place.rows(hidden), place.cache(cache), place.rows(seen)
    empty = place.rows(jnp.zeros((len(hidden), width), dtype=jnp.int32))
    growing = seen.any(axis=1)  # rows without a prompt only fill the bucket

    def unfinished(state: Any) -> Array:
        column, growing = state[0], state[1]
        return (column < width) & growing.any()

    def step(state: Any) -> Any:
        column, growing, finite, hidden, cache, seen, tokens, mask, logp = state
        logits = hidden @ model.lm_head.T
        finite &= jnp.isfinite(logits).all(axis=1) | ~growing
        if key is None:
            token = jnp.argmax(logits, axis=1)
        else:
            token = jax.random.categorical(jax.random.fold_in(key, column), logits / temperature)
        of_token = jnp.take_along_axis(jax.nn.log_softmax(logits / temperature), token[:, None], axis=1)[:, 0]
        tokens, mask = tokens.at[:, column].set(token.astype(jnp.int32)), mask.at[:, column].set(growing)
        logp = logp.at[:, column].set(of_token)
        seen = seen.at[:, start + column].set(growing)
        growing &= ~jnp.isin(token, stops)
        hidden, cache = model.decode(token[:, None], seen, cache, start + column)
        return column + 1, growing, finite, hidden[:, 0], cache, seen, tokens, mask, logp

    nothing = empty.astype(hidden.dtype)
    state = (jnp.asarray(0), growing, jnp.ones_like(growing), hidden, cache, seen, empty, empty > 0, nothing)
    _, _, finite, *_, tokens, mask, logp = jax.lax.while_loop(unfinished, step, state)
    return tokens, mask, logp, finite
