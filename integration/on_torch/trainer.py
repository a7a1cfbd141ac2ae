"""State of a run in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gspo_core import Objective
from integration.on_torch.checkpoint import write_checkpoint
from integration.on_torch.parallel.processes import Processes, naming_lost_ranks
from integration.on_torch.parallel.wrapping import Passes
from integration.on_torch.reference import Reference
from integration.on_torch.sampling.rollout import Drawing, Responses, Sampler
from integration.on_torch.unfinished import write_unfinished
from integration.options.choices import OBJECTIVES
from integration.options.config import Config
from integration.records.clip_advice import Advised, ClipAdvice
from integration.records.run_folder import RunFolder
from integration.shared.fingerprint import require_same_base, require_same_reference
from integration.shared.ranks import Ranks
from integration.shared.unfinished import Unfinished
from integration.tasks.task import Example, Task


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
    passes: Passes
    """Passes of the model with gradient."""
    step: int = 0
    """Rollouts done."""
    optimizer_steps: int = 0
    """Steps taken, skipped ones not counted."""
    bad_steps: int = 0
    """Non-finite gradients in a row."""
    advice: ClipAdvice | None = None
    """With --clip-fraction only."""
    engine: Drawing | None = None
    """Sampling engine, if it differs from `sampler`: vLLM, one with noise or another precision, or one that records routes."""
    mixture: bool = False
    """The model has routers, whose choices are recorded."""
    reference: Reference | None = None
    """With --kl only."""
    frozen: str | None = None
    """With --lora-rank, the fingerprint of the weights that the adapters are put into."""
    drawn_from: tuple[Tensor, Tensor] | None = None
    """The random states before the rollout under way; None before it draws, and from its first optimizer step on."""
    unfinished: Unfinished[Any, Any] | None = None
    """What is left of a rollout that was stopped between two optimizer steps."""
    processes: Processes = field(default_factory=Processes)
    """The run's processes, and this one's place among them."""

    @property
    def ranks(self) -> Ranks:
        """The run's processes."""
        return self.processes.ranks

    @property
    def can_be_continued(self) -> bool:
        """Whether a stopped rollout can be saved. An objective from a file of the user's cannot be read back safely; and
        several processes have a part of it each, and finish it."""
        return self.config.objective in OBJECTIVES and self.ranks.count == 1

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
            "sampling": self.sampling.get_state(),
            "shuffling": self.shuffling.get_state(),
            "optimizer_steps": self.optimizer_steps,
            "bad_steps": self.bad_steps,
            **({} if self.advice is None else {"advice": self.advice.state()}),
            **({} if self.reference is None else {"reference": self.reference.fingerprint}),
            **({} if self.frozen is None else {"frozen": self.frozen}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        if self.reference is not None:
            require_same_reference(self.config.model, self.reference.fingerprint, state["reference"])
        if self.frozen is not None and "frozen" in state:  # checkpoints of earlier versions do not say
            require_same_base(self.config.model, self.frozen, state["frozen"])
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
        folder = Path(self.ranks.gather(str(folder))[0])  # process 0's: the others fill it with their parts
        with naming_lost_ranks():
            write_checkpoint(folder, self.model, self.optimizer, tokenizer, state, self.ranks)
        write_unfinished(folder, self.unfinished)
