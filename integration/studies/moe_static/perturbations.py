"""Perturbations of a token's log-prob: another engine with the same weights, and optimizer steps."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from gspo_torch import Routes, policy_loss, record_routes
from torch import Tensor

from gspo_core import GSPO, Clip
from integration.on_torch.sampling.engine import in_bfloat16, router_noise
from integration.studies.moe_static.models import PROMPT, Kind, Policy, Rollout, every_token

MINI_BATCHES = 8
"""Mini-batches of the responses to train on; one optimizer step each."""
STEPS = (1, 4, 8)
"""Numbers of optimizer steps after which the policy is measured."""
LEARNING_RATES = (1e-4, 3e-4, 1e-3)
PAPER = Clip(3e-4, 4e-4)
"""GSPO's clip range in the paper, for answers of ten thousand tokens and more."""
TOKENS = Clip(0.2, 0.27)
"""GRPO's, for the ratios of single tokens."""


class Engine(Protocol):
    """A sampling engine with the weights of the trainer."""

    @property
    def name(self) -> str:
        """In results and tables."""

    def scored(self, policy: Policy, ids: Tensor, seed: int) -> tuple[Tensor, Routes]:
        """(log-probs [N, L], routes) as this engine computes them."""


@dataclass(frozen=True)
class Bfloat16:
    """Weights, activations and logits in bfloat16."""

    name: str = "bfloat16 engine"

    @torch.no_grad()
    def scored(self, policy: Policy, ids: Tensor, seed: int) -> tuple[Tensor, Routes]:
        """As `Engine.scored`; the seed is not used."""
        engine = in_bfloat16(policy.model)
        with record_routes(engine) as routes:
            logits = engine(input_ids=ids, use_cache=False).logits[:, PROMPT - 1 : -1]
        return torch.log_softmax(logits.float(), -1).gather(-1, ids[:, PROMPT:, None])[..., 0], routes


@dataclass(frozen=True)
class NoisyRouters:
    """The trainer's own pass, with noise on the inputs of the routers only."""

    sd: float

    @property
    def name(self) -> str:
        """In results and tables."""
        return f"router noise {self.sd:g}"

    def scored(self, policy: Policy, ids: Tensor, seed: int) -> tuple[Tensor, Routes]:
        """As `Engine.scored`."""
        with router_noise(policy.model, self.sd, torch.Generator(policy.device).manual_seed(seed)):
            return policy.scored(ids)


def engines(kind: Kind) -> Sequence[Engine]:
    """The engines of the study; a dense model has no routers to disturb."""
    return (Bfloat16(),) if kind == "dense" else (Bfloat16(), *map(NoisyRouters, (0.05, 0.2, 0.5)))


def scaled_band(length: int) -> Clip:
    """The paper's clip range by the 1/√|y| law of noise, from answers of ten thousand tokens to those of `length`."""
    by = (10_000 / length) ** 0.5
    return Clip(PAPER.low * by, PAPER.high * by)


def steps_name(steps: int, lr: float) -> str:
    """In results and tables."""
    return f"{steps} step{'s' * (steps > 1)}, lr {lr:g}"


def optimized(policy: Policy, rollout: Rollout, lr: float) -> Iterator[tuple[int, Policy]]:
    """(steps, the policy after them) for each of `STEPS`: one trajectory of Adam on GSPO, clipped by `scaled_band`.

    Each step takes the next mini-batch, as a trainer does. The yielded policy is the same object every time and changes with
    the next step, so measure it at once.
    """
    now = replace(policy, model=copy.deepcopy(policy.model))
    objective = replace(GSPO, surrogate=scaled_band(policy.size.length))
    optimizer = torch.optim.Adam(now.model.parameters(), lr=lr)
    size = len(rollout.ids) // MINI_BATCHES
    for step in range(MINI_BATCHES):
        part = rollout.rows(slice(step * size, (step + 1) * size))
        old, _ = policy.scored(part.ids)
        optimizer.zero_grad()
        policy_loss(objective, now.log_probs(part.ids), old, part.advantage, every_token(old)).value.backward()
        optimizer.step()
        if step + 1 in STEPS:
            yield step + 1, now
