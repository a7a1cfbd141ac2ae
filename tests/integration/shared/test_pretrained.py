"""What is no whole trainable model is refused by its folder, before weights are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from integration.on_torch.small_model import build_tokenizer
from integration.options.errors import UserError
from integration.shared import pretrained
from integration.shared.pretrained import load_model, load_pretrained
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
