"""The JAX Qwen3 computes what transformers computes on the same weights: logits, cached decoding, gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from integration.on_jax.qwen3 import Qwen3, load_qwen3, named_weights
from integration.options.errors import UserError

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
}
LENGTHS = (9, 4, 1)


def make(folder: Path, **options: Any) -> Any:
    """A random Qwen3 of transformers, its norms random too, saved."""
    torch.manual_seed(0)
    theirs = Qwen3ForCausalLM(
        Qwen3Config(vocab_size=37, hidden_size=24, intermediate_size=40, num_hidden_layers=2, initializer_range=0.3, **options)
    ).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
    theirs.save_pretrained(folder)
    return theirs


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Qwen3]:
    """The same weights in both."""
    theirs = make(tmp_path, **request.param)
    return theirs, load_qwen3(tmp_path)


def batch(right: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Random ids [3, 9 + right] and attention: padded on the left to 9, and on the right."""
    width = max(LENGTHS) + right
    ids = np.random.default_rng(1).integers(0, 37, (len(LENGTHS), width))
    there = np.array([[False] * (max(LENGTHS) - n) + [True] * n + [False] * right for n in LENGTHS])
    return ids, there


def their_logits(theirs: Any, row: np.ndarray[Any, Any]) -> Any:
    """[S, V] of one sequence, without padding."""
    return theirs(input_ids=torch.from_numpy(row)[None]).logits[0]


@nnx.jit
def read(model: Qwen3, ids: Any, there: Any) -> Any:
    """[N, S, H]"""
    return model(ids, there)


@nnx.jit
def decode(model: Qwen3, ids: Any, seen: Any, cache: Any, start: Any) -> Any:
    """One call with a cache."""
    return model.decode(ids, seen, cache, start)


@pytest.mark.slow
@pytest.mark.parametrize("right", [0, 3])
def test_logits_are_those_of_transformers_with_padding_on_either_side(pair: tuple[Any, Qwen3], right: int) -> None:
    theirs, ours = pair
    ids, there = batch(right)
    logits = np.asarray(read(ours, ids, there) @ ours.lm_head.T)
    for row in range(len(ids)):
        expected = their_logits(theirs, ids[row, there[row]]).detach().numpy()
        assert expected.std() > 0.5, "logits are all alike: nothing is compared"
        np.testing.assert_allclose(logits[row, there[row]], expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_what_stands_in_padding_changes_nothing(pair: tuple[Any, Qwen3]) -> None:
    _, ours = pair
    ids, there = batch(2)
    other = np.where(there, ids, (ids + 5) % 37)
    one, two = (np.asarray(read(ours, x, there)) for x in (ids, other))
    assert (one[there] == two[there]).all()
    assert np.isfinite(one).all()


@pytest.mark.slow
def test_cached_decoding_is_the_full_pass(pair: tuple[Any, Qwen3]) -> None:
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
def test_gradients_of_a_sum_of_log_probs_are_those_of_torch(pair: tuple[Any, Qwen3]) -> None:
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
    found, weights = named_weights(gradients), dict(theirs.named_parameters())
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        largest = float(weight.grad.abs().max())
        assert largest > 1e-3, f"{name} has no gradient"
        # float32 sums of about a hundred terms, through two layers, the largest entry being the scale
        np.testing.assert_allclose(found[name], weight.grad.numpy(), atol=2e-5 * largest, rtol=0, err_msg=name)


def test_names_and_orientation_are_those_of_transformers(pair: tuple[Any, Qwen3]) -> None:
    theirs, ours = pair
    found = named_weights(nnx.state(ours, nnx.Param))
    expected = {name: weight.detach().numpy() for name, weight in theirs.named_parameters()}
    assert found.keys() == expected.keys()
    assert all((found[name] == weight).all() for name, weight in expected.items())


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=64, intermediate_size=8, num_hidden_layers=1)).save_pretrained(
        tmp_path
    )
    with pytest.raises(UserError, match="expected model_type qwen3, got llama"):
        load_qwen3(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_parameters": None},
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_parameters": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"attention_bias": True},
    ],
)
def test_a_config_that_asks_for_another_function_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    make(tmp_path, **SHAPES["grouped, tied"])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UserError, match="the JAX script has a plain Qwen3 only: expected"):
        load_qwen3(tmp_path)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not hold a transformers checkpoint"):
        load_qwen3(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    make(tmp_path, **SHAPES["grouped, tied"])
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value in (("hidden_size", 16), ("num_hidden_layers", 4)):
        (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(UserError, match="of another model"):
            load_qwen3(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "use_sliding_window": True}))
    with pytest.raises(UserError, match="expected use_sliding_window False, got True"):
        load_qwen3(tmp_path)
