"""A run: TRL's trainer with our objective on a reasoning-gym task, and accuracy on held-out questions before and after."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from gspo_torch.trainers.trl import GSPOConfig, GSPOTrainer

from integration.on_torch.reference import load_start
from integration.on_torch.sampling.rollout import Sampler
from integration.options.choices import NORMALISERS
from integration.options.errors import UserError
from integration.records.report import gain_interval
from integration.rewards.verdicts import failure_findings, failures
from integration.shared.cores import free_cores
from integration.shared.evaluation import Evaluation, evaluate
from integration.tasks.prompts import Prompter, ends_of
from integration.tasks.record import describe
from integration.tasks.task import Task, load_task

if TYPE_CHECKING:
    from integration.options.config import Config
    from integration.train_trl import Options


def run(options: Options) -> int:
    """Evaluate, train, evaluate again; returns the exit status."""
    base = options.base
    torch.set_num_threads(threads_of(base))
    if os.environ.get("RANK", "0") == "0":
        print(f"loading {base.model} and {base.task}, {torch.get_num_threads()} CPU thread(s)", flush=True)
    task = task_of(base)
    model, tokenizer = load_start(base, task, torch.device("cpu"))
    if tokenizer.chat_template is None:
        raise UserError("--model: expected a tokenizer with a chat template, which TRL's conversations need")
    if os.environ.get("RANK", "0") == "0":
        print("\n".join(describe(task)["sentences"]), flush=True)
    trainer = GSPOTrainer(
        model, rewards_of(task), arguments(options), questions(task, options.train_size), processing_class=tokenizer
    )
    before = held_out(options, task, trainer)
    trainer.train()
    after = held_out(options, task, trainer)
    if trainer.accelerator.is_main_process:
        rows = [{"sampled": e.sampled, "greedy": e.greedy} for e in (before, after)]
        (options.run_dir / "evaluations.json").write_text(json.dumps(rows), encoding="utf-8")
        for kind in ("sampled", "greedy"):
            first, last = (getattr(e, kind) for e in (before, after))
            low, high = gain_interval(first, last)
            print(
                f"{kind}: {mean(first):.1f} -> {mean(last):.1f} % of held-out questions, gain {low:+.1f} to {high:+.1f} (95 %)"
            )
    return 0


def threads_of(base: Config) -> int:
    """What --threads says, or this process's share of the idle cores: two threads on a busy core are slower than one."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    return base.threads or max(1, min(free_cores(), torch.get_num_threads()) // ranks)


def task_of(base: Config) -> Task:
    """Questions, and the verifier with its limit."""
    return load_task(
        base.task, base.task_args, seed=base.seed, train_size=base.train_size, held_out_size=base.eval_prompts,
        seconds=base.verifier_seconds,
    )  # fmt: skip


def arguments(options: Options) -> GSPOConfig:
    """TRL's options. An optimizer step has a mini-batch of all processes' responses."""
    ranks, gpu = int(os.environ.get("WORLD_SIZE", "1")), torch.cuda.is_available()
    rows, parts = options.prompts_per_rollout * options.group_size, options.mini_batches * options.micro_batches * ranks
    if rows % parts:
        raise UserError(
            f"--prompts-per-rollout: {rows} responses do not divide into {options.mini_batches} mini-batches of "
            f"{options.micro_batches} micro-batches on {ranks} processes"
        )
    return GSPOConfig(
        str(options.run_dir), objective=options.base.build_objective(), normaliser=NORMALISERS.get(options.objective),
        per_device_train_batch_size=rows // parts, gradient_accumulation_steps=options.micro_batches,
        steps_per_generation=options.mini_batches * options.micro_batches, num_generations=options.group_size,
        max_steps=options.rollouts * options.mini_batches, max_completion_length=options.max_new_tokens,
        temperature=options.temperature, learning_rate=options.lr, lr_scheduler_type="constant_with_warmup", warmup_steps=10,
        weight_decay=0.0, max_grad_norm=1.0, use_cpu=not gpu, bf16=gpu, gradient_checkpointing=gpu, report_to=[],
        logging_steps=10 * options.mini_batches, save_steps=100 * options.mini_batches, save_total_limit=2, seed=options.seed,
    )  # fmt: skip


def questions(task: Task, count: int) -> Dataset:
    """A conversation per training question, and its number."""
    prompts = [[{"role": "user", "content": example.question}] for example in task.train[:count]]
    return Dataset.from_dict({"prompt": prompts, "index": list(range(len(prompts)))})


def rewards_of(task: Task) -> Any:
    """TRL's reward function: the score of the task's verifier. Each way in which that fails is named when it is first seen."""
    known: set[str] = set()

    def score(completions: list[Any], index: list[int], **_: Any) -> list[float]:
        verdicts = task.verdicts([task.train[i] for i in index], [turns[0]["content"] for turns in completions])
        for finding in failure_findings({"verifier_failures": failures(verdicts)}, len(verdicts)):
            if finding["kind"] not in known:
                known.add(finding["kind"])
                print(finding["sentence"], flush=True)
        return [verdict.score for verdict in verdicts]

    return score


def held_out(options: Options, task: Task, trainer: GSPOTrainer) -> Evaluation:
    """Accuracy of the current model, by the sampler of train_torch.py."""
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    prompter = Prompter(trainer.processing_class, "chat", ends=ends_of(model.generation_config.eos_token_id))
    stop_ids = torch.tensor(prompter.stop_ids(), device=model.device)
    sampler = Sampler(model, prompter, options.max_new_tokens, options.temperature, model.device, stop_ids)
    return evaluate(task, sampler, samples=options.eval_samples, seed=options.seed)


def mean(shares: list[float]) -> float:
    """In percent."""
    return 100 * sum(shares) / len(shares)
