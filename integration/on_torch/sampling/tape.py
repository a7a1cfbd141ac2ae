"""Log-probs and routes of sampled tokens, recorded while they are sampled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gspo_torch import Routes, record_routes
from torch import Tensor


class Tape:
    """Records log-probs and routes step by step, with or without a KV cache; returns them in the layout of a training pass."""

    def __init__(self, model: Any, mask: Tensor, *, temperature: float, logp: Tensor, routes: bool) -> None:
        """`mask` [N, T] is the responses' mask; the sampler fills it, and it is read when all responses are drawn.

        `logp` [N] is True for those whose log-probs are recorded.
        """
        self._model, self._mask, self._temperature, self._wanted = model, mask, temperature, logp
        self._logp = torch.zeros(mask.shape, device=mask.device)
        self._routes: list[Routes] | None = [] if routes else None

    @contextmanager
    def forward(self, source: Tensor) -> Iterator[None]:
        """A forward pass whose batch holds response i as sequence source[i]; −1 for a response that is not in it.

        After the prompts' pass the last column alone is new: without a cache all columns before it are run again.
        """
        if self._routes is None:
            yield
            return
        with record_routes(self._model) as routes:
            yield
        width = routes.routed.shape[1]
        placed = routes.columns(width - 1 if self._routes else 0, width).rows(source.clamp(min=0))
        self._routes.append(Routes(placed.experts, placed.routed & (source >= 0)[:, None], placed.num_experts))

    def chose(self, rows: Tensor, column: int, logits: Tensor, tokens: Tensor) -> None:
        """Record the tokens [n] that were drawn from logits [n, V] for the responses `rows`."""
        kept = self._wanted[rows].nonzero()[:, 0]
        logp = torch.log_softmax(logits[kept].float() / self._temperature, -1)
        self._logp[rows[kept], column] = logp.gather(-1, tokens[kept, None])[:, 0]

    def logp(self) -> Tensor:
        """[N, T] log-probs of the responses' tokens at the temperature, float32; 0 in masked slots, and where none are kept."""
        return self._logp

    def routes(self, prompt_mask: Tensor) -> Routes | None:
        """Routes of the columns of prompts and responses. The last token of a response was never an input, and has none."""
        if self._routes is None:
            return None
        there = torch.cat([prompt_mask > 0, self._mask[:, : int(self._mask.any(0).sum())]], 1)
        return Routes.cat(self._routes, dim=1).fit(there)
