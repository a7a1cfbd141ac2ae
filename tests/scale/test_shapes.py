"""Parameters are counted as transformers makes them, on no memory, and sizes are refused by their names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gspo_scale import PRESETS, Shape, shape_of
from hypothesis import given
from hypothesis import strategies as st
from support.draws import at_most
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config, Qwen3MoeConfig


def made(config: Any) -> int:
    """How many parameters transformers makes of a config."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())


@at_most(5)
@given(
    layers=st.integers(1, 3), hidden=st.integers(1, 9), heads=st.integers(1, 4), groups=st.integers(1, 3),
    inner=st.integers(1, 20), vocabulary=st.integers(2, 30), tied=st.booleans(),
)  # fmt: skip
def test_the_formula_counts_every_parameter_of_a_llama(
    layers: int, hidden: int, heads: int, groups: int, inner: int, vocabulary: int, tied: bool
) -> None:
    no_ids: Any = {"pad_token_id": None, "eos_token_id": None, "bos_token_id": None}
    config = LlamaConfig(
        num_hidden_layers=layers, hidden_size=hidden * heads * groups, num_attention_heads=heads * groups,
        num_key_value_heads=heads, head_dim=4, intermediate_size=inner, vocab_size=vocabulary, tie_word_embeddings=tied,
        **no_ids,
    )  # fmt: skip
    assert shape_of(config).parameters == made(config)
    assert shape_of(config, 12345).parameters == 12345


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_model_of_transformers(name: str) -> None:
    shape = PRESETS[name]
    sizes: dict[str, Any] = {
        "num_hidden_layers": shape.layers, "hidden_size": shape.hidden, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_size, "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied, "intermediate_size": shape.intermediate,
    }  # fmt: skip
    if shape.experts:
        experts = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": shape.intermediate}
        assert made(Qwen3MoeConfig(**sizes, **experts)) == shape.parameters == 30_532_122_624
    else:
        kind = LlamaConfig if "smollm" in name else Qwen3Config
        assert made(kind(**sizes)) == shape.parameters


@pytest.mark.parametrize(("size", "value"), [("layers", 0), ("hidden", 1.5), ("experts", -1), ("vocabulary", "many")])
def test_a_size_that_is_none_is_refused_by_its_name(size: str, value: Any) -> None:
    sizes = {**vars(PRESETS["qwen3-0.6b"]), size: value}
    with pytest.raises(ValueError, match=f"^{size}: expected "):
        Shape(**sizes)
