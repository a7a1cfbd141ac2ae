"""Is a model's LM head what its config says: a product, with a scale or a cap, and nothing else?"""

from __future__ import annotations

from typing import Any

import torch
from gspo_torch import ModelHead, model_head
from torch import Tensor

from integration.on_torch.sampling.growing import without_cache
from integration.on_torch.sampling.reading import head_inputs
from integration.options.errors import UserError

LARGE = 1000.0
"""The largest logit that is put through what follows the head: a cap shows there, however small the logits are."""


SCALED_BEFORE = {"minicpm3"}
"""Families whose scale acts on the states before the head: what reaches the head has it."""


def head_of(model: Any) -> ModelHead:
    """What is done to the states that reach the LM head, as `model_head`; UserError if there is none."""
    try:
        head = model_head(model)
        return head._replace(scale=1.0) if model.config.get_text_config().model_type in SCALED_BEFORE else head
    except ValueError as error:
        raise UserError(f"--{error}") from error


def logits_of(head: ModelHead, states: Tensor) -> Tensor:
    """[..., V] float32."""
    return head.transformed(torch.nn.functional.linear(states.to(head.weight.dtype), head.weight, head.bias).float())


def require_head(model: Any, head: ModelHead, ids: Tensor) -> bool:
    """Look at all logits of a prompt [1, P], as they are and enlarged to `LARGE`. UserError if they are something else.

    Returns: whether the head computes in 16 bits.
    """
    layer, enlarged, low = model.get_output_embeddings(), [], []

    def enlarge(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        low.append(output.dtype.itemsize == 2)
        enlarged.append(output.float() * (LARGE / output.float().abs().max()))
        return enlarged[0].to(output.dtype)

    expected = logits_of(head, head_inputs(model, ids, **without_cache(model)))
    raw = model(input_ids=ids, **without_cache(model)).logits
    handle = layer.register_forward_hook(enlarge)
    try:
        large = model(input_ids=ids, **without_cache(model)).logits.float()
    finally:
        handle.remove()
    allowed = 0.05 if low[0] else 1e-3  # logits that are rounded to 16 bits
    for found, wanted in ((raw.float(), expected), (large, head.transformed(enlarged[0]))):
        gap = float((found - wanted).abs().max() / wanted.abs().max())
        if not gap <= allowed:
            raise UserError(
                f"--model: the logits of {type(model).__name__} differ from hidden states times LM head by {gap:.2g} of the "
                "largest: it does something to them that its config does not name"
            )
    return low[0]
