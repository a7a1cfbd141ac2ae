"""Train a causal language model with GSPO inside TRL: the task, model and objective of train_torch.py, TRL's trainer.

    make train-trl                                                   the README's small run, with TRL
    torchrun --nproc_per_node=8 integration/train_trl.py --model Qwen/Qwen3-0.6B        one process per GPU

Responses are sampled, rows are distributed, and checkpoints are written by TRL and accelerate; the loss, the number that it is
divided by, log-probs, metrics and findings are this library's. Held-out questions are judged before and after.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from integration.options.command_line import guarded
from integration.options.config import Config


@dataclass(frozen=True)
class Options:
    """Train with GSPO inside TRL on a reasoning-gym task."""

    model: str = "small"
    """Folder or hub id of a transformers causal LM with a chat template; `small`: 1 M, made here and warmed up on the task."""
    task: str = "spell_backward"
    """Any of reasoning-gym's generators, or your own: a Python file with questions() and score(), docs/tasks.md."""
    task_args: tuple[str, ...] = ("min_word_len=3", "max_word_len=5")
    """The generator's own arguments, as key=value."""
    verifier_seconds: float = 2.0
    """Processor time that judging one answer may take; it then scores 0."""
    objective: str = "gspo"
    """A preset of docs/family.md, or an objective of your own: my_loss.py:NAME (docs/tasks.md)."""
    clip_low: float | None = None
    """Clip width below ratio 1; by default as in train_torch.py: 0.03 for gspo, 0.2 for grpo, else the preset's."""
    clip_high: float | None = None
    """Clip width above ratio 1; by default 0.04 for gspo, 0.27 for grpo, else the preset's."""
    lr: float = 1e-4
    """AdamW's learning rate."""
    rollouts: int = 400
    """Generations."""
    prompts_per_rollout: int = 16
    """Prompts of a generation, over all processes."""
    group_size: int = 8
    """Responses per prompt."""
    mini_batches: int = 4
    """Optimizer steps per generation."""
    micro_batches: int = 1
    """Parts of an optimizer step on each process. Changes memory, not the result."""
    max_new_tokens: int = 16
    """A response is cut here."""
    temperature: float = 1.0
    """Of sampling, and of all log-probs."""
    train_size: int = 8000
    """Questions drawn to train on."""
    eval_prompts: int = 200
    """Held-out questions, never trained on."""
    eval_samples: int = 4
    """Sampled responses to each held-out question."""
    seed: int = 0
    threads: int | None = None
    """CPU threads of each process; default: its share of the cores that other programs leave idle when the run begins."""
    run_dir: Path = Path("runs/trl")
    """TRL's output folder: checkpoints, and evaluations.json."""
    cache_dir: Path = Path("runs/cache")
    """Converted and warmed-up models."""

    @property
    def base(self) -> Config:
        """The options of train_torch.py that name a task, the model to start from, and the objective."""
        return Config(
            model=self.model, task=self.task, task_args=self.task_args, verifier_seconds=self.verifier_seconds,
            train_size=self.train_size, seed=self.seed, threads=self.threads,
            eval_prompts=self.eval_prompts, max_new_tokens=self.max_new_tokens, cache_dir=self.cache_dir,
            objective=self.objective, clip_low=self.clip_low, clip_high=self.clip_high,
        )  # fmt: skip


def train(options: Options) -> int:
    """A run to its end; returns the exit status."""
    options.base  # noqa: B018 (checked here: --help and wrong options do not wait for TRL)
    from integration.on_trl.run import run  # noqa: PLC0415

    return run(options)


if __name__ == "__main__":
    sys.exit(guarded(lambda: train(tyro.cli(Options, description=__doc__))))
