"""How much memory a run will need, before anything large is loaded: counted from the model's config and the run's options.

Weights, gradients and AdamW's two moments are float32: 16 bytes a parameter, 4 if it is frozen. The rest depends on what is in
flight at once: the cache and the logits of the responses that are sampled, or the activations of one micro-batch. It is counted
by `gspo_scale`, which also counts for many GPUs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import psutil
import torch
from gspo_scale import Shape, Spread, Work, memory, shape_of
from gspo_scale.held import GIB, SPARE
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.heterogeneity.configuration_utils import AmbiguousGlobalPerLayerAttributeError

from integration.on_torch.adapters import add_adapter, trained
from integration.options.config import Config
from integration.options.errors import UserError
from integration.shared.evaluation import EVALUATED
from integration.tasks.task import Task

CARDS = (24, 40, 80, 141)
"""Memory of common GPUs, in GB as their makers count."""


class Estimate(NamedTuple):
    """Bytes at the peak, by what they are for."""

    states: int
    """Weights, in bfloat16 their copies for the products, and of those that are trained gradients and AdamW's two moments."""
    sampling: int
    """The KV cache and the logits of all responses of a rollout."""
    updating: int
    """The activations of a micro-batch, its attention mask, and the LM head's tile and gradient."""

    @property
    def peak(self) -> int:
        """States, and the larger of the two phases."""
        return int(SPARE * (self.states + max(self.sampling, self.updating)))

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in self._asdict().items())
        return f"about {self.peak / GIB:.1f} GiB ({parts})"


MADE = ("small", "small-moe", "smollm2")
"""Models that fit everywhere."""


def check_memory(config: Config, task: Task, source: str, device: torch.device, rank: int = 0, processes: int = 1) -> None:
    """Print the estimate for the model `source`; UserError if that is more than the device has free. Loads no weights.

    Of several processes each has a GPU; a CPU's memory is theirs together, and process 0 looks before the others have any.
    """
    if source in MADE:
        return
    try:
        model_config = AutoConfig.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
        needed = estimate(model_config, config, _longest_prompt(config, task, tokenizer), processes)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:  # loading the model says what is wrong with it
        print(f"no estimate of the memory: {(str(error).strip().splitlines() or [type(error).__name__])[0]}")
        return
    print(f"memory: {needed}{' in each process' if processes > 1 else ''}", flush=True)
    if device.type == "cuda":
        require_memory(needed, available_memory(device), config.model, device.type)
    elif rank == 0:
        require_memory(needed, available_memory(device) // processes, config.model, device.type)


def _longest_prompt(config: Config, task: Task, tokenizer: Any) -> int:
    """Tokens of the longest of some questions, with as many solved ones in front, and the chat template's."""
    longest = max(len(tokenizer(example.question)["input_ids"]) for example in task.train[:200])
    return (config.shots + 1) * (longest + len(tokenizer(config.instruction)["input_ids"]) + 16) + 48


def estimate(model_config: Any, config: Config, longest_prompt: int, processes: int = 1) -> Estimate:
    """Of a run with this model, as `gspo-scale` counts it; `model_config` is transformers', and no weight is allocated.

    In each of its processes. With fsdp a model is loaded whole before it is shared out: no more than sampling needs.
    """
    shape, work = sizes_of(model_config, parameters(model_config)), work_of(config, longest_prompt)
    spread = Spread(processes, config.parallel or "ddp", config.context_parallel, config.vocabulary_parallel)
    trained = None if config.lora_rank is None else adapter_parameters(model_config, config)
    needed = memory(shape, work, spread, trained)
    evaluated = min(EVALUATED, config.eval_prompts * config.eval_samples)
    drawn = max(evaluated, 0 if config.sampler == "vllm" else work.responses)  # vLLM sleeps while the model samples
    sampling = memory(shape, replace(work, prompts=drawn, group=1), spread, trained).sampling
    return Estimate(needed.states, sampling, needed.updating)


def sizes_of(model_config: Any, count: int | None = None) -> Shape:
    """The sizes of a model's text decoder with `count` parameters; of layers that differ, those of the largest."""
    return shape_of(_Largest(model_config.get_text_config()), count)


def work_of(config: Config, longest_prompt: int) -> Work:
    """What gspo_scale counts with, of a run's options."""
    length = longest_prompt + config.max_new_tokens
    rows = config.micro_batch_size
    return Work(
        longest_prompt, config.max_new_tokens, config.prompts_per_rollout, config.group_size, config.mini_batches,
        config.micro_batch_tokens or (None if rows is None else rows * length), config.dtype, config.gradient_checkpointing,
    )  # fmt: skip


def adapter_parameters(model_config: Any, config: Config) -> int:
    """How many are trained with --lora-rank."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
        add_adapter(model, config)
    return sum(parameter.numel() for parameter in trained(model))


def parameters(model_config: Any) -> int:
    """How many the model has; it is built without memory."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
    return sum(parameter.numel() for parameter in model.parameters())


def require_memory(needed: Estimate, available: int, name: str, device: str) -> None:
    """UserError if the run cannot fit, with the smallest GPU on which it would, and the options that need less."""
    if needed.peak <= available:
        return
    fitting = next((f"{card} GB" for card in CARDS if needed.peak <= 0.95e9 * card), "none of one GPU")
    raise UserError(
        f"--model: {name} needs {needed} and the {device} has {available / GIB:.1f} GiB; the smallest GPU for it: {fitting}. "
        "Less is needed with --dtype bfloat16, --gradient-checkpointing, or a smaller --micro-batch-tokens, "
        "--prompts-per-rollout or --max-new-tokens"
    )


def available_memory(device: torch.device) -> int:
    """Bytes that are free on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


class _Largest:
    """A config whose layers may have sizes of their own, as Gemma 4's: of a size that differs, the largest."""

    def __init__(self, config: Any) -> None:
        self._config = config

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self._config, name)
        except AmbiguousGlobalPerLayerAttributeError:
            layers = (self._config.per_layer_config[index] for index in range(self._config.num_hidden_layers))
            return max(getattr(layer, name) or 0 for layer in layers)
