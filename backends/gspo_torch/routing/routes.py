"""Routes: the experts of each token of a batch, as record_routes records them and replay_routes uses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gspo_core.backend import as_whole


def check_tensor(name: str, x: object) -> None:
    """TypeError unless x is a torch tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch tensor, got {type(x).__name__}")


@dataclass(eq=False)
class Routes:
    """Which experts each token went to, in each mixture layer. Dense layers in between are not counted.

    One byte per slot up to 256 experts and two beyond: layers · K · (1 or 2) + 1 bytes per token, 385 for Qwen3-30B-A3B
    (48 layers, 8 of 128 experts).

    Raises TypeError for what is no tensor or has another dtype, ValueError for other shapes and numbers of experts.

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
        for name in ("experts", "routed"):
            check_tensor(name, getattr(self, name))
        self.num_experts = as_whole("num_experts", self.num_experts, 0)
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

    @staticmethod
    def cat(parts: Sequence[Routes], dim: int = 0) -> Routes:
        """Puts routes together along N (dim=0: micro-batches) or S (dim=1: a prompt and what was written after it).

        Raises TypeError if a part is no `Routes` or has another dtype, ValueError if there are no parts, for another dim, and
        for parts whose other sizes differ: layers, K, E, and N or S.

        >>> experts = torch.tensor([[[[1, 0], [2, 3]]]], dtype=torch.uint8)
        >>> routes = Routes(experts, torch.tensor([[True, False]]), num_experts=4)
        >>> Routes.cat([routes, routes]).routed.tolist(), Routes.cat([routes, routes], dim=1).routed.tolist()
        ([[True, False], [True, False]], [[True, False, True, False]])
        """
        dim = as_whole("dim", dim, 0, 1)
        if not isinstance(parts, Sequence) or isinstance(parts, str):
            raise TypeError(f"parts: expected a list of Routes, got {type(parts).__name__}")
        if not parts:
            raise ValueError("parts: expected at least one, got none")
        first = parts[0]
        for part in parts:
            if not isinstance(part, Routes):
                raise TypeError(f"parts: expected Routes, as record_routes gives them, got {type(part).__name__}")
            if part.experts.dtype != first.experts.dtype:
                raise TypeError(f"parts: expected {first.experts.dtype} as the first, got {part.experts.dtype}")
            sizes, expected = ([*r._sizes(dim), r.num_experts] for r in (part, first))
            if sizes != expected:
                raise ValueError(f"parts: expected [layers, {'SN'[dim]}, K, E] = {expected} as the first, got {sizes}")
        experts, routed = torch.cat([p.experts for p in parts], dim + 1), torch.cat([p.routed for p in parts], dim)
        return Routes(experts, routed, first.num_experts)

    def _sizes(self, without: int) -> list[int]:
        """[layers, N, S, K] but for one of N (0) and S (1)."""
        return [size for axis, size in enumerate(self.experts.shape) if axis != without + 1]

    def rows(self, index: Tensor | slice) -> Routes:
        """The routes of some sequences, as a mini-batch takes them: [n] integers, [N] booleans, or a slice.

        Raises TypeError for what is none of them, ValueError for another shape and for numbers of no sequence (on the CPU).
        """
        if not isinstance(index, slice):
            self._check_rows(index)
        return Routes(self.experts[:, index], self.routed[index], self.num_experts)

    def _check_rows(self, index: Tensor) -> None:
        count = len(self.routed)
        check_tensor("index", index)
        if index.is_floating_point() or index.is_complex():
            raise TypeError(f"index: expected integers or booleans, got {index.dtype}")
        if index.ndim != 1 or (index.dtype == torch.bool and len(index) != count):
            raise ValueError(f"index: expected shape [n] of integers or [{count}] of booleans, got {list(index.shape)}")
        if index.dtype != torch.bool and index.device.type == "cpu" and ((index < -count) | (index >= count)).any():
            raise ValueError(f"index: expected numbers of {count} sequences, got {int(index.min())} to {int(index.max())}")

    def columns(self, start: int, stop: int) -> Routes:
        """The routes of the tokens from `start` to before `stop`, where a mini-batch has less padding than the batch.

        Raises ValueError unless 0 ≤ start ≤ stop ≤ S.
        """
        width = self.routed.shape[1]
        start, stop = as_whole("start", start, 0), as_whole("stop", stop, 0)
        if not start <= stop <= width:
            raise ValueError(f"start, stop: expected 0 ≤ start ≤ stop ≤ {width}, got {start} and {stop}")
        return Routes(self.experts[:, :, start:stop], self.routed[:, start:stop], self.num_experts)

    def fit(self, mask: Tensor) -> Routes:
        """The same for a batch of `mask` [N, T], T ≥ S: tokens after the S recorded ones, or masked, have no route.

        A sampler never runs the last token that it draws, so that its routes are one short of the batch; and it runs on
        for sequences that have ended. Raises TypeError or ValueError for a mask of another dtype or shape.
        """
        layers, count, width, top_k = self.experts.shape
        check_tensor("mask", mask)
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

        Raises TypeError for what is no `Routes`, ValueError for routes of another shape.
        """
        if not isinstance(other, Routes):
            raise TypeError(f"other: expected Routes, got {type(other).__name__}")
        if self.experts.shape != other.experts.shape:
            raise ValueError(f"other: expected routes of {list(self.experts.shape)}, got {list(other.experts.shape)}")
        both = self.routed & other.routed
        kept = (self.experts.unsqueeze(-1) == other.experts.unsqueeze(-2)).any(-1)
        away = (~kept & both[None, :, :, None]).sum((1, 2, 3))
        return away / (both.sum() * self.experts.shape[3]).clamp(min=1)
