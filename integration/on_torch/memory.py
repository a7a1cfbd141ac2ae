"""How much memory a run will need, before anything large is loaded: counted from the model's config and the run's options.

Weights, gradients and AdamW's two moments are float32: 16 bytes a parameter, 4 if it is frozen. The rest depends on what is in
flight at once: the cache and the logits of the responses that are sampled, or the activations of one micro-batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.heterogeneity.configuration_utils import AmbiguousGlobalPerLayerAttributeError

from integration.on_torch.adapters import add_adapter, trained
from integration.options.config import Config
from integration.options.errors import UserError
from integration.shared.evaluation import EVALUATED
from integration.tasks.task import Task

GIB = 2**30
CARDS = (24, 40, 80, 141)
"""Memory of common GPUs, in GB as their makers count."""
SPARE = 1.1
"""For fragmentation, libraries and what is not counted."""
TILES = 256 * 2**20
"""Of the LM head: logits are made in tiles of at most so many bytes."""


class Estimate(NamedTuple):
    """Bytes at the peak, by what they are for."""

    states: int
    """Weights, in bfloat16 their copies for the products, and of those that are trained gradients and AdamW's two moments."""
    sampling: int
    """The KV cache and the logits of all responses of a rollout."""
    updating: int
    """The activations of a micro-batch, and the LM head's tiles."""

    @property
    def peak(self) -> int:
        """States, and the larger of the two phases."""
        return int(SPARE * (self.states + max(self.sampling, self.updating)))

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in self._asdict().items())
        return f"about {self.peak / GIB:.1f} GiB ({parts})"


MADE = ("small", "small-moe", "smollm2")
"""Models that fit everywhere."""


def check_memory(config: Config, task: Task, source: str, device: torch.device) -> None:
    """Print the estimate for the model `source`; UserError if that is more than the device has free. Loads no weights."""
    if source in MADE:
        return
    try:
        model_config = AutoConfig.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
        needed = estimate(model_config, config, _longest_prompt(config, task, tokenizer))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:  # loading the model says what is wrong with it
        print(f"no estimate of the memory: {(str(error).strip().splitlines() or [type(error).__name__])[0]}")
        return
    print(f"memory: {needed}", flush=True)
    require_memory(needed, available_memory(device), config.model, device.type)


def _longest_prompt(config: Config, task: Task, tokenizer: Any) -> int:
    """Tokens of the longest of some questions, with as many solved ones in front, and the chat template's."""
    longest = max(len(tokenizer(example.question)["input_ids"]) for example in task.train[:200])
    return (config.shots + 1) * (longest + len(tokenizer(config.instruction)["input_ids"]) + 16) + 48


def estimate(model_config: Any, config: Config, longest_prompt: int) -> Estimate:
    """Of a run with this model; `model_config` is transformers', and no weight is allocated."""
    text: Any = _Largest(model_config.get_text_config())
    count = parameters(model_config)
    item = 2 if config.dtype == "bfloat16" else 4
    moving = count if config.lora_rank is None else adapter_parameters(model_config, config)
    states = count * (4 + (2 if item == 2 else 0)) + moving * 12
    rows, length = config.prompts_per_rollout * config.group_size, longest_prompt + config.max_new_tokens
    per_step = rows // config.mini_batches
    heads = text.num_attention_heads
    keys = (getattr(text, "num_key_value_heads", None) or heads) * _head_size(text)
    rows = max(rows, min(EVALUATED, config.eval_prompts * config.eval_samples))
    cache = rows * length * text.num_hidden_layers * 2 * keys * item
    logits = rows * text.vocab_size * (4 + 8 + 8)  # float32, and float64 twice for the cumulative sum
    tokens = config.micro_batch_tokens or (config.micro_batch_size or per_step) * length
    return Estimate(states, cache + logits, activations(text, tokens, item, config.gradient_checkpointing) + TILES)


def activations(text: Any, tokens: int, item: int, checkpointing: bool) -> int:
    """Bytes that are kept from the forward to the backward pass; of one layer alone, and each layer's input, if recomputed."""
    text = _Largest(text)
    hidden, inner = text.hidden_size, getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    active, routed = getattr(text, "num_experts_per_tok", None), 0
    if active:  # experts compute in float32, on copies of their tokens
        routed = 4 * active * (3 * hidden + 4 * (getattr(text, "moe_intermediate_size", None) or inner))
        inner = 0
    size = _head_size(text)
    queries, keys = (
        size * x for x in (text.num_attention_heads, getattr(text, "num_key_value_heads", None) or text.num_attention_heads)
    )
    stream = 4 * hidden  # the residual stream is float32
    layer = 5 * stream + item * (2 * hidden + 5 * queries + 4 * keys + 4 * inner) + routed
    kept = text.num_hidden_layers * (stream if checkpointing else layer) + (layer if checkpointing else 0)
    return int(tokens * (kept + 3 * stream))


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


def _head_size(text: Any) -> int:
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
