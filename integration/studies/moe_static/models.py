"""The models of the static study: a mixture of experts and its dense control, warmed up on Markov chains.

Each response has a topic, given by its first token, and each topic has its chain. The dense feed-forward layers are as wide as
the top-k experts of a token together; everything else is equal, the seeds included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from gspo_torch import Routes, record_routes, replay_routes, token_logp
from torch import Tensor

from gspo_core import Padded, group_advantages
from integration.on_torch.qwen3 import ExpertSizes, Qwen3Sizes, build_qwen3

PROMPT = 4
"""Tokens of a prompt."""
GROUP = 8
"""G: responses to a prompt."""

Kind = Literal["moe", "dense"]


@dataclass(frozen=True)
class Size:
    """Sizes of the models and of the batches."""

    layers: int = 4
    hidden: int = 64
    head: int = 32
    """Units of an attention head."""
    experts: int = 16
    top_k: int = 2
    expert_width: int = 32
    vocabulary: int = 32
    topics: int = 4
    """Number of chains; a response follows one. With a single chain only the last token would matter for the next."""
    initializer: float = 0.1
    warm_up: int = 200
    """Supervised steps on the chains: 16 sequences each, as long as a prompt and its response."""
    warm_up_lr: float = 3e-3
    trained: int = 256
    """Responses to train on, in eight mini-batches."""
    measured: int = 256
    """Held-out responses of the same policy, whose log ratios are measured."""
    length: int = 96
    bfloat16: bool = False
    """The trainer's forward passes run under autocast; its weights are float32 in any case."""


SIZES = {
    "small": Size(),
    "large": Size(
        layers=12,
        hidden=512,
        head=64,
        experts=64,
        top_k=8,
        expert_width=128,
        initializer=0.02,
        warm_up=400,
        warm_up_lr=1e-3,
        bfloat16=True,
    ),
}
"""small: 0.5 M parameters, for a CPU. large: 164 M, for a GPU, with 8 of 64 experts per token."""


@dataclass(frozen=True)
class Policy:
    """A model, and how the trainer runs it."""

    model: Any
    size: Size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.model.device)

    def log_probs(self, ids: Tensor) -> Tensor:
        """[N, L] of the tokens after the prompt, float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.size.bfloat16):
            hidden = self.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        return token_logp(hidden[:, PROMPT - 1 : -1], self.model.get_output_embeddings().weight, ids[:, PROMPT:])

    @torch.no_grad()
    def scored(self, ids: Tensor, routes: Routes | None = None) -> tuple[Tensor, Routes]:
        """(log-probs, routes): at the routes given, or else freely, recording them."""
        if routes is not None:
            with replay_routes(self.model, routes):
                return self.log_probs(ids), routes
        with record_routes(self.model) as own:
            logp = self.log_probs(ids)
        return logp, own


@dataclass(frozen=True)
class Rollout:
    """N responses in groups of `GROUP` to a prompt."""

    ids: Tensor
    """[N, PROMPT + L] token ids."""
    advantage: Tensor
    """[N], group-normalised; the reward is the share of tokens in the lower half of the vocabulary."""

    def rows(self, index: slice) -> Rollout:
        """The chosen responses."""
        return Rollout(self.ids[index], self.advantage[index])


def warmed_up(size: Size, seed: int, kind: Kind, device: torch.device) -> Policy:
    """A policy that has learned the chains of this seed."""
    policy = Policy(_made(size, seed, kind).to(device), size)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(policy.model.parameters(), lr=size.warm_up_lr)
    for step in range(size.warm_up):
        loss = -policy.log_probs(_drawn(size, seed, 16, PROMPT + size.length, generator).to(device)).mean()
        for group in optimizer.param_groups:
            group["lr"] = size.warm_up_lr * (1 - step / size.warm_up)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy


@torch.no_grad()
def sampled(policy: Policy, count: int, seed: int) -> Rollout:
    """`GROUP` responses to each of some prompts from the chains, by the model's own forward passes, the trainer's."""
    size = policy.size
    prompts = _drawn(size, seed, count // GROUP, PROMPT, torch.Generator().manual_seed(seed))
    prompts = prompts.repeat_interleave(GROUP, 0).to(policy.device)
    torch.manual_seed(seed)
    with torch.autocast(policy.device.type, torch.bfloat16, enabled=size.bfloat16):
        ids = policy.model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            top_k=0,
            min_new_tokens=size.length,
            max_new_tokens=size.length,
            pad_token_id=0,
        )
    reward = (ids[:, PROMPT:] < size.vocabulary // 2).double().mean(1)
    groups = torch.arange(len(ids), device=ids.device) // GROUP
    return Rollout(torch.as_tensor(ids), group_advantages(reward, groups).float())


def _drawn(size: Size, seed: int, count: int, length: int, generator: torch.Generator) -> Tensor:
    """[count, length] token ids from the chains of a seed; the first are even, and name the topic by their remainder."""
    of_seed = torch.Generator().manual_seed(seed)
    chains = torch.softmax(2 * torch.randn(size.topics, size.vocabulary, size.vocabulary, generator=of_seed), -1)
    tokens = [torch.randint(size.vocabulary, (count,), generator=generator)]
    topic = tokens[0] % size.topics
    for _ in range(length - 1):
        tokens.append(torch.multinomial(chains[topic, tokens[-1]], 1, generator=generator)[:, 0])
    return torch.stack(tokens, 1)


def every_token(logp: Tensor) -> Padded:
    """The layout of responses that are all equally long."""
    return Padded(torch.ones(logp.shape, dtype=torch.bool, device=logp.device))


def _made(size: Size, seed: int, kind: Kind) -> Any:
    mixture = ExpertSizes(size.experts, size.top_k, size.expert_width)
    sizes = Qwen3Sizes(
        vocabulary=size.vocabulary,
        layers=size.layers,
        hidden=size.hidden,
        feed_forward=size.top_k * size.expert_width,
        heads=size.hidden // size.head,
        key_value_heads=size.hidden // size.head,
        head=size.head,
        experts=mixture if kind == "moe" else None,
        initializer=size.initializer,
    )
    return build_qwen3(sizes, seed)
