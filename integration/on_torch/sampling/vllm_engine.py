"""vLLM as the sampling engine: it gets the policy's weights before every rollout, and its log-probs are kept beside the tokens.

Written against vLLM's documentation as of November 2026, when 0.33.0 was the newest release: LLM.generate, SamplingParams, and
new weights with sleep mode (https://docs.vllm.ai/en/latest/features/sleep_mode/: sleep at level 2, wake up the weights, call
"reload_weights", wake up the cache). Tested with an engine that has these signatures, and verified neither with vLLM itself nor
on a GPU.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from integration.on_torch.sampling.rollout import Responses, Sampler
from integration.options.config import Config
from integration.options.errors import TrainingFailure
from integration.tasks.prompts import left_pad
from integration.tasks.task import Example, Task


class VLLMEngine:
    """Draws a rollout with vLLM, which shares the GPU: it sleeps, without weights and cache, while the trainer updates."""

    def __init__(
        self,
        sampler: Sampler,
        write: Callable[[Path], object],
        *,
        dtype: str,
        memory: float,
        longest_prompt: int,
        sleeps: bool,
    ) -> None:
        """Start vLLM with the present weights.

        Args:
            sampler: prompts, temperature, length and the ids that end a response.
            write: saves the policy's config and weights to a folder, as `save_pretrained` does.
            dtype: in which vLLM computes.
            memory: share of the GPU that vLLM may use while it samples.
            longest_prompt: tokens.
            sleeps: whether vLLM gives its memory back between rollouts, which it can on a GPU.
        """
        self._vllm: Any = import_module("vllm")
        self._sampler, self._write = sampler, write
        self._folder = Path(tempfile.mkdtemp(prefix="gspo-vllm-"))
        weakref.finalize(self, shutil.rmtree, self._folder, True)
        write(self._folder)
        self._sleeps = sleeps
        self._llm = self._vllm.LLM(
            model=str(self._folder),
            skip_tokenizer_init=True,  # token ids go in and out
            dtype=dtype,
            max_model_len=longest_prompt + sampler.max_new_tokens,
            gpu_memory_utilization=memory,
            enable_sleep_mode=self._sleeps,
            logprobs_mode="processed_logprobs",  # at the temperature, as the trainer's; vLLM's default is before it
            generation_config="vllm",  # no top-p or top-k of the model's own: they would be another distribution
        )
        self._sleep()

    def draw(self, examples: list[Example], count: int, generator: torch.Generator) -> Responses:
        """As in `Drawing`, with the policy's current weights. The generator gives a seed for each prompt."""
        prompter = self._sampler.prompter
        prompts = [prompter.encode(example) for example in examples]
        seeds = torch.randint(2**31, (len(prompts),), generator=generator, device=generator.device).tolist()
        self._take_weights()
        answers = self._llm.generate(
            [{"prompt_token_ids": ids} for ids in prompts], [self._options(count, seed) for seed in seeds], use_tqdm=False
        )
        self._sleep()
        drawn = [answer for request in answers for answer in sorted(request.outputs, key=lambda answer: answer.index)]
        if len(drawn) != len(prompts) * count:
            raise TrainingFailure(f"vLLM gave {len(drawn)} responses, not {count} to each of {len(prompts)} prompts")
        padded = left_pad(prompts, prompter.tokenizer.pad_token_id)
        ids, mask = (torch.from_numpy(x).to(self._sampler.device).repeat_interleave(count, 0) for x in padded)
        return Responses(ids, mask, *self._arrays(drawn))

    def _options(self, count: int, seed: int) -> Any:
        """The trainer's own sampler in vLLM's words; its n responses have the seeds seed, seed + 1, ..."""
        return self._vllm.SamplingParams(
            n=count,
            temperature=self._sampler.temperature,
            max_tokens=self._sampler.max_new_tokens,
            stop_token_ids=self._sampler.stop_ids.tolist(),
            ignore_eos=True,  # the ids above are all that end a response
            logprobs=0,  # of the drawn token alone
            seed=seed,
            detokenize=False,
        )

    def _take_weights(self) -> None:
        """Write the weights over those that vLLM was started with, and let it load them again."""
        self._write(self._folder)
        if self._sleeps:
            self._llm.wake_up(tags=["weights"])
        self._llm.collective_rpc("reload_weights")
        if self._sleeps:
            self._llm.wake_up(tags=["kv_cache"])
        self._llm.reset_prefix_cache()  # keys and values of the old weights

    def _sleep(self) -> None:
        if self._sleeps:
            self._llm.sleep(level=2)

    def _arrays(self, drawn: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
        """[N, T] tokens, mask and log-probs; TrainingFailure for what is no response of this run."""
        shape, device = (len(drawn), max(1, *(len(answer.token_ids) for answer in drawn))), self._sampler.device
        tokens = torch.full(shape, self._sampler.prompter.tokenizer.pad_token_id, device=device)
        mask, logp = torch.zeros(shape, dtype=torch.bool, device=device), torch.zeros(shape, device=device)
        stops = set(self._sampler.stop_ids.tolist())
        for row, answer in enumerate(drawn):
            ids = list(answer.token_ids)
            ended, full = bool(ids) and ids[-1] in stops, len(ids) == self._sampler.max_new_tokens
            if not (ended or full) or answer.logprobs is None or stops & set(ids[:-1]):
                raise TrainingFailure(
                    f"vLLM gave a response of {len(ids)} tokens, ended by {answer.finish_reason!r}, without an ending token or "
                    "with tokens behind it, or without log-probs; use --sampler transformers, and report vLLM's version"
                )
            tokens[row, : len(ids)], mask[row, : len(ids)] = torch.tensor(ids, device=device), True
            found = [float(at[token].logprob) for at, token in zip(answer.logprobs, ids, strict=True)]
            logp[row, : len(ids)] = torch.tensor(found, device=device)
        return tokens, mask, logp


def vllm_engine(config: Config, sampler: Sampler, task: Task) -> VLLMEngine:
    """The engine of a run with --sampler vllm."""
    longest = max(len(sampler.prompter.encode(example)) for example in task.train)
    dtype = config.sampler_dtype or config.dtype
    return VLLMEngine(
        sampler, sampler.model.save_pretrained, dtype=dtype, memory=config.sampler_memory, longest_prompt=longest,
        sleeps=config.device == "cuda",
    )  # fmt: skip
