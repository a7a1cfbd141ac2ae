"""How much of a small mixture of experts' log-ratio noise is routing, and what replay takes away: a static study.

    python integration/moe_stability.py --seeds 4 --out runs/moe

A small Qwen3-MoE, made from its config and warmed up on a Markov chain, writes responses. A sampling engine scores them with
noise at the routers' inputs; the trainer then takes a few optimizer steps. Log ratios are measured with free routing and with
the engine's routes replayed (R3). It is a toy of the mechanism: weights, task and noise are not those of a real model, and
the sizes of the effects do not carry over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from gspo_plots import variance_decomposition
from gspo_torch import Routes, policy_loss, record_routes, replay_routes
from matplotlib.figure import Figure
from torch import Tensor
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from gspo_core import GSPO, Clip, MismatchReport, Padded, estimate_drift, mismatch_report

PROMPT = 4
"""Tokens that a response begins from."""


@dataclass(frozen=True)
class Study:
    """The sizes of a static study."""

    seeds: int = 4
    layers: int = 3
    hidden: int = 48
    experts: int = 16
    vocabulary: int = 32
    warm_up: int = 60
    """Supervised steps on the chain."""
    responses: int = 128
    length: int = 96
    router_noise: float = 0.2
    """Standard deviation of the engine's noise at the routers' inputs, in units of theirs."""
    steps: int = 1
    """Optimizer steps between the old policy and the current one."""
    lr: float = 1e-4
    out: Path | None = None
    """Folder for results.json and a picture; nothing is written without it."""


@dataclass(frozen=True)
class Measured:
    """One seed: log-probs [N, L] of the same responses."""

    free: MismatchReport
    replayed: MismatchReport
    routing: Tensor
    """What the engine's routes change in the trainer's log-probs at the old weights: the routing part of the noise."""
    drift: Tensor
    """What the optimizer steps change, at the engine's routes."""
    flips: list[float]
    """By layer: share of slots for which engine and trainer choose another expert at the same weights."""
    own_routes_exact: bool
    """Whether replaying the trainer's own routes changed not a bit."""


