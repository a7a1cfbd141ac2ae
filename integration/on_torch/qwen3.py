"""Small Qwen3 and Qwen3-MoE models of transformers, made from sizes: nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM


@dataclass(frozen=True)
class ExpertSizes:
    """The mixture of experts in every layer of a Qwen3-MoE."""

    count: int
    top_k: int
    """Experts that a token is routed to."""
    width: int
    """Units in the hidden layer of one expert."""
    normalised: bool = True
    """The gate values of the chosen experts add up to 1."""


@dataclass(frozen=True)
class Qwen3Sizes:
    """All that a Qwen3 is made from; with `experts` it is a Qwen3-MoE, whose layers are all mixtures."""

    vocabulary: int
    layers: int
    hidden: int
    feed_forward: int
    """Units in the hidden layer of a dense feed-forward block. A Qwen3-MoE has none, and only its config keeps the number."""
    heads: int
    key_value_heads: int
    head: int
    """Units of an attention head."""
    experts: ExpertSizes | None = None
    positions: int = 32768
    """Longest sequence."""
    tied: bool = False
    """The LM head is the embedding."""
    initializer: float = 0.02
    """Standard deviation of the initial weights."""
    pad_id: int | None = None
    end_id: int | None = None


def build_qwen3(sizes: Qwen3Sizes, seed: int) -> Any:
    """A randomly initialised model, float32, on the CPU and in evaluation mode. Sets torch's global seed.

    >>> sizes = Qwen3Sizes(vocabulary=8, layers=1, hidden=8, feed_forward=16, heads=2, key_value_heads=1, head=4)
    >>> sum(parameter.numel() for parameter in build_qwen3(sizes, seed=0).parameters())
    728
    """
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "vocab_size": sizes.vocabulary,
        "num_hidden_layers": sizes.layers,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.feed_forward,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.key_value_heads,
        "head_dim": sizes.head,
        "max_position_embeddings": sizes.positions,
        "tie_word_embeddings": sizes.tied,
        "initializer_range": sizes.initializer,
        "pad_token_id": sizes.pad_id,
        "eos_token_id": sizes.end_id,
        "bos_token_id": None,
    }
    if sizes.experts is None:
        return Qwen3ForCausalLM(Qwen3Config(**options)).eval()
    options |= {
        "num_experts": sizes.experts.count,
        "num_experts_per_tok": sizes.experts.top_k,
        "moe_intermediate_size": sizes.experts.width,
        "norm_topk_prob": sizes.experts.normalised,
    }
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**options)).eval()
