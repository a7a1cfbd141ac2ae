"""Routes: which experts each token of a batch went to, as record_routes writes them down and replay_routes reads them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class Routes:
    """Which experts each token went to, in each mixture layer. Dense layers in between are not counted.

    One byte per slot up to 256 experts and two beyond: layers · K · (1 or 2) + 1 bytes per token, 385 for Qwen3-30B-A3B
    (48 layers, 8 of 128 experts).

    Raises TypeError for another dtype, ValueError for other shapes.

    >>> experts = torch.tensor([[[[1, 0], [2, 3]]]], dtype=torch.uint8)  # one layer, one sequence of two tokens, K = 2
    >>> routes = Routes(experts, torch.tensor([[True, False]]), num_experts=4)
    >>> routes.fit(torch.ones(1, 3, dtype=torch.bool)).routed.tolist(), routes.bytes_per_token
    ([[True, False, False]], 3)
    """

    experts: Tensor
    """[layers, N, S, K] uint8 or int16, in the router's order; whatever stands where a token has no route is inert."""
    routed: Tensor
    """[N, S] boolean: the tokens that have a route. The others, such as padding, are routed freely in a replay."""
    num_experts: int
    """E, the experts of a layer."""

    def __post_init__(self) -> None:
        if self.experts.dtype not in (torch.uint8, torch.int16):
            raise TypeError(f"experts: expected uint8 or int16, got {self.experts.dtype}")
        if self.routed.dtype != torch.bool:
            raise TypeError(f"routed: expected a boolean tensor, got {self.routed.dtype}")
        if self.experts.ndim != 4:
            raise ValueError(f"experts: expected shape [layers, N, S, K], got {list(self.experts.shape)}")
        if self.routed.shape != self.experts.shape[1:3]:
            raise ValueError(f"routed: expected [N, S] = {list(self.experts.shape[1:3])}, got {list(self.routed.shape)}")

    @property
    def bytes_per_token(self) -> int:
        """layers · K · (1 or 2) + 1."""
        layers, _, _, top_k = self.experts.shape
        return layers * top_k * self.experts.element_size() + self.routed.element_size()

    def rows(self, index: Tensor) -> Routes:
        """The routes of some sequences, as a mini-batch takes them: [n] integers, or [N] booleans."""
        return Routes(self.experts[:, index], self.routed[index], self.num_experts)

    def fit(self, mask: Tensor) -> Routes:
        """The same for a batch of `mask` [N, T], T ≥ S: tokens after the S recorded ones, or masked, have no route.

        A sampler never runs the last token that it draws, so that its routes are one short of the batch; and it runs on
        for sequences that have ended. Raises TypeError or ValueError for a mask of another dtype or shape.
        """
        layers, count, width, top_k = self.experts.shape
        if mask.dtype != torch.bool:
            raise TypeError(f"mask: expected a boolean tensor, got {mask.dtype}")
        if mask.ndim != 2 or mask.shape[0] != count or mask.shape[1] < width:
            raise ValueError(f"mask: expected shape [{count}, T] with T of at least {width}, got {list(mask.shape)}")
        more = mask.shape[1] - width
        experts = torch.cat([self.experts, self.experts.new_zeros(layers, count, more, top_k)], 2)
        routed = torch.cat([self.routed, self.routed.new_zeros(count, more)], 1)
        return Routes(experts, routed & mask.to(routed.device), self.num_experts)

    def flips(self, other: Routes) -> Tensor:
        """[layers] share of slots whose expert is not among those of `other`, over tokens routed in both; 0 if there are none.

        Raises ValueError for routes of another shape.
        """
        if self.experts.shape != other.experts.shape:
            raise ValueError(f"other: expected routes of {list(self.experts.shape)}, got {list(other.experts.shape)}")
        both = self.routed & other.routed
        kept = (self.experts.unsqueeze(-1) == other.experts.unsqueeze(-2)).any(-1)
        away = (~kept & both[None, :, :, None]).sum((1, 2, 3))
        return away / (both.sum() * self.experts.shape[3]).clamp(min=1)
