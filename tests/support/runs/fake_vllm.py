"""The names of vLLM that the sampler uses, with vLLM's signatures and effects, on a CPU with a model of transformers inside.

After the documentation of `LLM`, `SamplingParams`, `RequestOutput` and sleep mode as of November 2026. What vLLM forgets when
it sleeps is lost here, too: weights become NaN. What it remembers is kept: logits of texts that were read under old weights
stay until the cache is reset, as vLLM's keys and values of prompts do.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM


@dataclass
class SamplingParams:
    """The options that are used, with vLLM's defaults."""

    n: int = 1
    temperature: float = 1.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True


@dataclass
class Logprob:
    """Of one token."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    """One response."""

    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    """The responses to one prompt."""

    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]


class LLM:
    """The offline engine."""

    def __init__(
        self,
        model: str,
        *,
        skip_tokenizer_init: bool = False,
        dtype: str = "auto",
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        enable_sleep_mode: bool = False,
        logprobs_mode: str = "raw_logprobs",
        generation_config: str = "auto",
    ) -> None:
        assert skip_tokenizer_init
        assert 0 < gpu_memory_utilization <= 1
        self._folder, self._dtype, self._longest = model, dtype, max_model_len
        self._sleep_mode, self._raw = enable_sleep_mode, logprobs_mode == "raw_logprobs"
        self._top_k = 1 if generation_config == "auto" else None  # as if the model's own config said so
        self._asleep: set[str] = set()
        self._cache: dict[tuple[int, ...], Tensor] = {}
        self._load()

    def _load(self) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(self._folder, dtype=getattr(torch, self._dtype)).eval()

    def generate(
        self,
        prompts: list[dict[str, list[int]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """A request for each prompt."""
        assert not self._asleep, f"asleep: {self._asleep}"
        assert sampling_params is not None
        given = [sampling_params] * len(prompts) if isinstance(sampling_params, SamplingParams) else list(sampling_params)
        pairs = zip([prompt["prompt_token_ids"] for prompt in prompts], given, strict=True)
        return [RequestOutput(ids, [self._one(ids, options, i) for i in reversed(range(options.n))]) for ids, options in pairs]

    @torch.no_grad()
    def _one(self, prompt: list[int], options: SamplingParams, index: int) -> CompletionOutput:
        assert options.seed is not None
        generator = torch.Generator().manual_seed(options.seed + index)
        ids, scores, reason = list(prompt), [], "length"
        for _ in range(options.max_tokens or 16):
            assert self._longest is None or len(ids) < self._longest
            key = tuple(ids)
            if key not in self._cache:
                self._cache[key] = self._model(input_ids=torch.tensor([ids])).logits[0, -1].float()
            logits = self._cache[key] / options.temperature
            if self._top_k is not None:
                logits = logits.masked_fill(logits < logits.topk(self._top_k).values[-1], -torch.inf)
            token = int(torch.multinomial(logits.softmax(-1), 1, generator=generator))
            shown = self._cache[key] if self._raw else logits
            scores.append({token: Logprob(float(shown.log_softmax(-1)[token]))})
            ids.append(token)
            if token in (options.stop_token_ids or []) or (not options.ignore_eos and token == self._model.config.eos_token_id):
                reason = "stop"
                break
        new = ids[len(prompt) :]
        return CompletionOutput(index, "", tuple(new), None, None if options.logprobs is None else scores, reason)

    def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> list[Any]:
        """Of the workers' methods the one that loads the weights of the model's folder again."""
        assert method == "reload_weights"
        assert "weights" not in self._asleep
        self._load()
        return [None]

    def sleep(self, level: int = 1, mode: str = "abort") -> None:
        """Level 2 forgets weights and cache."""
        assert self._sleep_mode
        assert level == 2
        self._asleep = {"weights", "kv_cache"}
        self._cache.clear()
        for parameter in self._model.parameters():
            parameter.data.fill_(torch.nan)

    def wake_up(self, tags: list[str] | None = None) -> None:
        """Memory is there again, and empty."""
        assert self._sleep_mode
        self._asleep -= set(tags or ["weights", "kv_cache"])

    def reset_prefix_cache(self) -> bool:
        """Forget the keys and values of prompts."""
        assert "kv_cache" not in self._asleep
        self._cache.clear()
        return True


def install(patched: pytest.MonkeyPatch) -> None:
    """Make `import vllm` find this."""
    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    for thing in (LLM, SamplingParams):
        setattr(module, thing.__name__, thing)
    patched.setitem(sys.modules, "vllm", module)
