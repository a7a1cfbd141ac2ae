"""The estimate of a run's memory, beside what tensors take; a run that cannot fit is refused before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma4TextConfig, GPT2Config, LlamaConfig, Qwen3Config, Qwen3MoeConfig

from integration.on_torch.memory import CARDS, Estimate, activations, estimate, parameters, require_memory
from integration.options.config import Config
from integration.options.errors import UserError
from integration.shared.pretrained import compute_in

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4, "vocab_size": 100}
MODELS = {
    "qwen3": Qwen3Config(**HEADS, hidden_size=128, intermediate_size=384, head_dim=32),
    "llama": LlamaConfig(**HEADS, hidden_size=128, intermediate_size=344),
    "gpt2": GPT2Config(n_embd=128, n_layer=4, n_head=4, vocab_size=100, bos_token_id=0, eos_token_id=0),
    "qwen3_moe": Qwen3MoeConfig(
        **HEADS,
        hidden_size=64,
        intermediate_size=192,
        moe_intermediate_size=48,
        num_experts=8,
        num_experts_per_tok=2,
        head_dim=16,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_activations_are_what_a_forward_pass_keeps(name: str, dtype: str) -> None:
    """Within a third; the estimate is rather too large."""
    config: Any = MODELS[name]
    model = AutoModelForCausalLM.from_config(config).eval()
    compute_in(model, getattr(torch, dtype))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in weights:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    ids = torch.randint(100, (8, 128), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        model.get_decoder()(input_ids=ids, use_cache=False)
    measured = sum(x.untyped_storage().nbytes() for x in kept.values())
    counted = activations(config, ids.numel(), 2 if dtype == "bfloat16" else 4, checkpointing=False)
    assert 0.9 <= counted / measured <= 1.34
    assert activations(config, ids.numel(), 4, checkpointing=True) < 0.6 * activations(
        config, ids.numel(), 4, checkpointing=False
    )


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_counted_without_making_them(name: str) -> None:
    model = AutoModelForCausalLM.from_config(MODELS[name])
    assert parameters(MODELS[name]) == sum(parameter.numel() for parameter in model.parameters())


def test_states_of_a_known_model() -> None:
    """Qwen3-0.6B: 596,049,920 parameters, the head tied to the embedding; 16 bytes each, 18 in bfloat16."""
    shape = Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    )  # fmt: skip
    options = {"model": "Qwen/Qwen3-0.6B", "device": "cuda", "dtype": "bfloat16", "gradient_checkpointing": True}
    needed = estimate(shape, Config(**options, micro_batch_tokens=16384, max_new_tokens=128, prompts_per_rollout=32), 150)
    assert needed.states == 18 * 596_049_920
    assert needed.sampling == 256 * (278 * 28 * 2 * 8 * 128 * 2 + 151936 * 20)
    require_memory(needed, int(24e9), "Qwen/Qwen3-0.6B", "cuda")
    page = (Path(__file__).parents[3] / "docs/training.md").read_text(encoding="utf-8")
    assert all(f"| {size / 2**30:.1f} GiB |" in page for size in needed)
    whole = estimate(shape, Config(model="x", max_new_tokens=2048, prompts_per_rollout=64), 200)
    with pytest.raises(UserError, match="smallest GPU for it: none of one GPU"):
        require_memory(whole, int(80e9), "x", "cuda")


@given(states=st.integers(0, 10**11), sampling=st.integers(0, 10**11), updating=st.integers(0, 10**11))
def test_the_named_card_is_the_smallest_that_is_large_enough(states: int, sampling: int, updating: int) -> None:
    needed = Estimate(states, sampling, updating)
    with pytest.raises(UserError, match=r"^--model: m needs about .* and the cuda has -0\.0 GiB; the smallest GPU") as refused:
        require_memory(needed, -1, "m", "cuda")
    named = re.search(r"for it: (\d+) GB", str(refused.value))
    fitting = [card for card in CARDS if needed.peak <= 0.95e9 * card]
    assert (int(named[1]) if named else None) == (fitting[0] if fitting else None)
    assert needed.peak >= states + max(sampling, updating)


def test_layers_of_different_sizes_count_as_the_largest() -> None:
    """Gemma 4's global layers have wider heads, which transformers does not give for the model as a whole."""
    mixed: dict[str, Any] = {**HEADS, "hidden_size": 64, "intermediate_size": 96, "head_dim": 8}
    narrow = activations(Gemma4TextConfig(**mixed, global_head_dim=8), 64, 4, checkpointing=False)
    wide = activations(Gemma4TextConfig(**mixed, global_head_dim=256), 64, 4, checkpointing=False)
    assert wide == activations(Gemma4TextConfig(**{**mixed, "head_dim": 256}, global_head_dim=256), 64, 4, checkpointing=False)
    assert wide > 2 * narrow
