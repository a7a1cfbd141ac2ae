"""The JAX decoder computes what transformers computes on the same weights: logits, cached decoding, gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from support.runs.model_folders import saved

from integration.on_jax.decoder import Decoder
from integration.on_jax.weights import load_decoder, named_weights

SHAPES: dict[str, dict[str, Any]] = {
    "grouped, tied": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True},
    "multi-query, untied": {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": False},
    "every head its own, wide theta": {
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "rms_norm_eps": 1e-3,
    },
    "llama, all biases, stretched positions": {
        "model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True,
        "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 8},
    },
    "mistral, a window": {"model_type": "mistral", "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 3},
    "qwen2, a window in one layer": {
        "model_type": "qwen2", "num_attention_heads": 4, "num_key_value_heads": 2, "use_sliding_window": True,
        "sliding_window": 4, "max_window_layers": 1, "hidden_act": "gelu",
    },
    "qwen3_moe, one layer dense": {
        "model_type": "qwen3_moe", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 5,
        "num_experts_per_tok": 2, "moe_intermediate_size": 12, "mlp_only_layers": [1], "norm_topk_prob": True,
    },
}  # fmt: skip
SIZES = {"vocab_size": 37, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
LENGTHS = (9, 4, 1)


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Decoder]:
    """The same weights in both."""
    theirs = saved(tmp_path, **SIZES, **request.param)
    return theirs, load_decoder(tmp_path)


def batch(right: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Random ids [3, 9 + right] and attention: padded on the left to 9, and on the right."""
    width = max(LENGTHS) + right
    ids = np.random.default_rng(1).integers(0, 37, (len(LENGTHS), width))
    there = np.array([[False] * (max(LENGTHS) - n) + [True] * n + [False] * right for n in LENGTHS])
    return ids, there


def their_logits(theirs: Any, row: np.ndarray[Any, Any]) -> Any:
    """[S, V] of one sequence, without padding."""
    return theirs(input_ids=torch.from_numpy(row)[None]).logits[0]


def in_files(theirs: Any, of: Any) -> dict[str, np.ndarray[Any, Any]]:
    """`of` each parameter by the names of a checkpoint, where every expert has its own."""
    found: dict[str, Any] = {}
    for name, weight in theirs.named_parameters():
        stem, _, last = name.rpartition(".")
        for expert, piece in enumerate(of(weight)) if last in ("gate_up_proj", "down_proj") else ():
            parts = piece.chunk(2) if last == "gate_up_proj" else (piece,)
            for part, kind in zip(parts, last.replace("gate_up", "gate,up").replace("_proj", "").split(","), strict=True):
                found[f"{stem}.{expert}.{kind}_proj.weight"] = part
        if last in ("weight", "bias"):
            found[name] = of(weight)
    return {name: piece.detach().numpy() for name, piece in found.items()}


@nnx.jit
def read(model: Decoder, ids: Any, there: Any) -> Any:
    """[N, S, H]"""
    return model(ids, there)


@nnx.jit
def decode(model: Decoder, ids: Any, seen: Any, cache: Any, start: Any) -> Any:
    """One call with a cache."""
    return model.decode(ids, seen, cache, start)


@pytest.mark.slow
@pytest.mark.parametrize("right", [0, 3])
def test_logits_are_those_of_transformers_with_padding_on_either_side(pair: tuple[Any, Decoder], right: int) -> None:
    theirs, ours = pair
    ids, there = batch(right)
    logits = np.asarray(read(ours, ids, there) @ ours.lm_head.T)
    for row in range(len(ids)):
        expected = their_logits(theirs, ids[row, there[row]]).detach().numpy()
        assert expected.std() > 0.5, "logits are all alike: nothing is compared"
        np.testing.assert_allclose(logits[row, there[row]], expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_what_stands_in_padding_changes_nothing(pair: tuple[Any, Decoder]) -> None:
    _, ours = pair
    ids, there = batch(2)
    other = np.where(there, ids, (ids + 5) % 37)
    one, two = (np.asarray(read(ours, x, there)) for x in (ids, other))
    assert (one[there] == two[there]).all()
    assert np.isfinite(one).all()


@pytest.mark.slow
def test_cached_decoding_is_the_full_pass(pair: tuple[Any, Decoder]) -> None:
    _, ours = pair
    ids, there = batch()
    whole = np.asarray(read(ours, ids, there))
    first = 5  # the first sequence has real tokens in these slots, the second one, the last none
    cache = ours.empty_cache(len(ids), 12)  # three slots stay empty
    slots = np.pad(there, ((0, 0), (0, 3)))
    seen = slots & (np.arange(12) < first)
    hidden, cache = decode(ours, ids[:, :first], seen, cache, 0)
    found = [np.asarray(hidden)]
    for column in range(first, ids.shape[1]):
        seen = slots & (np.arange(12) <= column)
        hidden, cache = decode(ours, ids[:, column, None], seen, cache, column)
        found.append(np.asarray(hidden))
    np.testing.assert_allclose(np.concatenate(found, 1)[there], whole[there], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_gradients_of_a_sum_of_log_probs_are_those_of_torch(pair: tuple[Any, Decoder]) -> None:
    theirs, ours = pair
    ids, there = batch()
    graph, params = nnx.split(ours, nnx.Param)

    def total(params: Any) -> Any:
        model = nnx.merge(graph, params)
        hidden = model(jnp.asarray(ids), jnp.asarray(there))
        logp = gspo_jax.token_logp(hidden[:, :-1], model.lm_head, jnp.asarray(ids[:, 1:]))
        return jnp.sum(jnp.where(there[:, :-1], logp, 0.0))

    value, gradients = jax.jit(jax.value_and_grad(total))(params)
    expected = torch.zeros(())
    for row in range(len(ids)):
        tokens = torch.from_numpy(ids[row, there[row]])
        expected = (
            expected + torch.log_softmax(their_logits(theirs, ids[row, there[row]]), -1)[:-1].gather(-1, tokens[1:, None]).sum()
        )
    expected.backward()
    assert float(value) == pytest.approx(float(expected.detach()), rel=1e-5)
    found, wanted = named_weights(gradients), in_files(theirs, lambda weight: weight.grad)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        largest = float(np.abs(gradient).max())
        assert largest > 1e-3, f"{name} has no gradient"
        # float32 sums of about a hundred terms, through two layers, the largest entry being the scale
        np.testing.assert_allclose(found[name], gradient, atol=2e-5 * largest, rtol=0, err_msg=name)


def test_names_and_orientation_are_those_of_transformers(pair: tuple[Any, Decoder]) -> None:
    theirs, ours = pair
    found = named_weights(nnx.state(ours, nnx.Param))
    expected = in_files(theirs, lambda weight: weight)
    assert found.keys() == expected.keys()
    assert all((found[name] == weight).all() for name, weight in expected.items())
