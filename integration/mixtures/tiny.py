"""Every causal mixture of experts of the installed transformers, tiny and random: `integration.zoo`'s sizes, more experts."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from integration.zoo.sizes import tiny_config

VOCABULARY, EXPERTS, TOP_K, PAD = 32, 8, 2, 0

_SIZES: dict[str, float] = {
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts"), TOP_K),
    "n_group": 4,
    "topk_group": 2,
    "router_jitter_noise": 0.0,
}
"""More experts than `integration.zoo` gives a family, in groups that are chosen."""
_HAVING: dict[str, dict[str, Any]] = {
    "dbrx": {"ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": EXPERTS, "moe_top_k": TOP_K, "hidden_size": 32}},
    "deepseek_v4": {"mlp_layer_types": ["hash_moe", "moe", "moe", "moe"]},
    "dots3_note_text": {"layer_types": ["indexed_attention"] * 4},
    "gemma4_text": {"enable_moe_block": True, "vocab_size_per_layer_input": VOCABULARY},
    "jamba": {"expert_layer_offset": 0},
    "nemotron_h": {"layers_block_type": ["mamba", "moe", "attention", "moe"]},
    "qwen4_exp_text": {
        **dict.fromkeys(("indexer_n_heads", "hc_count", "num_hidden_layers", "linear_num_value_heads"), 2),
        "indexer_head_dim": 8,
        "indexer_kv_heads": 1,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        "layer_types": ["linear_attention"] * 2,
    },
    "zaya": {"num_experts_per_tok": 1},
}
"""Families that have experts only on demand, or whose sizes have other names."""


def config_of(family: str, **changes: Any) -> PreTrainedConfig:
    """A small configuration of a family; whatever its class raises if the sizes do not go together."""
    sizes = {name: size for name, size in _SIZES.items() if _has(CONFIG_MAPPING[family], name)}
    return tiny_config(family, VOCABULARY, PAD, None, **sizes | _HAVING.get(family, {}) | changes)


def tiny(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random model of a family, in float32 and in evaluation mode, whose routers are far from ties."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(family, **changes), attn_implementation="eager").float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=generator)
    return model


def families() -> list[str]:
    """Those whose own code has experts, in the order of the alphabet."""
    return sorted(f for f in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if has_experts(f) and not _has(CONFIG_MAPPING[f], "text_config"))


def has_experts(family: str) -> bool:
    """Whether the module that defines a family's causal model defines experts, or a mixture layer."""
    try:
        model = AutoModelForCausalLM._model_mapping[CONFIG_MAPPING[family]]
    except (KeyError, ValueError, AttributeError):
        return False
    kinds = vars(sys.modules[model.__module__]).values()
    names = [kind.__name__ for kind in kinds if isinstance(kind, type) and issubclass(kind, nn.Module)]
    return any(name.endswith(("Experts", "MoE", "Moe", "SparseMoeBlock")) for name in names)


def _has(kind: type[PreTrainedConfig], name: str) -> bool:
    return name in getattr(kind, "__dataclass_fields__", {}) or name in kind.attribute_map
