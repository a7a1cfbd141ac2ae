"""Train a causal language model with GSPO (arXiv 2507.18071), end to end.

    python integration/train_torch.py                                   SmolLM2-135M on sums, CPU
    python integration/train_torch.py --model Qwen/Qwen3-0.6B --device cuda --template-args enable_thinking=False
    python integration/train_torch.py --resume runs/...                 go on after a kill or Ctrl-C

The paper's loop: sample G responses to each prompt, judge each against its group, cut the rollout batch into mini-batches
and take one optimizer step on each, so that the policy leaves the one that sampled and the clip range matters. No KL.
What is not here: a separate inference engine (the trainer samples with its own KV cache) and more than one device.
"""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from config import Config
from errors import TrainingFailure, UserError
from gspo_torch import policy_loss
from measure import Rollup
from pretrained import load_pretrained
from prompts import Prompter
from report import summary, write_report
from rollout import Responses, Sampler, evaluate, require_plain_head, response_logp
from run_folder import RunFolder
from small_model import load_small
from tasks import CORRECT, Task, load_task, parse_args
from torch import Tensor
from tqdm import tqdm

from gspo_core import Objective, Padded, group_advantages


@dataclass
class Trainer:
    """What a run holds in memory."""

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

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs beside the weights. The data's state is the step: prompts are a function of it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "sampling": self.sampling.get_state(),
            "shuffling": self.shuffling.get_state(),
            "optimizer_steps": self.optimizer_steps,
            "bad_steps": self.bad_steps,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.sampling.set_state(state["sampling"])
        self.shuffling.set_state(state["shuffling"])
        self.step, self.optimizer_steps, self.bad_steps = state["step"], state["optimizer_steps"], state["bad_steps"]

    def save(self) -> None:
        """A checkpoint at the current step."""
        self.folder.save_checkpoint(self.step, self.model, self.sampler.prompter.tokenizer, self.state())


def train(config: Config) -> int:
    """Run to the end, to Ctrl-C or to a failure. Returns the exit status."""
    trainer = prepare(config)
    config = trainer.config
    stop = StopOnSignal()
    if trainer.step == 0:
        evaluation(trainer)
    try:
        with tqdm(total=config.rollouts, initial=trainer.step, desc=config.objective, unit="rollout") as bar:
            while trainer.step < config.rollouts and not stop.requested:
                row = one_rollout(trainer)
                trainer.step += 1
                trainer.folder.append("metrics.jsonl", {"step": trainer.step, **row})
                bar.set_postfix(reward=f"{row['reward']:.3f}", clip=f"{row['clip_fraction']:.2f}")
                bar.update()
                last = trainer.step == config.rollouts
                if last or (config.eval_every and trainer.step % config.eval_every == 0):
                    evaluation(trainer)
                if last or stop.requested or trainer.step % config.checkpoint_every == 0:
                    trainer.save()
    except TrainingFailure:
        trainer.save()
        raise
    finally:
        trainer.folder.close()
        report = write_report(trainer.folder)
    print(f"\n{summary(trainer.folder)}\nreport: {report}")
    if stop.requested:
        print(f"stopped after rollout {trainer.step}; go on with --resume {trainer.folder.path}")
        return 130
    return 0


def one_rollout(trainer: Trainer) -> dict[str, Any]:
    """Sample, judge, and take one optimizer step per mini-batch. Returns what was measured."""
    config, task = trainer.config, trainer.task
    began = time.perf_counter()
    examples = task.prompts_for(trainer.step, config.prompts_per_rollout, config.seed)
    responses = trainer.sampler.draw(examples, config.group_size, trainer.sampling)
    texts = trainer.sampler.prompter.decode(responses.tokens, responses.mask)
    owners = [e for e in examples for _ in range(config.group_size)]
    scores = [task.score(example, text) for example, text in zip(owners, texts, strict=True)]
    correct = [float(score >= CORRECT) for score in scores]
    rewards = correct if config.reward == "correct" else scores
    group_ids = [index // config.group_size for index in range(len(rewards))]
    advantages = torch.as_tensor(group_advantages(rewards, group_ids), dtype=torch.float32, device=responses.tokens.device)

    order = torch.randperm(len(rewards), generator=trainer.shuffling).chunk(config.mini_batches)
    batches = [mini_batch(trainer, responses, advantages, rows) for rows in order]
    sampled = time.perf_counter()
    with torch.no_grad():  # the policy that all mini-batches of this rollout are measured against
        old = [[response_logp(trainer.model, part, config.temperature) for part, _ in batch.parts] for batch in batches]

    rollup = Rollup()
    for batch, old_logps in zip(batches, old, strict=True):
        update(trainer, batch, old_logps, rollup)
    updated = time.perf_counter()
    return {
        "reward": sum(rewards) / len(rewards),
        "accuracy": sum(correct) / len(correct),
        "response_length": float(responses.mask.sum()) / len(rewards),
        "no_advantage": float((advantages == 0).sum()) / len(rewards),
        "verifier_errors": task.verifier_errors,
        **rollup.row(),
        "seconds_sampling": round(sampled - began, 3),
        "seconds_updating": round(updated - sampled, 3),
    }


@dataclass(frozen=True)
class MiniBatch:
    """What one optimizer step is taken on."""

    parts: list[tuple[Responses, Tensor]]
    """Micro-batches of responses with their advantages, those without an advantage left out: their gradient is zero."""
    denominator: Tensor
    """[] the objective's count over all responses of the mini-batch, those left out included: the loss stays exact."""
    units: int
    """Ratios in the mini-batch, those left out included."""


def mini_batch(trainer: Trainer, responses: Responses, advantages: Tensor, rows: Tensor) -> MiniBatch:
    """The chosen rows, in micro-batches."""
    whole = Padded(responses.mask[rows])
    live = rows[advantages[rows] != 0]
    pieces = live.split(trainer.config.micro_batch_size or len(rows)) if len(live) else ()
    units = int(whole.valid.sum()) if trainer.objective.ratio.per_token else len(rows)
    parts = [(responses.rows(piece), advantages[piece]) for piece in pieces]
    return MiniBatch(parts, trainer.objective.count(whole), units)


def update(trainer: Trainer, batch: MiniBatch, old_logps: list[Tensor], rollup: Rollup) -> None:
    """One optimizer step. Micro-batches add up exactly: they share the mini-batch's denominator."""
    for parameter in trainer.model.parameters():  # zeros, not None: without any gradient AdamW shall still step
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
    for (part, advantage), old_logp in zip(batch.parts, old_logps, strict=True):
        layout = Padded(part.mask)
        logp = response_logp(trainer.model, part, trainer.config.temperature)
        loss = policy_loss(trainer.objective, logp, old_logp, advantage, layout, denominator=batch.denominator)
        loss.value.backward()
        rollup.add_loss(loss, logp.detach(), old_logp, layout)
    norm = torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.config.max_grad_norm)
    finite = bool(torch.isfinite(norm))
    rollup.add_step(float(norm), units=batch.units, skipped=not finite)
    trainer.bad_steps = 0 if finite else trainer.bad_steps + 1
    if finite:
        trainer.optimizer_steps += 1
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.config.lr * min(1.0, trainer.optimizer_steps / max(1, trainer.config.lr_warm_up))
        trainer.optimizer.step()
    if trainer.bad_steps >= trainer.config.max_bad_steps:
        raise TrainingFailure(
            f"{trainer.bad_steps} gradients in a row were not finite, in rollout {trainer.step + 1}: those steps were skipped "
            f"and the weights are saved. Read the last lines of {trainer.folder.path / 'metrics.jsonl'}; lower --lr"
        )


