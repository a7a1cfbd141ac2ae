"""How responses grow token by token: with the model's KV cache, or by reading the whole text again."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import torch
from torch import Tensor


class Growing(Protocol):
    """A batch of responses that are being drawn."""

    def begin(self, count: int) -> Tensor:
        """[N · count, V] logits of the first token of `count` responses to each prompt."""

    def step(self, going: Tensor, token: Tensor) -> Tensor:
        """[len(going), V] logits of the next token. going: which of the present rows go on, with `token`."""


class Cached:
    """A prompt is read once for all of its responses, and each token once. For models of attention layers."""

    def __init__(self, model: Any, prompt_ids: Tensor, prompt_mask: Tensor) -> None:
        self._model, self._ids, self._attention = model, prompt_ids, prompt_mask
        self._cache: Any = None

    def begin(self, count: int) -> Tensor:
        """As in Growing."""
        where = {"attention_mask": self._attention, "position_ids": positions(self._attention)}
        out = self._model(input_ids=self._ids, **where, use_cache=True, logits_to_keep=1)
        self._cache = out.past_key_values
        self._cache.batch_repeat_interleave(count)
        self._attention = self._attention.repeat_interleave(count, 0)
        logits: Tensor = out.logits[:, -1].repeat_interleave(count, 0)
        return logits

    def step(self, going: Tensor, token: Tensor) -> Tensor:
        """As in Growing."""
        if len(going) < len(self._attention):
            self._cache.batch_select_indices(going)
            self._attention = self._attention[going]
        self._attention = torch.cat([self._attention, torch.ones_like(self._attention[:, :1])], dim=1)
        out = self._model(
            input_ids=token[:, None],
            attention_mask=self._attention,
            position_ids=self._attention.sum(-1, keepdim=True) - 1,
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: Tensor = out.logits[:, -1]
        return logits


class Reread:
    """Every token reads the prompt and all tokens before it: T times the work, and right for layers that keep a state."""

    def __init__(self, model: Any, prompt_ids: Tensor, prompt_mask: Tensor) -> None:
        self._model, self._ids, self._attention = model, prompt_ids, prompt_mask

    def begin(self, count: int) -> Tensor:
        """As in Growing."""
        logits = self._logits()
        self._ids, self._attention = (x.repeat_interleave(count, 0) for x in (self._ids, self._attention))
        return logits.repeat_interleave(count, 0)

    def step(self, going: Tensor, token: Tensor) -> Tensor:
        """As in Growing."""
        self._ids = torch.cat([self._ids[going], token[:, None]], 1)
        self._attention = torch.cat([self._attention[going], torch.ones_like(token[:, None])], 1)
        return self._logits()

    def _logits(self) -> Tensor:
        where = {"attention_mask": self._attention, "position_ids": positions(self._attention)}
        logits: Tensor = self._model(input_ids=self._ids, **where, use_cache=False).logits[:, -1]
        return logits


class Unpadded:
    """As Reread, a forward pass for each length: for models that know no padding on the left, or count positions otherwise."""

    def __init__(self, model: Any, prompt_ids: Tensor, prompt_mask: Tensor) -> None:
        self._model = model
        self._texts = [ids[there > 0] for ids, there in zip(prompt_ids, prompt_mask, strict=True)]

    def begin(self, count: int) -> Tensor:
        """As in Growing."""
        logits = self._logits()
        self._texts = [text for text in self._texts for _ in range(count)]
        return logits.repeat_interleave(count, 0)

    def step(self, going: Tensor, token: Tensor) -> Tensor:
        """As in Growing."""
        pairs = zip(going.tolist(), token[:, None], strict=True)
        self._texts = [torch.cat([self._texts[row], new]) for row, new in pairs]
        return self._logits()

    def _logits(self) -> Tensor:
        found: list[Any] = [None] * len(self._texts)
        for length in {len(text) for text in self._texts}:
            rows = [row for row, text in enumerate(self._texts) if len(text) == length]
            ids = torch.stack([self._texts[row] for row in rows])
            logits = self._model(input_ids=ids, **without_cache(self._model)).logits[:, -1]
            for row, values in zip(rows, logits, strict=True):
                found[row] = values
        return torch.stack(found)


def without_cache(model: Any) -> dict[str, bool]:
    """The argument that says so, where a model has it."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}


def positions(attention: Tensor) -> Tensor:
    """[N, P] positions of left-padded prompts, counted from the first real token."""
    return (attention.cumsum(-1) - 1).clamp(min=0)
