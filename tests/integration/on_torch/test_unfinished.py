"""A rollout that is stopped between any two optimizer steps, saved and gone on with, ends as one that nobody disturbed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs.in_process import Paid
from support.runs.stops import StopAfter
from support.runs.torch_trainers import make_trainer

from integration.on_torch.checkpoint import load_state
from integration.on_torch.reference import Reference
from integration.on_torch.trainer import Trainer
from integration.on_torch.training import one_rollout
from integration.on_torch.unfinished import load_unfinished
from integration.options.errors import UserError
from integration.records.run_folder import UNFINISHED
from integration.shared.interrupt import Abandoned
from integration.shared.ranks import OneProcess
from integration.tasks.task import Task

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
NOISY = {"model": "small-moe", "router_noise": 0.2}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "micro-batches": {"micro_batch_size": 2, "objective": "grpo"},
    "a sampler that differs": {"sampler_dtype": "bfloat16", "sampler_correction": "sequence-tis"},
    "routes": {**NOISY, "routing_replay": "r3"},
    "a penalty": {"kl": "k3", "kl_coefficient": 0.1},
}


def made(task: Task, folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> Trainer:
    """A trainer on whose rollouts half of the answers are right."""
    trainer = make_trainer(task, folder, lr_warm_up=0, **options)
    if "kl" in options:
        trainer.reference = Reference.__new__(Reference)
        vars(trainer.reference).update(
            model=make_trainer(task, folder, **options).model.requires_grad_(False), _estimator=trainer.config.kl_estimator,
            _coefficient=0.1, fingerprint="",
        )  # fmt: skip
        monkeypatch.setattr("integration.on_torch.trainer.require_same_reference", lambda *_: None)
    return trainer


def rows(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, stop: Any = None) -> dict[str, Any]:
    """The line of a rollout, without its seconds."""
    coin = iter(range(10**6))
    monkeypatch.setattr(trainer.task, "verifier", Paid(lambda _: float(next(coin) % 2)))
    row = one_rollout(trainer) if stop is None else one_rollout(trainer, stop)
    return {name: x for name, x in row.items() if not name.startswith("seconds")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [1, 3])
def test_it_ends_as_one_that_nobody_disturbed(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, after: int
) -> None:
    """Metrics and weights, bit for bit; also the rollout after it."""
    whole = made(task, tmp_path / "whole", monkeypatch, KINDS[kind])
    expected = [rows(whole, monkeypatch) for _ in range(2)]
    stopped = made(task, tmp_path / "stopped", monkeypatch, KINDS[kind])
    with pytest.raises(Abandoned):
        rows(stopped, monkeypatch, StopAfter(stopped, after))
    assert stopped.unfinished is not None
    assert stopped.unfinished.done == after
    stopped.save()
    (checkpoint,) = stopped.folder.checkpoints()
    again = made(task, tmp_path / "again", monkeypatch, KINDS[kind])
    again.model.load_state_dict(stopped.model.state_dict())
    again.restore(load_state(checkpoint, again.model, again.optimizer, OneProcess()))
    again.unfinished = load_unfinished(checkpoint, CPU)
    assert [rows(again, monkeypatch) for _ in range(2)] == expected
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    again.save()
    assert not (again.folder.checkpoints()[0] / UNFINISHED).exists(), "it is over"


class Evil:
    """Something whose reading back would run a program."""

    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


def test_a_file_with_anything_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Evil(), tmp_path / UNFINISHED)
    with pytest.raises(UserError, match=r"^--resume: .*unfinished.pt cannot be read: ValueError .*system is no part of"):
        load_unfinished(tmp_path, CPU)
    assert not (tmp_path / "evil").exists()
    (tmp_path / UNFINISHED).write_bytes(b"torn")
    with pytest.raises(UserError, match=r"^--resume: .*unfinished.pt cannot be read: "):
        load_unfinished(tmp_path, CPU)
