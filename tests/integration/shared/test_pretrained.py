"""What is no whole trainable model is refused by its folder, before weights are loaded."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from integration.on_torch.small_model import build_tokenizer
from integration.options.errors import UserError
from integration.shared import pretrained
from integration.shared.pretrained import load_model, load_pretrained
from integration.tasks.prompts import ends_of
from integration.tasks.task import Example


def test_the_folder_of_an_adapter_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "nowhere"}')
    with pytest.raises(UserError, match=r"--model: .* is an adapter, not a whole model: merge it .*merge_and_unload"):
        load_model(str(tmp_path))


def folder_of_a_llama(folder: Path) -> Path:
    tokenizer = build_tokenizer([Example("What is 1 + 1?", "2", {})])
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=4, pad_token_id=0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_what_the_tokenizer_and_the_config_will_not_do_is_said_before_the_weights_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, loaded = folder_of_a_llama(tmp_path), []
    monkeypatch.setattr(pretrained, "load_model", loaded.append)

    def refuse(tokenizer: Any, config: Any) -> None:
        assert (tokenizer.eos_token_id, config.model_type) == (4, "llama")
        raise UserError("--prompt chat: no")

    with pytest.raises(UserError, match="--prompt chat: no"):
        load_pretrained(str(folder), cache=tmp_path, device=torch.device("cpu"), ready=refuse)
    assert not loaded


def test_a_model_with_nothing_to_train_is_refused_and_one_with_a_frozen_part_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, load = str(folder_of_a_llama(tmp_path)), pretrained.AutoModelForCausalLM.from_pretrained
    frozen: list[str] = ["model.norm.weight"]

    def partly(*args: Any, **options: Any) -> Any:
        loaded = load(*args, **options)
        for name, parameter in loaded[0].named_parameters():
            parameter.requires_grad_(name not in frozen)
        return loaded

    monkeypatch.setattr(pretrained.AutoModelForCausalLM, "from_pretrained", partly)
    assert sum(not p.requires_grad for p in load_model(folder).parameters()) == 1
    frozen += [name for name, _ in load_model(folder).named_parameters()]
    with pytest.raises(UserError, match=r"^--model: .* has nothing to train"):
        load_model(folder)


ODD = [None, "x", -1, 0, 1, 10**9, 1.5, float("nan"), True, [], {}, [[1]]]
"""Values of which some are right for some keys."""


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_folder_with_any_value_changed_loads_or_is_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, file: str
) -> None:
    folder, outcomes = folder_of_a_llama(tmp_path_factory.mktemp("llama")), Counter[str]()
    right = json.loads((folder / file).read_text())
    keys = sorted({*right, "eos_token_id", "pad_token_id", "rope_theta", "quantization_config", "model_max_length"})

    @settings(max_examples=15, deadline=None)
    @given(st.sampled_from(keys), st.sampled_from(ODD))
    def claim(key: str, value: Any) -> None:
        (folder / file).write_text(json.dumps({**right, key: value}))
        try:
            model, _ = load_pretrained(str(folder), cache=folder, device=torch.device("cpu"))
            ends_of(model.generation_config.eos_token_id)
        except UserError as error:
            outcomes["refused" if str(error).startswith("--model: ") and "\n" not in str(error) else f"said: {error}"] += 1
        else:
            outcomes["loaded"] += 1

    claim()
    assert set(outcomes) <= {"loaded", "refused"}, outcomes
    assert outcomes["loaded"], outcomes
    assert outcomes["refused"] or file != "config.json", outcomes


def test_weights_of_another_shape_than_the_configs_are_named(tmp_path: Path) -> None:
    folder = folder_of_a_llama(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 8}))  # a resized vocabulary
    with pytest.raises(UserError, match=r"^--model: the weights of .* do not fit its config: lm_head\.weight, model\.embed"):
        load_model(str(folder))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"^--model: .* does not load as a causal language model: "):
        load_model(str(folder))
