"""What a model folder's config asks for, as transformers reads it: its defaults, its old spellings, its rotary frequencies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeRotaryEmbedding

from integration.options.errors import UserError

ROTARY: dict[str, Any] = {
    "llama": LlamaRotaryEmbedding,
    "mistral": MistralRotaryEmbedding,
    "qwen2": Qwen2RotaryEmbedding,
    "qwen3": Qwen3RotaryEmbedding,
    "qwen3_moe": Qwen3MoeRotaryEmbedding,
}
"""The model types that are here, and what computes the frequencies of each."""
FIXED = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary positions whose frequencies are the same for every length of text."""
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


class ExpertShape(NamedTuple):
    """A mixture of experts in place of the MLP."""

    number: int
    top_k: int
    width: int
    """Units of each expert."""
    normalise: bool
    """Gate values of the chosen are divided by their sum."""


class Shape(NamedTuple):
    """Everything in a config that changes the function."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    hidden_act: str
    qk_norm: bool
    """Queries and keys are normalised."""
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    windows: tuple[int | None, ...]
    """How many tokens each layer sees; None for all."""
    frequencies: tuple[float, ...]
    """[head_dim / 2] radians per position."""
    rotary_scale: float
    """Of rotated queries and keys."""
    experts: ExpertShape | None = None
    sparse: tuple[bool, ...] = ()
    """Which layers are mixtures."""


def read_shape(folder: Path) -> Shape:
    """UserError if the folder has no config, one of another architecture, or one that asks for something that is not here."""
    try:
        config = AutoConfig.from_pretrained(folder)
    except _UNREADABLE as error:
        raise _unreadable(folder, error) from error
    _check(config)
    try:
        rotary = ROTARY[config.model_type](config)
        frequencies, scale = rotary.inv_freq.tolist(), float(rotary.attention_scaling)
    except _UNREADABLE as error:
        raise _unreadable(folder, error) from error
    return _shape(config, tuple(frequencies), scale)


_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, StrictDataclassError)


def _unreadable(folder: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"--model: transformers cannot read the config of {folder}: {reason}")


def _shape(config: PreTrainedConfig, frequencies: tuple[float, ...], scale: float) -> Shape:
    kind, heads = config.model_type, config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    if 2 * len(frequencies) != head_dim:
        raise UserError(f"--model: the JAX script turns whole heads of {head_dim}: got {len(frequencies)} frequencies")
    bias = bool(getattr(config, "attention_bias", False)) and kind not in ("mistral", "qwen2")
    return Shape(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=config.num_key_value_heads or heads,
        head_dim=head_dim,
        rms_norm_eps=config.rms_norm_eps,
        tie_word_embeddings=bool(config.tie_word_embeddings),
        hidden_act=config.hidden_act,
        qk_norm=kind in ("qwen3", "qwen3_moe"),
        qkv_bias=bias or kind == "qwen2",
        out_bias=bias,
        mlp_bias=kind == "llama" and bool(config.mlp_bias),
        windows=_windows(config),
        frequencies=frequencies,
        rotary_scale=scale,
        experts=_experts(config) if kind == "qwen3_moe" else None,
        sparse=tuple(_is_sparse(config, layer) for layer in range(config.num_hidden_layers)),
    )


def _experts(config: PreTrainedConfig) -> ExpertShape:
    return ExpertShape(
        config.num_experts, config.num_experts_per_tok, config.moe_intermediate_size, bool(config.norm_topk_prob)
    )


def _windows(config: PreTrainedConfig) -> tuple[int | None, ...]:
    layers: int = config.num_hidden_layers
    if config.model_type == "llama":
        return (None,) * layers
    if config.model_type in ("mistral", "qwen3_moe"):
        return (config.sliding_window,) * layers
    return tuple(config.sliding_window if kind == "sliding_attention" else None for kind in config.layer_types)


def _is_sparse(config: PreTrainedConfig, layer: int) -> bool:
    if config.model_type != "qwen3_moe":
        return False
    return layer not in config.mlp_only_layers and config.num_experts > 0 and (layer + 1) % config.decoder_sparse_step == 0


def _check(config: PreTrainedConfig) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    expected: dict[str, tuple[object, tuple[str, ...]]] = {
        "model_type": (config.model_type, tuple(ROTARY)),
        "hidden_act": (getattr(config, "hidden_act", "silu"), tuple(ACTIVATIONS)),
        "rope_type": (rope.get("rope_type", "default"), FIXED),
    }
    for name, (found, known) in expected.items():
        if found not in known:
            raise UserError(f"--model: the JAX script has {name} {', '.join(known)}: got {found}")
    if getattr(config, "quantization_config", None) is not None:
        raise UserError("--model: the JAX script trains whole weights: got a quantised model")
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        raise UserError(
            f"--model: the JAX script has full_attention and sliding_attention layers: got {', '.join(sorted(kinds))}"
        )
