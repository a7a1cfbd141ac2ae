"""Sampling engines that differ slightly from the trainer: router noise and bfloat16, the two gaps seen in practice.

with torch.no_grad(), router_noise(model, 0.2, generator):     # the same weights, noise on the inputs of the routers
    ...
engine = in_bfloat16(model)                                    # a copy; `take_weights` updates it
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from gspo_torch.routing.routers import mixture_of
from torch import Tensor, nn

if TYPE_CHECKING:
    from integration.on_torch.sampling.rollout import Responses, Sampler
    from integration.tasks.task import Example


@contextmanager
def router_noise(model: nn.Module, sd: float, generator: torch.Generator) -> Iterator[None]:
    """Adds noise to the input h of every router: h + sd · rms(h) · z, z ~ Normal(0, 1), drawn anew in every call.

    rms(h) is the root mean square over a token's hidden units, so the size of a token's noise depends neither on its batch nor
    on a KV cache. Experts and gate values both follow from the noisy input; the rest of the layer uses h. Only for passes
    without gradient: under gradient checkpointing the backward pass would draw other noise.

    Args:
        model: a mixture of experts that `record_routes` supports, wrapped or not. It nests with record_routes and
            replay_routes in either order; a replay keeps the experts, and the noise changes the gate values only.
        sd: in units of the inputs' root mean square, at least 0.
        generator: draws the noise, on any device.

    Raises: ValueError for a model without routers, which has nothing to disturb, or for an sd that is negative or not finite.
    """
    readers = mixture_of(model).readers
    if not readers:
        raise ValueError(f"model: expected a mixture of experts, got {type(model).__name__} without routers")
    if not 0 <= sd < float("inf"):
        raise ValueError(f"sd: expected a finite number of at least 0, got {sd}")

    def disturb(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden: Tensor = args[0]
        noise = torch.randn(hidden.shape, generator=generator, device=generator.device).to(hidden.device)
        rms = hidden.float().square().mean(-1, keepdim=True).sqrt()
        return ((hidden.float() + sd * rms * noise).to(hidden.dtype), *args[1:])

    with ExitStack() as stack:
        for reader in readers:
            stack.enter_context(reader.register_forward_pre_hook(disturb))
        yield


def in_bfloat16(model: nn.Module) -> Any:
    """A copy of the model that computes in bfloat16 throughout, routers and residual stream included, as engines do.

    It is in evaluation mode and without gradients. Its log-probs are those of `token_logp` at its hidden states; a
    trainer's copy of the weights in float32, under autocast or not, is left alone. Buffers stay as they are:
    frequencies of the rotary embedding in bfloat16 are off by a radian within a thousand tokens; no engine rounds them.
    """
    engine = copy.deepcopy(model).eval().requires_grad_(False)
    for parameter in engine.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return engine


@torch.no_grad()
def take_weights(engine: nn.Module, model: nn.Module) -> None:
    """Copies the model's current weights into the engine, rounded to its precision: after each step of the model."""
    for mine, current in zip(engine.parameters(), model.parameters(), strict=True):
        mine.copy_(current)


@dataclass(frozen=True)
class Engine:
    """The sampling engine of a run in which it differs from the trainer, or records its routes."""

    sampler: Sampler
    """Its model is the policy's, or a copy in another precision."""
    policy: nn.Module
    noise: float
    """`sd` of `router_noise`; 0 for none."""

    def draw(self, examples: list[Example], count: int, generator: torch.Generator) -> Responses:
        """As `Sampler.draw`, with the policy's current weights. The generator also draws the noise."""
        model = self.sampler.model
        if model is not self.policy:
            with self.sampler.whole():
                take_weights(model, self.policy)
        with router_noise(model, self.noise, generator) if self.noise else nullcontext():
            return self.sampler.draw(examples, count, generator)
