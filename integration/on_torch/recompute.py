"""Gradient checkpointing: layers keep their inputs alone, and compute the rest again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from integration.on_torch.sampling.growing import without_cache
from integration.on_torch.sampling.reading import head_inputs
from integration.options.errors import UserError


def enable_recomputing(model: Any) -> None:
    """Prepare a model for `recomputing`; UserError if it has no such layers, or if they compute something else then."""
    name = type(model).__name__
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable  # its older name
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise UserError(f"--gradient-checkpointing: {name} does not support it") from error
    if not _layers(model):
        raise UserError(f"--gradient-checkpointing: {name} has no layers that transformers can recompute")
    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    with torch.no_grad():
        expected = head_inputs(model, ids, **without_cache(model))
        with recomputing(model):
            found = head_inputs(model, ids, **without_cache(model))
    if not torch.equal(found, expected):
        raise UserError(f"--gradient-checkpointing: the layers of {name} compute something else in training, such as dropout")


@contextmanager
def recomputing(model: Any) -> Iterator[None]:
    """Around forward and backward of an update.

    A layer recomputes only in training mode. The flag is set on the layers alone and not below: dropout inside stays off.
    """
    layers = _layers(model)
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def _layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
