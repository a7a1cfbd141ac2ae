"""The one top-k call by which a router chooses experts: watched, or answered with the experts of an earlier pass.

A router computes scores [tokens, E], takes their top K, and makes gate values of what it took: softmax before or after,
sigmoid with a bias for the choice alone, divided by the sum or not, scaled. All of that stays the model's own code here. Only
`torch.topk` is answered otherwise: with the recorded experts, and with their entries of the same scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_TOP_K = {torch.topk, Tensor.topk}
_MASKS = {torch.masked_fill, Tensor.masked_fill}


class Selection(TorchFunctionMode):
    """Active for one forward of a router."""

    def __init__(self, top_k: int, num_experts: int, groups: bool, choose: Callable[[Tensor], Tensor | None]) -> None:
        """`choose` gets the experts [..., K] that the router takes, and returns those to be taken, or None for the same.

        With `groups` the router chooses groups of experts first, by top-k calls over [tokens, groups, experts of a group].
        """
        super().__init__()
        self.top_k, self.num_experts, self.groups, self.choose = top_k, num_experts, groups, choose
        self.count = 0
        """Choices that were made."""
        self._masked: tuple[Any, Any] = (None, None)

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The function itself, but for the choice."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in _MASKS:
            self._masked = (out, args[0])
        if func not in _TOP_K:
            return out
        given = dict(zip(("input", "k", "dim"), args, strict=False)) | kwargs
        scores = given["input"]
        if not self._is_choice(scores, int(given["k"]), given.get("dim", -1)):
            return out
        self.count += 1
        chosen = self.choose(out[1]) if self.count == 1 else None
        if chosen is None:
            return out
        if self._masked[0] is scores:
            scores = self._masked[1]  # a recorded expert may be of a group that is not chosen today: its score is not 0
        return torch.return_types.topk((scores.gather(-1, chosen), chosen))

    def _is_choice(self, scores: Tensor, k: int, dim: int) -> bool:
        last = dim in (-1, scores.ndim - 1)
        return last and k == self.top_k and scores.shape[-1] == self.num_experts and not (self.groups and scores.ndim > 2)
