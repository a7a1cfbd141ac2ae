"""Gradient checkpointing saves memory, changes no number, and is refused where it would."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OPTConfig

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


def test_dropout_inside_the_layers_stays_off() -> None:
    """GPT-2's layers have theirs in modules of their own, which are not put into training mode."""
    config: Any = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=64, bos_token_id=0, eos_token_id=0)
    assert config.resid_pdrop > 0
    model = built(config)
    enable_recomputing(model)
    _, expected = saved_bytes(model)
    with recomputing(model):
        assert torch.equal(saved_bytes(model)[1], expected)
    model.train()
    assert not torch.equal(saved_bytes(model)[1], expected), "the guard: it would be seen"


def test_an_update_that_fails_leaves_nothing_in_training_mode() -> None:
    model = built(LlamaConfig(**SIZES, intermediate_size=32))
    enable_recomputing(model)

    def interrupted() -> None:
        with recomputing(model):
            assert [m for m in model.modules() if m.training] == list(model.get_decoder().layers)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(module.training for module in model.modules())


class Unprepared(torch.nn.Module):
    """A model without layers that transformers can recompute."""

    def gradient_checkpointing_enable(self, _: dict[str, bool]) -> None:
        """Under its older name; nothing to do."""


class Unwilling(Unprepared):
    """A model that says so."""

    def gradient_checkpointing_enable(self, _: dict[str, bool]) -> None:
        """As transformers does."""
        raise ValueError("not supported")


def test_a_model_that_cannot_recompute_is_refused_by_name() -> None:
    with pytest.raises(
        UserError, match=r"^--gradient-checkpointing: Unprepared has no layers that transformers can recompute$"
    ):
        enable_recomputing(Unprepared())
    with pytest.raises(UserError, match=r"^--gradient-checkpointing: Unwilling does not support it$"):
        enable_recomputing(Unwilling())
