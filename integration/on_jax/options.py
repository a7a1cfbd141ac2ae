"""Options that the JAX training script does not have."""

from __future__ import annotations

from integration.options.config import Config, f_default
from integration.options.errors import UserError


def check_options(config: Config) -> None:
    """UserError for options that only the PyTorch script has."""
    if config.device != "cpu":
        raise UserError("--device: JAX chooses its device itself; leave it out, or set JAX_PLATFORMS=cuda")
    if config.dtype != "float32":
        raise UserError(f"--dtype: the JAX script computes in float32, not {config.dtype}")
    if config.micro_batch_tokens is not None:
        raise UserError("--micro-batch-tokens: the JAX script compiles passes of one size; use --micro-batch-size")
    for name in ("parallel", "context_parallel", "vocabulary_parallel"):
        if getattr(config, name) != f_default(Config.__dataclass_fields__[name]):
            raise UserError(f"--{name.replace('_', '-')}: is of processes that torchrun starts; use train_torch.py")
    if config.sampler != "transformers":
        raise UserError("--sampler: the JAX script samples with the model itself; use train_torch.py")
    if config.lora_rank is not None:
        raise UserError("--lora-rank: the JAX script trains all weights; use train_torch.py")
    if config.gradient_checkpointing:
        raise UserError("--gradient-checkpointing: the JAX script has none; use train_torch.py")
    if config.routing_replay != "none":
        raise UserError("--routing-replay: the JAX script routes freely in every pass; use train_torch.py")
    for name in ("router_noise", "sampler_dtype", "sampler_correction"):
        if getattr(config, name) != f_default(Config.__dataclass_fields__[name]):
            raise UserError(
                f"--{name.replace('_', '-')}: the JAX script samples with the trainer's own passes; use train_torch.py"
            )
