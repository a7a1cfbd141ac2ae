"""Tiny random models of transformers in folders, whose config.json a test may rewrite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def saved(folder: Path, *, model_type: str = "qwen3", seed: int = 0, shards: str = "1GB", **options: Any) -> Any:
    """A model whose norms, biases and weights are all random, saved; logits are far from all alike."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, initializer_range=0.3, **options)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            elif weight.ndim == 1:
                weight.normal_(0, 0.3)
    model.save_pretrained(folder, max_shard_size=shards)
    return model


def rewrite(folder: Path, *, leave_out: tuple[str, ...] = (), **changes: Any) -> None:
    """Other fields in its config.json."""
    file = folder / "config.json"
    config = {k: v for k, v in json.loads(file.read_text()).items() if k not in leave_out}
    file.write_text(json.dumps({**config, **changes}))


def loaded(folder: Path) -> Any:
    """What transformers makes of it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
