"""A checkpoint of the PyTorch script: model.safetensors, config, tokenizer, trainer.pt (optimizer, random states, counters)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from integration.options.errors import UserError
from integration.records.json_lines import Row


def write_checkpoint(folder: Path, model: Any, tokenizer: Any, state: Row) -> None:
    """Fill a new folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with (folder / "trainer.pt").open("wb") as stream:  # by Python, which knows why a write failed; torch's own writer does not
        torch.save({**state, "model": fingerprint(model)}, stream)


def load_state(checkpoint: Path, model: Any) -> Row:
    """The trainer's state of a checkpoint; UserError if it belongs to another model than the one given."""
    try:
        state: Row = torch.load(checkpoint / "trainer.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything; all of it means the same
        raise UserError(f"--resume: {checkpoint}/trainer.pt cannot be read: {type(error).__name__} {error}") from error
    if state["model"] != fingerprint(model):
        kinds = f"{state['model']}, not {fingerprint(model)}"
        raise UserError(f"--resume: {checkpoint} is a checkpoint of another model ({kinds})")
    return state


def fingerprint(model: Any) -> str:
    """A model's kind and size, to tell one checkpoint from another's."""
    shapes = sorted((name, tuple(p.shape)) for name, p in model.named_parameters())
    return f"{type(model).__name__}, {len(shapes)} parameters of {sum(p.numel() for p in model.parameters()):,} numbers"