def evaluation(trainer: Trainer) -> None:
    """Held-out accuracy, sampled and greedy, and transcripts."""
    result = evaluate(trainer.task, trainer.sampler, samples=trainer.config.eval_samples, seed=trainer.config.seed)
    row = {
        "step": trainer.step,
        "sampled_accuracy": sum(result.sampled) / len(result.sampled),
        "greedy_accuracy": sum(result.greedy) / len(result.greedy),
        "sampled": result.sampled,
        "greedy": result.greedy,
    }
    trainer.folder.append("evaluations.jsonl", row)
    name = "before" if trainer.step == 0 else f"after-{trainer.step:06d}"
    trainer.folder.write_json(f"transcripts/{name}.json", result.transcripts)


def prepare(config: Config) -> Trainer:
    """Everything a run needs, new or resumed."""
    folder = RunFolder(config.resume or config.new_run_dir(), keep_checkpoints=config.keep_checkpoints)
    checkpoint = None
    if config.resume is not None:
        config = config.resumed_from(Config.from_json(folder.config()))
        checkpoint = folder.checkpoints()[-1] if folder.checkpoints() else None
    torch.set_num_threads(config.threads or torch.get_num_threads())
    device, dtype = torch.device(config.device), getattr(torch, config.dtype)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this PyTorch sees no CUDA device")
    task = load_task(
        config.task, config.task_args, seed=config.seed, train_size=config.train_size, held_out_size=config.eval_prompts
    )
    if config.model == "small" and checkpoint is None:
        key = f"{config.task} {config.task_args} {config.train_size} {config.eval_prompts}"
        model, tokenizer = load_small(
            task, config.warm_up, key=key, cache=config.cache_dir, seed=config.seed,
            max_new_tokens=config.max_new_tokens, device=device, dtype=dtype,
        )  # fmt: skip
    else:
        model, tokenizer = load_pretrained(str(checkpoint or config.model), cache=config.cache_dir, dtype=dtype, device=device)
    template_args = tuple(parse_args("--template-args", config.template_args).items())
    prompter = Prompter(tokenizer, config.prompt, tuple(task.train[: config.shots]), config.instruction, template_args)
    sampler = Sampler(model, prompter, config.max_new_tokens, config.temperature, device, prompter.stop_ids(device))
    require_plain_head(model, sampler, task.train[0])
    trainer = Trainer(
        config, folder, task, model, config.build_objective(),
        torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.0, fused=True), sampler,
        torch.Generator(device).manual_seed(config.seed), torch.Generator().manual_seed(config.seed),
    )  # fmt: skip
    if config.resume is None:
        folder.create(config.to_json())
    elif checkpoint is not None:
        trainer.restore(folder.load_state(checkpoint, model))
    folder.rewind(trainer.step if trainer.step else -1)
    size = sum(p.numel() for p in model.parameters())
    print(f"{config.model}: {size:,} parameters. {config.task}: {len(task.train)} questions, {len(task.held_out)} held out.")
    print(f"run folder: {folder.path}", flush=True)
    return trainer


class StopOnSignal:
    """Ctrl-C and SIGTERM finish the current rollout, save and stop; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: Any) -> None:
        self.requested = True
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        print("\nfinishing this rollout, then saving; once more to stop at once", file=sys.stderr, flush=True)


def main() -> int:
    """The command line."""
    try:
        return train(tyro.cli(Config, description=__doc__))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingFailure as error:
        print(f"training stopped: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
