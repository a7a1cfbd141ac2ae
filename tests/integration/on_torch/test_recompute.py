"""Gradient checkpointing saves memory, changes no number, and is refused where it would."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig

from integration.on_torch.recompute import enable_recomputing, recomputing
from integration.options.errors import UserError

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3}


def built(config: Any) -> Any:
    """A random model in evaluation mode."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def saved_bytes(model: Any) -> tuple[int, torch.Tensor]:
    """(bytes that are kept for the backward pass, the embedding's gradient)."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in weights:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    ids = torch.arange(64).reshape(2, 32) % 40
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        states = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    size = sum(x.untyped_storage().nbytes() for x in kept.values())
    (gradient,) = torch.autograd.grad(states.square().sum(), model.get_input_embeddings().weight)
    return size, gradient


def test_less_is_kept_and_the_gradient_is_the_same() -> None:
    model = built(LlamaConfig(**SIZES, intermediate_size=32))
    usual, expected = saved_bytes(model)
    enable_recomputing(model)
    assert saved_bytes(model)[0] == usual, "outside of the context nothing changes: the sampler needs its cache"
    with recomputing(model):
        less, gradient = saved_bytes(model)
    assert less < usual / 3
    assert torch.equal(gradient, expected)
    assert not any(module.training for module in model.modules())


def test_layers_with_dropout_of_their_own_are_refused() -> None:
    """Their flag turns it on, and old and new log-probs would be of different functions."""
    config = OPTConfig(**SIZES, ffn_dim=32, word_embed_proj_dim=16, dropout=0.5, max_position_embeddings=64)
    with pytest.raises(UserError, match=r"^--gradient-checkpointing: the layers of OPTForCausalLM compute something else"):
        enable_recomputing(built(config))
    config.dropout = 0.0
    enable_recomputing(built(config))
