"""Tiny mixtures of experts of transformers, made from configs, and what tests ask of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from gspo_torch import Routes, record_routes
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

VOCABULARY, EXPERTS, TOP_K, PAD = 32, 8, 2, 0
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # routes that are far from ties
    "pad_token_id": PAD,
    "eos_token_id": None,
    "bos_token_id": None,
}
SPARSE = {"num_experts_per_tok": TOP_K, "intermediate_size": 24}
MIXED = {"moe_intermediate_size": 8, "mlp_only_layers": [1], "num_experts": EXPERTS}  # the middle layer is dense
FAMILIES: dict[str, Any] = {
    "qwen3_moe": (Qwen3MoeForCausalLM, Qwen3MoeConfig, {**SPARSE, **MIXED, "head_dim": 8, "norm_topk_prob": True}),
    "qwen3_moe, gates not normalised": (
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig,
        {**SPARSE, **MIXED, "head_dim": 8, "norm_topk_prob": False},
    ),
    "qwen2_moe": (Qwen2MoeForCausalLM, Qwen2MoeConfig, {**SPARSE, **MIXED, "shared_expert_intermediate_size": 8}),
    "olmoe": (OlmoeForCausalLM, OlmoeConfig, {**SPARSE, "num_experts": EXPERTS}),
    "mixtral": (MixtralForCausalLM, MixtralConfig, {**SPARSE, "num_local_experts": EXPERTS}),
    "dense": (Qwen3ForCausalLM, Qwen3Config, {"intermediate_size": 24, "head_dim": 8}),
}


def tiny(family: str = "qwen3_moe", seed: int = 0, **changes: Any) -> Any:
    """A model in evaluation mode."""
    model, config, own = FAMILIES[family]
    torch.manual_seed(seed)
    return model(config(**{**COMMON, **own, **changes})).eval()


def batch(rows: int = 4, width: int = 9, pads: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    """(tokens [N, S], attention [N, S]): row i has i % (pads + 1) slots of left padding."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCABULARY, (rows, width), generator=generator)
    attention = (torch.arange(width) >= (torch.arange(rows) % (pads + 1))[:, None]).long()
    return torch.where(attention > 0, tokens, PAD), attention


def log_probs(model: Any, tokens: Tensor, attention: Tensor) -> Tensor:
    """[N, S − 1] of each token given those before it; 0 where it or its predecessor is padding."""
    places = (attention.cumsum(-1) - 1).clamp(min=0)
    logits = model(input_ids=tokens, attention_mask=attention, position_ids=places, use_cache=False).logits
    logp = torch.log_softmax(logits[:, :-1].float(), -1).gather(-1, tokens[:, 1:, None])[..., 0]
    return torch.where((attention[:, 1:] * attention[:, :-1]) > 0, logp, 0.0)


@torch.no_grad()
def moved(model: Any, by: float = 0.1, seed: int = 2) -> Any:
    """The model, with every weight moved by a random share of its tensor's spread."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.add_(by * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return model


def routers(model: Any) -> list[Any]:
    """In the order of layers."""
    return [module for module in model.modules() if type(module).__name__.endswith("TopKRouter")]


@contextmanager
def watched(model: Any) -> Iterator[list[Tensor]]:
    """The experts [N · S, K] that each layer's experts are called with, in the order of calls."""
    seen: list[Tensor] = []
    experts = [module for module in model.modules() if type(module).__name__.endswith("Experts")]
    hooks = [e.register_forward_pre_hook(lambda _, args: seen.append(args[1].clone())) for e in experts]
    yield seen
    for hook in hooks:
        hook.remove()


def recorded(model: Any, tokens: Tensor, attention: Tensor) -> tuple[Tensor, Routes]:
    """(log-probs, routes) of a pass without gradient: R2."""
    with torch.no_grad(), record_routes(model) as routes:
        logp = log_probs(model, tokens, attention)
    return logp, routes


def gradients(model: Any, loss: Tensor) -> list[Tensor]:
    """Of every parameter."""
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=False))


def checkpointing(model: Any, reentrant: bool) -> None:
    """Turn gradient checkpointing on by the attributes that transformers' own switch, which is being renamed, sets."""
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True
            module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=reentrant)
    model.enable_input_require_grads()
