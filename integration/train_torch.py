"""Train a causal language model with GSPO (arXiv 2507.18071), end to end.

    make train, make train-small                                        the README's two runs
    python integration/train_torch.py --model Qwen/Qwen3-0.6B --device cuda --template-args enable_thinking=False
    python integration/train_torch.py --model small-moe --routing-replay r3 --router-noise 0.2       docs/moe.md
    python integration/train_torch.py --resume runs/...                 go on after a kill or Ctrl-C

The paper's loop: sample G responses to each prompt, judge each against its group, cut the rollout batch into mini-batches
and take one optimizer step on each, so that the policy leaves the one that sampled and the clip range matters. No KL.
What is not here: a separate inference engine (the trainer samples with its own KV cache; --router-noise and --sampler-dtype
make it disagree as one would) and more than one device.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from config import Config
from errors import TrainingFailure, UserError
from gspo_torch import policy_loss
from interrupt import StopOnSignal
from measure import Rollup
from pace import Pace
from passes import Old, old_pass, update_pass
from report import summary, write_report
from rollout import Responses, evaluate, response_logp
from tasks import CORRECT
from torch import Tensor
from tqdm import tqdm
from trainer import Trainer, prepare

from gspo_core import Padded, Plan, plan


def train(config: Config) -> int:
    """Run to the end, to Ctrl-C or to a failure. Returns the exit status."""
    trainer = prepare(config)
    config = trainer.config
    stop = StopOnSignal()
    pace = Pace(rollouts=config.rollouts, done=trainer.step, eval_every=config.eval_every)
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
                seconds = row["seconds_sampling"] + row["seconds_updating"]
                pace.after_rollout(seconds, trainer.folder.rows("evaluations.jsonl"))
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
    responses = trainer.draw(examples)
    texts = trainer.sampler.prompter.decode(responses.tokens, responses.mask)
    owners = [e for e in examples for _ in range(config.group_size)]
    scores = [task.score(example, text) for example, text in zip(owners, texts, strict=True)]
    correct = [float(score >= CORRECT) for score in scores]
    rewards = correct if config.reward == "correct" else scores
    group_ids = [index // config.group_size for index in range(len(rewards))]
    planned = plan(rewards, group_ids)
    advantages = torch.as_tensor(planned.advantage, dtype=torch.float32, device=responses.tokens.device)

    order = torch.randperm(len(rewards), generator=trainer.shuffling).chunk(config.mini_batches)
    batches = [mini_batch(trainer, responses, advantages, planned, rows) for rows in order]
    sampled, rollup = time.perf_counter(), Rollup(config.correction)
    olds = [[old_pass(trainer, part, rollup) for part, _ in batch.parts] for batch in batches]  # all before the first update
    for batch, old in zip(batches, olds, strict=True):
        update(trainer, batch, old, rollup)
    updated = time.perf_counter()
    return {
        "reward": sum(rewards) / len(rewards),
        "accuracy": sum(correct) / len(correct),
        "response_length": float(responses.mask.sum()) / len(rewards),
        "no_advantage": float((advantages == 0).sum()) / len(rewards),
        "verifier_errors": task.verifier_errors,
        **rollup.row(),
        **trainer.advised(rollup.pilot(responses.mask.sum(-1), advantages)),
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


def mini_batch(trainer: Trainer, responses: Responses, advantages: Tensor, planned: Plan, rows: Tensor) -> MiniBatch:
    """Those of the chosen rows that have to be run, in micro-batches."""
    whole = Padded(responses.mask[rows])
    step = planned.step(trainer.objective, whole, rows)
    live = torch.from_numpy(step.rows)
    pieces = live.split(trainer.config.micro_batch_size or len(rows)) if len(live) else ()
    units = int(whole.valid.sum()) if trainer.objective.ratio.per_token else len(rows)
    parts = [(responses.rows(piece), advantages[piece]) for piece in pieces]
    return MiniBatch(parts, step.denominator, units)


def update(trainer: Trainer, batch: MiniBatch, olds: list[Old], rollup: Rollup) -> None:
    """One optimizer step. Micro-batches add up exactly: they share the mini-batch's denominator."""
    for parameter in trainer.model.parameters():  # zeros, not None: without any gradient AdamW shall still step
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
    for (part, advantage), old in zip(batch.parts, olds, strict=True):
        layout = Padded(part.mask)
        with update_pass(trainer, old, rollup):
            logp = response_logp(trainer.model, part, trainer.config.temperature)
            weighted = old.weighted(advantage, layout)
            loss = policy_loss(trainer.objective, logp, old.logp, weighted, layout, denominator=batch.denominator)
            loss.value.backward()
        rollup.add_loss(loss, logp.detach(), old.logp, advantage, layout)
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
    began = time.perf_counter()
    result = evaluate(trainer.task, trainer.sampler, samples=trainer.config.eval_samples, seed=trainer.config.seed)
    row = {
        "step": trainer.step,
        "sampled_accuracy": sum(result.sampled) / len(result.sampled),
        "greedy_accuracy": sum(result.greedy) / len(result.greedy),
        "sampled": result.sampled,
        "greedy": result.greedy,
        "seconds": round(time.perf_counter() - began, 3),
    }
    trainer.folder.append("evaluations.jsonl", row)
    name = "before" if trainer.step == 0 else f"after-{trainer.step:06d}"
    trainer.folder.write_json(f"transcripts/{name}.json", result.transcripts)


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
    except KeyboardInterrupt:
        print("interrupted at once; what was saved before is whole", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
