"""LoRA: low-rank adapters of peft are trained, and the weights of the model stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from integration.options.config import Config
from integration.options.errors import UserError
from integration.shared.fingerprint import fingerprint_of

NAME = "default"


def add_adapter(model: Any, config: Config) -> None:
    """Put new adapters into all linear layers but the LM head, and freeze the rest. They change nothing yet: B is 0.

    Source: LoRA, arXiv 2106.09685: W + (α/r) B A with A [r, in] and B [out, r].
    """
    from peft import LoraConfig  # noqa: PLC0415 (an extra, and seconds)

    assert config.lora_rank is not None
    made = LoraConfig(r=config.lora_rank, lora_alpha=alpha_of(config), target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]), _naming(model):
        torch.manual_seed(config.seed)
        model.add_adapter(made, adapter_name=NAME)


def load_adapter(model: Any, checkpoint: Path) -> None:
    """Put the adapters of a checkpoint into the model that they were trained on, and go on training them."""
    with _naming(model):
        model.load_adapter(str(checkpoint), adapter_name=NAME, is_trainable=True)


def alpha_of(config: Config) -> int:
    """--lora-alpha, or twice the rank."""
    assert config.lora_rank is not None
    return 2 * config.lora_rank if config.lora_alpha is None else config.lora_alpha


def trained(model: Any) -> list[torch.nn.Parameter]:
    """The parameters that have a gradient: all, or those of the adapters."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def frozen_fingerprint(model: Any) -> str:
    """Of the weights that the adapters are put into."""
    weights = ((name, x) for name, x in model.named_parameters() if not x.requires_grad)
    return fingerprint_of((name, x.detach().cpu().numpy()) for name, x in weights)


@contextmanager
def _naming(model: Any) -> Iterator[None]:
    """UserError that names the model's class, for what peft raises: layers that it does not know, files of another model."""
    try:
        yield
    except (ValueError, RuntimeError, TypeError, KeyError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"--lora-rank: {type(model).__name__} takes no such adapters: {first}") from error
