"""State of a JAX run in memory, made new or from its last checkpoint."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import torch

from gspo_core import Objective
from integration.on_jax.checkpoint import restore_checkpoint, write_checkpoint
from integration.on_jax.learner import Learner
from integration.on_jax.mesh import in_host_memory, mesh_of, placement
from integration.on_jax.options import check_options
from integration.on_jax.reference import Reference, start_of
from integration.on_jax.rollout import Sampler
from integration.on_jax.weights import load_decoder
from integration.on_torch.unfinished import load_unfinished, write_unfinished
from integration.options.choices import OBJECTIVES
from integration.options.config import Config
from integration.options.resuming import open_run, remember
from integration.records.clip_advice import Advised, ClipAdvice
from integration.records.run_folder import RunFolder
from integration.shared.cores import free_cores
from integration.shared.fingerprint import require_same_reference
from integration.shared.pretrained import load_tokenizer
from integration.shared.ranks import OneProcess, Ranks
from integration.shared.unfinished import Unfinished
from integration.tasks.prompts import Prompter, ends_of, require_known_tokens
from integration.tasks.record import begin, require_same_questions
from integration.tasks.task import Task, load_task, parse_args


@dataclass
class Trainer(Advised):
    """State of a run in memory. The data's and the random numbers' state is the step: both are functions of it."""

    config: Config
    folder: RunFolder
    task: Task
    learner: Learner
    objective: Objective
    sampler: Sampler
    model_files: dict[str, str]
    """Texts of the config files that came with the weights, by their names; checkpoints get copies."""
    step: int = 0
    """Rollouts done."""
    optimizer_steps: int = 0
    """Steps taken, skipped ones not counted."""
    bad_steps: int = 0
    """Non-finite gradients in a row."""
    advice: ClipAdvice | None = None
    """With --clip-fraction only."""
    reference: Reference | None = None
    """With --kl only."""
    unfinished: Unfinished[Any, Any] | None = None
    """What is left of a rollout that was stopped between two optimizer steps."""

    @property
    def can_be_continued(self) -> bool:
        """Whether a stopped rollout can be saved: an objective from a file of the user's cannot be read back safely."""
        return self.config.objective in OBJECTIVES

    @property
    def ranks(self) -> Ranks:
        """One process, whatever its devices."""
        return OneProcess()

    def give_up(self) -> None:
        """A rollout changes nothing before its first optimizer step."""

    def save(self) -> None:
        """A checkpoint at the current step."""
        state: dict[str, Any] = {name: getattr(self, name) for name in ("step", "optimizer_steps", "bad_steps")}
        state["advice"] = None if self.advice is None else self.advice.state()
        state["reference"] = None if self.reference is None else self.reference.fingerprint
        self.folder.save_checkpoint(self.step, lambda folder: self._write(folder, state))

    def _write(self, folder: Path, state: dict[str, Any]) -> None:
        write_checkpoint(folder, self.learner, self.sampler.prompter.tokenizer, self.model_files, state)
        write_unfinished(folder, self.unfinished)

    def restore(self, checkpoint: Path) -> None:
        """Continue exactly where it was saved."""
        state = restore_checkpoint(checkpoint, self.learner)
        if self.reference is not None:
            require_same_reference(self.config.model, self.reference.fingerprint, state["reference"])
        self.step, self.optimizer_steps, self.bad_steps = state["step"], state["optimizer_steps"], state["bad_steps"]
        if self.advice is not None:
            self.advice.restore(state["advice"])
            self.take_advice()
        self.unfinished = load_unfinished(checkpoint, torch.device("cpu"))


def prepare(config: Config) -> Trainer:
    """Everything a run needs, new or resumed."""
    check_options(config)
    threads = config.threads or free_cores()
    set_up(threads, config.data_parallel * config.model_parallel)
    mesh = mesh_of(config.data_parallel, config.model_parallel)
    config, folder, checkpoint = open_run(config)
    # The number is saved: sums over another number of threads differ in their last digits.
    config = dataclasses.replace(config, threads=threads)
    print(f"loading {config.model} and {config.task}, {threads} CPU thread(s)", flush=True)
    task = load_task(
        config.task, config.task_args, seed=config.seed, train_size=config.train_size, held_out_size=config.eval_prompts,
        seconds=config.verifier_seconds,
    )  # fmt: skip
    source = checkpoint or start_of(config, task)
    with in_host_memory(mesh):
        tokenizer, model = load_tokenizer(str(source)), load_decoder(source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    template_args = tuple(parse_args("--template-args", config.template_args).items())
    files = model_files(source)
    ends = ends_of(json.loads(files.get("generation_config.json", files["config.json"])).get("eos_token_id"))
    prompter = Prompter(tokenizer, config.prompt, tuple(task.train[: config.shots]), config.instruction, template_args, ends)
    require_known_tokens(model.shape.vocab_size, prompter, task)
    learner = Learner(
        model,
        lr=config.lr,
        lr_warm_up=config.lr_warm_up,
        max_grad_norm=config.max_grad_norm,
        place=placement(mesh, model.shape),
    )
    trainer = Trainer(
        config, folder, task, learner, config.build_objective(),
        Sampler(learner, prompter, config.max_new_tokens, config.temperature), files,
        advice=None if config.clip_fraction is None else ClipAdvice(config.clip_fraction, config.pilot_rollouts),
        reference=None if config.kl_estimator is None else Reference(config, task, learner.place),
    )  # fmt: skip
    if config.resume is None:
        folder.create(config.to_json())
        begin(task, folder, config.given_files)
    else:
        require_same_questions(task, folder, config.given_files)
        if checkpoint is not None:
            trainer.restore(checkpoint)
        remember(config, folder)
    folder.rewind(-1 if checkpoint is None else trainer.step)
    size = sum(x.size for x in jax.tree.leaves(learner.params))
    print(f"{config.model}: {size:,} parameters. {config.task}: {len(task.train)} questions, {len(task.held_out)} held out.")
    print(f"run folder: {folder.path}", flush=True)
    return trainer


def set_up(threads: int, devices: int = 1) -> None:
    """Threads of both frameworks, before JAX starts its own; float32 products in float32 on every device."""
    os.environ["PJRT_NPROC"] = str(max(threads, 2 * devices if devices > 1 else 1))
    if devices > 1:  # on a CPU a program that is begun early takes the threads for which the one before it waits
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    torch.set_num_threads(threads)
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_threefry_partitionable", True)  # a row's random numbers are the same on any mesh


def model_files(source: Path) -> dict[str, str]:
    """The texts of a model's config files, which its later checkpoints need when `source`, a checkpoint, is long deleted."""
    there = [source / name for name in ("config.json", "generation_config.json")]
    return {path.name: path.read_text(encoding="utf-8") for path in there if path.exists()}
