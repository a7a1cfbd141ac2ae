"""Mixtures of experts of three numbers, whose classes no library knows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """Scores by a matrix, the top K of them; `times` choices, of which one is needed."""

    def __init__(self, experts: int = 4, top_k: int = 2, times: int = 1) -> None:
        super().__init__()
        self.num_experts, self.top_k, self.times = experts, top_k, times
        self.weight = nn.Parameter(torch.randn(experts, 3))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(gate values, experts)."""
        scores = hidden.reshape(-1, 3) @ self.weight.T
        values, experts = scores.softmax(-1).topk(self.top_k, dim=1)
        for _ in range(self.times - 1):
            values, experts = torch.topk(scores.softmax(-1), k=self.top_k)
        return values, experts


class ToyExperts(nn.Module):
    """Each multiplies by a number."""

    def __init__(self, experts: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, experts + 1))

    def forward(self, hidden: Tensor, gates: tuple[Tensor, Tensor]) -> Tensor:
        """As many of them as there are gate values."""
        return hidden * (gates[0] * self.weight[gates[1]]).sum(-1).reshape(*hidden.shape[:2], 1)


class Layer(nn.Module):
    """A mixture layer; `skip` leaves it out, `twice` runs it again."""

    def __init__(self, gate: nn.Module, skip: bool = False, twice: bool = False) -> None:
        super().__init__()
        self.gate, self.experts, self.skip, self.twice = gate, ToyExperts(), skip, twice

    def forward(self, hidden: Tensor) -> Tensor:
        """A sum over experts."""
        for _ in range(0 if self.skip else 1 + self.twice):
            hidden = self.experts(hidden, self.gate(hidden))
        return hidden


class Model(nn.Module):
    """A backbone of layers, with the config of a model that may or may not be a mixture."""

    def __init__(self, *layers: nn.Module, **config: Any) -> None:
        super().__init__()
        self.layers, self.config = nn.ModuleList(layers), SimpleNamespace(**config)

    def forward(self, input_ids: Tensor) -> tuple[Tensor]:
        """Of tokens that are their own embeddings."""
        hidden = input_ids[..., None] * torch.tensor([1.0, -1.0, 0.5])
        for layer in self.layers:
            hidden = layer(hidden)
        return (hidden,)


class Wrapper(nn.Module):
    """Of adapters."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer = base

    def forward(self, *args: Any) -> Any:
        """The same."""
        return self.base_layer(*args)


TOKENS = torch.tensor([[0.3, -0.7, 1.1, 0.2]])


class CDMoE(nn.Linear):
    """A mixture layer without a module for its experts, such as Doge's."""


class SomeRouter(nn.Linear):
    """A router outside of a mixture layer."""
