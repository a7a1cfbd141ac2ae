"""Ranks with gloo between them that train the parity run's model: an update of any mini-batch, and the run's 20 updates."""

from __future__ import annotations

import dataclasses
import faulthandler
import os
import socket
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast
from unittest.mock import patch

import numpy as np
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runs.in_process import in_process
from support.runs.server import started_server
from torch.distributed.tensor import DTensor, distribute_tensor

from gspo_core.planning import Plan
from integration.on_torch import preparing
from integration.on_torch.adapters import trained
from integration.on_torch.batches import mini_batch
from integration.on_torch.parallel.merging import whole_rollup
from integration.on_torch.parallel.processes import Processes, joined
from integration.on_torch.sampling.rollout import Responses
from integration.on_torch.trainer import Trainer
from integration.on_torch.training import old_passes, update
from integration.options.config import Config
from integration.parity import on_processes, on_torch
from integration.parity import reference as golden
from integration.shared.measure import Rollup
from integration.tasks.task import Task, load_task

STORED = golden.load()
LONGEST = 540.0
"""Seconds that all of a rank's runs may take."""
MEASURED = ("grad_norm", "loss", "gradient", "log_s_rms", "log_s_mean", "entropy_per_token", "kl_k3_per_token", "no_advantage")


class Case(NamedTuple):
    """A mini-batch of a stored rollout's first responses."""

    rollout: int
    advantages: list[float]
    micro_batch_size: int | None


CASES = st.builds(
    Case,
    st.integers(0, len(STORED.rollouts) - 1),
    st.lists(st.sampled_from([0.0, 0.0, 1.0, -1.0, 0.5]), min_size=1, max_size=12),
    st.sampled_from([None, 1, 2]),
)


def options(folder: Path, **changes: Any) -> Config:
    """Of the parity run; what is sampled is stored, so that few questions will do."""
    given_options = {**STORED.options, "task_args": tuple(STORED.options["task_args"]), "train_size": 8}
    return Config(**{"model": str(golden.START), "threads": 1, **given_options, **changes}, run_dir=folder)


@cache
def task_of_all() -> Task:
    """What is asked is stored, and so are the answers, of which none is judged."""
    config = options(Path("run"))
    few = {"train_size": config.train_size, "held_out_size": config.eval_prompts}
    return in_process(load_task(config.task, list(config.task_args), seed=config.seed, **few))


def prepared(folder: Path, processes: Processes, **changes: Any) -> Trainer:
    """As the script prepares it, but for its task, which is loaded once."""
    with patch.object(preparing, "load_task", lambda *_, **__: task_of_all()):
        return preparing.prepare(options(folder, **changes), processes)


def wide(folder: Path, processes: Processes, **changes: Any) -> Trainer:
    """A trainer in float64."""
    before = preparing.loaded

    def loaded(*args: Any) -> Any:
        model, tokenizer = before(*args)
        on_torch.widen(model)
        return model, tokenizer

    with patch.object(preparing, "loaded", loaded):
        return prepared(folder, processes, **changes)


@torch.no_grad()
def reset(trainer: Trainer, weights: dict[str, np.ndarray]) -> None:
    """Put the weights back, and forget what the optimizer knows."""
    for name, parameter in trainer.model.named_parameters():
        value = torch.from_numpy(weights[name]).to(parameter.dtype)
        if isinstance(parameter, DTensor):
            value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
        parameter.copy_(value)
    trainer.optimizer = torch.optim.AdamW(trained(trainer.model), lr=trainer.config.lr, weight_decay=0.0, fused=True)