def measure(study: Study, seed: int) -> Measured:
    """Warms a model up, lets it write, and scores the responses in each of the ways."""
    model = _warmed_up(study, seed)
    ids = _responses(model, study, seed)
    layout = Padded(torch.ones(len(ids), study.length, dtype=torch.bool))
    old, own = _scored(model, ids)
    exact = bool(torch.equal(_scored(model, ids, own)[0], old))
    with _router_noise(model, study.router_noise, seed):
        sampler, routes = _scored(model, ids)
    old_replayed, _ = _scored(model, ids, routes)
    advantage = torch.tensor([1.0, -1.0]).repeat(len(ids) // 2 + 1)[: len(ids)]
    _optimize(model, study, ids, old, advantage, layout)
    new, new_replayed = _scored(model, ids)[0], _scored(model, ids, routes)[0]
    clip = Clip(3e-4, 4e-4)
    return Measured(
        mismatch_report(new, old, sampler, advantage, layout, clip),
        mismatch_report(new_replayed, old_replayed, sampler, advantage, layout, clip),
        old - old_replayed,
        new_replayed - old_replayed,
        routes.flips(own).tolist(),
        exact,
    )


def design_effect(d: Tensor) -> float:
    """Of token log ratios [N, L]: 1 if the tokens of a response move independently."""
    layout = Padded(torch.ones(d.shape, dtype=torch.bool))
    return float(estimate_drift(d, torch.zeros_like(d), layout).design_effect)


def exponent(d: Tensor) -> float:
    """b of sd(log s) ∝ L^b over the first 12, 24, 48, … tokens of the responses: −1/2 for noise, 0 for what moves as one."""
    lengths = [n for n in (12, 24, 48, 96) if n <= d.shape[1]]
    spread = [float(d[:, :n].mean(1).std()) for n in lengths]
    return float(np.polyfit(np.log(lengths), np.log(spread), 1)[0])


def summary(measured: Measured) -> dict[str, Any]:
    """Plain numbers of one seed."""
    free, replayed = measured.free, measured.replayed
    return {
        "flips_by_layer": measured.flips,
        "own_routes_exact": measured.own_routes_exact,
        "noise_token_sd": {"free": float(free.noise.token_sd), "replayed": float(replayed.noise.token_sd)},
        "noise_log_s_sd": {"free": float(free.noise.log_s_sd), "replayed": float(replayed.noise.log_s_sd)},
        "staleness_token_sd": {"free": float(free.staleness.token_sd), "replayed": float(replayed.staleness.token_sd)},
        "noise_share": {
            "tokens": {"free": float(free.token_noise_share), "replayed": float(replayed.token_noise_share)},
            "log_s": {"free": float(free.log_s_noise_share), "replayed": float(replayed.log_s_noise_share)},
        },
        "design_effect": {"routing": design_effect(measured.routing), "drift": design_effect(measured.drift)},
        "exponent": {"routing": exponent(measured.routing), "drift": exponent(measured.drift)},
    }


@contextmanager
def _router_noise(model: Any, scale: float, seed: int) -> Iterator[None]:
    """Noise that only the routers see: relative to the spread of their inputs, new for each token and layer."""
    generator = torch.Generator().manual_seed(seed)

    def disturb(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] + scale * args[0].std() * torch.randn(args[0].shape, generator=generator), *args[1:])

    hooks = [layer.mlp.gate.register_forward_pre_hook(disturb) for layer in model.model.layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _log_probs(model: Any, ids: Tensor) -> Tensor:
    logits = model(input_ids=ids, use_cache=False).logits[:, PROMPT - 1 : -1]
    return torch.log_softmax(logits.float(), -1).gather(-1, ids[:, PROMPT:, None])[..., 0]


@torch.no_grad()
def _scored(model: Any, ids: Tensor, routes: Routes | None = None) -> tuple[Tensor, Routes]:
    """(log-probs, routes): with the routes given, or else freely, recording them."""
    if routes is not None:
        with replay_routes(model, routes):
            return _log_probs(model, ids), routes
    with record_routes(model) as own:
        logp = _log_probs(model, ids)
    return logp, own


def _warmed_up(study: Study, seed: int) -> Any:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "vocab_size": study.vocabulary,
        "hidden_size": study.hidden,
        "num_hidden_layers": study.layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": study.hidden // 2,
        "moe_intermediate_size": study.hidden,
        "num_experts": study.experts,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "initializer_range": 0.1,
        **dict.fromkeys(("eos_token_id", "bos_token_id", "pad_token_id")),
    }
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes))
    generator = torch.Generator().manual_seed(seed)
    chain = torch.softmax(2 * torch.randn(study.vocabulary, study.vocabulary, generator=generator), -1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(study.warm_up):
        tokens = [torch.randint(study.vocabulary, (32,), generator=generator)]
        for _ in range(31):
            tokens.append(torch.multinomial(chain[tokens[-1]], 1, generator=generator)[:, 0])
        ids = torch.stack(tokens, 1)
        loss = torch.nn.functional.cross_entropy(model(input_ids=ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def _responses(model: Any, study: Study, seed: int) -> Tensor:
    """[N, PROMPT + L] token ids; the first are drawn evenly, the others by the model."""
    torch.manual_seed(seed)
    prompts = torch.randint(study.vocabulary, (study.responses, PROMPT))
    return torch.as_tensor(
        model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            top_k=0,
            min_new_tokens=study.length,
            max_new_tokens=study.length,
            pad_token_id=0,
        )
    )


def _optimize(model: Any, study: Study, ids: Tensor, old: Tensor, advantage: Tensor, layout: Padded) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=study.lr)
    for _ in range(study.steps):
        optimizer.zero_grad()
        policy_loss(GSPO, _log_probs(model, ids), old, advantage, layout).value.backward()
        optimizer.step()


def main(study: Study) -> None:
    """Prints a line per seed; writes results.json and a picture if there is a folder."""
    measured = [measure(study, seed) for seed in range(study.seeds)]
    results = [summary(one) for one in measured]
    for seed, one in enumerate(results):
        print(seed, json.dumps(one))
    if study.out is not None:
        study.out.mkdir(parents=True, exist_ok=True)
        sizes = {name: value for name, value in vars(study).items() if name != "out"}
        (study.out / "results.json").write_text(json.dumps({"study": sizes, "seeds": results}, indent=1), encoding="utf-8")
        _picture(measured[0], study.out / "seed-0.png")


def _picture(measured: Measured, path: Path) -> None:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    variance_decomposition({"free": measured.free, "replayed": measured.replayed}, ax=figure.subplots())
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main(tyro.cli(Study, description=__doc__))
