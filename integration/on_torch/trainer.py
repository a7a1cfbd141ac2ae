"""State of a run in memory, made new or from its last checkpoint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gspo_torch.routing.routers import mixture_of
from torch import Tensor

from gspo_core import Objective
from integration.on_torch.adapters import add_adapter, load_adapter, trained
from integration.on_torch.checkpoint import load_state, write_checkpoint
from integration.on_torch.memory import check_memory
from integration.on_torch.recompute import enable_recomputing
from integration.on_torch.reference import Reference, load_start
from integration.on_torch.sampling.agreement import require_agreement
from integration.on_torch.sampling.engine import Engine, in_bfloat16
from integration.on_torch.sampling.reading import Reading
from integration.on_torch.sampling.rollout import Responses, Sampler
from integration.on_torch.unfinished import Unfinished, load_unfinished, write_unfinished
from integration.options.choices import OBJECTIVES
from integration.options.config import Config
from integration.options.errors import UserError
from integration.options.resuming import open_run, remember
from integration.records.clip_advice import Advised, ClipAdvice
from integration.records.run_folder import RunFolder
from integration.shared.cores import free_cores
from integration.shared.fingerprint import require_same_reference
from integration.shared.gguf_files import gguf_file
from integration.shared.pretrained import compute_in, load_pretrained, source_of
from integration.tasks.prompts import Prompter, ends_of, require_room
from integration.tasks.record import begin, require_same_questions
from integration.tasks.task import Example, Task, load_task, parse_args


@dataclass
class Trainer(Advised):
    """State of a run in memory."""

    config: Config
    folder: RunFolder
    task: Task
    model: Any
    objective: Objective
    optimizer: torch.optim.Optimizer
    sampler: Sampler
    sampling: torch.Generator
    shuffling: torch.Generator
    step: int = 0
    """Rollouts done."""
    optimizer_steps: int = 0
    """Steps taken, skipped ones not counted."""
    bad_steps: int = 0
    """Non-finite gradients in a row."""
    advice: ClipAdvice | None = None
    """With --clip-fraction only."""
    engine: Engine | None = None
    """Sampling engine, if it differs from `sampler`: one with noise or another precision, or one that records routes."""
    mixture: bool = False
    """The model has routers, whose choices are recorded."""
    reference: Reference | None = None
    """With --kl only."""
    drawn_from: tuple[Tensor, Tensor] | None = None
    """The random states before the rollout under way; None before it draws, and from its first optimizer step on."""
    unfinished: Unfinished | None = None
    """What is left of a rollout that was stopped between two optimizer steps."""

    @property
    def can_be_continued(self) -> bool:
        """Whether a stopped rollout can be saved: an objective from a file of the user's cannot be read back safely."""
        return self.config.objective in OBJECTIVES

    def draw(self, examples: list[Example]) -> Responses:
        """The rollout's responses, a group to each example."""
        self.drawn_from = self.sampling.get_state(), self.shuffling.get_state()
        return (self.engine or self.sampler).draw(examples, self.config.group_size, self.sampling)

    def give_up(self) -> None:
        """Undo what the rollout under way changed before its first optimizer step."""
        if self.drawn_from is not None:
            self.sampling.set_state(self.drawn_from[0])
            self.shuffling.set_state(self.drawn_from[1])
            self.drawn_from = None

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs beside the weights. The data's state is the step: prompts are a function of it."""
        return {
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "sampling": self.sampling.get_state(),
            "shuffling": self.shuffling.get_state(),
            "optimizer_steps": self.optimizer_steps,
            "bad_steps": self.bad_steps,
            **({} if self.advice is None else {"advice": self.advice.state()}),
            **({} if self.reference is None else {"reference": self.reference.fingerprint}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        if self.reference is not None:
            require_same_reference(self.config.model, self.reference.fingerprint, state["reference"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sampling.set_state(state["sampling"])
        self.shuffling.set_state(state["shuffling"])
        self.step, self.optimizer_steps, self.bad_steps = state["step"], state["optimizer_steps"], state["bad_steps"]
        if self.advice is not None:
            self.advice.restore(state["advice"])
            self.take_advice()

    def save(self) -> None:
        """A checkpoint at the current step."""
        tokenizer, state = self.sampler.prompter.tokenizer, self.state()
        self.folder.save_checkpoint(self.step, lambda folder: self._write(folder, tokenizer, state))

    def _write(self, folder: Path, tokenizer: Any, state: dict[str, Any]) -> None:
        write_checkpoint(folder, self.model, tokenizer, state)
        write_unfinished(folder, self.unfinished)


def prepare(config: Config) -> Trainer:
    """Everything a run needs, new or resumed."""
    device = torch.device(config.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this PyTorch sees no CUDA device")
    config, folder, checkpoint = open_run(config)
    # The number is saved: sums over another number of threads differ in their last digits.
    config = dataclasses.replace(config, threads=config.threads or min(free_cores(), torch.get_num_threads()))
    torch.set_num_threads(config.threads or 1)
    print(f"loading {config.model} and {config.task}, {config.threads} CPU thread(s)", flush=True)
    task = load_task(
        config.task, config.task_args, seed=config.seed, train_size=config.train_size, held_out_size=config.eval_prompts,
        seconds=config.verifier_seconds,
    )  # fmt: skip
    model, tokenizer = loaded(config, task, checkpoint, device)
    mixture = has_routers(model, config)
    copied = in_bfloat16(model) if config.sampler_dtype == "bfloat16" else None
    prompter = prompter_of(config, task, tokenizer, ends_of(model.generation_config.eos_token_id))
    stop_ids = torch.tensor(prompter.stop_ids(), device=device)
    sampler = Sampler(model, prompter, config.max_new_tokens, config.temperature, device, stop_ids)
    sampler = dataclasses.replace(sampler, reading=require_agreement(model, sampler, task.train[:8]))
    mixture = mixture and routes_can_be_kept(model, config, sampler.reading)
    compute_in(model, getattr(torch, config.dtype))
    if config.gradient_checkpointing:
        enable_recomputing(model)
    trainer = Trainer(
        config, folder, task, model, config.build_objective(),
        torch.optim.AdamW(trained(model), lr=config.lr, weight_decay=0.0, fused=True), sampler,
        torch.Generator(device).manual_seed(config.seed), torch.Generator().manual_seed(config.seed),
        advice=None if config.clip_fraction is None else ClipAdvice(config.clip_fraction, config.pilot_rollouts),
        engine=build_engine(config, sampler, copied, mixture), mixture=mixture,
        reference=None if config.kl_estimator is None else Reference(config, task, device),
    )  # fmt: skip
    start(trainer, checkpoint)
    return trainer


def loaded(config: Config, task: Task, checkpoint: Path | None, device: torch.device) -> tuple[Any, Any]:
    """(model, tokenizer) to begin or to go on with, adapters included; UserError if they do not fit the memory or the task."""
    source = str(config.model if checkpoint is None or config.lora_rank is not None else checkpoint)
    check_memory(config, task, source if gguf_file(source) is None else source_of(source, config.cache_dir), device)

    def ready(tokenizer: Any, model_config: Any) -> None:
        require_room(model_config, prompter_of(config, task, tokenizer), task, config.max_new_tokens)

    if checkpoint is None or config.lora_rank is not None:
        model, tokenizer = load_start(config, task, device, ready)
    else:
        model, tokenizer = load_pretrained(str(checkpoint), cache=config.cache_dir, device=device)
    if config.lora_rank is not None:
        add_adapter(model, config) if checkpoint is None else load_adapter(model, checkpoint)
    return model, tokenizer


def start(trainer: Trainer, checkpoint: Path | None) -> None:
    """Begin the run's folder, or put the trainer where the checkpoint is; then say what is trained."""
    config, folder, task, model = trainer.config, trainer.folder, trainer.task, trainer.model
    if config.resume is None:
        folder.create(config.to_json())
        begin(task, folder, config.given_files)
    else:
        require_same_questions(task, folder, config.given_files)
        if checkpoint is not None:
            trainer.restore(load_state(checkpoint, model))
            trainer.unfinished = load_unfinished(checkpoint, torch.device(config.device))
        remember(config, folder)
    folder.rewind(-1 if checkpoint is None else trainer.step)
    size, moving = (sum(p.numel() for p in some) for some in (model.parameters(), trained(model)))
    part = "" if moving == size else f", of which {moving:,} are trained"
    print(
        f"{config.model}: {size:,} parameters{part}. {config.task}: {len(task.train)} questions, {len(task.held_out)} held out."
    )
    print(f"run folder: {folder.path}", flush=True)


def prompter_of(config: Config, task: Task, tokenizer: Any, ends: tuple[int, ...] = ()) -> Prompter:
    """The form of this run's prompts, and the ids that end a response; UserError if the tokenizer has no such form."""
    template_args = tuple(parse_args("--template-args", config.template_args).items())
    return Prompter(tokenizer, config.prompt, tuple(task.train[: config.shots]), config.instruction, template_args, ends)


def has_routers(model: Any, config: Config) -> bool:
    """Whether the model's routes can be recorded; UserError if they cannot, and the options need them."""
    try:
        mixture = bool(mixture_of(model).routers)
    except TypeError as error:  # a mixture of a kind that is not known, which can be trained without these options
        if config.routing_replay != "none" or config.router_noise:
            raise UserError(f"--routing-replay, --router-noise: {error}") from error
        return False
    if not mixture:
        config.require_mixture(config.model)
    return mixture


def routes_can_be_kept(model: Any, config: Config, reading: Reading) -> bool:
    """Whether routes are those of one padded batch; UserError if they are not, and the options need them."""
    if not reading.padded and config.routing_replay != "none":
        raise UserError(
            f"--routing-replay: {type(model).__name__} is right without padding only, one length at a time, and routes are "
            "replayed in padded batches"
        )
    return reading.padded


def build_engine(config: Config, sampler: Sampler, copied: Any, mixture: bool) -> Engine | None:
    """The sampler, or one on a copy of its model, that writes down what the trainer needs of it; None if that is nothing."""
    if not config.mismatch and config.routing_replay != "r3":
        return None
    model = sampler.model if copied is None else copied
    recording = dataclasses.replace(sampler, model=model, keep_logp=config.mismatch, keep_routes=mixture)
    return Engine(recording, sampler.model, config.router_noise)
