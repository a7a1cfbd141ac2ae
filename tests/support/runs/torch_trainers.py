"""Trainers on small random models, for tests of one step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from gspo_torch import token_logp
from torch import Tensor

from gspo_core import Padded
from integration.on_torch.parallel.wrapping import OnePiece
from integration.on_torch.preparing import build_engine
from integration.on_torch.qwen3 import build_qwen3
from integration.on_torch.sampling.engine import in_bfloat16
from integration.on_torch.sampling.head_check import head_of
from integration.on_torch.sampling.reading import FASTEST, Reading
from integration.on_torch.sampling.rollout import Responses, Sampler, predicting_states
from integration.on_torch.small_model import build_tokenizer, small_sizes
from integration.on_torch.trainer import Trainer
from integration.options.config import Config
from integration.options.sizes import Experts, WarmUp
from integration.records.run_folder import RunFolder
from integration.shared.pretrained import compute_in
from integration.tasks.prompts import Prompter
from integration.tasks.task import Task

CPU = torch.device("cpu")


def make_trainer(task: Task, folder: Path, **options: Any) -> Trainer:
    """On a dense model, or with `model="small-moe"` on 8 experts whose routes are far from ties."""
    config = Config(model=options.pop("model", "small"), group_size=4, prompts_per_rollout=4, max_new_tokens=6, lr=1e-3)
    config = dataclasses.replace(config, **{"clip_low": 0.01, "clip_high": 0.01, **options})
    tokenizer, experts = build_tokenizer(task.train), Experts(8, 2) if config.model == "small-moe" else None
    model = build_qwen3(small_sizes(tokenizer, WarmUp(layers=2, hidden=32), experts), 0)
    if config.model == "small-moe":
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.mul_(1.0 if parameter.ndim == 1 or "embed" in name else 10.0)
    copied = in_bfloat16(model) if config.sampler_dtype else None
    compute_in(model, getattr(torch, config.dtype))
    prompter = Prompter(tokenizer, "chat")
    stop_ids = torch.tensor(prompter.stop_ids())
    sampler = Sampler(model, prompter, config.max_new_tokens, config.temperature, CPU, stop_ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.0)
    generators = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    run, mixture = RunFolder(folder, keep_checkpoints=1), config.model == "small-moe"
    return Trainer(
        config, run, task, model, config.build_objective(), optimizer, sampler, *generators, OnePiece(model),
        engine=build_engine(config, sampler, copied, mixture, task), mixture=mixture,
    )  # fmt: skip


def response_logp(model: Any, batch: Responses, temperature: float, reading: Reading = FASTEST) -> Tensor:
    """[N, T] log π(token) of the responses at a temperature, at least float32; 0 in masked slots."""
    head, hidden = head_of(model), predicting_states(model, batch, reading)
    return token_logp(hidden, head.weight, batch.tokens, layout=Padded(batch.mask), **head.options(temperature))


def draw(trainer: Trainer, count: int = 4) -> Responses:
    """Responses to four questions."""
    return trainer.sampler.draw(trainer.task.train[:4], count, trainer.sampling)
