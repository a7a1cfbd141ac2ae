"""The parity run on several processes: stored responses, 20 GSPO updates, each of whose mini-batches is shared out.

    torchrun --nproc-per-node 4 -m integration.parity.on_processes --parallel fsdp

Prints a line per update as `integration.parity.on_torch` does, from process 0.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from integration.on_torch.batches import mini_batch, shares_of
from integration.on_torch.parallel.processes import joined
from integration.on_torch.passes import old_pass
from integration.on_torch.preparing import prepare
from integration.on_torch.sampling.rollout import Responses
from integration.on_torch.trainer import Trainer
from integration.on_torch.training import update
from integration.options.config import Config
from integration.parity import on_torch as parity
from integration.parity import reference as golden
from integration.parity.reference import START, Recorder, Rollout, Run, Update
from integration.shared.measure import Rollup


class Part(NamedTuple):
    """A process's part of an update."""

    loss: float
    log_s: list[float]
    clipped: list[bool]


def follow(trainer: Trainer, rollouts: list[Rollout]) -> Run:
    """All updates on the rollouts, the same on every process."""
    updates = [done for rollout in rollouts for done in one_rollout(trainer, rollout)]
    return Run(updates, parameters_of(trainer.model))


def one_rollout(trainer: Trainer, rollout: Rollout) -> Iterator[Update]:
    """As `on_torch.one_rollout`; what the processes measure is put back into the order of the mini-batch."""
    pad, share = trainer.sampler.prompter.tokenizer.pad_token_id, trainer.processes.share
    prompt_ids, prompt_mask, tokens, mask = map(torch.from_numpy, rollout.padded(pad))
    responses, planned = Responses(prompt_ids, prompt_mask, tokens, mask), rollout.planned()
    advantages = torch.as_tensor(planned.advantage, dtype=torch.float32)
    chosen = [torch.tensor(rows) for rows in rollout.mini_batches]
    batches = [mini_batch(trainer, responses, advantages, planned, rows) for rows in chosen]
    with trainer.passes.whole():
        olds = [[old_pass(trainer, part, Rollup(trainer.objective)) for part, _ in batch.parts] for batch in batches]
    for rows, batch, old in zip(chosen, batches, olds, strict=True):
        seen = Recorder(trainer.objective)
        update(trainer, batch, old, seen)
        parts = trainer.ranks.gather((share.index, Part(seen.loss, seen.log_s, seen.clipped)))
        by_share = dict(reversed(parts))  # processes that share their responses measure the same
        live = rows[advantages[rows] != 0]
        found: dict[int, tuple[float, bool]] = {}
        for index, own in enumerate(shares_of(responses, live, share.count)):
            part = by_share[index]
            found |= dict(zip(own.tolist(), zip(part.log_s, part.clipped, strict=True), strict=True))
        ordered = [found[row] for row in live.tolist()]
        marks = golden.marks(parameters_of(trainer.model))
        loss = sum(part.loss for part in by_share.values())
        yield Update(loss, seen.grad_norm, [x for x, _ in ordered], [c for _, c in ordered], marks)
    trainer.step += 1


def parameters_of(model: Any) -> dict[str, np.ndarray]:
    """By the checkpoint's names, whole; copies."""
    return {name: _whole(p).detach().numpy().copy() for name, p in model.named_parameters()}


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def main() -> int:
    """The command line."""
    stored = golden.load()
    options = {**stored.options, "task_args": tuple(stored.options["task_args"])}
    flags = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    given: dict[str, Any] = {"parallel": flags.get("--parallel", "ddp")}
    given |= {name: int(flags.get(f"--{name.replace('_', '-')}", "1")) for name in ("context_parallel", "vocabulary_parallel")}
    with tempfile.TemporaryDirectory() as folder:
        config = Config(**{"model": str(START), "threads": 1, **options, **given}, run_dir=Path(folder) / "run")
        with joined(config) as processes:
            run = follow(prepare(config, processes), stored.rollouts)
            return parity.report(run, stored)


if __name__ == "__main__":
    sys.exit(main())
