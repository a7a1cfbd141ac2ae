"""The parity run: the same weights, prompts and stored responses, 20 GSPO updates; does a trainer do what PyTorch's did?

    python -m integration.parity.on_torch             PyTorch's trainer beside the golden file, a line per update
    python -m integration.parity.on_torch --write     make the golden file anew: warm up, sample, update in both precisions

A trainer in another framework takes `golden.load().rollouts` from the weights in golden/start, fills a `Run`, and asks
`comparison.compare`. Every update here is `training.update`, the one that trains.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from integration.on_torch.batches import mini_batch
from integration.on_torch.passes import old_pass
from integration.on_torch.preparing import prepare
from integration.on_torch.sampling.rollout import Responses
from integration.on_torch.trainer import Trainer
from integration.on_torch.training import update
from integration.options.config import Config
from integration.options.sizes import WarmUp
from integration.parity import reference as golden
from integration.parity.comparison import compare
from integration.parity.reference import START, Golden, Recorder, Rollout, Run, Update
from integration.shared.measure import Rollup
from integration.tasks.task import CORRECT

OPTIONS: dict[str, Any] = {
    "task": "spell_backward",
    "task_args": ["min_word_len=2", "max_word_len=5"],
    "train_size": 2000,
    "eval_prompts": 1,
    "max_new_tokens": 7,
    "prompts_per_rollout": 8,
    "group_size": 6,
    "rollouts": 5,
    "lr": 1e-3,
    "lr_warm_up": 4,
    "max_grad_norm": 2.5,
}
"""Of the run; the rest are defaults."""
WARM_UP = WarmUp(target=0.35, layers=2, hidden=32, lr=4e-3)
"""Of the model that it starts from: 28,256 parameters."""


def start(options: dict[str, Any], folder: Path) -> Trainer:
    """PyTorch's trainer, as a run of these options would prepare it."""
    given = {**options, "task_args": tuple(options["task_args"])}
    return prepare(Config(**{"model": str(START), "threads": 1, **given}, run_dir=folder))


def follow(trainer: Trainer, rollouts: Iterable[Rollout]) -> Run:
    """All updates on the rollouts, in the trainer's own dtype."""
    updates = [done for rollout in rollouts for done in one_rollout(trainer, rollout)]
    return Run(updates, parameters_of(trainer.model))


def one_rollout(trainer: Trainer, rollout: Rollout) -> Iterator[Update]:
    """One optimizer step per mini-batch of stored responses; as training.one_rollout takes with sampled ones."""
    pad = trainer.sampler.prompter.tokenizer.pad_token_id
    prompt_ids, prompt_mask, tokens, mask = map(torch.from_numpy, rollout.padded(pad))
    responses, planned = Responses(prompt_ids, prompt_mask, tokens, mask), rollout.planned()
    advantages = torch.as_tensor(planned.advantage, dtype=torch.float32)
    batches = [mini_batch(trainer, responses, advantages, planned, torch.tensor(rows)) for rows in rollout.mini_batches]
    olds = [[old_pass(trainer, part, Rollup(trainer.objective)) for part, _ in batch.parts] for batch in batches]
    for batch, old in zip(batches, olds, strict=True):
        seen = Recorder(trainer.objective)
        update(trainer, batch, old, seen)
        yield seen.update(parameters_of(trainer.model))
    trainer.step += 1


def parameters_of(model: Any) -> dict[str, np.ndarray]:
    """By the checkpoint's names; copies."""
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def widen(model: Any) -> None:
    """float64 throughout: transformers takes norms and rotary angles in float32, whatever the weights are."""
    model.double()
    norms: list[Any] = [module for module in model.modules() if isinstance(module, Qwen3RMSNorm)]
    for norm in norms:
        norm.forward = _norm_of(norm)
    config, decoder = model.config, model.get_decoder()
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    frequencies = float(config.rope_parameters["rope_theta"]) ** -exponents

    def angles(_: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        half = position_ids[..., None].double() * frequencies
        both = torch.cat([half, half], -1)
        return both.cos(), both.sin()

    decoder.rotary_emb.forward = angles


def _norm_of(module: Any) -> Callable[[Tensor], Tensor]:
    def norm(x: Tensor) -> Tensor:
        weight: Tensor = module.weight
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon))

    return norm


# ---- the golden file


def sample(trainer: Trainer) -> Rollout:
    """Responses of the trainer's current policy to its next prompts, judged by its task, and cut into mini-batches."""
    config = trainer.config
    examples = trainer.task.prompts_for(trainer.step, config.prompts_per_rollout, config.seed)
    drawn = trainer.sampler.draw(examples, config.group_size, trainer.sampling)
    texts = trainer.sampler.prompter.decode(drawn.tokens, drawn.mask)
    scores = trainer.task.scores([e for e in examples for _ in range(config.group_size)], texts)
    rewards = [float(score >= CORRECT) for score in scores]  # so that many a group has one reward, and no advantage
    order = torch.randperm(len(rewards), generator=trainer.shuffling).chunk(config.mini_batches)
    responses = [tokens[mask].tolist() for tokens, mask in zip(drawn.tokens, drawn.mask, strict=True)]
    return Rollout([trainer.sampler.prompter.encode(e) for e in examples], responses, rewards, [r.tolist() for r in order])


def write(folder: Path) -> None:
    """Warm a model up, follow it in float32 while it samples, then follow the samples in float64."""
    given = {**OPTIONS, "task_args": tuple(OPTIONS["task_args"])}
    prepare(Config(model="small", warm_up=WARM_UP, cache_dir=folder / "cache", run_dir=folder / "warm-up", **given))
    (warm,) = (folder / "cache").iterdir()
    shutil.rmtree(START, ignore_errors=True)
    shutil.copytree(warm, START)
    sampled: list[Rollout] = []
    trainer = start(OPTIONS, folder / "float32")

    def samples() -> Iterator[Rollout]:
        for _ in range(trainer.config.rollouts):
            sampled.append(sample(trainer))
            yield sampled[-1]

    narrow = follow(trainer, samples())
    wide, longer = start(OPTIONS, folder / "float64"), start(OPTIONS, folder / "longer")
    longer.config = dataclasses.replace(longer.config, lr=longer.config.lr * (1 + golden.LONGER))
    for other in (wide, longer):
        widen(other.model)
    golden.save(Golden(OPTIONS, sampled, narrow, follow(wide, sampled), follow(longer, sampled).updates))


def main() -> int:
    """The command line."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "--write" in sys.argv[1:]:
            write(folder)
        stored = golden.load()
        trainer = start(stored.options, folder / "run")
        run = follow(trainer, stored.rollouts)
    return report(run, stored)


def report(run: Run, stored: Golden) -> int:
    """Print a line per update, then the comparison. Returns the exit status: 1 if a number is beyond its budget."""
    found = compare(run, stored)
    for index, done in enumerate(run.updates):
        own = [d for d in found.deviations if d.update == index]
        shown = ", ".join(f"{d.what} {d.error:.1e} ≤ {d.allowed:.1e}" for d in own)
        print(f"{index + 1:>3}  clipped {sum(done.clipped)} of {len(done.clipped)}, {shown}")
    print(found)
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
