"""Every causal mixture of experts of the installed transformers, tiny and random: sizes by the names of config options."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY, EXPERTS, TOP_K, PAD = 32, 8, 2, 0

_SIZES: dict[Any, tuple[str, ...]] = {
    VOCABULARY: ("vocab_size",),
    16: ("hidden_size", "d_model"),
    3: ("num_hidden_layers", "n_layers", "num_layers"),
    4: ("mamba_d_state", "ssm_state_size", "router_hidden_size"),
    2: ("num_attention_heads", "num_key_value_heads", "n_heads", "swa_num_attention_heads", "swa_num_key_value_heads"),
    24: ("intermediate_size", "ffn_hidden_size", "intermediate_size_mlp", "prefix_dense_intermediate_size"),
    8: (
        *("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size", "dense_intermediate_size"),
        *("moe_shared_expert_intermediate_size", "shared_intermediate_size", "shared_experts_intermediate_size"),
        *("head_dim", "kv_channels", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "swa_head_dim", "global_head_dim"),
        *("kv_lora_rank", "q_lora_rank", "o_lora_rank", "index_head_dim", "linear_key_head_dim", "linear_value_head_dim"),
        *("hidden_size_per_layer_input", "swa_v_head_dim", "d_rel", "mamba_dt_rank"),
    ),
    1: ("first_k_dense_replace", "num_dense_layers", "n_shared_experts", "num_shared_experts", "num_nextn_predict_layers"),
}
_LATER: dict[str, Any] = {
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts"), TOP_K),
    **dict.fromkeys(("n_group",), 4),
    **dict.fromkeys(("topk_group",), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "model_max_length"), 64),
    **dict.fromkeys(("sliding_window", "sliding_window_size"), 32),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "linear_num_key_heads", "linear_num_value_heads", "index_n_heads"), 2),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "moe_layer_start_index"), 1),
    "pad_token_id": PAD,
    "eos_token_id": None,
    "bos_token_id": None,
    "tie_word_embeddings": False,
    "router_jitter_noise": 0.0,
}
_BY_NAME = {name: size for size, names in _SIZES.items() for name in names} | _LATER
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "beam": {"num_hidden_layers": 4},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": EXPERTS, "moe_top_k": TOP_K, "hidden_size": 16},
    },
    "deepseek_v4": {"mlp_layer_types": ["hash_moe", "moe", "moe"]},
    "dots3_note_text": {"layer_types": ["indexed_attention"] * 3},
    "gemma4_text": {"enable_moe_block": True, "num_kv_shared_layers": 0, "vocab_size_per_layer_input": VOCABULARY},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "jamba": {"expert_layer_offset": 0, "attn_layer_offset": 1, "attn_layer_period": 2},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": {"zero_expert_num": 2},
    "mimo_v2_flash": {"head_dim": 24, "layer_types": ["full_attention"] * 3},
    "nemotron_h": {"layers_block_type": ["mamba", "moe", "attention", "moe"], "num_nextn_predict_layers": 0},
    "qwen4_exp_text": {
        **dict.fromkeys(("indexer_n_heads", "hc_count", "num_hidden_layers"), 2),
        **dict.fromkeys(("indexer_head_dim", "hc_lowrank"), 8),
        "indexer_kv_heads": 1,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        "layer_types": ["linear_attention"] * 2,
    },
    "zaya": {"num_experts_per_tok": 1},
}
"""Options of single families whose sizes constrain each other, or that have experts only on demand."""


def config_of(family: str, **changes: Any) -> PreTrainedConfig:
    """A small configuration of a family; whatever its class raises if the sizes do not go together."""
    kind = CONFIG_MAPPING[family]
    sizes = {name: size for name, size in _BY_NAME.items() if _has(kind, name)}
    return kind(**sizes | EXCEPTIONS.get(family, {}) | changes)


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
