"""JAX trainers on a small random model, for tests of one step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from support.runs.in_process import in_process

from integration.on_jax.learner import Learner
from integration.on_jax.mesh import mesh_of, placement
from integration.on_jax.rollout import Responses, Sampler, random_keys
from integration.on_jax.trainer import Trainer, model_files
from integration.on_jax.training import old_pass
from integration.on_jax.weights import load_decoder
from integration.on_torch.qwen3 import build_qwen3
from integration.on_torch.small_model import build_tokenizer, small_sizes
from integration.options.config import Config
from integration.options.sizes import WarmUp
from integration.records.run_folder import RunFolder
from integration.tasks.prompts import Prompter
from integration.tasks.task import Task, load_task


@contextmanager
def promotion() -> Iterator[None]:
    """optax multiplies float32 by int32."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def words() -> Task:
    """Short words backward: prompts and answers of different lengths."""
    return in_process(
        load_task("spell_backward", ["min_word_len=2", "max_word_len=6"], seed=2, train_size=40, held_out_size=10)
    )


def save_model(task: Task, folder: Path) -> tuple[Any, Any, Path]:
    """A small random model of transformers, its tokenizer, and the folder it was saved to."""
    tokenizer = build_tokenizer(task.train)
    model = build_qwen3(small_sizes(tokenizer, WarmUp(layers=2, hidden=32)), 0)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(10.0)  # logits of order one: some tokens are likelier than others
    model.save_pretrained(folder)
    return model, tokenizer, folder


def make_trainer(task: Task, saved: tuple[Any, Any, Path], folder: Path, **options: Any) -> Trainer:
    """A trainer on it, on one device or on the mesh of its options."""
    config = Config(model="small", group_size=4, prompts_per_rollout=4, max_new_tokens=6, lr=1e-3)
    config = dataclasses.replace(config, **{"clip_low": 0.01, "clip_high": 0.01, **options})
    decoder = load_decoder(saved[2])
    learner = Learner(
        decoder,
        lr=config.lr,
        lr_warm_up=config.lr_warm_up,
        max_grad_norm=config.max_grad_norm,
        place=placement(mesh_of(config.data_parallel, config.model_parallel), decoder.shape),
    )
    sampler = Sampler(learner, Prompter(saved[1], "chat"), config.max_new_tokens, config.temperature)
    run = RunFolder(folder, keep_checkpoints=1)
    return Trainer(config, run, task, learner, config.build_objective(), sampler, model_files(saved[2]))


def log_probs(trainer: Trainer, responses: Responses) -> np.ndarray:
    """[N, T] of the responses under the trainer's weights."""
    return np.asarray(old_pass(trainer, responses, np.asarray(len(responses.mask))).logp)


def draw(trainer: Trainer, count: int = 4, seed: int = 0) -> Responses:
    """Responses to four questions."""
    return trainer.sampler.draw(trainer.task.train[:4], count, random_keys(seed, 0))
