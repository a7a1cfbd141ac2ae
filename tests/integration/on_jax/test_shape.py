"""A config that asks for what the JAX script does not have is refused, with the field that asks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from integration.on_jax.shape import ROTARY, read_shape
from integration.options.errors import UserError

PLAIN: dict[str, Any] = {"model_type": "qwen3", "num_hidden_layers": 2}


def written(folder: Path, config: dict[str, Any]) -> Path:
    """A folder with this config.json."""
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "gemma2"}, "the JAX script has model_type llama, mistral, qwen2, qwen3, qwen3_moe: got gemma2"),
        ({"hidden_act": "quick_gelu"}, "has hidden_act silu, relu, gelu, gelu_pytorch_tanh: got quick_gelu"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "has rope_type default, linear, llama3, yarn: got dynamic"),
        ({"rope_scaling": {"type": "proportional"}}, "has rope_type default, linear, llama3, yarn: got proportional"),
        ({"rope_scaling": {"type": "nonsense"}}, "has rope_type default, linear, llama3, yarn: got nonsense"),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "partial_rotary_factor": 0.5}},
            "turns whole heads of 128: got 32",
        ),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "trains whole weights: got a quantised model"),
        ({"hidden_size": "a"}, "transformers cannot read the config of .*hidden_size"),
        ({"model_type": "llama", "hidden_size": 30, "num_attention_heads": 4}, "transformers cannot read the config of .*30"),
        ({"model_type": None}, "transformers cannot read the config of"),
    ],
)
def test_what_is_not_here_is_refused(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^--model: .*{sentence}"):
        read_shape(written(tmp_path, {**PLAIN, **changes}))


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--model: transformers cannot read the config of"):
        read_shape(tmp_path)


@pytest.mark.parametrize("kind", sorted(ROTARY))
def test_an_empty_config_is_the_default_one_of_transformers(kind: str, tmp_path: Path) -> None:
    """Field by field; what has another name here is compared by log-probs in test_weights.py."""
    shape, config = read_shape(written(tmp_path, {"model_type": kind})), AutoConfig.for_model(kind)
    same = [name for name in shape._fields if hasattr(config, name) and name != "head_dim"]
    assert len(same) > 7
    for name in same:
        assert getattr(shape, name) == getattr(config, name), name
    assert shape.head_dim == (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    assert len(shape.windows) == len(shape.sparse) == config.num_hidden_layers
