"""A model folder means in JAX what it means in transformers, or is refused: its config in any spelling, and its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from support.draws import at_most
from support.runs.model_folders import loaded, rewrite, saved

from integration.on_jax.weights import load_decoder
from integration.options.errors import UserError

SIZES: dict[str, Any] = {"vocab_size": 37, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
WIDTH = 24


def batch() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Ids [2, 24] and attention, the second row with five slots of left padding."""
    there = np.arange(WIDTH) >= np.array([[0], [5]])
    return np.random.default_rng(1).integers(0, 37, there.shape), there


def difference(folder: Path) -> float:
    """The largest between our log-probs and those of transformers on the same folder, left-padded batch."""
    ids, there = batch()
    ours = load_decoder(folder)
    logp = jax.nn.log_softmax(ours(ids, there) @ ours.lm_head.T)
    with torch.no_grad():
        logits = loaded(folder)(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(there).long(),
            position_ids=torch.from_numpy(np.maximum(there.cumsum(1) - 1, 0)),
        ).logits
    assert logits.std() > 0.5, "logits are all alike: nothing is compared"
    return float(np.abs(np.asarray(logp) - logits.log_softmax(-1).numpy())[there].max())


POSITIONS: list[dict[str, Any]] = [
    {},
    {"rope_theta": 5e5},
    {"rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, "rope_theta": 1e4},
    {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16, "attention_factor": 1.3}},
    {"rope_parameters": {"type": "linear", "factor": 3.0, "rope_theta": 1e4}},
    {
        "rope_parameters": {
            "rope_type": "llama3",
            "factor": 8.0,
            "rope_theta": 1e4,
            "original_max_position_embeddings": 16,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        }
    },
    {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}},
]
"""Rotary positions in the spellings of old and new config files."""


