"""A policy's weights and their optimizer, in JAX: log-probs, gradients, AdamW steps.

The log-probs are pulled out of the model by `jax.vjp`, in one compiled call that serves old and current ones alike: with
equal weights they are equal bit for bit, and log s is exactly 0. (A forward pass compiled alone rounds otherwise than one
compiled with its backward.)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from gspo_jax import token_logp

from gspo_core import Padded
from integration.on_jax.qwen3 import Qwen3

Array = Any


class Learner:
    """A model in training. `params` and `optimizer_state` are replaced, never written into."""

    def __init__(self, model: Qwen3, *, lr: float, lr_warm_up: int, max_grad_norm: float, temperature: float) -> None:
        self.graph, self.params = nnx.split(model, nnx.Param)
        self.temperature = temperature

        def rate(count: Array) -> Array:
            return lr * jnp.minimum(1.0, (count + 1) / max(1, lr_warm_up))

        # The numbers of torch.optim.AdamW in train_torch.py.
        adamw = optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0)
        self.optimizer = optax.chain(optax.clip_by_global_norm(max_grad_norm), adamw)
        self.optimizer_state = self.optimizer.init(self.params)

    def log_probs(self, responses: Any) -> tuple[Array, Any]:
        """([N, T] log π(token) at the sampling temperature, 0 in masked slots; what pulls their gradient back to weights)."""
        r = responses
        pair: tuple[Array, Any] = _log_probs(
            self.graph, self.temperature, self.params, r.prompt_ids, r.prompt_mask, r.tokens, r.mask
        )
        return pair

    def zeros(self) -> Any:
        """A gradient of zeros."""
        return jax.tree.map(jnp.zeros_like, self.params)

    def add(self, gradients: Any, pull_back: Any, logp_grad: Array) -> Any:
        """`gradients` and those of a micro-batch whose loss has the gradient `logp_grad` [N, T] by its log-probs."""
        return _add(gradients, pull_back, logp_grad)

    def step(self, gradients: Any) -> None:
        """One optimizer step."""
        self.params, self.optimizer_state = _step(self.optimizer, self.params, self.optimizer_state, gradients)


@partial(jax.jit, static_argnums=(0, 1))
def _log_probs(
    graph: Any, temperature: float, params: Any, prompt_ids: Array, prompt_mask: Array, tokens: Array, mask: Array
) -> tuple[Array, Any]:
    ids = jnp.concatenate([prompt_ids, tokens], axis=1)
    attention = jnp.concatenate([prompt_mask, mask], axis=1)

    def log_probs(params: Any) -> Array:
        model = nnx.merge(graph, params)
        predicting = model(ids, attention)[:, prompt_ids.shape[1] - 1 : -1]
        return token_logp(predicting, model.lm_head, tokens, layout=Padded(mask), temperature=temperature)

    return jax.vjp(log_probs, params)


@jax.jit
def _add(gradients: Any, pull_back: Any, logp_grad: Array) -> Any:
    return jax.tree.map(jnp.add, gradients, pull_back(logp_grad)[0])


@partial(jax.jit, static_argnums=0)
def _step(optimizer: optax.GradientTransformation, params: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state