def one_update(trainer: Trainer, case: Case) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(parameters after it, the line of metrics)."""
    trainer.config = dataclasses.replace(trainer.config, micro_batch_size=case.micro_batch_size)
    rollout, count = STORED.rollouts[case.rollout], len(case.advantages)
    pad = trainer.sampler.prompter.tokenizer.pad_token_id
    prompt_ids, prompt_mask, tokens, mask = (torch.from_numpy(x[:count]) for x in rollout.padded(pad))
    responses, advantages = Responses(prompt_ids, prompt_mask, tokens, mask), torch.tensor(case.advantages)
    batch = mini_batch(trainer, responses, advantages, Plan(advantages), torch.arange(count))
    rollup = Rollup(trainer.objective)
    with trainer.passes.whole():
        olds = old_passes(trainer, batch, rollup)
    shifts = [torch.sin(1.7 * part.tokens + torch.arange(part.tokens.shape[1])).double() / 15 for part, _ in batch.parts]
    masks = [part.mask for part, _ in batch.parts]
    moved = [
        old._replace(logp=torch.where(mask, old.logp + shift, 0.0))  # so that some are clipped
        for old, shift, mask in zip(olds, shifts, masks, strict=True)
    ]
    update(trainer, batch, moved, rollup)
    row = whole_rollup(rollup, trainer.processes).row()
    return on_processes.parameters_of(trainer.model), row


def _in_order(row: dict[str, Any]) -> list[tuple[int, int, float]]:
    """(length, sign, log s) of each response; which process had it decides where it stands."""
    return sorted(zip(row["lengths"], row["signs"], row["log_s"], strict=True))


class Alone:
    """The updates of one process in float64, each of which is done once, whatever it is compared with."""

    def __init__(self, folder: Path) -> None:
        self._trainer = wide(folder, Processes())
        self.start = on_torch.parameters_of(self._trainer.model)
        self._known: dict[str, Any] = {}

    def update(self, case: Case) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """As `one_update`, from the start."""
        if str(case) not in self._known:
            reset(self._trainer, self.start)
            self._known[str(case)] = one_update(self._trainer, case)
        return cast(tuple[dict[str, np.ndarray], dict[str, Any]], self._known[str(case)])


def compared(folder: Path, processes: Processes, alone: Alone | None, **changes: Any) -> dict[str, float]:
    """The largest deviations from one process, over mini-batches that hypothesis draws on rank 0, which has `alone`."""
    ours = wide(folder / "ours", processes, **changes)
    start = processes.ranks.gather(alone and alone.start)[0]
    worst = dict.fromkeys(("parameters", "metrics", "log_s", "clipped", "cases", "idle"), 0.0)

    def check(case: Case) -> None:
        reset(ours, start)
        mine, row = one_update(ours, case)
        expected, whole = processes.ranks.gather(alone and alone.update(case))[0]
        assert row.keys() ^ whole.keys() <= {"loss_trained"}, case  # which is only there if micro-batches share a denominator
        found = {
            "parameters": max(float(np.abs(mine[name] - expected[name]).max()) for name in expected),
            "metrics": max(abs(row[name] - whole[name]) for name in MEASURED if name in whole),
            "log_s": float(np.abs(np.subtract(_in_order(row), _in_order(whole))).max(initial=0.0)),
            "clipped": float(any(row[name] != whole[name] for name in ("clip_fraction", "clip_low", "clip_high"))),
            "cases": worst["cases"] + 1,
            "idle": worst["idle"] + (sum(a != 0 for a in case.advantages) < processes.share.count),
        }
        worst.update({name: max(value, worst[name]) for name, value in found.items()})
        assert found["parameters"] <= 1e-12, case

    if processes.ranks.rank:
        while (case := processes.ranks.gather(None)[0]) is not None:
            check(case)
        return worst

    @settings(max_examples=12, deadline=None, derandomize=True, database=None)
    @given(CASES)
    def drawn(case: Case) -> None:
        processes.ranks.gather(case)
        check(case)

    drawn()
    processes.ranks.gather(None)
    return worst


def main(rank: int, folder: str, port: int, count: int, runs: list[dict[str, Any]]) -> None:
    """What one rank does; rank 0 saves the results."""
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(LONGEST, exit=True)  # collectives that do not line up would wait for half an hour
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    results: dict[str, Any] = {}
    alone = None if rank else Alone(Path(folder) / "alone")
    for number, changes in enumerate(runs):
        place = Path(folder) / str(number)
        os.environ["MASTER_PORT"] = str(port + number)
        with joined(options(place, **changes)) as processes:
            key = str(changes)
            results[key] = compared(place, processes, alone, **changes)
            narrow = prepared(place / "golden", processes, **changes)
            results[f"golden {key}"] = on_processes.follow(narrow, STORED.rollouts)
    if rank == 0:
        torch.save(results, Path(folder) / "results.pt")


def on_processes_of(count: int, runs: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """The results of `main` on so many ranks: `compared` of each run, and its 20 updates as "golden ..."."""
    started_server()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(main, (str(folder), port, count, runs), count, start_method="forkserver")
    results: dict[str, Any] = torch.load(folder / "results.pt", weights_only=False)
    return results