@st.composite
def configs(draw: st.DrawFn) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(model type, options to build with, what its file says of positions)."""
    kind = draw(st.sampled_from(["llama", "mistral", "qwen2", "qwen3", "qwen3_moe"]))
    options: dict[str, Any] = {
        "tie_word_embeddings": draw(st.booleans()),
        "hidden_act": draw(st.sampled_from(["silu", "gelu", "gelu_pytorch_tanh", "relu"])),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-3])),
        "num_key_value_heads": draw(st.sampled_from([1, 2, 4])),
        "head_dim": 8 if kind in ("llama", "qwen2") else draw(st.sampled_from([8, 6])),
        "max_position_embeddings": 64,
    }
    if kind in ("llama", "qwen3", "qwen3_moe"):
        options["attention_bias"] = draw(st.booleans())
    if kind == "llama":
        options["mlp_bias"] = draw(st.booleans())
    if kind == "mistral":
        options["sliding_window"] = draw(st.sampled_from([None, 7]))
    if kind in ("qwen2", "qwen3"):
        options |= {"use_sliding_window": draw(st.booleans()), "sliding_window": 7, "max_window_layers": 1}
    if kind == "qwen3_moe":
        options |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
        options |= {"norm_topk_prob": draw(st.booleans()), "decoder_sparse_step": draw(st.sampled_from([1, 2]))}
    return kind, options, draw(st.sampled_from(POSITIONS))


@pytest.mark.slow
@given(configs())
@at_most(6)
def test_log_probs_are_those_of_transformers(drawn: tuple[str, dict[str, Any], dict[str, Any]]) -> None:
    kind, options, positions = drawn
    with TemporaryDirectory() as name:
        saved(Path(name), model_type=kind, num_attention_heads=4, **SIZES, **options)
        rewrite(Path(name), leave_out=("rope_parameters",), **positions)
        assert difference(Path(name)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("positions", POSITIONS[1:-1], ids=str)
def test_the_spelling_of_positions_makes_a_difference(positions: dict[str, Any], tmp_path: Path) -> None:
    """As transformers has it, and not as if nothing was said."""
    saved(tmp_path, **SIZES, **HEADS)
    rewrite(tmp_path, leave_out=("rope_parameters",))
    plain = loaded(tmp_path)(input_ids=torch.from_numpy(batch()[0])).logits
    rewrite(tmp_path, **positions)
    other = loaded(tmp_path)(input_ids=torch.from_numpy(batch()[0])).logits
    assert (plain - other).abs().max() > 1e-2
    assert difference(tmp_path) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "options"),
    [
        ("head_dim", {"head_dim": 128, "num_key_value_heads": 4}),
        ("num_key_value_heads", {"num_attention_heads": 32, "num_key_value_heads": 32}),
        ("rms_norm_eps", {}),
        ("tie_word_embeddings", {"tie_word_embeddings": False}),
        ("hidden_act", {}),
        ("max_position_embeddings", {}),
        ("rope_parameters", {}),
    ],
)
def test_a_field_that_is_missing_has_the_default_of_transformers(missing: str, options: dict[str, Any], tmp_path: Path) -> None:
    saved(tmp_path, **SIZES, **{**HEADS, **options})
    rewrite(tmp_path, leave_out=(missing,))
    assert difference(tmp_path) < 1e-4


@pytest.mark.slow
def test_a_tied_config_beside_a_head_of_its_own_means_that_head(tmp_path: Path) -> None:
    """As transformers 5 has it; and beside a copy of the embedding it means what it says."""
    saved(tmp_path, **SIZES, **HEADS, tie_word_embeddings=False)
    rewrite(tmp_path, tie_word_embeddings=True)
    assert not load_decoder(tmp_path).shape.tie_word_embeddings
    assert difference(tmp_path) < 1e-4
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    assert load_decoder(tmp_path).shape.tie_word_embeddings
    assert difference(tmp_path) < 1e-4
    del weights["model.embed_tokens.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert difference(tmp_path) < 1e-4, "the one that is there stands for both"


def second_file(folder: Path) -> None:
    """With the same names, and zeros."""
    weights = {name: np.zeros_like(x) for name, x in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "other.safetensors", {"format": "pt"})


def shards(folder: Path) -> None:
    """Several files with an index, and one that it does not name."""
    second_file(folder)
    (folder / "model.safetensors").unlink()
    saved(folder, **SIZES, **HEADS, shards="10KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2


def stale_shards(folder: Path) -> None:
    """Of another model, with their index, beside the whole file."""
    weights = folder / "model.safetensors"
    kept = weights.read_bytes()
    weights.unlink()
    saved(folder, **SIZES, **HEADS, seed=1, shards="10KB")
    weights.write_bytes(kept)


def half(folder: Path) -> None:
    """Weights in bfloat16."""
    loaded(folder).to(torch.bfloat16).save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("change", [second_file, shards, stale_shards, half])
def test_the_files_are_those_that_transformers_reads(change: Callable[[Path], None], tmp_path: Path) -> None:
    saved(tmp_path, **SIZES, **HEADS)
    change(tmp_path)
    assert difference(tmp_path) < 1e-4


def one_shard_less(folder: Path) -> None:
    """Than the index names."""
    shards(folder)
    next(folder.glob("model-00002*")).unlink()


def one_name_twice(folder: Path) -> None:
    """In two files that the index names."""
    shards(folder)
    first, second, *_ = sorted(folder.glob("model-*.safetensors"))
    save_file({**load_file(first), **load_file(second)}, second, {"format": "pt"})


def only_pickles(folder: Path) -> None:
    """Weights that are no safetensors."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def torn(folder: Path) -> None:
    """A file that ends too early."""
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def integers(folder: Path) -> None:
    """Weights in eight bits, without their scales."""
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].astype(np.int8)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (one_shard_less, "does not hold the safetensors of a transformers checkpoint"),
        (one_name_twice, "in two of the files that model.safetensors.index.json names"),
        (only_pickles, "does not hold the safetensors of a transformers checkpoint"),
        (torn, "does not hold the safetensors of a transformers checkpoint"),
        (integers, "is quantised: model.norm.weight is int8, and the JAX script trains whole weights"),
        (lambda f: rewrite(f, leave_out=("layer_types",), num_hidden_layers=4), "of another model: model.layers.2"),
        (lambda f: rewrite(f, hidden_size=16), "of another model"),
        (lambda f: rewrite(f, vocab_size=40), "of another model: (lm_head|model.embed_tokens)"),
        (lambda f: rewrite(f, tie_word_embeddings=False) or drop_head(f), "of another model: lm_head.weight missing"),
    ],
)
def test_a_folder_whose_weights_do_not_fit_is_refused(change: Callable[[Path], None], sentence: str, tmp_path: Path) -> None:
    saved(tmp_path, **SIZES, **HEADS)
    change(tmp_path)
    with pytest.raises(UserError, match=f"^--model: .*{sentence}"):
        load_decoder(tmp_path)


def drop_head(folder: Path) -> None:
    """A file without an LM head."""
    weights = load_file(folder / "model.safetensors")
    weights.pop("lm_head.weight", None)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
