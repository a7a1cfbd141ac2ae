"""A Qwen3 is made from its sizes and a seed, and from nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from integration.on_torch.qwen3 import ExpertSizes, Qwen3Sizes, build_qwen3

DENSE = Qwen3Sizes(
    vocabulary=11, layers=2, hidden=12, feed_forward=20, heads=3, key_value_heads=1, head=4, positions=64, pad_id=0, end_id=1
)
MIXTURE = replace(DENSE, experts=ExpertSizes(count=5, top_k=2, width=6, normalised=False))


def attention_parameters() -> int:
    """Of one layer, counted by hand: q, k, v, o, the norms of q and k, and the two norms of the layer."""
    q, kv = 3 * 4 * 12, 1 * 4 * 12
    return q + 2 * kv + q + 2 * 4 + 2 * 12


@pytest.mark.parametrize("tied", [False, True])
def test_a_dense_model_has_the_parameters_of_its_sizes(tied: bool) -> None:
    model = build_qwen3(replace(DENSE, tied=tied), 0)
    layer = attention_parameters() + 3 * 12 * 20
    assert sum(p.numel() for p in model.parameters()) == 2 * layer + 12 + 11 * 12 * (1 if tied else 2)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_mixture_has_experts_and_a_router_in_every_layer() -> None:
    model = build_qwen3(MIXTURE, 0)
    layer = attention_parameters() + 5 * 12 + 5 * 3 * 12 * 6
    assert sum(p.numel() for p in model.parameters()) == 2 * layer + 12 + 2 * 11 * 12
    assert not build_qwen3(MIXTURE, 0).config.norm_topk_prob
    assert model.config.num_experts_per_tok == 2


@pytest.mark.parametrize("sizes", [DENSE, MIXTURE], ids=["dense", "mixture"])
def test_the_weights_are_a_function_of_sizes_and_seed(sizes: Qwen3Sizes) -> None:
    torch.manual_seed(99)  # whatever the process has drawn before
    first = build_qwen3(sizes, 3).state_dict()
    second, other = build_qwen3(sizes, 3).state_dict(), build_qwen3(sizes, 4).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())
    wide = build_qwen3(replace(sizes, initializer=0.2), 3).get_input_embeddings().weight.detach()
    assert 5 < float(wide[1:].std() / first["model.embed_tokens.weight"][1:].std()) < 20
