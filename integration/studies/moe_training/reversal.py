"""The toy of the training study: reverse a string of symbols. Model, warm-up, sampling, log-probs, reward."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any

import torch
from gspo_torch import Routes, record_routes, replay_routes
from torch import Tensor

from integration.on_torch.qwen3 import ExpertSizes, Qwen3Sizes, build_qwen3
from integration.on_torch.sampling.engine import router_noise
from integration.studies.moe_training.arms import Sizes

EVALUATIONS = 4
"""Responses to each held-out prompt."""
WARM_UP_CHECK = 10
"""Supervised steps between two evaluations of the reward."""


def seeded(seed: int, *path: int) -> int:
    """A separate seed for each purpose: a function of the run's seed and the purpose's numbers `path`, never of the arm."""
    for part in path:
        seed = (seed * 1_000_003 + part + 1) % 2**62
    return seed


def generator_of(seed: int, *path: int) -> torch.Generator:
    """On the CPU, so that the data are the same on every device."""
    return torch.Generator().manual_seed(seeded(seed, *path))


def build(sizes: Sizes, dense: bool, seed: int) -> Any:
    """A new model in evaluation mode; the dense one is as wide as the experts that a token is routed to."""
    mixture = ExpertSizes(sizes.experts, sizes.top_k, _width(sizes), sizes.normalised_gates)
    shape = Qwen3Sizes(
        vocabulary=sizes.alphabet + 1,
        layers=sizes.layers,
        hidden=sizes.hidden,
        feed_forward=sizes.top_k * _width(sizes),
        heads=sizes.heads,
        key_value_heads=sizes.heads,
        head=sizes.hidden // sizes.heads,
        experts=None if dense else mixture,
        initializer=0.1 * (48 / sizes.hidden) ** 0.5,
    )
    return with_plain_experts(build_qwen3(shape, seeded(seed, 0)))


def with_plain_experts(model: Any) -> Any:
    """The model; on a CPU its experts run one by one: no slower at this size, and there in every version of transformers."""
    if hasattr(model.config, "num_experts") and not torch.cuda.is_available():
        model.set_experts_implementation("eager")
    return model


def _width(sizes: Sizes) -> int:
    return sizes.hidden if sizes.hidden < 256 else sizes.hidden // 2


def prompts(sizes: Sizes, count: int, generator: torch.Generator) -> Tensor:
    """[count, symbols + 1] symbols, drawn uniformly, and a token that separates them from the response."""
    symbols = torch.randint(sizes.alphabet, (count, sizes.symbols), generator=generator)
    return torch.cat([symbols, torch.full((count, 1), sizes.alphabet)], 1)


def answers(sizes: Sizes, prompt: Tensor) -> Tensor:
    """[count, L] the right responses."""
    return prompt[:, :-1].flip(1).repeat(1, sizes.repeats)


def rewards(sizes: Sizes, ids: Tensor) -> Tensor:
    """[N] share of symbols that are right."""
    width = sizes.symbols + 1
    return (ids[:, width:] == answers(sizes, ids[:, :width])).float().mean(1)


@torch.no_grad()
def sample(sizes: Sizes, model: Any, prompt: Tensor, noise: float, seed: int) -> tuple[Tensor, Routes]:
    """(ids [N, symbols + 1 + L], the sampler's routes for them)."""
    length = sizes.symbols * sizes.repeats
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        torch.manual_seed(seed)
        if noise:
            stack.enter_context(router_noise(model, noise, torch.Generator().manual_seed(seed)))
        stack.enter_context(_autocast(prompt))
        routes = stack.enter_context(record_routes(model))
        ids = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            top_k=0,
            min_new_tokens=length,
            max_new_tokens=length,
            pad_token_id=0,
        )
    return ids, routes.fit(torch.ones(ids.shape, dtype=torch.bool))


def log_probs(sizes: Sizes, model: Any, ids: Tensor) -> Tensor:
    """[N, L] log-probs of the responses, in float32."""
    with _autocast(ids):
        logits = model(input_ids=ids, use_cache=False).logits
    chosen = ids[:, sizes.symbols + 1 :, None]
    return torch.log_softmax(logits[:, sizes.symbols : -1].float(), -1).gather(-1, chosen)[..., 0]


@torch.no_grad()
def score(sizes: Sizes, model: Any, ids: Tensor, seed: int, replayed: Routes | None) -> tuple[Tensor, Routes]:
    """(old log-probs [N, L], the trainer's own routes), with the noise of the trainer; along given routes if there are any."""

    def noisy() -> AbstractContextManager[Any]:
        return router_noise(model, sizes.old_noise, torch.Generator().manual_seed(seed)) if sizes.old_noise else ExitStack()

    with record_routes(model) as own, noisy():
        old = log_probs(sizes, model, ids)
    if replayed is not None:
        with replay_routes(model, replayed), noisy():
            old = log_probs(sizes, model, ids)
    return old, own


def evaluate(sizes: Sizes, model: Any, seed: int, device: str) -> float:
    """Mean reward of sampled responses to the held-out prompts, the same at each call, without noise."""
    prompt = prompts(sizes, sizes.held_out, generator_of(seed, 1)).repeat_interleave(EVALUATIONS, 0).to(device)
    return float(rewards(sizes, sample(sizes, model, prompt, 0.0, seeded(seed, 1, 1))[0]).mean())


def warmed_up(sizes: Sizes, dense: bool, seed: int, device: str) -> Any:
    """The model that all arms of a seed start from, after supervised steps up to a reward, or to a number of steps.

    Where the response repeats the reversal, the first stage is a single reversal: most of a long response copies its beginning.
    """
    model = build(sizes, dense, seed).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=sizes.warm_up_lr)
    generator = generator_of(seed, 2)
    once = replace(sizes, repeats=1, warm_up_batch=sizes.warm_up_batch * sizes.repeats)
    for stage in dict.fromkeys((once, sizes)):
        for _ in range(0, sizes.warm_up_steps, WARM_UP_CHECK):
            if evaluate(stage, model, seeded(seed, 2), device) >= sizes.warm_up_reward:
                break
            for _ in range(WARM_UP_CHECK):
                prompt = prompts(stage, stage.warm_up_batch, generator).to(device)
                loss = -log_probs(stage, model, torch.cat([prompt, answers(stage, prompt)], 1)).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model


def _autocast(ids: Tensor) -> torch.autocast:
    """bfloat16 on a GPU, nothing on a CPU; weights, log-probs and the loss are float32 in any case."""
    return torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type == "cuda")
