"""How a model is read, so that a batch of texts gives what each text alone would give: with padding and a cache, or without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from integration.on_torch.sampling.growing import Cached, Growing, Reread, Unpadded, positions, without_cache


@dataclass(frozen=True)
class Reading:
    """One way of sampling and of scoring."""

    padded: bool = True
    """Texts of different lengths share a forward pass, padded on the left, with an attention mask and positions."""
    cached: bool = True
    """The sampler reads each token once; only with padding."""

    def describe(self) -> str:
        """In words."""
        return "one length at a time" if not self.padded else "padded, cache" if self.cached else "padded, no cache"

    def growing(self, model: Any, prompt_ids: Tensor, prompt_mask: Tensor) -> Growing:
        """Responses that are about to be drawn to prompts [N, P]."""
        kind = Unpadded if not self.padded else Cached if self.cached else Reread
        return kind(model, prompt_ids, prompt_mask)

    def states(self, model: Any, prompt_ids: Tensor, prompt_mask: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """[N, T, H] what reaches the LM head at the positions that predict the tokens [N, T], with gradient."""
        width = prompt_ids.shape[1]
        if self.padded:
            ids, attention = torch.cat([prompt_ids, tokens], 1), torch.cat([prompt_mask, mask.to(prompt_mask.dtype)], 1)
            where = {"attention_mask": attention, "position_ids": positions(attention)}
            return head_inputs(model, ids, use_cache=False, **where)[:, width - 1 : -1]
        lengths, parts, order = prompt_mask.sum(-1), [], []
        for length in lengths.unique().tolist():  # padding on the right: a causal model does not see it
            rows = (lengths == length).nonzero()[:, 0]
            ids = torch.cat([prompt_ids[rows, width - length :], tokens[rows]], 1)
            parts.append(head_inputs(model, ids, **without_cache(model))[:, length - 1 : -1])
            order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()]


FASTEST = Reading()
READINGS = (FASTEST, Reading(cached=False), Reading(padded=False, cached=False))
"""From the fastest to the one that asks least of a model."""


def head_inputs(model: Any, ids: Tensor, **inputs: Any) -> Tensor:
    """[N, P, H] what the model's own forward pass gives to its LM head, which multiplies nothing.

    Some models have a layer between their decoder and their head, or a decoder that returns something else than its last
    states. ValueError naming the class if the forward pass does not call its head, once.
    """
    seen: list[Tensor] = []

    def take(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(args[0])
        return (args[0][..., :0, :], *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(take)
    try:
        model(input_ids=ids, **inputs)
    finally:
        handle.remove()
    if len(seen) != 1 or seen[0].shape[:2] != ids.shape:
        shapes = [tuple(x.shape) for x in seen]
        raise ValueError(f"model: expected one LM head with states for {tuple(ids.shape)} tokens, got {shapes}")
    return seen[0]
