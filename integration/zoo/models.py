"""A tiny random model of a family, whose logits are as large as a trained model's, in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from integration.zoo.sizes import tiny_config

LOGITS = 3.0
"""Standard deviation of the logits."""

LARGEST = 80_000_000
"""Parameters."""


def write_model(family: str, tokenizer: Any, ids: torch.Tensor, folder: Path) -> Any:
    """Make it, save it with its tokenizer as people have it, and return it. `ids` [1, P] is a text to measure its logits on."""
    torch.manual_seed(0)
    config = tiny_config(family, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size:,} parameters: the sizes that these options leave at their defaults are not tiny")
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    _spread(model)
    _enlarge(model, ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@torch.no_grad()
def _spread(model: Any) -> None:
    """Matrices whose products keep the size of their input, and biases that matter: initial values of 0.02 would do nothing."""
    for name, values in model.named_parameters():
        if name.endswith("bias"):
            values.add_(0.2 * torch.randn_like(values))
        elif values.ndim == 2 and "embed" not in name and "A_log" not in name and float(values.std()) > 0:
            values.mul_(float(values.shape[1]) ** -0.5 / values.std())


@torch.no_grad()
def _enlarge(model: Any, ids: torch.Tensor) -> None:
    """Scale the LM head until the logits have the wanted size, if it can be done: a cap stops it."""
    head = model.get_output_embeddings()
    for _ in range(8):
        spread = float(model(input_ids=ids).logits.std())
        if not 0 < spread < float("inf"):
            return
        for values in head.parameters():
            values.mul_(min(10.0, LOGITS / spread))
