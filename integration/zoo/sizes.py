"""A tiny configuration of any family of models: sizes by the names of its options."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

NAMES = {
    1: "n_group topk_group num_expert_group first_k_dense_replace num_dense_layers n_shared_experts num_shared_experts "
    "moe_layer_start_index",
    2: "num_key_value_heads swa_num_key_value_heads linear_num_key_heads num_kv_heads num_query_groups num_experts_per_tok "
    "num_experts_per_token moe_topk moe_k moe_num_shared_experts mamba_n_groups n_groups mamba_ngroups zero_expert_num",
    4: "num_hidden_layers n_layer num_layers n_layers decoder_layers encoder_layers num_decoder_layers num_encoder_layers "
    "num_blocks num_attention_heads n_head num_heads n_heads attention_heads decoder_attention_heads "
    "encoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads swa_num_attention_heads linear_num_heads "
    "linear_num_value_heads num_experts n_routed_experts num_local_experts moe_num_experts state_size mamba_d_state "
    "ssm_state_size mamba_dt_rank time_step_rank mamba_n_heads mamba_num_heads index_n_heads rotary_dim",
    8: "head_dim d_head dim_head v_head_dim qk_nope_head_dim qk_rope_head_dim linear_head_dim swa_head_dim index_head_dim "
    "linear_key_head_dim linear_value_head_dim kv_channels attention_head_size kv_lora_rank q_lora_rank o_lora_rank "
    "laurel_rank adapter_rank gated_norm_rank hc_lowrank router_hidden_size hidden_size_per_layer_input d_rel "
    "query_pre_attn_scalar",
    16: "mamba_d_head mamba_head_dim mamba_headdim chunk_size mamba_chunk_size pronunciation_embed_dim shape_embed_dim "
    "ple_embed_dim",
    32: "hidden_size d_model n_embd embedding_dim emb_dim embedding_size word_embed_proj_dim lru_width "
    "input_embedding_size output_embedding_size sliding_window sliding_window_size attention_window_size local_attention "
    "window_size",
    48: "intermediate_size ffn_dim n_inner decoder_ffn_dim encoder_ffn_dim dim_ff dff d_inner feed_forward_size "
    "ffn_hidden_size moe_intermediate_size intermediate_size_mlp shared_expert_intermediate_size "
    "shared_experts_intermediate_size dense_intermediate_size expert_ffn_hidden_size moe_shared_expert_intermediate_size",
    64: "mamba_d_ssm shared_intermediate_size",
    512: "max_position_embeddings n_positions max_seq_len n_ctx context_length max_target_positions model_max_length",
}
FLAGS = {"num_kv_shared_layers": 0, "num_nextn_predict_layers": 0, "is_decoder": True, "causal": True}
FLAGS |= {"tie_word_embeddings": False, "add_cross_attention": False}
"""Bert-like families as decoders, which read to the left only; heads of their own, so that logits are not one-hot."""
BY_NAME: dict[str, Any] = {name: size for size, names in NAMES.items() for name in names.split()} | FLAGS
"""What an option of this name is set to, where a family has it."""

BOTH = ["linear_attention", "full_attention"] * 2
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": BOTH},
    "hrm_text": {"num_hidden_layers": 1},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": BOTH},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"head_dim": 16},
    "reformer": {"axial_pos_shape": [16, 32], "axial_pos_embds_dim": [16, 16]},
    "xlstm": {"num_heads": 4, "qk_dim_factor": 1.0, "v_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_key_value_heads": 4},
    "zaya": {"num_experts_per_tok": 1},
}
"""Options of single families whose sizes constrain each other, or which by default have one kind of layer in the first four."""


def tiny_config(family: str, vocabulary: int, pad: int, end: int | None, **given: Any) -> PreTrainedConfig:
    """The configuration class of a family with small sizes, or those given; whatever it raises if they do not go together."""
    kind = CONFIG_MAPPING[family]
    tokens = {"vocab_size": vocabulary, "pad_token_id": pad, "eos_token_id": end, "bos_token_id": end, "pad_index": pad}
    return kind(**_options(kind, tokens, EXCEPTIONS.get(family, {}) | given))


def _options(kind: Any, tokens: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Sizes of a configuration and of those inside it, of which the text's has the tokens."""
    known = getattr(kind, "__dataclass_fields__", {})
    found = {name: value for name, value in {**BY_NAME, **tokens}.items() if name in known}
    if "kv_lora_rank" in known:  # latent attention has keys for every head
        found["num_key_value_heads"] = found["num_attention_heads"]
    for name, part in kind.sub_configs.items():
        if not hasattr(part, "sub_configs"):  # of any class: the one that it has by default
            part = type(getattr(kind(), name, None))  # noqa: PLW2901
        if hasattr(part, "sub_configs"):
            found[name] = {"model_type": part.model_type, **_options(part, tokens if name == "text_config" else {}, {})}
    return found | given
