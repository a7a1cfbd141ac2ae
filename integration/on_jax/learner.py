"""A policy's weights and their optimizer, in JAX: hidden states, gradients, AdamW steps.

Old log-probs and updates go through the same compiled calls, `hidden_states` here and the loss in loss.py: with equal
weights log-probs are equal bit for bit, and log s is exactly 0. (A forward pass compiled alone rounds otherwise than one
compiled with its backward.)
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from integration.on_jax.decoder import Decoder
from integration.on_jax.mesh import Placement

Array = Any
ONE_DEVICE = Placement()


class Predicting(NamedTuple):
    """The arguments of an LM head."""

    hidden: Array
    """[N, T, H] the final hidden states at the positions that predict the responses' tokens."""
    lm_head: Array
    """[V, H]"""


class Learner:
    """A model in training, on one device or a mesh. `params` and `optimizer_state` are replaced, never written into."""

    def __init__(
        self, model: Decoder, *, lr: float, lr_warm_up: int, max_grad_norm: float, place: Placement = ONE_DEVICE
    ) -> None:
        self.graph, params = nnx.split(model, nnx.Param)
        self.place, self.params = place, place.parameters(params)

        def rate(count: Array) -> Array:
            return lr * jnp.minimum(1.0, (count + 1) / max(1, lr_warm_up))

        # The numbers of torch.optim.AdamW in train_torch.py.
        adamw = optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0)
        self.optimizer = optax.chain(optax.clip_by_global_norm(max_grad_norm), adamw)
        self.optimizer_state = place.parameters(self.optimizer.init(self.params))

    def hidden_states(self, responses: Any) -> tuple[Predicting, Any]:
        """(what predicts the responses' tokens, the function that pulls its gradient back to the weights)."""
        return self.hidden_states_of(self.params, responses)

    def hidden_states_of(self, params: Any, responses: Any) -> tuple[Predicting, Any]:
        """The same under other weights of the same model."""
        r = responses
        batch = self.place.rows((r.prompt_ids, r.prompt_mask, r.tokens, r.mask))
        pair: tuple[Predicting, Any] = _hidden_states(self.graph, self.place, params, *batch)
        return pair

    def zeros(self) -> Any:
        """A gradient of zeros."""
        return jax.tree.map(jnp.zeros_like, self.params)

    def add(self, gradients: Any, pull_back: Any, gradient: Predicting) -> Any:
        """`gradients` and those of a micro-batch whose loss has this gradient with respect to its `Predicting`."""
        return _add(self.place, gradients, pull_back, gradient)

    def step(self, gradients: Any) -> None:
        """One optimizer step."""
        self.params, self.optimizer_state = _step(self.optimizer, self.place, self.params, self.optimizer_state, gradients)


@partial(jax.jit, static_argnums=(0, 1))
def _hidden_states(
    graph: Any, place: Placement, params: Any, prompt_ids: Array, prompt_mask: Array, tokens: Array, mask: Array
) -> tuple[Predicting, Any]:
    ids = jnp.concatenate([prompt_ids, tokens], axis=1)
    attention = jnp.concatenate([prompt_mask, mask], axis=1)

    def states(params: Any) -> Predicting:
        model = nnx.merge(graph, params)
        hidden = model(ids, attention)[:, prompt_ids.shape[1] - 1 : -1]
        return Predicting(place.rows(hidden), place.head(model.lm_head))

    return jax.vjp(states, params)


@partial(jax.jit, static_argnums=0)
def _add(place: Placement, gradients: Any, pull_back: Any, gradient: Predicting) -> Any:
    return place.parameters(jax.tree.map(jnp.add, gradients, pull_back(gradient)[0]))


@partial(jax.jit, static_argnums=(0, 1))
def _step(
    optimizer: optax.GradientTransformation, place: Placement, params: Any, state: Any, gradients: Any
) -> tuple[Any, Any]:
    updates, state = optimizer.update(gradients, state, params)
    return place.parameters(optax.apply_updates(params, updates)), place.parameters(state)
